"""A solver whose factors were fitted: every step is its own combination of the start and all estimates so far."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import torch

from pipelines.core.errors import SettingsError
from pipelines.core.prediction import Prediction, Query
from pipelines.core.sampler import State, StepContext, Stepping
from pipelines.core.schedule import Level
from pipelines.samplers.prompt_extrapolation import PromptExtrapolation

__all__ = ["FittedFactors", "Terms", "combine"]


@dataclasses.dataclass(frozen=True)
class Terms:
    """Terms say what the factors of a fitted solver belong to.

    Attributes:
        branches: names of the guidance's branches that have factors of their own, in the place of the guidance; empty
            where the factors take the guided estimate.
        single: the steps that evaluate the last of the branches only, which costs half of an evaluation of two.
    """

    branches: tuple[str, ...] = ()
    single: tuple[int, ...] = ()

    def query_branches(self, index: int) -> tuple[str, ...]:
        """Find the `Query.branches` of a step's evaluation."""
        return self.branches[-1:] if index in self.single else ()

    def evaluated_branches(self, index: int) -> tuple[str, ...]:
        """Name the branches that a step evaluates; empty where the factors take the guided estimate."""
        return self.query_branches(index) or self.branches

    def count(self, index: int) -> int:
        """Count the factors in the row of a step: one for the start and one for each tensor found up to there."""
        each = max(1, len(self.branches))
        return 1 + sum(1 if m in self.single else each for m in range(index + 1))

    def prompt_extrapolation(self, index: int, numbers: Iterable[float | torch.Tensor]) -> PromptExtrapolation:
        """Make a step's prompt extrapolation, with a number for each branch that it evaluates."""
        return PromptExtrapolation(self.branches, dict(zip(self.evaluated_branches(index), numbers, strict=True)))

    @property
    def left_out(self) -> int:
        """Branches that a whole run leaves out."""
        return len(self.single) * max(0, len(self.branches) - 1)

    def evaluations(self, num_steps: int) -> int:
        """Count what a run of so many steps costs, in evaluations of all branches, rounded up."""
        return num_steps - self.left_out // max(1, len(self.branches))

    def take_estimates(self, prediction: Prediction, index: int) -> tuple[torch.Tensor, ...]:
        """Take the tensors that a step's evaluation adds to those known: noise estimates of the branches, or the guided
        one.

        Raises:
            SettingsError: the run's guidance has no such branches.
        """
        if not self.branches:
            return (prediction.noise,)
        branches = self.evaluated_branches(index)
        if set(branches) != set(prediction.branches):
            raise SettingsError(
                f"The fitted factors combine the branches {' and '.join(self.branches)} of a guided run, and this "
                "run has others. Take the guidance that they were fitted for."
            )
        return tuple(prediction.branches[name].noise for name in branches)


def combine(factors: Sequence[float], tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Sum each known tensor, (B, C, h, w), times its factor."""
    return sum((factor * tensor for factor, tensor in zip(factors, tensors, strict=True)), torch.zeros_like(tensors[0]))


class FittedFactors:
    """A fitted solver steps by x_(m+1) = r_(m,0) * x_0 + sum of r_(m,j) * eps_hat_j over the evaluations so far, one
    evaluation a step.

    Not in the table: the schedule "learned" puts it in the place of the solver that the factors were fitted for.

    Args:
        rows: N rows, the m-th with `terms.count(m)` factors, m + 2 for the guided estimate; the last gives the final
            latents.
        times: N network times that the run must visit, as the network is given them.
        terms: what the factors belong to: those of one step in the order of the branches' names.
        prompt_extrapolation: for each step, how far the conditionings of the branches that it evaluates, in the order
            of their names, are moved along the line from the first branch's to the last's; empty for not at all. In a
            fit of branches only.

    Source: Shaul et al., Bespoke non-stationary solvers for fast sampling of diffusion and flow models,
    arXiv:2403.01329, section 3 (every non-stationary linear solver is of this form).
    Differs: with branches, the guidance's own combination is fitted too, which costs no evaluation more; and a step may
    evaluate one of the branches only, the others' place being taken by their earlier estimates, as in LinearAG
    (Castillo et al., Adaptive guidance, arXiv:2312.12487), there with factors of a regression of their own.
    """

    def __init__(
        self,
        rows: Sequence[Sequence[float]],
        times: Sequence[float],
        terms: Terms = Terms(),
        prompt_extrapolation: Sequence[Sequence[float]] = (),
    ):
        self.rows, self.times, self.terms = tuple(map(tuple, rows)), tuple(times), terms
        self.prompt_extrapolation = tuple(
            terms.prompt_extrapolation(index, numbers) for index, numbers in enumerate(prompt_extrapolation)
        )

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        if context.num_steps != len(self.rows) or abs(level.timestep - self.times[context.index]) > 1e-3:
            raise SettingsError(
                f"The fitted factors are for {len(self.rows)} steps at their own times, and this run is another. "
                "Take the schedule Learned with the number of steps it was fitted for."
            )
        extrapolation = self.prompt_extrapolation[context.index] if self.prompt_extrapolation else None
        prediction = yield Query(
            state.latents, level, branches=self.terms.query_branches(context.index), conditioning=extrapolation
        )
        tensors = (*(state.memory or (state.latents,)), *self.terms.take_estimates(prediction, context.index))
        return State(combine(self.rows[context.index], tensors), prediction.denoised, memory=tensors)

    def nfe(self, num_steps: int, ends_clean: bool = True) -> int:
        return num_steps
