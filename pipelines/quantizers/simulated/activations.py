"""Rounding of a layer's inputs: with ranges that are calibrated, by interval of steps or for all, or measured live."""

from __future__ import annotations

import dataclasses
from typing import cast

import torch

from pipelines.core.errors import ModelError
from pipelines.quantizers.simulated.clock import Clock
from pipelines.quantizers.simulated.formats import NumberFormat, parse_format
from pipelines.quantizers.simulated.observing import Observations

__all__ = ["ACTIVATION_FORMATS", "SCOPES", "ActivationQuantizer", "ActivationSpec", "round_to_range"]

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


class ActivationQuantizer(torch.nn.Module):
    """Rounds a tensor of activations; gradients pass through unchanged.

    Args:
        spec: how.
        channels: where the channels are, -1 (tokens) or 1 (pictures).

    Attributes:
        low, high: calibrated ranges, (intervals, channel groups).
        edges: times between the intervals, ascending, (intervals - 1,).
        members: group of each channel, (C,), where channels are grouped.
        observations: what is seen, while it is calibrated; then nothing is rounded.
    """

    low: torch.Tensor
    high: torch.Tensor
    edges: torch.Tensor
    members: torch.Tensor

    def __init__(self, spec: ActivationSpec, channels: int):
        super().__init__()
        self.spec, self.channels = spec, channels
        self.form = parse_format(spec.form)
        self.clock: Clock | None = None
        self.observations: Observations | None = None
        self.register_buffer("low", torch.empty(0))
        self.register_buffer("high", torch.empty(0))
        self.register_buffer("edges", torch.empty(0))
        self.register_buffer("members", torch.empty(0, dtype=torch.long))

    @property
    def needs_clock(self) -> bool:
        """Say whether the ranges depend on the time."""
        return self.spec.scope == "switched" or (self.spec.is_calibrated and self.spec.scope == "interval")

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.form is None:
            return inputs
        if self.observations is not None:
            self.observations.add(inputs, self._times(), self.channels)
            return inputs
        values = inputs.detach().to(torch.promote_types(inputs.dtype, torch.float32))
        if self.spec.scope == "switched":
            rounded = self._round_switched(values)
        elif self.spec.scope == "group":
            rounded = self._round_groups(values)
        else:
            rounded = round_to_range(values, self.form, *self._range(values))
        rounded = rounded.to(inputs.dtype)
        return inputs + (rounded - inputs).detach() if inputs.requires_grad else rounded

    def _times(self) -> torch.Tensor:
        times = None if self.clock is None else self.clock.times
        return torch.zeros(1) if times is None else times

    def _range(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.spec.is_calibrated:
            return self._calibrated_range(values)
        dims = (self.channels,) if self.spec.scope == "token" else tuple(range(1, values.dim()))
        return values.amin(dims, keepdim=True), values.amax(dims, keepdim=True)

    def _calibrated_range(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if not len(self.low):
            raise ModelError("A layer's ranges were never calibrated. Quantize the model again.")
        rows = torch.zeros(1, dtype=torch.long, device=values.device)
        if self.needs_clock:
            rows = self._find_intervals(values, self.edges)
        return self._spread(self.low[rows], values), self._spread(self.high[rows], values)

    def _find_intervals(self, values: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        """Find the interval of each row, (len(values),), or (1,) where all share one."""
        rows = torch.bucketize(self._times().to(values.device), edges.to(values.device))
        if len(rows) > 1 and len(values) % len(rows):
            raise ModelError(f"A layer got {len(values)} rows in a call at {len(rows)} times. Run it alone.")
        return rows if len(rows) == 1 else rows.repeat_interleave(len(values) // len(rows))

    def _round_switched(self, values: torch.Tensor) -> torch.Tensor:
        intervals = self._find_intervals(values, torch.tensor(self.spec.edges)).tolist()
        forms = [self.spec.forms[one] for one in intervals]
        parts = [self._round_live(values[start:stop], forms[start]) for start, stop in _list_runs(forms, len(values))]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _round_live(self, values: torch.Tensor, name: str) -> torch.Tensor:
        form = parse_format(name)
        if form is None:
            return values
        if form.kind == "fp":
            return self._round_groups(values, form)
        ends = values.amin(self.channels, keepdim=True), values.amax(self.channels, keepdim=True)
        return round_to_range(values, form, *ends)

    def _spread(self, ends: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Ends (rows, channel groups) so that they broadcast to the values."""
        if ends.shape[1] > 1:
            ends = ends[:, self.members]
        shape = [len(ends)] + [1] * (values.dim() - 1)
        shape[self.channels] = ends.shape[1]
        return ends.reshape(shape)

    def _round_groups(self, values: torch.Tensor, form: NumberFormat | None = None) -> torch.Tensor:
        """Each token's channels in groups of neighbors, the last one shorter where they do not divide."""
        form = form or cast(NumberFormat, self.form)
        parts = values.split(self.spec.group_size, self.channels)
        return torch.cat(
            [
                round_to_range(one, form, one.amin(self.channels, keepdim=True), one.amax(self.channels, keepdim=True))
                for one in parts
            ],
            self.channels,
        )


def _list_runs(forms: list[str], count: int) -> list[tuple[int, int]]:
    """Rows of one format that follow each other, as start and stop; all of them where there is one form for all."""
    if len(forms) == 1:
        return [(0, count)]
    edges = [place for place in range(1, count) if forms[place] != forms[place - 1]]
    return list(zip([0, *edges], [*edges, count], strict=True))
