"""A solver whose first steps see latents and the network's answer scaled, as Q-Sched fits it to a rounded network."""

from __future__ import annotations

import dataclasses

import torch

from pipelines.core.prediction import Prediction
from pipelines.core.sampler import Sampler, State, StepContext, Stepping
from pipelines.core.schedule import Level

__all__ = ["ScaledSteps", "fade", "scale_answer"]


def fade(coefficient: float, index: int, num_steps: int) -> float:
    """Compute a step's coefficient: the given one at the first step, 1 at the last, evenly between."""
    if num_steps == 1 or index == 0:
        return coefficient
    return coefficient + (1.0 - coefficient) * index / (num_steps - 1)


def scale_answer(prediction: Prediction, latents: torch.Tensor, factor: float) -> Prediction:
    """Scale what the network said, of whichever form, and let it belong to other latents.

    Args:
        prediction: the network's.
        latents: (B, C, h, w), at which the solver takes it.
        factor: on the raw output.
    """
    return Prediction(factor * prediction.raw, latents, prediction.level, prediction.prediction_type)


class ScaledSteps:
    """In each step the solver takes c_x * x in the place of the latents x, and c_eps * output in the answer's place.

    The network itself sees x. The coefficients of a step go from the given ones at the first step evenly to 1 at the
    last. At 1 and 1 the solver is left alone, bit for bit. Not in the table: the schedule "learned" puts it around the
    solver that it was fitted to.

    Args:
        base: the solver.
        sample, output: c_x and c_eps of the first step.

    Source: Frumkin & Marculescu, Q-Sched, arXiv:2509.01624; the authors' schedulers scale sample and model output in
    this way (github.com/enyac-group/q-sched, read, not run).
    Differs: works around every solver here. Of several evaluations in a step the first is that of the latents
    themselves; the later ones stand where the solver puts them, and all answers are scaled.
    """

    def __init__(self, base: Sampler, sample: float, output: float):
        self.base, self.sample, self.output = base, sample, output

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        sample = fade(self.sample, context.index, context.num_steps)
        output = fade(self.output, context.index, context.num_steps)
        if sample == output == 1.0:
            return (yield from self.base.step(state, level, next_level, context))
        scaled = sample * state.latents
        asking = self.base.step(dataclasses.replace(state, latents=scaled), level, next_level, context)
        query = next(asking)
        while True:
            is_first = query.latents is scaled
            asked = dataclasses.replace(query, latents=state.latents) if is_first else query
            prediction = yield asked
            try:
                query = asking.send(scale_answer(prediction, query.latents, output))
            except StopIteration as done:
                end: State = done.value
                return end

    def nfe(self, num_steps: int, ends_clean: bool = True) -> int:
        return self.base.nfe(num_steps, ends_clean)
