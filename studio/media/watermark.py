"""An invisible watermark: it says that a picture came out of Stepwise, and nothing of who asked for it.

A bit of a fixed random pattern is written into one coefficient of every block of the brightness, where eight bits of
color hide it: Haar's low band, its DCT by blocks, and quantization index modulation of one coefficient. Whether a
picture carries it is a test of a hypothesis: of a picture without it each block agrees with the pattern by chance.

Source: Chen and Wornell, Quantization index modulation, IEEE Trans. Information Theory 47(4), 2001, section III.

Differs: published forms in bands of wavelets and blocks of a DCT (the package invisible-watermark) write a message, and
refuse pictures below 256 x 256 pixels; this writes one pattern and takes every size from 64 x 64 on. It outlives JPEG
and small changes of brightness, but neither another size nor a crop whose edge is off the blocks.
"""

from __future__ import annotations

import math

import numpy as np

__all__ = ["LEAST_SIDE", "add_watermark", "find_watermark"]

LEAST_SIDE = 64
"""Pixels of a side below which a picture is too small to tell the pattern from chance."""

_BLOCK = 8
"""Pixels of a block's side: four of the low band."""

_STEP = 24.0
"""Distance of two levels that stand for one bit, in units of the coefficient; a change is at most half of it, and over
64 pixels 0.9 of 255 on the average."""

_PATTERN_SEED = 0x57E9
_LUMA = np.array([0.299, 0.587, 0.114])
"""Brightness of red, green and blue, ITU-R BT.601."""


def _build_basis() -> np.ndarray:
    """The pattern (8, 8) of pixels that one coefficient weighs, of norm 1: the DCT's (1, 1) in Haar's low band."""
    cosines = math.sqrt(0.5) * np.cos(math.pi * (np.arange(4) + 0.5) / 4)
    low = np.outer(cosines, cosines)
    return np.kron(low, np.full((2, 2), 0.5))


def _draw_bits(rows: int, columns: int) -> np.ndarray:
    """The pattern's bits for so many blocks, each by its place alone."""
    # A generator of its own, so that no other library's version changes them: splitmix64 of the block's place.
    place = np.arange(columns, dtype=np.uint64)[None] + np.arange(rows, dtype=np.uint64)[:, None] * np.uint64(2**20)
    with np.errstate(over="ignore"):
        mixed = (place + np.uint64(_PATTERN_SEED)) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((mixed >> np.uint64(63)) & np.uint64(1)).astype(np.float64)


def _split_blocks(picture: np.ndarray) -> np.ndarray:
    """Brightness of a picture's whole blocks, (rows, columns, 8, 8)."""
    rows, columns = (side // _BLOCK for side in picture.shape[:2])
    luma = picture[: rows * _BLOCK, : columns * _BLOCK].astype(np.float64) @ _LUMA
    return luma.reshape(rows, _BLOCK, columns, _BLOCK).swapaxes(1, 2)


def _measure(picture: np.ndarray) -> np.ndarray:
    return np.einsum("rcij,ij->rc", _split_blocks(picture), _build_basis())


def add_watermark(picture: np.ndarray) -> np.ndarray:
    """Return the picture with the watermark; a smaller one than `LEAST_SIDE` comes back as it is.

    Args:
        picture: (H, W, 3), uint8.
    """
    if min(picture.shape[:2]) < LEAST_SIDE:
        return picture
    coefficients = _measure(picture)
    bits = _draw_bits(*coefficients.shape)
    offset = _STEP * (0.25 + 0.5 * bits)
    change = np.round((coefficients - offset) / _STEP) * _STEP + offset - coefficients
    rows, columns = coefficients.shape
    spread = (change[:, :, None, None] * _build_basis()).swapaxes(1, 2).reshape(rows * _BLOCK, columns * _BLOCK, 1)
    marked = picture.astype(np.float64)
    marked[: rows * _BLOCK, : columns * _BLOCK] += spread  # all three colors alike changes the brightness as much
    return np.clip(np.round(marked), 0, 255).astype(np.uint8)


def find_watermark(picture: np.ndarray) -> float:
    """Return how likely a picture without the watermark would agree with the pattern as well as this one.

    Args:
        picture: (H, W, 3), uint8.

    Returns:
        A probability: 1 where nothing speaks for a watermark, below a millionth where it is surely there.
    """
    if min(picture.shape[:2]) < LEAST_SIDE:
        return 1.0
    coefficients = _measure(picture)
    phase = np.mod(coefficients / _STEP, 1.0)
    agrees = (phase >= 0.5) == (_draw_bits(*coefficients.shape) > 0.5)
    return _compute_tail(agrees.size, int(agrees.sum()))


def _compute_tail(count: int, least: int) -> float:
    """The probability of at least so many heads in so many throws of a fair coin; Hoeffding's bound for many."""
    if least <= count / 2:
        return 1.0
    if count > 1000:
        return math.exp(-2 * count * (least / count - 0.5) ** 2)
    return sum(math.comb(count, heads) for heads in range(least, count + 1)) / 2**count
