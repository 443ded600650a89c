"""Shared test setup.

One thread unless the environment says otherwise: with two threads on a contended machine PyTorch can be
eight times slower than with one.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent / "pipelines"))


@pytest.hookimpl(hookwrapper=True)
def pytest_collection() -> Iterator[None]:
    """Collect without looking for cycles, which takes seconds, and set what is there then aside for good.

    What all tests have in common is a million objects, which nothing needs to look through again.
    """
    gc.disable()
    yield
    gc.enable()
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the browser's files first: they are the longest, and with several workers none waits for them at the end."""
    items.sort(key=lambda item: item.path.parent.name != "browser")
