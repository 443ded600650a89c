"""LD3: the times of a few steps, learned by gradients through the whole run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from pipelines.core.cancelling import Cancelled
from pipelines.core.errors import SettingsError
from pipelines.core.registry import setting
from pipelines.learning.differentiable import factors_of, run_with_gradients
from pipelines.learning.formula import Formula, linear_form, require_linear
from pipelines.learning.problem import Problem
from pipelines.schedules import SCHEDULES
from pipelines.schedules.learned import learned_levels

__all__ = ["Ld3Settings", "LearnedTimes", "Round", "fit_ld3", "increments_of", "times_of"]

_CHECKS = 5
"""How often in a fit all pictures are measured."""

_STARTS = ("uniform", "karras", "exponential", "beta", "quadratic", "dense_high")


@dataclasses.dataclass(frozen=True)
class Ld3Settings:
    rounds: int = setting(64, "Steps of the optimizer.", low=1, high=5000, step=1)
    learning_rate: float = setting(0.005, "Of the times.", low=1e-4, high=0.5, step=0.001)
    batch: int = setting(8, "Pictures a round.", low=1, high=256, step=1)
    offsets: bool = setting(True, "Also learn which time the network is given, apart from the latents' noise level.")
    start: str = setting(
        "best",
        "The hand-made schedule that the fit begins with; best tries them all, a few seconds each.",
        choices=("best", *_STARTS),
    )
    noise_shift: float = setting(
        0.0,
        "How far a fitted picture's noise may move towards the teacher's end, as a share "
        "of its norm; 0 holds it fixed.",
        low=0,
        high=0.5,
        step=0.005,
    )


@dataclasses.dataclass(frozen=True)
class LearnedTimes:
    """A schedule, its relative error on the fitted pictures, by which one is chosen, and on the held-out ones."""

    times: tuple[float, ...]
    model_times: tuple[float, ...]
    fitted: float
    held_out: float


@dataclasses.dataclass(frozen=True)
class Round:
    """Describes one step of the fit.

    Attributes:
        index: from 1 (0 for the start, before any step).
        total: rounds of the whole fit.
        loss: relative error on the round's pictures.
        held_out: relative error on the held-out pictures, where it was measured.
        best: the best schedule so far by its error on all fitted pictures; the held-out ones choose nothing.
        uniform: the error of the uniform schedule, on the held-out pictures.
    """

    index: int
    total: int
    loss: float
    held_out: float | None
    best: LearnedTimes
    uniform: float


def times_of(theta: torch.Tensor, last_time: float) -> torch.Tensor:
    """Return (N,) times t_k = T * (1 - sum of softmax(theta) over the steps before k): falling for any theta, t_0 = T.

    The last share is the step to the clean end.

    Source: Tong et al., LD3, arXiv:2405.15506, section 3 (the monotone parametrisation by a cumulative sum).
    """
    shares = torch.softmax(theta, 0)
    before = torch.cumsum(shares, 0) - shares
    return last_time * (1 - before)


def increments_of(times: Sequence[float], last_time: float) -> torch.Tensor:
    """Return the theta (N,) that gives these times; shares below a thousandth of an even one count as that."""
    shares = -np.diff([*times, 0.0]) / last_time
    return torch.tensor(np.log(np.maximum(shares, 1e-3 / len(times))), dtype=torch.float64)


class _Student:
    """The numbers being learned."""

    def __init__(self, problem: Problem, theta: torch.Tensor, settings: Ld3Settings):
        self.problem, self.settings = problem, settings
        self.last_time = problem.last_time()
        self.theta = theta.clone().requires_grad_()
        self.bends = torch.zeros(len(theta), dtype=torch.float64, requires_grad=settings.offsets)
        self.moves = torch.zeros_like(problem.fitted.cases.noise, requires_grad=settings.noise_shift > 0)

    def parameters(self) -> list[dict]:
        rate = self.settings.learning_rate
        groups = [{"params": [self.theta], "lr": rate}]
        if self.settings.offsets:
            groups.append({"params": [self.bends], "lr": rate})
        if self.settings.noise_shift:
            groups.append({"params": [self.moves], "lr": rate})
        return groups

    def values(self) -> torch.Tensor:
        """(2N,): the visited times, and the ones the network is given, at most half a step away."""
        times = times_of(self.theta, self.last_time)
        steps = times - torch.cat([times[1:], times.new_zeros(1)])
        model_times = (times + 0.5 * torch.tanh(self.bends) * steps).clamp(max=self.last_time)
        return torch.cat([times, model_times])

    def write(self, values: np.ndarray) -> Formula:
        times, model_times = np.split(values, 2)
        # The start is no variable, and a difference must not leave the model's times.
        times = np.minimum(times, self.last_time)
        problem = self.problem
        levels = learned_levels(times.tolist(), model_times.tolist(), problem.noise_schedule)
        return linear_form(problem.sampler, levels, problem.noise_schedule, problem.network.prediction_type)

    def loss(self, rows: torch.Tensor) -> torch.Tensor:
        """Mean squared distance to the teacher over its mean square, of these of the fitted pictures."""
        problem, cases = self.problem, self.problem.fitted.cases
        values = self.values()
        formula = self.write(values.detach().numpy())
        conditionings = {
            name: type(one)({key: tensor[rows] for key, tensor in one.tensors.items()})
            for name, one in cases.conditionings.items()
        }
        start = cases.noise[rows] + self.moves[rows]
        start = start * problem.noise_schedule.initial_scale(problem.noise_schedule.at(self.last_time))
        ends = run_with_gradients(
            factors_of(values, self.write), formula.levels, problem.network, problem.guidance, conditionings, start
        )
        target = problem.fitted.final_latents[rows]
        return (ends - target).square().mean() / target.square().mean()

    def project(self) -> None:
        """Bring every picture's shift of the noise back into its ball."""
        if not self.settings.noise_shift:
            return
        with torch.no_grad():
            most = self.settings.noise_shift * torch.linalg.vector_norm(
                self.problem.fitted.cases.noise.flatten(1), dim=1
            )
            norm = torch.linalg.vector_norm(self.moves.flatten(1), dim=1).clamp(min=1e-12)
            self.moves *= (most / norm).clamp(max=1)[:, None, None, None]

    def read_schedule(self) -> LearnedTimes:
        """The present schedule, measured."""
        times, model_times = np.split(self.values().detach().numpy(), 2)
        levels = learned_levels(times.tolist(), model_times.tolist(), self.problem.noise_schedule)
        fitted, held_out = (
            self.problem.error(levels, pictures) for pictures in (self.problem.fitted, self.problem.held_out)
        )
        return LearnedTimes(tuple(times.tolist()), tuple(model_times.tolist()), fitted, held_out)


def _choose_start(problem: Problem, start: str) -> tuple[torch.Tensor, float]:
    """The theta of a hand-made schedule, "best" the one that does best on the fitted pictures; and uniform's error on
    the held-out ones."""
    if problem.num_steps < 2:
        raise SettingsError("A schedule of 1 step has nothing to learn. Choose 2 steps or more.")
    errors, thetas, keys = {}, {}, _STARTS if start == "best" else (start,)
    for key in keys:
        times = [
            level.timestep for level in SCHEDULES[key].build().levels(problem.noise_schedule, problem.num_steps)[:-1]
        ]
        thetas[key] = increments_of(times, problem.last_time())
        if len(keys) > 1:
            visited = times_of(thetas[key], problem.last_time()).tolist()
            errors[key] = problem.error(learned_levels(visited, visited, problem.noise_schedule), problem.fitted)
    best = (
        start
        if start != "best"
        else min(errors, key=lambda key: errors[key] if math.isfinite(errors[key]) else math.inf)
    )
    uniform = SCHEDULES["uniform"].build().levels(problem.noise_schedule, problem.num_steps)
    return thetas[best], problem.error(uniform, problem.held_out)


def fit_ld3(problem: Problem, settings: Ld3Settings = Ld3Settings(), seed: int = 0) -> Iterator[Round]:
    """Fit the times, and yield after every round; `best` of the last is the result.

    Args:
        problem: a deterministic sampler whose factors do not depend on the picture.
        settings: of the fit.
        seed: of the order of the pictures.

    Raises:
        MethodFitError: the sampler is another kind.
        Cancelled: the fit was stopped.

    Source: Tong et al., Learning to discretize denoising diffusion ODEs (LD3), arXiv:2405.15506, algorithm 1: RMSprop
    on times, offsets and the bounded shift of the noise.
    Differs: the distance is the mean square in latents, since a perceptual one needs weights that are not here; the
    shift of the noise is off unless it is asked for; the fit starts from the best hand-made schedule, with a rate that
    falls as a cosine, for a tenth of the rounds; an offset is bounded by half a step; the result is the best of several
    readings on all fitted pictures, so that the held-out ones judge it and choose nothing.
    """
    theta, uniform = _choose_start(problem, settings.start)
    student = _Student(problem, theta, settings)
    times = times_of(theta, problem.last_time()).tolist()
    require_linear(
        problem.sampler,
        learned_levels(times, times, problem.noise_schedule),
        problem.noise_schedule,
        problem.network.prediction_type,
    )
    best = student.read_schedule()
    yield Round(0, settings.rounds, best.held_out, best.held_out, best, uniform)
    learned = [number for group in student.parameters() for number in group["params"]]
    optimizer = torch.optim.RMSprop(student.parameters())
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.rounds)
    order, generator = torch.empty(0, dtype=torch.long), torch.Generator().manual_seed(seed)
    for index in range(1, settings.rounds + 1):
        if problem.cancelled():
            raise Cancelled
        if not len(order):
            order = torch.randperm(len(problem.fitted.cases), generator=generator)
        rows, order = order[: settings.batch], order[settings.batch :]
        with torch.enable_grad():
            loss = student.loss(rows)
            # Of the student's numbers alone: the shared model's weights must not gather gradients.
            slopes = torch.autograd.grad(loss, learned)
            for number, slope in zip(learned, slopes, strict=True):
                number.grad = slope
        optimizer.step()
        falling.step()
        student.project()
        held_out = None
        if index % max(1, settings.rounds // _CHECKS) == 0 or index == settings.rounds:
            schedule = student.read_schedule()
            held_out, best = schedule.held_out, min(best, schedule, key=lambda number: number.fitted)
        yield Round(index, settings.rounds, math.sqrt(loss.item()), held_out, best, uniform)
