"""A solver whose factors were fitted: every step is its own combination of the start and all estimates so far."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import torch

from pipelines.core.denoiser import Prediction, Query
from pipelines.core.errors import SettingsError
from pipelines.core.sampler import State, StepContext, Stepping
from pipelines.core.schedule import Level
from pipelines.samplers.prompt_extrapolation import PromptExtrapolation

__all__ = ["FittedFactors", "Terms", "combined"]


@dataclasses.dataclass(frozen=True)
class Terms:
    """What the factors of a fitted solver belong to.

    Attributes:
        branches: names of the guidance's branches that have factors of their own, in the place of the guidance; empty where
            the factors take the guided estimate.
        single: the steps that evaluate the last of the branches only, which costs half of an evaluation of two.
    """

    branches: tuple[str, ...] = ()
    single: tuple[int, ...] = ()

    def asked(self, index: int) -> tuple[str, ...]:
        """`Query.branches` of a step's evaluation."""
        return self.branches[-1:] if index in self.single else ()

    def evaluated(self, index: int) -> tuple[str, ...]:
        """The branches that a step evaluates; empty where the factors take the guided estimate."""
        return self.asked(index) or self.branches

    def count(self, index: int) -> int:
        """Factors in the row of a step: one for the start and one for each tensor found up to there."""
        each = max(1, len(self.branches))
        return 1 + sum(1 if m in self.single else each for m in range(index + 1))

    def emphasis(self, index: int, numbers: Iterable[float | torch.Tensor]) -> PromptExtrapolation:
        """A step's, with a number for each branch that it evaluates."""
        return PromptExtrapolation(self.branches, dict(zip(self.evaluated(index), numbers, strict=True)))

    @property
    def left_out(self) -> int:
        """Branches that a whole run leaves out."""
        return len(self.single) * max(0, len(self.branches) - 1)

    def evaluations(self, num_steps: int) -> int:
        """What a run of so many steps costs, in evaluations of all branches, rounded up."""
        return num_steps - self.left_out // max(1, len(self.branches))

    def found(self, prediction: Prediction, index: int) -> tuple[torch.Tensor, ...]:
        """The tensors that a step's evaluation adds to those known: noise estimates of the branches, or the guided one.

        Raises:
            SettingsError: the run's guidance has no such branches.
        """
        if not self.branches:
            return (prediction.noise,)
        asked = self.evaluated(index)
        if set(asked) != set(prediction.branches):
            raise SettingsError(
                f"The fitted factors combine the branches {' and '.join(self.branches)} of a guided run, and this "
                "run has others. Take the guidance that they were fitted for."
            )
        return tuple(prediction.branches[name].noise for name in asked)


def combined(factors: Sequence[float], known: Sequence[torch.Tensor]) -> torch.Tensor:
    """The sum of each known tensor times its factor."""
    return sum((factor * one for factor, one in zip(factors, known, strict=True)), torch.zeros_like(known[0]))


class FittedFactors:
    """x_(m+1) = r_(m,0) * x_0 + sum of r_(m,j) * eps_hat_j over the evaluations so far, one evaluation a step.

    Not in the table: the schedule "learned" puts it in the place of the solver that the factors were fitted for.

    Args:
        rows: N rows, the m-th with `terms.count(m)` factors, m + 2 for the guided estimate; the last gives the final latents.
        times: N network times that the run must visit, as the network is told them.
        terms: what the factors belong to: those of one step in the order of the branches' names.
        emphasis: for each step, how far the conditionings of the branches that it evaluates, in the order of their names, are
            moved along the line from the first branch's to the last's; empty for not at all. In a fit of branches only.

    Source: Shaul et al., Bespoke non-stationary solvers for fast sampling of diffusion and flow models,
    arXiv:2403.01329, section 3 (every non-stationary linear solver is of this form).
    Differs: with branches, the guidance's own combination is fitted too, which costs no evaluation more; and a step may
    evaluate one of the branches only, the others' place being taken by their earlier estimates, as in LinearAG (Castillo et
    al., Adaptive guidance, arXiv:2312.12487), there with factors of a regression of their own.
    """

    def __init__(
        self,
        rows: Sequence[Sequence[float]],
        times: Sequence[float],
        terms: Terms = Terms(),
        emphasis: Sequence[Sequence[float]] = (),
    ):
        self.rows, self.times, self.terms = tuple(map(tuple, rows)), tuple(times), terms
        self.emphasis = tuple(terms.emphasis(index, numbers) for index, numbers in enumerate(emphasis))

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        if context.num_steps != len(self.rows) or abs(level.timestep - self.times[context.index]) > 1e-3:
            raise SettingsError(
                f"The fitted factors are for {len(self.rows)} steps at their own times, and this run is another. "
                "Take the schedule Learned with the number of steps it was fitted for."
            )
        own = self.emphasis[context.index] if self.emphasis else None
        prediction = yield Query(state.latents, level, branches=self.terms.asked(context.index), conditioning=own)
        known = (*(state.memory or (state.latents,)), *self.terms.found(prediction, context.index))
        return State(combined(self.rows[context.index], known), prediction.denoised, memory=known)

    def nfe(self, num_steps: int) -> int:
        return num_steps
