"""Enlarge a picture by any factor, in tiles, so that memory does not grow with the picture."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image

from pipelines.core.cancelling import Cancelled
from pipelines.core.gradients import inference_mode
from pipelines.upscaling.upscalers import Upscaler

__all__ = ["enlarge", "resample"]

TILE = 192
"""Pixels of a tile's side before its margin."""


def resample(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bring a picture (H, W, 3), uint8, to (width, height) by Lanczos resampling."""
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


@inference_mode
def enlarge(
    pixels: np.ndarray,
    upscaler: Upscaler | None,
    size: tuple[int, int],
    device: str | torch.device = "cpu",
    report: Callable[[float], None] = lambda share: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> np.ndarray:
    """Enlarge a picture to a size.

    The network is applied as often as it takes to reach the size, and Lanczos brings what is too large down to it.

    Args:
        pixels: (H, W, 3), uint8.
        upscaler: the network; None resamples.
        size: (width, height) in pixels, at least the picture's own.
        device: of the network.
        report: is called with the share that is done, 0 to 1, after each tile.
        cancelled: is polled before each tile, and within its evaluation.
    Returns: (height, width, 3), uint8.
    Raises: Cancelled.
    """
    if upscaler is not None:
        factor = max(size[0] / pixels.shape[1], size[1] / pixels.shape[0])
        passes = max(0, math.ceil(math.log(factor) / math.log(upscaler.scale) - 1e-9))
        for index in range(passes):
            pixels = _enlarge_once(pixels, upscaler, device, _shift_report(report, index, passes), cancelled)
    return pixels if (pixels.shape[1], pixels.shape[0]) == size else resample(pixels, size)


def _shift_report(report: Callable[[float], None], index: int, passes: int) -> Callable[[float], None]:
    """Turn the share of one pass into that of all."""

    def report_pass(share: float) -> None:
        report((index + share) / passes)

    return report_pass


def _enlarge_once(
    pixels: np.ndarray,
    upscaler: Upscaler,
    device: str | torch.device,
    report: Callable[[float], None],
    cancelled: Callable[[], bool],
) -> np.ndarray:
    """Apply the network to each tile with a margin of its reach, and keep the tile's middle.

    At the picture's own edges there is no margin, so that a tiled picture equals the whole one's.
    """
    from pipelines.core.parted_operations import Interruptible  # late: a subclass of PyTorch's needs it imported

    height, width = pixels.shape[:2]
    scale, margin = upscaler.scale, upscaler.reach
    enlarged = np.empty((height * scale, width * scale, 3), np.uint8)
    interruptible = Interruptible(cancelled)
    corners = [(top, left) for top in range(0, height, TILE) for left in range(0, width, TILE)]
    for done, (top, left) in enumerate(corners):
        if cancelled():
            raise Cancelled
        first_row, first_column = max(0, top - margin), max(0, left - margin)
        part = pixels[first_row : top + TILE + margin, first_column : left + TILE + margin]
        images = torch.from_numpy(part.copy()).permute(2, 0, 1)[None].to(device).float() / 255
        with interruptible:
            planes = upscaler(images)[0]
        result = (planes.float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
        rows, columns = min(TILE, height - top) * scale, min(TILE, width - left) * scale
        skipped_rows, skipped_columns = (top - first_row) * scale, (left - first_column) * scale
        enlarged[top * scale : top * scale + rows, left * scale : left * scale + columns] = result[
            skipped_rows : skipped_rows + rows, skipped_columns : skipped_columns + columns
        ]
        report((done + 1) / len(corners))
    return enlarged
