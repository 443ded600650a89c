"""Rounding of a layer's inputs: with ranges that are calibrated, by interval of steps or for all, or measured live."""

from __future__ import annotations

import dataclasses

import torch

from pipelines.quantizers.simulated.formats import NumberFormat

__all__ = ["ACTIVATION_FORMATS", "SCOPES", "ActivationSpec", "round_to_range"]

ACTIVATION_FORMATS = ("full", *(f"int{bits}" for bits in range(2, 9)), "fp4_e2m1", "fp6_e3m2", "fp8_e4m3", "fp8_e5m2")
SCOPES = ("static", "interval", "dynamic", "token", "group")


@dataclasses.dataclass(frozen=True)
class ActivationSpec:
    """Describes how inputs are rounded.

    Attributes:
        form: a number format, or "full".
        scope: "static", one calibrated range; "interval", one for each interval of times; "dynamic", the range of each
            sample; "token", of each token or pixel; "group", of each group of a token's channels.
        intervals: of times, with "interval".
        group_size: channels of a group, with "group".
        search: calibrate to the least error, and not to the extremes.
        channel_groups: with "static" or "interval", groups of channels that have a range each, channels of like
            extremes together.
        edges, forms: with scope "switched", times between intervals, ascending, and the format in each of them, one
            more: floating point by group, integers by token, both measured live.
    """

    form: str = "full"
    scope: str = "token"
    intervals: int = 1
    group_size: int = 64
    search: bool = False
    channel_groups: int = 1
    edges: tuple[float, ...] = ()
    forms: tuple[str, ...] = ()

    @property
    def is_calibrated(self) -> bool:
        """Say whether ranges come from calibration."""
        return self.form != "full" and self.scope in ("static", "interval")


def round_to_range(values: torch.Tensor, form: NumberFormat, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """Round values to the numbers that a format has in a range.

    Integers are affine with zero among the levels, q = round(x / scale) + zero in 0 to 2^bits - 1; floating point
    is scaled so that its largest number is the larger end's magnitude.

    Args:
        values: any shape.
        form: the number format.
        low, high: of the range, which is widened to hold zero; they broadcast to the values.

    Source: Jacob et al., Quantization and training for integer-arithmetic-only inference, arXiv:1712.05877, 2.1.
    """
    low, high = low.clamp_max(0), high.clamp_min(0)
    tiny = torch.finfo(torch.float32).tiny
    if form.kind == "fp":
        scale = (torch.maximum(-low, high) / form.grid.largest).clamp_min(tiny)
        return form.grid.round(values / scale) * scale
    scale = ((high - low) / (2**form.bits - 1)).clamp_min(tiny)
    zero = (-low / scale).round()
    return ((values / scale).round() + zero).clamp(0, 2**form.bits - 1).sub(zero) * scale
