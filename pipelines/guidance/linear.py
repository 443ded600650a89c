"""LinearAG: the negative prompt's prediction as a fitted sum of earlier predictions."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from pipelines.core.errors import MethodFitError
from pipelines.core.prediction import Prediction
from pipelines.core.registry import setting
from pipelines.core.schedule import Level
from pipelines.guidance.two_branch import TwoBranchGuidance, guide

__all__ = ["FITS", "FittedGuidance", "Linear", "LinearFit", "LinearSettings", "read_fit", "solve"]

FITS = ("emoji-128-20",)
"""The shipped fits, each a file of assets/guidance."""

_FOLDER = Path(__file__).resolve().parents[2] / "assets" / "guidance"
_RIDGE = 1e-9
"""Relative to the mean of the diagonal: consecutive predictions are almost collinear."""


@dataclasses.dataclass(frozen=True)
class LinearSettings:
    guidance_scale: float = setting(4.0, "How strongly the picture follows the prompt.", low=0, high=30, step=0.1)
    every: int = setting(2, "In the first part every n-th step asks the negative prompt.", low=1, high=10, step=1)
    share: float = setting(
        0.5, "Share of the steps in the first part; later the negative prompt is never asked.", low=0, high=1, step=0.05
    )


@dataclasses.dataclass(frozen=True)
class LinearFit:
    """Holds fitted coefficients.

    Attributes:
        model: key of the model.
        timesteps: of the run's evaluations, descending.
        coefficients: for each evaluation i, of C_0 to C_i and U_0 to U_(i - 1), 2 i + 1 in all.
    """

    model: str
    timesteps: tuple[float, ...]
    coefficients: tuple[tuple[float, ...], ...]

    def find(self, timestep: float) -> int | None:
        """Find the evaluation at a time; None where there was none."""
        return next(
            (index for index, one in enumerate(self.timesteps) if math.isclose(one, timestep, abs_tol=0.5)), None
        )


def read_fit(name: str) -> LinearFit:
    """Read a shipped fit."""
    values = json.loads((_FOLDER / f"{name}.json").read_text())
    rows = tuple(tuple(row) for row in values["coefficients"])
    return LinearFit(values["model"], tuple(values["timesteps"]), rows)


def solve(positives: Sequence[torch.Tensor], negatives: Sequence[torch.Tensor], index: int) -> list[float]:
    """Fit U_i by C_0 to C_i and U_0 to U_(i - 1), by least squares over all samples and pixels.

    Args:
        positives, negatives: for each evaluation, (B, C, h, w).
        index: i.

    Returns:
        2 i + 1 coefficients.

    Source: Castillo et al., arXiv:2312.12487, LinearAG.
    """
    terms = torch.stack([one.double().flatten() for one in (*positives[: index + 1], *negatives[:index])])
    gram = terms @ terms.T
    gram += _RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    solution: list[float] = torch.linalg.solve(gram, terms @ negatives[index].double().flatten()).tolist()
    return solution


class FittedGuidance(TwoBranchGuidance):
    """A guidance that was fitted to one model and its levels."""

    def require_model(self, model: str, num_steps: int | None) -> None:
        """Refuse another model and another number of steps; None for one that is not known yet.

        Raises:
            MethodFitError: it was fitted to others, and to which.
        """
        raise NotImplementedError

    def require_levels(self, model: str, levels: Sequence[Level]) -> None:
        """Refuse another model and other levels.

        Raises:
            MethodFitError: it was fitted to others, and to which.
        """
        raise NotImplementedError


class Linear(FittedGuidance):
    """Asks the negative prompt at every second step of the first half, and else sums what was said before.

    U_i = sum of a_j C_j, j up to i, + sum of b_j U_j, j before i. Where the steps before were not all run, as in an
    edit, the negative prompt is asked. With `every` 1 and share 1 it is classifier-free guidance.

    Source: Castillo et al., Adaptive guidance: Training-free acceleration of conditional diffusion models,
        arXiv:2312.12487, section 5 (LinearAG) and its policy of alternation.
    Differs: a small ridge, since consecutive predictions are almost collinear. On the shipped model it loses much: see
        docs/benchmarks.md.
    """

    def __init__(self, settings: LinearSettings = LinearSettings()):
        super().__init__(settings.guidance_scale)
        self.every, self.share, self.name = settings.every, settings.share, FITS[0]
        self._fit: LinearFit | None = None
        self._said: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    @property
    def is_neutral(self) -> bool:
        """Whether it is classifier-free guidance."""
        return self.every == 1 and self.share == 1

    @property
    def fit(self) -> LinearFit:
        """The coefficients, read when they are first needed."""
        if self._fit is None:
            self._fit = read_fit(self.name)
        return self._fit

    def require_model(self, model: str, num_steps: int | None) -> None:
        if self.is_neutral or self.guidance_scale <= 1:
            return
        if model != self.fit.model or num_steps not in (None, len(self.fit.timesteps)):
            raise self._misfit()

    def require_levels(self, model: str, levels: Sequence[Level]) -> None:
        if self.is_neutral or self.guidance_scale <= 1:
            return
        self.require_model(model, len(levels) - 1)
        times = [float(level.timestep) for level in levels[:-1]]
        if not all(self.fit.find(time) == index for index, time in enumerate(times)):
            raise self._misfit()

    def _misfit(self) -> MethodFitError:
        return MethodFitError(
            f"LinearAG's coefficients {self.name!r} were fitted to {self.fit.model}, "
            f"{len(self.fit.timesteps)} steps of its own schedule. Choose those, or Adaptive guidance."
        )

    def plan(self, level: Level) -> tuple[str, ...]:
        planned = super().plan(level)
        if len(planned) == 1 or self.is_neutral or not self._said:
            return planned
        index = self.fit.find(float(level.timestep))
        if index is None or any(place not in self._said for place in range(index)) or self._asks(index):
            return planned
        return ("positive",)

    def plans(self, answers: int) -> list[tuple[str, ...]]:
        """Name the branches of each answer of a run that it was fitted to."""
        if self.guidance_scale <= 1:
            return [("positive",)] * answers
        is_fitted = not self.is_neutral and answers == len(self.fit.timesteps)
        asked = [not is_fitted or index == 0 or self._asks(index) for index in range(answers)]
        return [("negative", "positive") if is_due else ("positive",) for is_due in asked]

    def _asks(self, index: int) -> bool:
        return index < self.share * len(self.fit.timesteps) - 1e-9 and index % self.every == 0

    def combine(self, branches: Mapping[str, Prediction]) -> Prediction:
        positive = branches["positive"]
        if self.guidance_scale <= 1:
            return positive
        index = None if self.is_neutral else self.fit.find(float(positive.level.timestep))
        negative = branches["negative"].raw if "negative" in branches else self._sum(positive.raw, index)
        if index is not None:
            self._said = {**self._said, index: (positive.raw, negative)}
        return positive.with_raw(guide(negative, positive.raw, self.guidance_scale))

    def _sum(self, positive: torch.Tensor, index: int | None) -> torch.Tensor:
        if index is None:
            raise MethodFitError("LinearAG has no coefficients for this level.")
        before = [self._said[place] for place in range(index)]
        terms = [*(one for one, _ in before), positive, *(one for _, one in before)]
        total = torch.zeros_like(positive)
        for factor, term in zip(self.fit.coefficients[index], terms, strict=True):
            total = total + factor * term
        return total

    def blend(self, negative: Prediction, positive: Prediction) -> torch.Tensor:
        return guide(negative.raw, positive.raw, self.guidance_scale)
