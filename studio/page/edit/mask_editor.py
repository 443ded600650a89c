"""The board on which a person draws a mask over the source picture."""

from __future__ import annotations

import abc
from typing import Any

import gradio as gr
import numpy as np
from fastapi import HTTPException
from gradio.component_meta import ComponentMeta
from gradio.components.base import server
from gradio.components.image_editor import AcceptBlobs
from PIL import Image

from pipelines.core.errors import PictureError
from studio.page.edit.drawn import Drawings, check_drawing

__all__ = ["BOARD", "build_board", "mask_editor", "mask_on"]

BOARD = 512
"""Pixels of the square board; the picture lies in its middle, as large as it fits."""

_INK, _OPACITY = "#ff2d6f", 0.6
"""The picture shows through what is drawn."""
_GROUND = (128, 128, 128)


class _Quiet(ComponentMeta):
    """Makes a subclass of a component without the .pyi file that Gradio would write beside this one at import."""

    def __new__(cls, name: str, bases: tuple[type, ...], attributes: dict[str, Any]) -> type:
        return abc.ABCMeta.__new__(cls, name, bases, attributes)


class _Editor(gr.ImageEditor, metaclass=_Quiet):
    """Gradio's, which keeps whatever is sent to it until it is used: any number of drawings, layers and pixels."""

    is_template = True  # and no __init__ of its own: Gradio reads the names of its parameters there

    @server
    def accept_blobs(self, data: AcceptBlobs) -> None:
        try:
            # A dense screen paints up to four pixels by four for each of the board's.
            check_drawing(data.data, [content for _, content in data.files], 16 * BOARD**2)
        except PictureError as error:
            raise HTTPException(400, str(error)) from error
        super().accept_blobs(data)


def mask_editor(identity: str) -> gr.ImageEditor:
    """Build the component, in the present layout context: one layer, one brush, and an eraser."""
    editor = _Editor(
        type="numpy",
        format="png",
        image_mode="RGBA",
        sources=[],
        transforms=(),
        fixed_canvas=True,
        canvas_size=(BOARD, BOARD),
        height=600,
        brush=gr.Brush(default_size=48, colors=[(_INK, _OPACITY)], default_color=(_INK, _OPACITY), color_mode="fixed"),
        eraser=gr.Eraser(default_size=48),
        layers=gr.LayerOptions(allow_additional_layers=False),
        buttons=[],
        label="Mask",
        show_label=False,
        elem_id=identity,
        elem_classes="sw-mask",
    )
    editor.blob_storage = Drawings()
    return editor


def build_board(picture: Image.Image | None, mask: np.ndarray | None = None) -> dict[str, Any] | None:
    """Build the editor's value that shows a picture, and a mask (H, W) bool drawn over it."""
    if picture is None:
        return None
    left, top, width, height = _place(picture.size)
    board = Image.new("RGB", (BOARD, BOARD), _GROUND)
    larger = max(picture.size) < BOARD
    board.paste(
        picture.convert("RGB").resize(
            (width, height), Image.Resampling.NEAREST if larger else Image.Resampling.LANCZOS
        ),
        (left, top),
    )
    if mask is None:
        return {"background": board, "layers": [], "composite": None}
    stencil = Image.new("L", (BOARD, BOARD))
    stencil.paste(
        Image.fromarray(mask.astype(np.uint8) * 255).resize((width, height), Image.Resampling.NEAREST), (left, top)
    )
    layer = Image.new("RGBA", (BOARD, BOARD), _INK)
    layer.putalpha(stencil.point(lambda value: round(value * _OPACITY)))
    return {"background": board, "layers": [layer], "composite": None}


def mask_on(value: dict[str, Any] | None, size: tuple[int, int]) -> np.ndarray | None:
    """Return the drawn mask at the picture's own size (width, height): (H, W) bool; None where nothing is drawn.

    A pixel is masked if a quarter of its square on the board is.
    """
    layers = (value or {}).get("layers") or []
    strokes = np.zeros((BOARD, BOARD), bool)
    for layer in layers:
        if layer is not None and layer.ndim == 3 and layer.shape[2] == 4:
            alpha = Image.fromarray(np.ascontiguousarray(layer[..., 3]))
            strokes |= np.asarray(alpha if alpha.size == (BOARD, BOARD) else alpha.resize((BOARD, BOARD))) > 0
    if not strokes.any():
        return None
    left, top, width, height = _place(size)
    part = Image.fromarray(strokes[top : top + height, left : left + width].astype(np.uint8) * 255)
    return np.asarray(part.resize(size, Image.Resampling.BOX)) >= 64


def _place(size: tuple[int, int]) -> tuple[int, int, int, int]:
    """(left, top, width, height) of a picture on the board."""
    scale = BOARD / max(size)
    width, height = (max(1, round(side * scale)) for side in size)
    return (BOARD - width) // 2, (BOARD - height) // 2, width, height
