"""Time shift: each step ends at the level whose noise variance the latents really have."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Generator, Sequence

import torch

from pipelines.core.prediction import Prediction, Query
from pipelines.core.registry import setting
from pipelines.core.sampler import Sampler, State, StepContext, Stepping
from pipelines.core.schedule import Level, NoiseSchedule
from pipelines.core.types import Traits
from pipelines.samplers.wrapping import SOLVERS

__all__ = ["ShiftCount", "TimeShift", "TimeShiftSettings", "fits_time_shift", "shift_count", "shifted_times"]

_TELLS_SHIFTED = ("dpmpp_2m",)
"""Solvers whose network is given the shifted time at the next step, and whose criterion is of its output."""


@dataclasses.dataclass(frozen=True)
class TimeShiftSettings:
    """The settings of Time-Shift."""

    base: str = setting("ddim", "The solver that takes the steps.", choices=("ddim", "pndm", "dpmpp_2m"))
    window: int = setting(
        30, "Width of the window of times around a step's end; 0 is the base solver.", low=0, high=400, step=2
    )
    cutoff: int = setting(
        300, "Only steps that end above this time; from 1000 on it is the base solver.", low=0, high=1000, step=10
    )


def fits_time_shift(traits: Traits) -> str | None:
    """Refuse flow models: the window is of a diffusion model's whole time steps."""
    reason = "it searches the whole time steps that a diffusion model was trained on; a flow model's time is continuous"
    return reason if traits.flow else None


@dataclasses.dataclass(frozen=True)
class ShiftCount:
    """Counts for how many steps of a sample a shifted end was chosen, and for how many it could have been."""

    shifted: int = 0
    considered: int = 0


def shifted_times(values: torch.Tensor, level: Level, window: int, noise_schedule: NoiseSchedule) -> torch.Tensor:
    """Choose (B,), float64: the times tau within window / 2 of the level's for which sigma_tau^2 is nearest to the
    variance.

    The level's own time is kept unless another is strictly nearer.

    Args:
        values: (B, ...); the variance is over a sample's own values.
        level: in the middle of the window.
        window: width in time steps.

    Source: Li et al., arXiv:2305.15583, the time-shift sampler's choice of t_s.
    """
    variances = values.flatten(1).var(dim=1).cpu().double()
    last = noise_schedule.num_train_timesteps - 1
    low, high = max(0, math.ceil(level.timestep - window / 2)), min(last, math.floor(level.timestep + window / 2))
    times = [level.timestep, *(float(time) for time in range(low, high + 1))]
    squares = torch.tensor([noise_schedule.at(time).sigma ** 2 for time in times], dtype=torch.float64)
    return torch.tensor(times, dtype=torch.float64)[(variances[:, None] - squares).abs().argmin(dim=1)]


@dataclasses.dataclass(frozen=True)
class _Rows:
    """What the run carries for each sample: the solver's own state and the level at which it stands."""

    states: tuple[State, ...]
    levels: tuple[Level, ...]


class TimeShift:
    """Time-Shift is the time-shift sampler over DDIM, PNDM or DPM-Solver++(2M).

    From the second step on a step does not end at the schedule's level but at the one within the window whose noise
    variance is nearest to var(x). Over DDIM and PNDM, var(x) is that of the latents before the step, and the network
    is given the scheduled time next, as if the latents were there: the step leaves more or less noise than they are
    said to have. Over 2M the network is given the shifted time, and the variance is that of its estimate of eps.

    The criterion takes the latents' variance for that of the noise alone. That holds where the data's variance is
    small; at unit variance, which scaled VAE latents nearly have, var(x) is near 1 at every time and the choice is
    always the noisy end of the window: it is then a constant shift. The run's note tells how often an end was moved.

    Source: Li et al., Alleviating exposure bias in diffusion models through sampling with shifted time steps,
    arXiv:2305.15583, and its code (pnm_solver for DDIM and PNDM, dpm_solver for DPM-Solver of order 2); window 30 and
    cutoff 300 are the authors' for DPM-Solver.
    Differs: a sample keeps the schedule's time unless another is strictly nearer; 2M integrates the estimate of x0,
    where the authors' DPM-Solver integrates that of eps; the first estimate of 2M is at the schedule's time.
    """

    def __init__(self, settings: TimeShiftSettings = TimeShiftSettings()):
        self.base: Sampler = SOLVERS[settings.base]()
        self.window, self.cutoff = settings.window, settings.cutoff
        self.tells_shifted = settings.base in _TELLS_SHIFTED

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        if self.window == 0 or self.cutoff >= context.noise_schedule.num_train_timesteps:
            solver = dataclasses.replace(state, memory=state.memory[1] if state.memory else ())
            end = yield from self.base.step(solver, level, next_level, context)
            return _with_note(dataclasses.replace(end, memory=(ShiftCount(), end.memory)))
        count, rows = state.memory or (ShiftCount(), _begin_rows(state, level))
        levels = rows.levels if self.tells_shifted else (level,) * len(rows.levels)
        query = Query(state.latents, level, _choose_conditioning_levels(level, levels))
        prediction = yield query
        values = prediction.noise if self.tells_shifted else state.latents
        shifts = context.index > 0 and next_level.timestep > self.cutoff
        ends = self._step_ends(values, next_level, context) if shifts else (next_level,) * len(levels)
        solver_states = (
            dataclasses.replace(solver_state, latents=state.latents[row : row + 1])
            for row, solver_state in enumerate(rows.states)
        )
        steps = [self.base.step(*row, context) for row in zip(solver_states, levels, ends, strict=True)]
        states = yield from _advance_rows(steps, prediction, levels)
        if shifts:
            num_moved = sum(end != next_level for end in ends)
            count = ShiftCount(count.shifted + num_moved, count.considered + len(ends))
        latents, denoised = (
            torch.cat([getattr(solver_state, name) for solver_state in states]) for name in ("latents", "denoised")
        )
        return _with_note(State(latents, denoised, memory=(count, _Rows(tuple(states), ends))))

    def nfe(self, num_steps: int, ends_clean: bool = True) -> int:
        return self.base.nfe(num_steps, ends_clean)

    def _step_ends(self, values: torch.Tensor, next_level: Level, context: StepContext) -> tuple[Level, ...]:
        """Find each sample's end of the step."""
        times = shifted_times(values, next_level, self.window, context.noise_schedule).tolist()
        return tuple(next_level if time == next_level.timestep else context.noise_schedule.at(time) for time in times)


def _begin_rows(state: State, level: Level) -> _Rows:
    """The rows of a run that begins at `level`."""
    return _Rows(
        tuple(State(state.latents[row : row + 1]) for row in range(len(state.latents))), (level,) * len(state.latents)
    )


def _choose_conditioning_levels(level: Level, levels: Sequence[Level]) -> tuple[Level, ...] | None:
    """What a query's `conditioning_levels` are; None where all are its own level."""
    return None if all(one == level for one in levels) else tuple(levels)


def _advance_rows(
    steps: Sequence[Stepping], prediction: Prediction, levels: Sequence[Level]
) -> Generator[Query, Prediction, list[State]]:
    """Take the samples' steps together, each question of theirs in one query.

    Args:
        steps: of the solver, one a sample; they ask the same number of times.
        prediction: the answer to the first question.
        levels: at which the samples asked it.
    """
    for step in steps:
        next(step)
    while True:
        queries, states = [], []
        for row, (step, level) in enumerate(zip(steps, levels, strict=True)):
            part = slice(row, row + 1)
            answer = Prediction(prediction.raw[part], prediction.latents[part], level, prediction.prediction_type)
            try:
                queries.append(step.send(answer))
            except StopIteration as done:
                states.append(done.value)
        if states:
            return states
        levels = [query.level for query in queries]
        prediction = yield Query(
            torch.cat([query.latents for query in queries]), levels[0], _choose_conditioning_levels(levels[0], levels)
        )


def _with_note(state: State) -> State:
    """The state with the sentence on how often an end was moved."""
    count = shift_count(state)
    times = "time" if count.shifted == 1 else "times"
    note = f"Time-Shift moved the end of a step {count.shifted} {times} of the {count.considered} it could."
    return dataclasses.replace(state, note=note)


def shift_count(state: State) -> ShiftCount:
    """Find how often the run that led to this state had an end moved."""
    return state.memory[0] if state.memory else ShiftCount()
