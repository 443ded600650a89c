"""A solver whose factors were fitted: every step is its own combination of the start and all estimates so far."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pipelines.denoiser import Query
from pipelines.errors import SettingsError
from pipelines.samplers.base import State, StepContext, Stepping
from pipelines.schedule import Level

__all__ = ["FittedFactors", "combined"]


def combined(factors: Sequence[float], known: Sequence[torch.Tensor]) -> torch.Tensor:
    """The sum of each known tensor times its factor."""
    return sum((factor * one for factor, one in zip(factors, known, strict=True)), torch.zeros_like(known[0]))


class FittedFactors:
    """x_(m+1) = r_(m,0) * x_0 + sum of r_(m,j) * eps_hat_j over the evaluations so far, one evaluation a step.

    Not in the table: the schedule "learned" puts it in the place of the solver that the factors were fitted for.

    Args:
        rows: N rows, the m-th with m + 2 factors; the last gives the final latents.
        times: N network times that the run must visit, as the network is told them.

    Source: Shaul et al., Bespoke non-stationary solvers for fast sampling of diffusion and flow models,
    arXiv:2403.01329, section 3 (every non-stationary linear solver is of this form).
    """

    def __init__(self, rows: Sequence[Sequence[float]], times: Sequence[float]):
        self.rows, self.times = tuple(map(tuple, rows)), tuple(times)

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        if context.num_steps != len(self.rows) or abs(level.timestep - self.times[context.index]) > 1e-3:
            raise SettingsError(f"The fitted factors are for {len(self.rows)} steps at their own times, and this run is another. "
                                "Take the schedule Learned with the number of steps it was fitted for.")
        prediction = yield Query(state.latents, level)
        known = (*(state.memory or (state.latents,)), prediction.noise)
        return State(combined(self.rows[context.index], known), prediction.denoised, memory=known)

    def calls(self, num_steps: int) -> int:
        return num_steps
