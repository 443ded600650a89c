"""The module that rounds a layer's inputs."""

from __future__ import annotations

from typing import cast

import torch

from pipelines.core.errors import ModelError
from pipelines.quantizers.simulated.activations import ActivationSpec, round_to_range
from pipelines.quantizers.simulated.clock import Clock
from pipelines.quantizers.simulated.formats import NumberFormat, parse_format
from pipelines.quantizers.simulated.observing import Observations

__all__ = ["ActivationQuantizer"]


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
