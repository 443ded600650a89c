"""Rounding a layer's weights one column after another, each column's error made up for by those that follow."""

from __future__ import annotations

import torch

from pipelines.core.gradients import no_grad
from pipelines.quantizers.ranges import AffineGroups, search_ranges, split_groups

__all__ = ["output_error", "quantize_with_feedback"]

DAMPING = 0.01
"""Of the mean diagonal, added to it: without it, directions that no input has would make the inverse useless."""

BLOCK = 128


@no_grad
def quantize_with_feedback(
    rows: torch.Tensor, moments: torch.Tensor, size: int, levels: int
) -> tuple[AffineGroups, torch.Tensor]:
    """Quantize weights so that the layer's outputs change least on inputs of these second moments.

    Columns are taken in the order of their inputs' power, the strongest first. Each is rounded, and its error, which
    the layer's output would show, is spread over the columns that are still to come.

    Args:
        rows: weights (R, C), float32.
        moments: mean of x x^T over the inputs, (C, C).
        size: of a group of neighbors.
        levels: codes, 2^bits.

    Returns:
        The groups' ranges, and the codes (R, G, size) in float32.

    Source: Frantar et al., GPTQ, arXiv:2210.17323, section 3 (its "act-order" with static groups).
    Differs: the ranges are searched by the error weighted with the inputs' power.
    """
    columns = rows.shape[1]
    power = moments.diagonal()
    importance = split_groups(power[None].clamp_min(1e-12 * float(power.max()) + 1e-30), size)
    ranges = search_ranges(split_groups(rows, size), levels, importance)
    order = power.argsort(descending=True)
    inverse = _factor_inverse(moments[order][:, order])
    # Transposed, so that each column of the weights lies in one piece.
    weights = rows.T[order].contiguous()
    scales = ranges.scales.expand(-1, -1, size).flatten(1).T[:columns][order].clamp_min(torch.finfo(rows.dtype).tiny)
    lowest = ranges.lowest.expand(-1, -1, size).flatten(1).T[:columns][order].contiguous()
    codes = torch.empty_like(weights)
    for start in range(0, columns, BLOCK):
        end = min(start + BLOCK, columns)
        errors = torch.empty_like(weights[start:end])
        for column in range(start, end):
            scale, low, weight = scales[column], lowest[column], weights[column]
            code = ((weight - low) / scale).round_().clamp_(0, levels - 1)
            codes[column] = code
            error = (weight - torch.addcmul(low, scale, code)).div_(inverse[column, column])
            weights[column + 1 : end].addr_(inverse[column, column + 1 : end], error, alpha=-1)
            errors[column - start] = error
        weights[end:] -= inverse[start:end, end:].T @ errors
    return ranges, split_groups(codes[order.argsort()].T.contiguous(), size)


def _factor_inverse(moments: torch.Tensor) -> torch.Tensor:
    """The upper Cholesky factor of the damped moments' inverse; more damping where float32 does not carry that."""
    damping = DAMPING
    identity = torch.eye(len(moments), device=moments.device)
    mean = float(moments.diagonal().mean()) or 1.0
    while True:
        factor, failed = torch.linalg.cholesky_ex(moments + damping * mean * identity)
        if not failed:
            upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(factor), upper=True)
            if not failed:
                return upper
        damping *= 10


def output_error(difference: torch.Tensor, moments: torch.Tensor) -> torch.Tensor:
    """Compute the mean squared error of each output, (R,), that a change (R, C) of the weights makes."""
    return ((difference @ moments) * difference).sum(1)
