"""What a click on the source picture says: where the masked object goes, or from where to where a point is dragged."""

from __future__ import annotations

import numpy as np

__all__ = ["add_point", "find_shift"]


def find_shift(mask: np.ndarray, point: tuple[int, int]) -> tuple[float, float]:
    """Find how far the middle of a mask is from a point: to the right and down, as shares of the picture.

    Args:
        mask: (H, W) bool, true somewhere.
        point: x and y in pixels.
    """
    height, width = mask.shape
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    x, y = (columns[0] + columns[-1] + 1) / 2, (rows[0] + rows[-1] + 1) / 2
    return round((point[0] + 0.5 - x) / width, 2), round((point[1] + 0.5 - y) / height, 2)


def add_point(text: str, point: tuple[int, int], size: tuple[int, int]) -> str:
    """Add a point to the text of points to drag: it ends a pair that is open, or begins one.

    Args:
        text: as `read_points` reads it; an open pair ends with ">".
        point: x and y in pixels.
        size: (width, height) of the picture.
    """
    written = ",".join(f"{(value + 0.5) / side:.2f}" for value, side in zip(point, size, strict=True))
    text = text.strip().rstrip(";").strip()
    if text.endswith(">"):
        return f"{text} {written}"
    return f"{text}; {written} >" if text else f"{written} >"
