"""A solver whose factors were fitted: every step is its own combination of the start and all estimates so far."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pipelines.denoiser import Prediction, Query
from pipelines.errors import SettingsError
from pipelines.samplers.base import State, StepContext, Stepping
from pipelines.schedule import Level

__all__ = ["FittedFactors", "combined", "estimates"]


def estimates(prediction: Prediction, branches: Sequence[str]) -> tuple[torch.Tensor, ...]:
    """The noise estimates of an evaluation that factors belong to: the guided one, or each branch's.

    Raises:
        SettingsError: the run's guidance has no such branches.
    """
    if not branches:
        return (prediction.noise,)
    if set(branches) != set(prediction.branches):
        raise SettingsError(f"The fitted factors combine the branches {' and '.join(branches)} of a guided run, and this run has "
                            "others. Take the guidance that they were fitted for.")
    return tuple(prediction.branches[name].noise for name in branches)


def combined(factors: Sequence[float], known: Sequence[torch.Tensor]) -> torch.Tensor:
    """The sum of each known tensor times its factor."""
    return sum((factor * one for factor, one in zip(factors, known, strict=True)), torch.zeros_like(known[0]))


class FittedFactors:
    """x_(m+1) = r_(m,0) * x_0 + sum of r_(m,j) * eps_hat_j over the evaluations so far, one evaluation a step.

    Not in the table: the schedule "learned" puts it in the place of the solver that the factors were fitted for.

    Args:
        rows: N rows, the m-th with m + 2 factors; the last gives the final latents. With B branches it is
            1 + B * (m + 1) factors: the estimates of each branch have their own, in the order of their names.
        times: N network times that the run must visit, as the network is told them.
        branches: names of the guidance's branches that the factors combine, in the place of the guidance; empty where
            they take the guided estimate.

    Source: Shaul et al., Bespoke non-stationary solvers for fast sampling of diffusion and flow models,
    arXiv:2403.01329, section 3 (every non-stationary linear solver is of this form).
    Differs: with branches, the guidance's own combination is fitted too, which costs no evaluation more.
    """

    def __init__(self, rows: Sequence[Sequence[float]], times: Sequence[float], branches: Sequence[str] = ()):
        self.rows, self.times, self.branches = tuple(map(tuple, rows)), tuple(times), tuple(branches)

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        if context.num_steps != len(self.rows) or abs(level.timestep - self.times[context.index]) > 1e-3:
            raise SettingsError(f"The fitted factors are for {len(self.rows)} steps at their own times, and this run is another. "
                                "Take the schedule Learned with the number of steps it was fitted for.")
        prediction = yield Query(state.latents, level)
        known = (*(state.memory or (state.latents,)), *estimates(prediction, self.branches))
        return State(combined(self.rows[context.index], known), prediction.denoised, memory=known)

    def calls(self, num_steps: int) -> int:
        return num_steps
