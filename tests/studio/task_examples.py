"""A small request of each task that programs can ask for: the `EXAMPLE` of its own test, tests/studio/test_KEY.py."""

from __future__ import annotations

import base64
import dataclasses
import importlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from studio.tasks import TASKS

__all__ = ["FOX", "OFFERED", "Example", "find_example", "read_source"]

FOX = {"prompt": "a fox on a blue background", "num_inference_steps": 3, "seed": 5}

OFFERED = tuple(key for key, task in TASKS.items() if task.endpoint is not None)
"""Keys of the tasks that programs may ask for, in the table's order; the page alone starts the others."""

_EMOJI = Path(__file__).resolve().parents[2] / "assets" / "data" / "emoji" / "1f98a.webp"


@dataclasses.dataclass(frozen=True)
class Example:
    """Describes a task's smallest useful request.

    Attributes:
        values: as `Task.parse` takes them; their run takes seconds on one core.
        larger: what makes it more work, in settings that its `work` counts; empty where it always asks for the most.
        has_results: whether its run leaves results in the store.
    """

    values: Mapping[str, Any]
    larger: Mapping[str, Any]
    has_results: bool = True


def read_source() -> str:
    """Read a picture of 64 x 64 pixels, as a program sends it."""
    stream = io.BytesIO()
    Image.open(_EMOJI).convert("RGB").resize((64, 64)).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def find_example(key: str) -> Example:
    """Find a task's example in its own test.

    Raises:
        LookupError: the test has none, and what to do.
    """
    name = f"tests.studio.test_{key}"
    example = getattr(importlib.import_module(name), "EXAMPLE", None)
    if not isinstance(example, Example):
        raise LookupError(f"{name} has no EXAMPLE of the task. Add one, of `tests.studio.task_examples.Example`.")
    return example
