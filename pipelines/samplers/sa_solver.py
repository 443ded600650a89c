"""SA-Solver: a stochastic Adams predictor and corrector."""

from __future__ import annotations

import dataclasses
import math

import torch

from pipelines.core.prediction import Query
from pipelines.core.registry import setting
from pipelines.core.sampler import Past, State, StepContext, Stepping
from pipelines.core.schedule import Level
from pipelines.samplers.exponential_adams import adams_step, finite_history, fresh_std

__all__ = ["SaSolver", "SaSolverSettings"]


@dataclasses.dataclass(frozen=True)
class SaSolverSettings:
    """The settings of SA-Solver."""

    tau: float = setting(
        1.0, "Strength of the fresh noise: 0 is deterministic, 1 the full SDE.", low=0, high=1.6, step=0.05, label="tau"
    )
    noise_from: float = setting(
        0.8, "Share of the time at which fresh noise begins; 1 is the start.", low=0, high=1, step=0.05
    )
    noise_to: float = setting(
        0.2, "Share of the time at which fresh noise ends; 0 is the end.", low=0, high=1, step=0.05
    )
    predictor_order: int = setting(
        2, "Estimates that the predictor uses. Untouched, it fits itself to fewer steps.", low=1, high=4, step=1
    )
    corrector_order: int = setting(
        2,
        "Estimates that the corrector uses, the new one included; 0 is none. Untouched, it fits itself to fewer steps.",
        low=0,
        high=4,
        step=1,
    )
    lower_order_final: bool = setting(True, "Lower the order in the last steps, which steadies short runs.")


@dataclasses.dataclass(frozen=True)
class _Stride:
    """The last step, as the corrector needs it: from `latents` at `level`, with the noise it drew.

    `estimates` is how many the corrector will use; 0 is no corrector.
    """

    latents: torch.Tensor
    level: Level
    history: tuple[Past, ...]
    eta: float
    fresh: torch.Tensor | None
    estimates: int


class SaSolver:
    """SA-Solver has an Adams-Bashforth predictor and an Adams-Moulton corrector with the same noise, one evaluation a
    step.

    The corrector uses the next step's evaluation, so it is free; a last step and one from pure noise have none.
    tau acts between `noise_from` and `noise_to`. With tau 0, order 1 and no
    corrector it is DPM-Solver++(1).

    Source: Xue et al., SA-Solver: stochastic Adams solver, arXiv:2309.05019, algorithm 1, on the data prediction.
    Differs: exact weights at every order. The authors' code changes those of order 2 by a term of the third
    order in h, "empirically"; diffusers does the same.
    """

    def __init__(self, settings: SaSolverSettings = SaSolverSettings()):
        self.settings = settings

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        settings, latents = self.settings, state.latents
        denoised = (yield Query(latents, level)).denoised
        newest = Past(level, denoised)
        if state.memory and state.memory[0].estimates:
            latents = self._correct(state.memory[0], newest)
        history = finite_history(newest, state.history, max(settings.predictor_order, settings.corrector_order - 1))
        remaining = context.num_steps - context.index if settings.lower_order_final else len(history)
        order = min(settings.predictor_order, len(history), remaining)
        estimates = min(settings.corrector_order, len(history) + 1, remaining + 1)
        finite = math.isfinite(level.lam) and math.isfinite(next_level.lam)
        eta = self._choose_eta(level, context)
        predicted = adams_step(latents, level, next_level, history[: order if finite else 1], eta)
        std = fresh_std(level, next_level, eta)
        fresh = std * context.noise(predicted) if std else None
        stride = _Stride(latents, level, history, eta, fresh, estimates if finite else 0)
        return State(predicted if fresh is None else predicted + fresh, denoised, history, (stride,))

    def nfe(self, num_steps: int, ends_clean: bool = True) -> int:
        return num_steps

    @staticmethod
    def _correct(stride: _Stride, newest: Past) -> torch.Tensor:
        estimates = (newest, *stride.history)[: stride.estimates]
        latents = adams_step(stride.latents, stride.level, newest.level, estimates, stride.eta)
        return latents if stride.fresh is None else latents + stride.fresh

    def _choose_eta(self, level: Level, context: StepContext) -> float:
        share = level.timestep / context.noise_schedule.num_train_timesteps
        return self.settings.tau**2 if self.settings.noise_to <= share <= self.settings.noise_from else 0.0
