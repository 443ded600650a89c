"""Samples of one batch as particles: what of a run belongs to a sample, and how samples take each other's place."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Sequence
from typing import Any, Protocol

import torch

from pipelines.caches import CACHES
from pipelines.core.errors import MethodFitError, SettingsError
from pipelines.core.loop import Run, denoise
from pipelines.core.sampler import State
from pipelines.core.types import Request, Step
from pipelines.samplers import SAMPLERS
from pipelines.search.base import Candidate

__all__ = [
    "Steering",
    "is_stochastic",
    "repeat_start",
    "require_order",
    "require_stochastic",
    "require_uncached_rows",
    "select_rows",
    "steer",
]

_SHARES = ("eta", "tau", "gamma")
"""Settings of samplers that say how much fresh noise there is: 0 for none."""


def is_stochastic(request: Request) -> bool:
    """Say whether the request's sampler draws fresh noise, without which equal samples stay equal."""
    key = request.sampler.key
    settings = SAMPLERS.build(request.sampler)
    fields = {field.name: field.default for field in dataclasses.fields(SAMPLERS[key].settings)}
    shares = [request.sampler.settings.get(name, fields[name]) for name in _SHARES if name in fields]
    stochastic = key in ("lcm", "scm") or any(method.key == key for method in SAMPLERS.group("stochastic"))
    return bool(settings) and (all(float(str(share)) > 0 for share in shares) if shares else stochastic)


def require_stochastic(request: Request, label: str) -> None:
    """Refuse a sampler that draws no noise.

    Raises:
        SettingsError: it is deterministic.
    """
    if not is_stochastic(request):
        sampler = SAMPLERS[request.sampler.key].label
        raise SettingsError(
            f"{label} needs fresh noise in each step, and {sampler} draws none. Choose Euler a, or DDIM with an eta "
            "above 0."
        )


def require_order(first: float, last: float, label: str) -> None:
    """Refuse a span of the run that ends before it begins.

    Raises:
        SettingsError: it does.
    """
    if first > last:
        raise SettingsError(f"{label} begins at {first:g} of the steps and ends at {last:g}. End it later.")


def require_uncached_rows(request: Request, label: str) -> None:
    """Refuse a cache where samples take each other's place, which what it remembers would not follow.

    Raises:
        MethodFitError: there is one.
    """
    if request.cache.key != Request.cache.key:
        cache = CACHES[request.cache.key].label
        raise MethodFitError(
            f"{label} lets pictures take each other's place, and {cache} remembers each one's past. Set Cache to "
            "No cache ('none')."
        )


def select_rows(state: State, run: Run, rows: Sequence[int]) -> State:
    """Put samples into the place of others; each place goes on with its own noise.

    Args:
        state: of B samples, after a step.
        run: whose guidance may remember something of each sample.
        rows: for each place, the sample that takes it.
    """
    if list(rows) == list(range(len(state.latents))):
        return state
    count, guidance = len(state.latents), run.denoiser.guidance
    for name, value in vars(guidance).items():
        setattr(guidance, name, _select(value, rows, count))
    selected: State = _select(state, rows, count)
    return selected


def _select(value: object, rows: Sequence[int], count: int) -> Any:
    """The rows of whatever has a row a sample: tensors, and tuples, dictionaries and dataclasses of them."""
    if isinstance(value, torch.Tensor):
        return value[list(rows)] if value.ndim > 1 and len(value) == count else value
    if isinstance(value, (tuple, list)):
        return type(value)(_select(item, rows, count) for item in value)
    if isinstance(value, dict):
        return {name: _select(item, rows, count) for name, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
        return dataclasses.replace(value, **{name: _select(item, rows, count) for name, item in fields.items()})
    return value


class Steering(Protocol):
    """Acts between the steps of a run.

    Attributes:
        judged: candidates since the last time that they were taken.
    """

    judged: list[Candidate]

    def __call__(self, state: State, step: Step) -> State:
        """Return the state that the next step begins with."""


def steer(run: Run, steering: Steering) -> Generator[list[Candidate], None, torch.Tensor]:
    """Walk a run to its end, yield what is judged on the way, and return the latents.

    Raises:
        Cancelled: the run was stopped.
    """
    latents = run.latents
    for step in denoise(dataclasses.replace(run, between=steering)):
        latents = step.latents
        if steering.judged:
            yield steering.judged
            steering.judged = []
    return latents


def repeat_start(noise: torch.Tensor, times: int) -> torch.Tensor:
    """Repeat each sample's noise (B, C, h, w) so many times, in a row."""
    return noise.repeat_interleave(times, dim=0)
