"""Groups that fit a layer's width, and the range of each: from its extremes, or searched for the least error."""

from __future__ import annotations

import dataclasses

import torch

from pipelines.quantizers.contract import TINY

__all__ = ["AffineGroups", "fit_group_size", "search_ranges", "split_groups"]

SHRINKS = 12
"""Ranges that are tried besides the whole one, each side by itself evenly down to a half."""

REFITS = 3


@dataclasses.dataclass(frozen=True)
class AffineGroups:
    """Holds w = lowest + scale * q for each group.

    Attributes:
        scales, lowest: (R, G, 1), float32 numbers that float16 can hold.
    """

    scales: torch.Tensor
    lowest: torch.Tensor

    def encode(self, groups: torch.Tensor, levels: int) -> torch.Tensor:
        """Compute the nearest codes of (R, G, size) weights, 0 to levels - 1, in float32."""
        return ((groups - self.lowest) / self.scales.clamp_min(TINY)).round_().clamp_(0, levels - 1)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Compute the weights of codes, (R, G, size)."""
        return self.lowest + self.scales * codes


def fit_group_size(columns: int, wanted: int) -> int:
    """Choose the size of a row's equal groups, at most `wanted`.

    The row is divided into as few groups as `wanted` allows and these are made equal, so that less than a weight a
    group is padding: 192 weights in groups of 128 become two of 96, not two of 128.
    """
    return -(-columns // -(-columns // wanted))


def split_groups(rows: torch.Tensor, size: int) -> torch.Tensor:
    """Return (R, C) as (R, G, size), the last group of a row filled up with its last weight."""
    missing = -rows.shape[1] % size
    if missing:
        rows = torch.cat([rows, rows[:, -1:].expand(-1, missing)], dim=1)
    return rows.unflatten(1, (-1, size))


def search_ranges(groups: torch.Tensor, levels: int, importance: torch.Tensor | None = None) -> AffineGroups:
    """Find the scale and the lowest value of each group that give the least squared error.

    The whole range and narrower ones are tried, both ends by themselves; from the best, scale and lowest value are
    fitted to the codes by least squares, and the codes to them, in turns. What is worse is never kept.

    Args:
        groups: weights, (R, G, size).
        levels: codes, 2^bits.
        importance: (G, size) or (R, G, size), at least 0, of each weight's squared error; None for equal ones.

    Source: the grid of shrunk ranges is Li et al., BRECQ, arXiv:2102.05426, appendix B, and Q-Diffusion's; the closed
    form is weighted least squares.
    Differs: both ends shrink by themselves, and the squared error is weighted.
    """
    weight = torch.ones_like(groups[:1]) if importance is None else importance.expand(groups.shape[-3:])
    least, most = groups.amin(2, keepdim=True), groups.amax(2, keepdim=True)
    low, high = least.clamp_max(0), most.clamp_min(0)
    best = _to_half(AffineGroups((high - low) / (levels - 1), low))
    error = _compute_error(groups, best, levels, weight)
    # Without the zero, which weights need not hold.
    tried = _to_half(AffineGroups((most - least) / (levels - 1), least))
    best, error = _keep_better(groups, levels, weight, best, error, tried)
    for step in range(1, SHRINKS + 1):
        factor = 1 - step / (2 * SHRINKS)
        for low_factor, high_factor in ((factor, factor), (factor, 1.0), (1.0, factor)):
            start = low * low_factor
            tried = _to_half(AffineGroups((high * high_factor - start) / (levels - 1), start))
            best, error = _keep_better(groups, levels, weight, best, error, tried)
    for _ in range(REFITS):
        tried = _to_half(_refit(groups, best, levels, weight))
        best, error = _keep_better(groups, levels, weight, best, error, tried)
    return best


def _to_half(ranges: AffineGroups) -> AffineGroups:
    return AffineGroups(ranges.scales.half().float(), ranges.lowest.half().float())


def _compute_error(groups: torch.Tensor, ranges: AffineGroups, levels: int, weight: torch.Tensor) -> torch.Tensor:
    difference = ranges.decode(ranges.encode(groups, levels)).sub_(groups)
    return difference.square_().mul_(weight).sum(2, keepdim=True)


def _keep_better(
    groups: torch.Tensor,
    levels: int,
    weight: torch.Tensor,
    best: AffineGroups,
    error: torch.Tensor,
    tried: AffineGroups,
) -> tuple[AffineGroups, torch.Tensor]:
    tried_error = _compute_error(groups, tried, levels, weight)
    better = tried_error < error
    chosen = AffineGroups(
        torch.where(better, tried.scales, best.scales), torch.where(better, tried.lowest, best.lowest)
    )
    return chosen, torch.where(better, tried_error, error)


def _refit(groups: torch.Tensor, ranges: AffineGroups, levels: int, weight: torch.Tensor) -> AffineGroups:
    """Weighted least squares of w on its codes; a group of one code keeps its scale."""
    codes = ranges.encode(groups, levels)
    total = weight.sum(2, keepdim=True).clamp_min(TINY)
    mean_code = (weight * codes).sum(2, keepdim=True) / total
    mean = (weight * groups).sum(2, keepdim=True) / total
    spread = (weight * (codes - mean_code).square()).sum(2, keepdim=True)
    slope = (weight * (codes - mean_code) * (groups - mean)).sum(2, keepdim=True) / spread.clamp_min(TINY)
    scales = torch.where((spread > 0) & (slope > 0), slope, ranges.scales)
    return AffineGroups(scales, mean - scales * mean_code)
