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

from pipelines.core.denoiser import Prediction, Query
from pipelines.core.noise import NoiseSource
from pipelines.core.schedule import Level, NoiseSchedule

__all__ = ["Past", "PastNoise", "Sampler", "State", "StepContext", "Stepping", "interpolate"]

Stepping = Generator[Query, Prediction, "State"]
"""A step in progress."""


@dataclasses.dataclass(frozen=True)
class Past:
    """An earlier evaluation, as multistep samplers keep it."""

    level: Level
    denoised: torch.Tensor


@dataclasses.dataclass(frozen=True)
class PastNoise:
    """An earlier evaluation, as multistep samplers on the noise estimate keep it in a state's memory."""

    level: Level
    noise: torch.Tensor


@dataclasses.dataclass(frozen=True)
class State:
    """Where a run stands.

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
    """What a step may use beside its state.

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
    """One method of the sampler table, built with its settings."""

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        """From `state.latents` at `level` to the state at `next_level`, which has less noise."""

    def nfe(self, num_steps: int) -> int:
        """Evaluations of the denoiser in a run of `num_steps` steps that ends without noise."""


def interpolate(prediction: Prediction, next_level: Level) -> torch.Tensor:
    """x' = alpha' * x0_hat + sigma' * eps_hat: the estimate of x0, given its own noise back at a lower level.

    The first-order step of every solver here: DDIM with eta 0, Euler in sigma / alpha, DPM-Solver++(1) and
    flow Euler are this one update.

    Source: Song et al., DDIM, arXiv:2010.02502, equation 12 with sigma_t = 0.
    """
    return next_level.alpha * prediction.denoised + next_level.sigma * prediction.noise
