"""The source of an edit as the model takes it, and how what it drew becomes a picture of the source's size."""

from __future__ import annotations

import dataclasses

import numpy as np
from PIL import Image

from pipelines.core.errors import SettingsError
from pipelines.edits.masks import Box, blend, blur_mask, find_crop, grow_mask, paste_crop
from pipelines.edits.placing import Placement, Placing, place_object
from pipelines.workflows.edit.request import EditRequest

__all__ = ["Canvas", "Cropped", "canvas_of", "crop_of", "lay_over"]


_SAME_PROPORTIONS = 0.01
"""Relative: uploads are scaled to whole pixels."""


@dataclasses.dataclass(frozen=True)
class Cropped:
    """Describes the picture of which only a part is drawn.

    Attributes:
        pixels: (H, W, 3) uint8.
        weights: (H, W) float32, how much each pixel may change, 0 to 1.
        box: the part that is drawn.
    """

    pixels: np.ndarray
    weights: np.ndarray
    box: Box


@dataclasses.dataclass(frozen=True)
class Canvas:
    """Describes the picture as the model edits it.

    Attributes:
        pixels: (H, W, 3) uint8, of the size that is drawn, margins filled with the edge's colors.
        weights: (H, W) float32, how much each pixel may change, 0 to 1; None without a mask.
        notes: what was done to the picture to get here, as sentences.
        whole: the picture of which these pixels are a part; None where they are all of it.
        placed: of an edit that moves an object, the picture as it was, and where the object was and will be.
        reference: (H, W, 3) uint8 of the same size, of an edit that takes a reference picture; else None.
    """

    pixels: np.ndarray
    weights: np.ndarray | None
    notes: tuple[str, ...]
    whole: Cropped | None = None
    placed: tuple[np.ndarray, Placement] | None = None
    reference: np.ndarray | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.pixels.shape[1], self.pixels.shape[0]

    @property
    def mask(self) -> np.ndarray | None:
        """(H, W) bool, true where it may change; None without."""
        return None if self.weights is None else self.weights > 0

    @property
    def source(self) -> np.ndarray:
        """The pixels that the finished picture is compared with, of its size."""
        if self.placed:
            return self.placed[0]
        return self.whole.pixels if self.whole else self.pixels

    @property
    def source_mask(self) -> np.ndarray | None:
        """`mask` at the finished picture's size."""
        if self.placed:
            placement = self.placed[1]
            changed: np.ndarray = placement.before | placement.after
            return changed if self.weights is None else changed | (self.weights > 0)
        return self.whole.weights > 0 if self.whole else self.mask

    def paste(self, picture: np.ndarray) -> np.ndarray:
        """Put a drawn picture under the mask; outside it stands the source, bit for bit.

        Under a hard mask it is brought to the source's tone along the rim.

        Args:
            picture: (H, W, 3) uint8 of the canvas's size.
        """
        if self.whole:
            return paste_crop(picture, self.whole.pixels, self.whole.weights, self.whole.box)
        return picture if self.weights is None else blend(picture, self.pixels, self.weights)


def crop_of(request: EditRequest, size: tuple[int, int]) -> Cropped | None:
    """Return the part of the source that is drawn; None for an edit that draws all of it.

    Args:
        request: with picture and mask.
        size: (width, height) that is drawn.
    """
    edit = request.build_edit()
    if request.mask is None or not edit.is_cropped:
        return None
    weights = blur_mask(request.mask.pixels, edit.mask_blur)
    return Cropped(request.picture.pixels, weights, find_crop(weights > 0, edit.padding, size))


def canvas_of(request: EditRequest, size: tuple[int, int]) -> Canvas:
    """Return the source brought to the model's size, its mask with it, and margins added.

    Args:
        request: with picture and mask.
        size: (width, height) in pixels, without margins.

    Raises:
        SettingsError: nothing or everything is left in the mask at this size.
    """
    if (whole := crop_of(request, size)) is not None:
        return _crop_canvas(request, whole, size)
    edit, notes = request.build_edit(), list(request.picture.notes)
    pixels, note = fit_pixels(request.picture.pixels, size, request.fit)
    weights = None
    if request.mask is not None:
        weights = _fit_weights(blur_mask(request.mask.pixels, edit.mask_blur), size, request.fit, edit.mask_blur > 0)
        _require_part(weights, size)
    notes += [note] if note else []
    if weights is not None and edit.placing is not None:
        return _place(edit.placing, edit.pastes, pixels, weights > 0, tuple(notes))
    left, top, right, bottom = edit.margins
    if any((left, top, right, bottom)):
        sides = ((top, bottom), (left, right))
        pixels = np.pad(pixels, (*sides, (0, 0)), mode="edge")
        weights = np.pad(np.zeros(size[::-1], np.float32) if weights is None else weights, sides, constant_values=1)
    reference = None
    if request.reference is not None:
        reference, _ = fit_pixels(request.reference.pixels, (pixels.shape[1], pixels.shape[0]), "crop")
    return Canvas(pixels, weights, tuple(notes), reference=reference)


def lay_over(request: EditRequest, canvas: Canvas, pixels: np.ndarray, fit: str) -> np.ndarray:
    """Bring another picture to where the source stands on a canvas, its margins filled with the edge's colors.

    Args:
        request: of the canvas.
        canvas: as `canvas_of` returned it.
        pixels: (H, W, 3) uint8; of the source's proportions it is fitted as the source was.
        fit: "crop" or "resize", for one of other proportions.
    """
    source = request.picture.pixels.shape
    if abs(pixels.shape[1] * source[0] / (pixels.shape[0] * source[1]) - 1) < _SAME_PROPORTIONS:
        fit = request.fit
    if canvas.whole:
        left, top, right, bottom = canvas.whole.box
        over = fit_pixels(pixels, (source[1], source[0]), fit)[0][top:bottom, left:right]
        return fit_pixels(over, canvas.size, "resize")[0]
    left, top, right, bottom = request.build_edit().margins
    width, height = canvas.size
    fitted, _ = fit_pixels(pixels, (width - left - right, height - top - bottom), fit)
    return np.pad(fitted, ((top, bottom), (left, right), (0, 0)), mode="edge")


def _place(placing: Placing, pastes: bool, pixels: np.ndarray, mask: np.ndarray, notes: tuple[str, ...]) -> Canvas:
    """Return the picture with the object at its new place, and the place it left under the mask; or, of an edit that
    moves it while it draws, the picture as it is and both places under the mask."""
    placement = place_object(pixels, mask, placing)
    weights = placement.before | placement.after
    if pastes:
        # A soft edge leaves a ring of the object's colors around the hole.
        weights = grow_mask(placement.hole) & ~placement.after if placement.hole.any() else placement.hole
    drawn = placement.pixels if pastes else pixels
    return Canvas(drawn, weights.astype(np.float32), notes, None, (pixels, placement))


def _crop_canvas(request: EditRequest, whole: Cropped, size: tuple[int, int]) -> Canvas:
    """Return the part around the mask at the size that is drawn."""
    left, top, right, bottom = whole.box
    pixels = fit_pixels(whole.pixels[top:bottom, left:right], size, "resize")[0]
    part = whole.weights[top:bottom, left:right]
    weights = _fit_weights(part, size, "resize", request.build_edit().mask_blur > 0)
    if not weights.any():
        _require_part(weights, size)
    note = (
        f"The part of {right - left} × {bottom - top} pixels around the mask was drawn at {size[0]} × {size[1]} and "
        "put back."
    )
    return Canvas(pixels, weights, (*request.picture.notes, note), whole)


def _fit_weights(weights: np.ndarray, size: tuple[int, int], fit: str, soft: bool) -> np.ndarray:
    """Bring weights to a size; a hard mask stays hard, and covers a pixel of which a quarter is masked."""
    fitted = fit_pixels(np.round(weights * 255).astype(np.uint8), size, fit)[0]
    return (fitted if soft else (fitted >= 64) * 255).astype(np.float32) / np.float32(255)


def _require_part(weights: np.ndarray, size: tuple[int, int]) -> None:
    """Refuse a mask of which nothing, or nothing else, is left."""
    if not weights.any() or (weights == 1).all():
        covered = "nothing" if not weights.any() else "the whole picture"
        raise SettingsError(
            f"At {size[0]} × {size[1]} pixels {covered} lies under the mask. Draw it anew, or choose another fit."
        )


def fit_pixels(pixels: np.ndarray, size: tuple[int, int], fit: str) -> tuple[np.ndarray, str]:
    """Return pixels of exactly this size, and a sentence on how; "" where they had it already."""
    height, width = pixels.shape[:2]
    if (width, height) == size:
        return pixels, ""
    box, how = (0.0, 0.0, float(width), float(height)), "scaled"
    if width * size[1] != height * size[0]:
        if fit == "crop":
            scale = min(width / size[0], height / size[1])
            spare = (width - scale * size[0]) / 2, (height - scale * size[1]) / 2
            box, how = (spare[0], spare[1], width - spare[0], height - spare[1]), "cut to its middle and scaled"
        else:
            how = "squeezed"
    resized = Image.fromarray(pixels).resize(
        size, Image.Resampling.LANCZOS if pixels.ndim == 3 else Image.Resampling.BOX, box=box
    )
    return np.asarray(resized), f"The picture of {width} × {height} pixels was {how} to {size[0]} × {size[1]}."
