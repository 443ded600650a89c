"""Examples on the page: a button with a picture of its own result, and a finished one before the first run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import gradio as gr

from studio.media.live_image import encode_file_url, encode_icon_url
from studio.ui import markup
from studio.ui.controls import build_elem_id

__all__ = ["RESULTS", "ShownExample", "build_chip", "finished_example", "finished_grid"]

RESULTS = Path(__file__).resolve().parents[2] / "assets" / "examples" / "results"
"""Small pictures of what the examples make, written by `python -m studio.benchmarks.examples`."""


class ShownExample(Protocol):
    """Declares what a tab's example says of itself.

    Attributes:
        key: of its files and ids.
        label: on its button.
        result: the file of a small picture of what it makes.
    """

    @property
    def key(self) -> str: ...

    @property
    def label(self) -> str: ...

    @property
    def result(self) -> Path: ...


def build_chip(prefix: str, example: ShownExample) -> gr.Button:
    """Build an example's button, in the present layout context.

    Its picture comes with the page: as a file it would wait behind all that a page asks the server while it loads.
    """
    identity = build_elem_id(prefix, "example", example.key)
    icon: Any = {"path": example.result.name, "url": encode_icon_url(example.result)}
    return gr.Button(example.label, icon=icon, size="sm", min_width=0, elem_id=identity)


def finished_example(prefix: str, example: ShownExample, alt: str, title: str, text: str) -> str:
    """Build what a tab shows before its first run, as HTML: an example as it comes out, faded, and "Try it"."""
    chip = build_elem_id(prefix, "example", example.key)
    return markup.example(encode_file_url(example.result), alt, title, text, chip)


def finished_grid(result: Path, alt: str, title: str, text: str) -> str:
    """Build the same for a tab of cells, whose form holds the example from the beginning.

    Args:
        result: the file of a small picture of the cells.
        alt, title, text: what it shows, and what the tab does.
    """
    return f'<div class="sw-cells-empty sw-empty">{markup.example(encode_file_url(result), alt, title, text, "")}</div>'
