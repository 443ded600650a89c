"""CacheQuant's schedule: whole evaluations where a dynamic programme puts them, and what is reused is corrected."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch

from pipelines.caches.intervals import CutCache
from pipelines.core.caching import CachedRow, Place
from pipelines.core.devices import upload
from pipelines.core.errors import MethodFitError, SettingsError
from pipelines.core.registry import setting
from pipelines.core.schedule import Level

__all__ = ["CORRECTIONS", "CacheFit", "CacheQuant", "CacheQuantSettings", "choose_starts", "fit_channels", "read_fit"]

_FOLDER = Path(__file__).resolve().parents[2] / "assets" / "caches"
TYPED = "typed"
FITS = ("emoji-128-25-9", "emoji-128-25-13")
"""Shipped ones: model, steps, and whole evaluations."""

CORRECTIONS = ("affine", "variance", "none")


@dataclasses.dataclass(frozen=True)
class CacheQuantSettings:
    fit: str = setting(
        FITS[0], "Model, steps and whole evaluations of a fit; typed takes the steps below.", choices=(*FITS, TYPED)
    )
    starts: str = setting("", "Typed: steps that run the whole network, from 0, with commas; empty for all.")
    correction: str = setting(
        "affine", "Of what is reused: a factor and an offset a channel, one factor, or none.", choices=CORRECTIONS
    )

    def __post_init__(self) -> None:
        parse_starts(self.starts)


def parse_starts(text: str) -> tuple[int, ...]:
    """Read steps, separated by commas; () of an empty text.

    Raises:
        SettingsError: they are no whole numbers.
    """
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    if not all(part.isdigit() for part in parts):
        raise SettingsError(f"CacheQuant: starts is {text[:40]!r}. Choose steps with commas, e.g. '0, 3, 7'.")
    return tuple(int(part) for part in parts)


def choose_starts(costs: Sequence[Sequence[float]], count: int) -> tuple[int, ...]:
    """Choose which of N evaluations are whole, so that the others are like the last whole one before them.

    Args:
        costs: N x N; row s, column i is the distance of evaluation i's feature from that of s.
        count: K, whole evaluations; each stands for ceil(N / 2K) to floor(2N / K) evaluations.

    Returns:
        K indices, from 0.

    Source: Liu et al., CacheQuant, arXiv:2503.01323, section 3.2, the dynamic programme.
    """
    total = len(costs)
    low, high = max(1, math.ceil(total / count / 2)), max(1, math.floor(2 * total / count))
    best: list[dict[int, tuple[float, int]]] = [{0: (0.0, -1)}]
    for _ in range(count):
        ends: dict[int, tuple[float, int]] = {}
        for start, (spent, _before) in best[-1].items():
            for end in range(start + low, min(start + high, total) + 1):
                cost = spent + sum(costs[start][start + 1 : end])
                if end not in ends or cost < ends[end][0]:
                    ends[end] = (cost, start)
        best.append(ends)
    if total not in best[-1]:
        raise SettingsError(f"{total} evaluations cannot be parted into {count} segments.")
    starts, end = list[int](), total
    for ends in reversed(best[1:]):
        end = ends[end][1]
        starts.append(end)
    return tuple(reversed(starts))


def fit_channels(before: torch.Tensor, after: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Fit a factor and an offset for each channel, after = a before + b, by least squares.

    Args:
        before, after: (n, C, h, w).

    Returns:
        a and b, (C,), float64.

    Source: Liu et al., CacheQuant, arXiv:2503.01323, section 3.3, the decoupled error correction of the cache.
    """
    first, second = (one.double().transpose(0, 1).flatten(1) for one in (before, after))
    centered = first - first.mean(1, keepdim=True)
    spread = centered.square().sum(1)
    factor = (centered * (second - second.mean(1, keepdim=True))).sum(1) / spread.clamp(min=1e-12)
    factor = factor.where(spread > 1e-12, torch.ones_like(factor))
    return factor, second.mean(1) - factor * first.mean(1)


@dataclasses.dataclass(frozen=True)
class CacheFit:
    """Holds a fit to one model's features along one schedule.

    Attributes:
        model: key of the catalog.
        timesteps: of the evaluations.
        starts: whole ones.
        factors, offsets: for each evaluation (N, C); 1 and 0 of a whole one.
        scales: for each evaluation the ratio of deviations, (N,).
    """

    model: str
    timesteps: tuple[float, ...]
    starts: tuple[int, ...]
    factors: torch.Tensor
    offsets: torch.Tensor
    scales: torch.Tensor

    def serves(self, steps: int) -> bool:
        """Whether it is of runs of so many steps."""
        return steps == len(self.timesteps)


@functools.cache
def read_fit(name: str) -> CacheFit:
    """Read a shipped fit."""
    values = json.loads((_FOLDER / f"{name}.json").read_text("utf-8"))
    tensors = (torch.tensor(values[key], dtype=torch.float32) for key in ("factors", "offsets", "scales"))
    return CacheFit(values["model"], tuple(values["timesteps"]), tuple(values["starts"]), *tensors)


@dataclasses.dataclass(frozen=True)
class CacheQuant(CutCache):
    """Runs the whole UNet at chosen steps; in between the deep feature of the last one is corrected and goes on.

    Source: Liu et al., CacheQuant: Comprehensively accelerated diffusion models, arXiv:2503.01323, sections 3.2 and
        3.3; the correction "variance" is after Q&C (arXiv:2503.02508), which brings the deviation back by one factor.
    Differs: the schedule and the correction of the cache alone, not those of quantization; one feature a network is
        reused, DeepCache's. Both branches of the guidance are corrected alike.
    """

    starts: tuple[int, ...] = ()
    fit: str = TYPED
    correction: str = "none"
    depth: int = 0

    @classmethod
    def build(cls, settings: CacheQuantSettings = CacheQuantSettings()) -> CacheQuant:
        if settings.fit == TYPED:
            return cls(parse_starts(settings.starts))
        return cls(read_fit(settings.fit).starts, settings.fit, settings.correction)

    def require_model(self, model: str, num_steps: int | None) -> None:
        """Refuse another model and another number of steps than the fit's; None for one that is not known yet.

        Raises:
            MethodFitError: it was fitted to others, and to which.
        """
        if self.fit == TYPED:
            return
        fit = read_fit(self.fit)
        if model != fit.model or num_steps not in (None, len(fit.timesteps)):
            raise self._misfit(fit)

    def _misfit(self, fit: CacheFit) -> MethodFitError:
        return MethodFitError(
            f"CacheQuant's fit {self.fit!r} is of {fit.model}, {len(fit.timesteps)} steps of its own schedule. "
            "Choose those, type steps of your own, or choose DeepCache."
        )

    def require_run(self, model: str, levels: Sequence[Level]) -> None:
        """Refuse another model and other levels than those of the fit.

        Raises:
            MethodFitError: it was fitted to others, and to which.
        """
        if self.fit == TYPED:
            return
        self.require_model(model, len(levels) - 1)
        fit = read_fit(self.fit)
        times = [float(level.timestep) for level in levels[:-1]]
        if max(abs(one - other) for one, other in zip(times, fit.timesteps, strict=True)) > 1:
            raise self._misfit(fit)

    def require_steps(self, num_steps: int) -> None:
        """Refuse typed steps that the run does not have.

        Raises:
            SettingsError: the first of them.
        """
        beyond = [step for step in self.starts if self.fit == TYPED and step >= num_steps]
        if beyond:
            raise SettingsError(
                f"CacheQuant: starts has the step {beyond[0]}, and this run's {num_steps} steps are 0 to "
                f"{num_steps - 1}. Leave it out, or take more steps."
            )

    def is_whole(self, place: Place) -> bool:
        return not self.starts or place.step in self.starts

    def _foresee(self, rows: Sequence[CachedRow]) -> torch.Tensor:
        feature = super()._foresee(rows)
        if self.correction == "none":
            return feature
        fit, steps = read_fit(self.fit), [row.place.step for row in rows]

        def take(values: torch.Tensor) -> torch.Tensor:
            rows_of = upload(values[steps], feature.device, feature.dtype)
            return rows_of.view(len(steps), -1, *[1] * (feature.ndim - 2))

        if self.correction == "variance":
            return feature * take(fit.scales)
        return feature * take(fit.factors) + take(fit.offsets)
