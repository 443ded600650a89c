"""What each guidance branch of a run is made of, from step to step."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

__all__ = ["ONE_TEXT", "PERTURBED", "BranchPlan", "Terms", "conditioning_name"]

PERTURBED = "perturbed"
"""The branch of the prompt on a network that a guidance has perturbed."""

Terms = tuple[tuple[str, float], ...]
"""Names of conditionings and their factors, which sum to 1: the branch's prediction is the sum of theirs."""


@dataclasses.dataclass(frozen=True)
class BranchPlan:
    """The terms of each branch at each step; a branch that is not named is the conditioning of its own name.

    Attributes:
        steps: for each step of the whole schedule, branch name to terms; empty where no prompt switches or composes.
    """

    steps: Sequence[Mapping[str, Terms]] = ()

    def terms(self, step: int, branch: str) -> Terms:
        """Those of a branch at a step, from 0; steps past the last are like it.

        The perturbed branch has the positive one's, under names of their own.
        """
        if branch == PERTURBED:
            return tuple((f"{PERTURBED} {name}", factor) for name, factor in self.terms(step, "positive"))
        if not self.steps:
            return ((branch, 1.0),)
        return self.steps[min(max(step, 0), len(self.steps) - 1)].get(branch, ((branch, 1.0),))

    def evaluated(self, step: int, branches: Sequence[str]) -> tuple[str, ...]:
        """The conditionings that a step evaluates for these branches, each once."""
        return tuple(dict.fromkeys(name for branch in branches for name, _ in self.terms(step, branch)))


def conditioning_name(term: str) -> str:
    """The conditioning of a term: a perturbed one's is that of the term it stands beside."""
    return term.removeprefix(f"{PERTURBED} ")


ONE_TEXT = BranchPlan()
"""Of prompts that neither switch nor compose."""
