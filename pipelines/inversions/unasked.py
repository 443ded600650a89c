"""The source's row without the network: what is put back onto its path need not be evaluated."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch

from pipelines.core.prediction import Conditioning, Prediction, Query
from pipelines.core.sampler import Sampler, State, StepContext, Stepping
from pipelines.core.schedule import Level
from pipelines.core.types import Trajectory
from pipelines.inversions.base import SOURCE, TARGET

__all__ = ["Unasked"]


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
                asked = dataclasses.replace(query, latents=query.latents[TARGET:], conditioning=_take_edit, rows=rows)
                answer = yield asked
                query = inner.send(_join(answer, query, estimate))
        except StopIteration as finished:
            result: State = finished.value
        return result

    def nfe(self, num_steps: int, ends_clean: bool = True) -> int:
        return self.inner.nfe(num_steps, ends_clean)


def _take_edit(branch: str, conditionings: Mapping[str, Conditioning]) -> Conditioning:
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
