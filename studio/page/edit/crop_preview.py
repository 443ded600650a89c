"""What the model will see of a photograph of which only the masked part is drawn, shown before the run."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from pipelines.core.types import Choice
from pipelines.edits import EDITS
from pipelines.edits.masks import Box, blur_mask, find_crop
from studio.media.live_image import encode_picture_url
from studio.ui import markup

__all__ = ["build_crop_preview"]

_SIDE = 360
_TINT = np.array([255, 45, 111])


def build_crop_preview(
    picture: Image.Image | None, mask: np.ndarray | None, choice: Any, drawn_size: tuple[int, int]
) -> str:
    """Build the photograph with the part that is drawn as HTML; "" for an edit that draws all of it.

    Args:
        picture: the source; None without.
        mask: (H, W) bool of its size; None where nothing is drawn yet.
        choice: of the edit, as `Choice.parse` reads it.
        drawn_size: (width, height) that the model draws.
    """
    edit = EDITS.build(Choice.parse(choice))
    if not edit.is_cropped:
        return ""
    if picture is None or mask is None:
        return "<p class='sw-hint'>Draw over what should change: the part that is drawn is shown here.</p>"
    weights = blur_mask(mask, edit.mask_blur)
    box = find_crop(weights > 0, edit.padding, drawn_size)
    left, top, right, bottom = box
    words = (
        f"The model draws this part of {right - left} × {bottom - top} pixels at {drawn_size[0]} × {drawn_size[1]}; "
        "then it is put back."
    )
    url = encode_picture_url(_draw_crop(picture, weights, box))
    image = f'<img src="{url}" alt="{markup.escape(words)}">'
    return f'<figure class="sw-crop">{image}<figcaption>{words}</figcaption></figure>'


def _draw_crop(picture: Image.Image, weights: np.ndarray, box: Box) -> np.ndarray:
    """Draw a small picture, the mask over it as far as it acts, and a frame around the part; the rest is dimmed."""
    scale = min(1.0, _SIDE / max(picture.size))
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    shares = Image.fromarray(np.round(weights * 255).astype(np.uint8)).resize(size, Image.Resampling.BOX)
    tint = np.asarray(shares, np.float64)[..., None] / 255 * 0.6
    small = np.asarray(picture.convert("RGB").resize(size, Image.Resampling.LANCZOS), np.float64)
    small = (1 - tint) * small + tint * _TINT
    left, top, right, bottom = (round(place * scale) for place in box)
    is_part = np.zeros(small.shape[:2], bool)
    is_part[top:bottom, left:right] = True
    small[~is_part] = 0.45 * small[~is_part] + 0.55 * 128
    drawn = Image.fromarray(small.astype(np.uint8))
    ImageDraw.Draw(drawn).rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline="white", width=2)
    return np.asarray(drawn)
