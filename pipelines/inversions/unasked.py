"""The source's row without the network: what is put back onto its path need not be evaluated."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Mapping

import torch

from pipelines.core.prediction import Conditioning, Guidance, Prediction, Query
from pipelines.core.sampler import Sampler, State, StepContext, Stepping
from pipelines.core.schedule import Level
from pipelines.core.types import Trajectory
from pipelines.inversions.base import SOURCE, TARGET

__all__ = ["AskedRows", "PromptedSource", "Unasked", "UnaskedFrom", "take_edit"]


class Unasked:
    """A sampler of (source, edit) that asks the network for the edit's row alone.

    The source's prediction is what the way up said of it. That is right where the inner sampler overwrites the source's
    row by its path and no edit looks at it: the edit's row is the same, for half of the work.

    Args:
        inner: the sampler of both rows.
        trajectory: of the inversion.
    """

    def __init__(self, inner: Sampler, trajectory: Trajectory):
        self.inner, self.estimates = inner, [step.denoised for step in trajectory.steps]

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        inner = self.inner.step(state, level, next_level, context)
        estimate = self.estimates[len(self.estimates) - 1 - context.index]
        try:
            query = next(inner)
            while True:
                rows = (TARGET, TARGET + 1)
                asked = dataclasses.replace(query, latents=query.latents[TARGET:], conditioning=take_edit, rows=rows)
                answer = yield asked
                query = inner.send(_join(answer, query, estimate))
        except StopIteration as finished:
            result: State = finished.value
        return result

    def nfe(self, num_steps: int, ends_clean: bool = True) -> int:
        return self.inner.nfe(num_steps, ends_clean)


class UnaskedFrom:
    """A sampler of (source, edit) that asks for the source's row until nobody looks at it any more, then as `Unasked`.

    Args:
        looked_at: the sampler of both rows while the source is looked at.
        unasked: the one after that.
        until: share of the steps, from the first, in which it is.
    """

    def __init__(self, looked_at: Sampler, unasked: Sampler, until: float):
        self.looked_at, self.unasked, self.until = looked_at, unasked, until

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        is_looked_at = context.index / context.num_steps < self.until
        return (yield from (self.looked_at if is_looked_at else self.unasked).step(state, level, next_level, context))

    def nfe(self, num_steps: int, ends_clean: bool = True) -> int:
        return self.looked_at.nfe(num_steps, ends_clean)


@dataclasses.dataclass
class AskedRows:
    """Says how many rows the network is being asked for: 1 for the edit alone, 2 for source and edit."""

    rows: int = 2


class PromptedSource:
    """A sampler of (source, edit) that asks for the source's row with its prompt alone, and for the edit's with both.

    That is right where the inner sampler overwrites the source's row by its path, and the edit looks at nothing but the
    source's evaluation with its prompt: three rows a step in the place of four.

    Args:
        inner: the sampler of both rows.
        guidance: of both.
        asked: called before each evaluation.
    """

    def __init__(self, inner: Sampler, guidance: Guidance, asked: AskedRows):
        self.inner, self.guidance, self.asked = inner, guidance, asked

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        inner = self.inner.step(state, level, next_level, context)
        try:
            query = next(inner)
            while True:
                # What an inversion asks of the source's row alone is its own.
                answer = (yield query) if query.branches or len(query.latents) == 1 else (yield from self._ask(query))
                query = inner.send(answer)
        except StopIteration as finished:
            result: State = finished.value
        return result

    def _ask(self, query: Query) -> Generator[Query, Prediction, Prediction]:
        edit = (TARGET, TARGET + 1)
        self.asked.rows = 1
        alone = dataclasses.replace(query, latents=query.latents[TARGET:], rows=edit, conditioning=take_edit)
        negative = yield dataclasses.replace(alone, branches=("negative",))
        self.asked.rows = 2
        positive = yield dataclasses.replace(query, branches=("positive",))
        both = torch.cat([positive.raw[SOURCE : SOURCE + 1], negative.raw])
        return self.guidance.combine({"negative": positive.with_raw(both), "positive": positive})

    def nfe(self, num_steps: int, ends_clean: bool = True) -> int:
        return self.inner.nfe(num_steps, ends_clean)


def take_edit(branch: str, conditionings: Mapping[str, Conditioning]) -> Conditioning:
    """Return the edit's row of a branch, for a query of that row alone."""
    return conditionings[branch].rows(TARGET, TARGET + 1)


def _join(answer: Prediction, query: Query, estimate: torch.Tensor) -> Prediction:
    """The prediction of both rows, the source's written in the form of the edit's."""
    level, source = query.level, query.latents[SOURCE : SOURCE + 1]
    noise = (source - level.alpha * estimate) / level.sigma
    raws = {
        "epsilon": noise,
        "v_prediction": level.alpha * noise - level.sigma * estimate,
        "flow": noise - estimate,
        "sample": estimate,
    }
    raw = torch.cat([raws[answer.prediction_type], answer.raw])
    return Prediction(raw, query.latents, level, answer.prediction_type)
