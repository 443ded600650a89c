"""What calibration sees of a tensor of activations, and the ranges that follow from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch

__all__ = ["Observations", "group_channels", "list_edges", "search_shrink"]

MOST_SAMPLES = 4096
"""Values that are kept of each call, evenly spaced, for the search of ranges."""

SHRINKS = 80
POWER = 2.4
"""The search of ranges minimizes the sum of |error|^2.4 over 80 shrunk ranges, as Q-Diffusion's code does."""


@dataclasses.dataclass
class Observations:
    """Collects the extremes of each channel in each call, and some of the values.

    Attributes:
        times: of the calls.
        lows, highs: (C,) each.
        samples: (n,) each.
    """

    times: list[float] = dataclasses.field(default_factory=list)
    lows: list[torch.Tensor] = dataclasses.field(default_factory=list)
    highs: list[torch.Tensor] = dataclasses.field(default_factory=list)
    samples: list[torch.Tensor] = dataclasses.field(default_factory=list)

    def add(self, values: torch.Tensor, times: torch.Tensor, channels: int) -> None:
        """Take a call's tensor, whose rows may be of several times."""
        rows = values.detach().float()
        parts = rows.chunk(len(times)) if len(times) > 1 and len(rows) % len(times) == 0 else (rows,)
        for time, part in zip(times.tolist(), parts, strict=False):
            columns = part.movedim(channels, -1).flatten(0, -2)
            flat = columns.flatten()
            self.times.append(time)
            self.lows.append(columns.amin(0))
            self.highs.append(columns.amax(0))
            self.samples.append(flat[:: max(1, len(flat) // MOST_SAMPLES)].clone())

    def split(self, edges: torch.Tensor) -> list[list[int]]:
        """List the calls of each interval of times."""
        places = torch.bucketize(torch.tensor(self.times), edges).tolist()
        return [[call for call, place in enumerate(places) if place == interval] for interval in range(len(edges) + 1)]

    def find_ends(self, calls: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the channels' extremes over some calls, (C,) each."""
        return (
            torch.stack([self.lows[call] for call in calls]).amin(0),
            torch.stack([self.highs[call] for call in calls]).amax(0),
        )


def list_edges(times: Sequence[float], intervals: int) -> torch.Tensor:
    """Divide the times of calls into intervals of as many different times each, as nearly as they can be.

    Returns:
        The times between intervals, ascending; fewer where there are fewer different times than intervals.
    """
    different = sorted(set(times))
    count = min(intervals, len(different))
    places = [round(len(different) * step / count) for step in range(1, count)]
    return torch.tensor([(different[place - 1] + different[place]) / 2 for place in places])


def group_channels(low: torch.Tensor, high: torch.Tensor, groups: int) -> torch.Tensor:
    """Put channels of like magnitude together: equal parts of the logarithm of their extremes' magnitude.

    Returns:
        The group of each channel, (C,), 0 to groups - 1.
    """
    magnitude = torch.maximum(low.abs(), high.abs()).clamp_min(1e-12).log2()
    start, end = magnitude.min(), magnitude.max()
    return ((magnitude - start) / (end - start).clamp_min(1e-12) * groups).long().clamp_max(groups - 1)


def search_shrink(
    samples: torch.Tensor,
    low: torch.Tensor,
    high: torch.Tensor,
    rounded: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Shrink a range evenly to where the samples' error is least; the whole range is among those tried.

    Args:
        samples: (n,).
        low, high: scalars.
        rounded: from samples and a range to what they are rounded to.

    Source: Li et al., Q-Diffusion, arXiv:2302.04304, section 4 and its code's search by "mse".
    """
    best, best_error = (low, high), float("inf")
    for step in range(SHRINKS):
        factor = 1 - step * 0.01
        tried = low * factor, high * factor
        error = float((rounded(samples, *tried) - samples).abs().pow(POWER).sum())
        if error < best_error:
            best, best_error = tried, error
    return best
