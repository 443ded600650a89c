"""Ready-to-click edits of the Edit tab, on the shipped model and the shipped pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipelines.training.examples import read_index
from studio.ui.example_chips import RESULTS
from studio.ui.form import FIXED
from studio.ui.styles import NO_STYLE

__all__ = ["EXAMPLES", "EditExample"]

FOLDER = Path(__file__).resolve().parents[3] / "assets" / "examples"


@dataclasses.dataclass(frozen=True)
class EditExample:
    """Describes a label to click and what it sets.

    Attributes:
        label: on the button.
        name: of a record in the index of the shipped examples.
        edit, inversion: methods with their settings.
        values: of the form, besides the prompt.
        masked: whether the record's mask is drawn too.
        prompt: where it is not the record's own target.
    """

    label: str
    name: str
    edit: Mapping[str, Any]
    inversion: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"key": "direct"})
    values: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    masked: bool = False
    prompt: str = ""

    @cached_property
    def record(self) -> Mapping[str, str]:
        return next(one for one in read_index(FOLDER)["edits"] if one["name"] == self.name)

    @property
    def picture(self) -> Image.Image:
        """Return the source."""
        with Image.open(FOLDER / self.record["source"]) as image:
            return image.convert("RGB")

    @property
    def mask(self) -> np.ndarray | None:
        """Return the mask, (H, W) bool; None without one."""
        if not self.masked:
            return None
        with Image.open(FOLDER / self.record["mask"]) as image:
            return np.asarray(image.convert("L")) > 127

    @property
    def key(self) -> str:
        """Return the key of the file of its result."""
        return f"edit-{self.name}-{self.edit['key'].replace('_', '-')}"

    @property
    def result(self) -> Path:
        """Return a small picture of what it makes, written by `python -m studio.benchmarks.examples`."""
        return RESULTS / f"{self.key}.webp"

    @property
    def form(self) -> dict[str, Any]:
        """Return values of the form."""
        return {
            "model": "emoji",
            "prompt": self.prompt or self.record["target_caption"],
            "negative_prompt": "",
            "style": NO_STYLE,
            "seed_mode": FIXED,
            "num_inference_steps": 25,
            **self.values,
        }


def _build_guidance(scale: float) -> dict[str, Any]:
    return {"guidance": {"key": "cfg", "guidance_scale": scale}}


EXAMPLES = (
    EditExample(
        "Carrot to bus",
        "replace-3",
        {"key": "replace", "cross_until": 0.4, "self_until": 0.2},
        values={**_build_guidance(5.0), "seed": 1},
    ),
    EditExample(
        "Teal to green",
        "background-2",
        {"key": "reprompt"},
        {"key": "edict", "strength": 0.9},
        values={**_build_guidance(4.0), "seed": 1},
    ),
    EditExample(
        "Inpaint a bus", "replace-3", {"key": "inpaint"}, values={**_build_guidance(4.0), "seed": 1}, masked=True
    ),
    EditExample(
        "Image to image",
        "replace-1",
        {"key": "image_to_image", "strength": 0.6},
        values={**_build_guidance(4.0), "seed": 1},
    ),
    EditExample(
        "Outpaint to the right",
        "replace-3",
        {"key": "outpaint", "right": 32},
        values={**_build_guidance(4.0), "seed": 1},
        prompt="a carrot on a green background",
    ),
)
