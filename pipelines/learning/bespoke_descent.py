"""The second half of a bespoke fit: all factors and times of a run moved down the slope of its final error."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch.utils.checkpoint import checkpoint

from pipelines.core.cancelling import Cancelled
from pipelines.core.combining import combine_branches
from pipelines.core.prediction import Conditioning, Prediction
from pipelines.core.schedule import Level
from pipelines.learning.ld3 import increments_of, times_of
from pipelines.learning.problem import Problem
from pipelines.samplers.fitted_factors import Terms
from pipelines.schedules.learned import learned_levels

__all__ = ["Descended", "DescentSettings", "descend", "inverse_root"]

_RIDGE = 1e-4
"""Of a normal matrix' own diagonal: keeps the directions in which the known tensors hardly differ from running away."""

_FLOOR = 1e-12
"""Added to a relative squared error, so that its root has a slope where nothing is left of it."""

_AT = 1e-6
"""Of a network time: a first time this near to the model's last is that."""

_UNIT = 0.1
"""Of the first time, as a share of the model's last: one learning rate then moves it as the others."""

_STEEPEST = 0.8
"""Norm of a round's slope beyond which it is shortened, so that a few pictures near a fork do not throw all numbers."""

_EXTRAPOLATION = 0.2
"""Of the prompt extrapolation, as a share of the way from one branch's conditioning to the other's: one learning rate
then moves it as the others. At a tenth of this rate the shipped solver's error ended at 0.190 in the place of 0.186
(experiments on the benchmark's 64 pictures, from the same beginning)."""

_KEPT = 2**16
"""Numbers in a round's latents up to which all inner values of its evaluations are kept rather than computed twice."""


class DescentSettings(Protocol):
    """Says what `descend` reads of the fit's settings; `emphasis` asks for prompt extrapolation."""

    @property
    def rounds(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def batch(self) -> int: ...
    @property
    def loss_power(self) -> float: ...
    @property
    def emphasis(self) -> bool: ...


@dataclasses.dataclass(frozen=True)
class Descended:
    """A round: its relative error on its own pictures, and where the times, rows and prompt extrapolation are after it.

    After the last round, `mean` has them at the mean of all numbers over the second half of the rounds, which the
    round's own few pictures move less. `prompt_extrapolation` is as in `FittedFactors`.
    """

    loss: float
    times: tuple[float, ...]
    rows: tuple[tuple[float, ...], ...]
    prompt_extrapolation: tuple[tuple[float, ...], ...] = ()
    mean: Descended | None = None


def inverse_root(squares: torch.Tensor) -> torch.Tensor:
    """Compute R (K, K) with R^T G R = 1 for a normal matrix G (K, K), float64.

    Of factors r = R z for tensors whose mean products are G, a step of z by d changes the combination by d in its root
    mean square, whichever number of z it is: so one learning rate fits all.
    """
    lower = torch.linalg.cholesky(squares + _RIDGE * torch.diag(squares.diag()))
    return torch.linalg.inv(lower).T


class _Student:
    """The numbers being moved: z of every row, the times where the network's answers are estimates of noise, and, where
    that is asked for, the prompt extrapolation.

    Of a network of another kind an estimate of noise depends on the level that it is asked at, whose slope is not known
    here, so there the times stay. So does a first time that is the model's last.
    """

    def __init__(
        self,
        problem: Problem,
        times: Sequence[float],
        rows: Sequence[Sequence[float]],
        roots: Sequence[torch.Tensor],
        terms: Terms,
        prompt_extrapolation: Sequence[Sequence[float]] = (),
    ):
        self.problem, self.roots, self.terms = problem, roots, terms
        moving = problem.network.prediction_type == "epsilon"
        self.last = problem.last_time()
        self.first = torch.tensor(
            times[0] / self.last / _UNIT, dtype=torch.float64, requires_grad=moving and times[0] < self.last - _AT
        )
        self.theta = increments_of(times, times[0]).requires_grad_(moving)
        self.z = [
            torch.linalg.solve(root, torch.tensor(row, dtype=torch.float64)).requires_grad_()
            for root, row in zip(roots, rows, strict=True)
        ]
        self.prompt_extrapolation = [
            (torch.tensor(numbers, dtype=torch.float64) * _EXTRAPOLATION).requires_grad_()
            for numbers in prompt_extrapolation
        ]

    @property
    def learned(self) -> list[torch.Tensor]:
        return [one for one in (*self.z, self.theta, self.first, *self.prompt_extrapolation) if one.requires_grad]

    def times(self) -> torch.Tensor:
        return times_of(self.theta, 1.0) * (self.first * _UNIT).clamp(max=1.0) * self.last

    def rows(self) -> list[torch.Tensor]:
        return [root @ z for root, z in zip(self.roots, self.z, strict=True)]

    def errors(self, places: torch.Tensor) -> torch.Tensor:
        """(B,): of these of the fitted pictures, the mean squared distance to the long run's ends over all their mean
        square."""
        problem, times = self.problem, self.times()
        pictures = problem.fitted
        levels = learned_levels(times.tolist(), times.tolist(), problem.noise_schedule)
        conditionings = {
            name: Conditioning({key: tensor[places] for key, tensor in one.tensors.items()})
            for name, one in pictures.cases.conditionings.items()
        }
        latents = pictures.cases.noise[places] * problem.noise_schedule.initial_scale(levels[0])
        tensors = [latents]
        for index, (row, time, level) in enumerate(zip(self.rows(), times.to(latents), levels, strict=False)):
            inputs = (latents, time, level, conditionings, index)
            tensors += (
                self._estimate_step(*inputs)
                if latents.numel() <= _KEPT
                else checkpoint(self._estimate_step, *inputs, use_reentrant=False)
            )
            latents = sum(factor * one for factor, one in zip(row.to(latents), tensors, strict=True))
        return (latents - pictures.final_latents[places]).square().flatten(1).mean(
            1
        ) / pictures.final_latents.square().mean()

    def _estimate_step(
        self,
        latents: torch.Tensor,
        time: torch.Tensor,
        level: Level,
        conditionings: dict[str, Conditioning],
        index: int,
    ) -> tuple[torch.Tensor, ...]:
        network, guidance, answers = self.problem.network, self.problem.guidance, {}
        for name in (branches := self.terms.query_branches(index)) or guidance.plan(level):
            conditioning = conditionings[name]
            if self.prompt_extrapolation:
                conditioning = self.terms.prompt_extrapolation(
                    index, self.prompt_extrapolation[index] / _EXTRAPOLATION
                )(name, conditionings)
            raw = network.predict_raw(latents, time.expand(len(latents)), conditioning)
            answers[name] = Prediction(raw, latents, level, network.prediction_type)
        return self.terms.take_estimates(combine_branches(guidance, answers, branches), index)

    def read_state(self, loss: float, mean: Descended | None = None) -> Descended:
        prompt_extrapolation = tuple(tuple((one / _EXTRAPOLATION).tolist()) for one in self.prompt_extrapolation)
        return Descended(
            math.sqrt(loss),
            tuple(self.times().tolist()),
            tuple(tuple(row.tolist()) for row in self.rows()),
            prompt_extrapolation,
            mean,
        )

    def read_state_at(self, numbers: Sequence[torch.Tensor], loss: float) -> Descended:
        """Where the times, rows and prompt extrapolation are with these numbers in the place of its own."""
        present = [one.clone() for one in self.learned]
        self._overwrite(numbers)
        descended = self.read_state(loss)
        self._overwrite(present)
        return descended

    def _overwrite(self, numbers: Sequence[torch.Tensor]) -> None:
        for parameter, number in zip(self.learned, numbers, strict=True):
            parameter.copy_(number)


def descend(
    problem: Problem,
    times: Sequence[float],
    rows: Sequence[Sequence[float]],
    roots: Sequence[torch.Tensor],
    terms: Terms,
    settings: DescentSettings,
    seed: int = 0,
    prompt_extrapolation: Sequence[Sequence[float]] = (),
) -> Iterator[Descended]:
    """Run Adam on each picture's distance, with a rate that falls as a cosine to nothing; yields after every round.

    Args:
        problem: of the fit.
        times, rows: where it begins.
        roots: `inverse_root` of each row's normal matrix there.
        terms: what the factors belong to.
        settings: rounds, learning rate, pictures a round, the power that each picture's distance is taken to, and
            whether the prompt extrapolation moves too.
        seed: of the order of the pictures.
        prompt_extrapolation: where it begins; empty for none at all.

    Raises:
        Cancelled: the fit was stopped.

    Source: Shaul et al., Bespoke non-stationary solvers, arXiv:2403.01329, algorithm 1 (the PSNR loss, in latents;
    Adam). Differs: begins at the least-squares rows, moves each row in the coordinates in which its tensors are
    uncorrelated, takes each picture's distance in the place of its logarithm, and shortens steep rounds.
    """
    if settings.emphasis and not prompt_extrapolation:
        prompt_extrapolation = [[0.0] * len(terms.evaluated_branches(index)) for index in range(len(rows))]
    student = _Student(problem, times, rows, roots, terms, prompt_extrapolation)
    optimizer = torch.optim.Adam(student.learned, lr=settings.learning_rate, betas=(0.9, 0.98))
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.rounds)
    order, generator = torch.empty(0, dtype=torch.long), torch.Generator().manual_seed(seed)
    batch = min(settings.batch, len(problem.fitted.cases))
    half, mean = settings.rounds // 2, [torch.zeros_like(parameter) for parameter in student.learned]
    for index in range(settings.rounds):
        if problem.cancelled():
            raise Cancelled
        if len(order) < batch:
            order = torch.randperm(len(problem.fitted.cases), generator=generator)
        places, order = order[:batch], order[batch:]
        with torch.enable_grad():
            errors = student.errors(places)
            slopes = torch.autograd.grad((errors + _FLOOR).pow(settings.loss_power / 2).mean(), student.learned)
            # Of the student's numbers alone: the shared model's weights must not gather gradients.
            for parameter, slope in zip(student.learned, slopes, strict=True):
                parameter.grad = slope
        torch.nn.utils.clip_grad_norm_(student.learned, _STEEPEST)
        optimizer.step()
        falling.step()
        loss = errors.mean().item()
        with torch.no_grad():
            if index >= half:
                for average, parameter in zip(mean, student.learned, strict=True):
                    average += (parameter - average) / (index - half + 1)
            yield student.read_state(loss, student.read_state_at(mean, loss) if index + 1 == settings.rounds else None)
