"""Formats that are a table of levels for each group of weights: twin-log and binary bases."""

from __future__ import annotations

import itertools

import torch

from pipelines.quantizers.simulated.neighbors import Neighbors

__all__ = ["fit_binary_levels", "fit_twin_log_levels", "neighbors_in_table"]

OFFSETS = tuple(2.0**-step for step in range(1, 14))
"""What is added to a magnitude before its logarithm, as a part of the group's largest: 13 of them."""

LOW_QUANTILES = (0.0, 0.02, 0.05, 0.1, 0.2)
HIGH_QUANTILES = (1.0, 0.999, 0.99, 0.98, 0.95)
"""Ends of the logarithms' range: 25 pairs."""

MOST_JUDGED = 64
"""Weights of a group, about, by whose error the ends are chosen."""

REFITS = 3


def neighbors_in_table(levels: torch.Tensor, values: torch.Tensor) -> Neighbors:
    """Find the level below and above each value.

    Args:
        levels: ascending, (L,), or (R, G, L) of each group.
        values: (R, G, size).
    """
    batched = levels.expand(*values.shape[:-1], levels.shape[-1]).contiguous()
    above = torch.searchsorted(batched, values.contiguous(), right=False)
    last = levels.shape[-1] - 1
    up = batched.gather(-1, above.clamp_max(last))
    # A value that is itself a level, or lies below all, has that level on both sides.
    down = torch.where((up <= values) | (above == 0), up, batched.gather(-1, (above - 1).clamp_min(0)))
    return Neighbors(torch.where(above > last, up, down), up)


def fit_binary_levels(groups: torch.Tensor, bases: int) -> torch.Tensor:
    """Fit w = sum of a_i b_i with signs b_i, and list the 2^bases sums of each group in order.

    The bases are found greedily, a_i the mean magnitude of what is left; then signs and factors are fitted in turns, by
    least squares. What is worse is never kept.

    Args:
        groups: (R, G, size).
        bases: how many.

    Returns:
        Levels, (R, G, 2^bases), ascending.

    Source: Xu et al., Alternating multi-bit quantization, arXiv:1802.00150, algorithms 1 and 2.
    """
    signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=bases)), device=groups.device, dtype=groups.dtype)
    rest, factors = groups, []
    for _ in range(bases):
        factor = rest.abs().mean(2, keepdim=True)
        factors.append(factor)
        rest = rest - factor * torch.where(rest < 0, -1.0, 1.0)
    best = torch.cat(factors, 2)
    best_error = _binary_error(groups, best, signs)
    for _ in range(REFITS):
        chosen = signs[_nearest_sum(groups, best, signs)]
        gram = chosen.mT @ chosen + 1e-6 * torch.eye(bases, device=groups.device)
        fitted = torch.linalg.solve(gram, chosen.mT @ groups[..., None]).squeeze(-1)
        error = _binary_error(groups, fitted, signs)
        better = error < best_error
        best, best_error = torch.where(better, fitted, best), torch.where(better, error, best_error)
    return (best @ signs.T).sort(-1).values


def _nearest_sum(groups: torch.Tensor, factors: torch.Tensor, signs: torch.Tensor) -> torch.Tensor:
    return (groups[..., None] - (factors @ signs.T)[..., None, :]).abs().argmin(-1)


def _binary_error(groups: torch.Tensor, factors: torch.Tensor, signs: torch.Tensor) -> torch.Tensor:
    """Squared error of the nearest sums, (R, G, 1)."""
    levels = (factors @ signs.T).sort(-1).values
    return (neighbors_in_table(levels, groups).nearest(groups) - groups).square().sum(2, keepdim=True)


def fit_twin_log_levels(
    groups: torch.Tensor, bits: int, search: bool, importance: torch.Tensor | None = None
) -> torch.Tensor:
    """Fit levels whose distances grow with the magnitude, for negative and positive weights apart.

    With u = log2(abs(w) + offset), each sign has 2^(bits - 1) values of u evenly over its range, and the level of u is
    sign * (2^u - offset).

    Args:
        groups: (R, G, size).
        bits: of a code, of which one is the sign.
        search: try 13 offsets and 25 pairs of quantiles as the range's ends; without, the first pair and an offset of
            2^-4 of the largest weight.
        importance: of each weight's squared error.

    Returns:
        Levels, (R, G, 2^bits), ascending.

    Source: LRQ-DiT, its twin-log quantization.
    Differs: the numbers searched are ours, and a weight goes to the nearest level by value, not by its logarithm.
    """
    largest = groups.abs().amax(2, keepdim=True).clamp_min(torch.finfo(groups.dtype).tiny)
    pairs = [(low, high) for low in LOW_QUANTILES for high in HIGH_QUANTILES] if search else [(0.0, 1.0)]
    sides = [_sorted_side(groups, sign) for sign in (-1.0, 1.0)]
    step = max(1, groups.shape[-1] // MOST_JUDGED)
    judged, weight = groups[..., ::step], None if importance is None else importance[..., ::step]
    best, best_error = None, None
    for part in OFFSETS if search else OFFSETS[3:4]:
        offset = largest * part
        for low, high in pairs:
            negative, positive = (_list_side(side, offset, low, high, bits) for side in sides)
            levels = torch.cat([-negative.flip(-1), positive], -1)
            error = (neighbors_in_table(levels, judged).nearest(judged) - judged).square()
            error = (error if weight is None else error * weight).sum(2, keepdim=True)
            if best is None or best_error is None:
                best, best_error = levels, error
                continue
            better = error < best_error
            best, best_error = torch.where(better, levels, best), torch.where(better, error, best_error)
    if best is None:
        raise ValueError("no range was tried")
    return best


def _sorted_side(groups: torch.Tensor, sign: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Magnitudes of one sign, ascending behind the others' zeros, and how many of them there are."""
    magnitudes = (groups * sign).clamp_min(0)
    return magnitudes.sort(-1).values, (magnitudes > 0).sum(-1, keepdim=True)


def _list_side(
    side: tuple[torch.Tensor, torch.Tensor], offset: torch.Tensor, low: float, high: float, bits: int
) -> torch.Tensor:
    ordered, count = side
    first, last = ordered.shape[-1] - count, ordered.shape[-1] - 1
    spread = (count - 1).clamp_min(0)

    def find_end(quantile: float) -> torch.Tensor:
        place = (first + (quantile * spread).round().long()).clamp_max(last)
        return (ordered.gather(-1, place) + offset).log2()

    start, end = find_end(low), find_end(high)
    steps = torch.linspace(0, 1, 2 ** (bits - 1), device=offset.device, dtype=offset.dtype)
    return ((start + (end - start) * steps).exp2() - offset).clamp_min(0)
