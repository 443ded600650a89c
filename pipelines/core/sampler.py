"""What a sampler is: a pure function from state to state that asks for evaluations by yielding them.

`step` is a generator: it yields a `Query`, is sent the `Prediction`, and returns the next `State`. So one
step reads as in the paper, `x_hat = yield Query(x, level)`, and the loop is free to answer the queries of
many runs in one batch. A state is never changed in place, so keeping one is cloning it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator
from typing import Any, Protocol

import torch

from pipelines.core.noise import NoiseSource
from pipelines.core.prediction import Prediction, Query
from pipelines.core.schedule import Level, NoiseSchedule

__all__ = ["Past", "PastNoise", "Sampler", "State", "StepContext", "Stepping", "interpolate"]

Stepping = Generator[Query, Prediction, "State"]
"""A step in progress: yields queries, is sent predictions, returns the next state."""


@dataclasses.dataclass(frozen=True)
class Past:
    """Remembers an earlier evaluation's estimate of x0, (B, C, h, w), for multistep samplers."""

    level: Level
    denoised: torch.Tensor


@dataclasses.dataclass(frozen=True)
class PastNoise:
    """Remembers an earlier evaluation's estimate of eps, (B, C, h, w), for multistep samplers on the noise estimate."""

    level: Level
    noise: torch.Tensor


@dataclasses.dataclass(frozen=True)
class State:
    """A state says where a run stands; it is never changed in place.

    Attributes:
        latents: (B, C, h, w), float32, at the current level.
        denoised: (B, C, h, w), the last step's estimate of x0; None before the first step.
        history: earlier evaluations, newest first, as many as the sampler uses.
        memory: whatever else one sampler carries from step to step.
        note: one sentence for the person on how the run has gone so far; empty where there is nothing to tell.
    """

    latents: torch.Tensor
    denoised: torch.Tensor | None = None
    history: tuple[Past, ...] = ()
    memory: tuple[Any, ...] = ()
    note: str = ""


@dataclasses.dataclass(frozen=True)
class StepContext:
    """A context holds what a step may use beside its state.

    Attributes:
        index: of the step, from 0.
        num_steps: of the run.
        noise: drawn from only where the method is stochastic.
        noise_schedule: gives the levels between two steps to samplers that evaluate there.
    """

    index: int
    num_steps: int
    noise: NoiseSource
    noise_schedule: NoiseSchedule


class Sampler(Protocol):
    """A sampler is one method of the sampler table, built with its settings."""

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        """Go from `state.latents` at `level` to the state at `next_level`.

        Args:
            state: of the run, its latents (B, C, h, w), float32, at `level`.
            level: where the step begins.
            next_level: where it ends, with less noise.
            context: what else the step may use.
        """

    def nfe(self, num_steps: int, ends_clean: bool = True) -> int:
        """Count the evaluations of the denoiser in a run of `num_steps` steps.

        Args:
            num_steps: of the run.
            ends_clean: whether its last step goes to no noise at all, where some samplers save an evaluation.
        """


def interpolate(prediction: Prediction, next_level: Level) -> torch.Tensor:
    """Compute x' = alpha' * x0_hat + sigma' * eps_hat: the estimate of x0, given its own noise back at a lower level.

    The first-order step of every solver here: DDIM with eta 0, Euler in sigma / alpha, DPM-Solver++(1) and
    flow Euler are this one update.

    Source: Song et al., DDIM, arXiv:2010.02502, equation 12 with sigma_t = 0.
    """
    return next_level.alpha * prediction.denoised + next_level.sigma * prediction.noise
