"""Seamless pasting: what was drawn under a hard mask meets the picture around it without a step."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

__all__ = ["match_rim"]

_REACH = 1 / 16
_LEAST_REACH, _MOST_REACH = 8, 32
"""Pixels, of a picture's shorter side and at least and at most, over which the correction fades."""
_CONTENT = 64.0
"""Gray levels: a larger difference at the rim is mostly content and not tone, and is not carried inwards."""
_SEEN = 4.0
"""Gray levels: a difference at the rim from which on a step would be seen."""


def match_rim(picture: np.ndarray, source: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Bring a drawn picture to the source's tone along the rim of a mask, fading inwards.

    The difference source - picture just outside the mask is carried inwards pixel by pixel, each the mean of its
    neighbors nearer to the rim, and added with a weight that falls from 1 to 0. Where the difference would be seen, the
    outermost pixels become what the source's own neighbors say. Further inside than the reach nothing changes, and
    nowhere where the picture is the source along the rim.

    Args:
        picture: (H, W, 3) uint8, as it was drawn.
        source: (H, W, 3) uint8.
        mask: (H, W) bool, true where the picture is pasted.
    Returns: (H, W, 3) uint8; outside the mask it is the source.
    Source: the idea is that of Perez et al., Poisson image editing, SIGGRAPH 2003, equation 2: a smooth correction that
        is the difference on the boundary. Differs: it is carried inwards layer by layer instead of solved for, fades,
        and leaves out differences that are content, which the equation lets bleed.
    """
    if not mask.any() or mask.all():
        return np.where(mask[..., None], picture, source)
    height, width = mask.shape
    reach = min(max(round(min(height, width) * _REACH), _LEAST_REACH), _MOST_REACH)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    part = (
        slice(max(0, rows[0] - 1), min(height, rows[-1] + 2)),
        slice(max(0, columns[0] - 1), min(width, columns[-1] + 2)),
    )
    matched = _match_part(_to_planes(picture[part]), _to_planes(source[part]), mask[part], reach)
    result = source.copy()
    result[part] = np.where(mask[part][..., None], matched, source[part])
    return result


def _to_planes(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)[None]


def _match_part(drawn: torch.Tensor, source: torch.Tensor, mask: np.ndarray, reach: int) -> np.ndarray:
    remaining = torch.from_numpy(mask.astype(np.float32))[None, None]
    known = _dilate(remaining) * (1 - remaining)
    difference = source - drawn
    size = difference.abs().mean(dim=1, keepdim=True)
    # What is carried inwards: the tone that is missing, the source's colors, and how far apart both pictures are.
    carried = torch.cat([difference * torch.exp(-((size / _CONTENT) ** 2)), source, size], dim=1) * known
    matched, edge = drawn.clone(), max(2, reach // 8)
    for distance in range(reach):
        layer = _dilate(known) * remaining
        if not layer.any():
            break
        carried = torch.where(layer > 0, _average_neighbors(carried, known), carried)
        tone, colors, apart = carried[:, :3], carried[:, 3:6], carried[:, 6:]
        fade = 0.5 + 0.5 * math.cos(math.pi * distance / reach)
        share = max(0.0, 1 - distance / edge) * (1 - torch.exp(-((apart / _SEEN) ** 2)))
        changed = (1 - share) * (drawn + fade * tone) + share * colors
        matched = torch.where(layer > 0, changed, matched)
        known, remaining = known + layer, remaining * (1 - layer)
    pixels: np.ndarray = matched.round().clamp(0, 255).to(torch.uint8)[0].permute(1, 2, 0).numpy()
    return pixels


def _dilate(places: torch.Tensor) -> torch.Tensor:
    """Grow (1, 1, H, W) places of 0 and 1 by a pixel to every side."""
    return F.max_pool2d(places, 3, stride=1, padding=1)


def _average_neighbors(values: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Average each place's known neighbors, the nearer ones counting twice.

    Args:
        values: (1, C, H, W).
        known: (1, 1, H, W), 1 where a value counts.
    """
    kernel = torch.tensor([[1.0, 2.0, 1.0], [2.0, 0.0, 2.0], [1.0, 2.0, 1.0]]).expand(values.shape[1], 1, 3, 3)
    sums = F.conv2d(values * known, kernel, padding=1, groups=values.shape[1])
    return sums / F.conv2d(known, kernel[:1], padding=1).clamp_min(1e-6)
