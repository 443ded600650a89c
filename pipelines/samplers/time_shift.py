"""Time shift: the network is told the time whose noise variance the latents really have."""

from __future__ import annotations

import dataclasses
import math

import torch

from pipelines.core.denoiser import Query
from pipelines.core.registry import setting
from pipelines.core.sampler import State, StepContext, Stepping
from pipelines.core.schedule import Level, NoiseSchedule
from pipelines.core.types import Traits
from pipelines.samplers.wrapping import Wrapper

__all__ = ["ShiftCount", "TimeShift", "TimeShiftSettings", "fits_time_shift", "shift_count", "shifted_times"]


@dataclasses.dataclass(frozen=True)
class TimeShiftSettings:
    base: str = setting("ddim", "The solver that takes the steps.", choices=("ddim", "pndm", "dpmpp_2m"))
    window: int = setting(
        30, "Width of the window of times around the step's own; 0 is the base solver.", low=0, high=400, step=2
    )
    cutoff: int = setting(300, "Only above this time; from 1000 on it is the base solver.", low=0, high=1000, step=10)


def fits_time_shift(traits: Traits) -> str | None:
    """The window is of a diffusion model's whole time steps."""
    reason = "it searches the whole time steps that a diffusion model was trained on; a flow model's time is continuous"
    return reason if traits.flow else None


@dataclasses.dataclass(frozen=True)
class ShiftCount:
    """For how many evaluations of a sample a shifted time was chosen, and for how many it could have been."""

    shifted: int = 0
    considered: int = 0


def shifted_times(latents: torch.Tensor, level: Level, window: int, noise_schedule: NoiseSchedule) -> torch.Tensor:
    """(B,), float64: the times tau within window / 2 of the level's for which sigma_tau^2 is nearest to the variance.

    The level's own time is kept unless another is strictly nearer.

    Args:
        latents: (B, ...); the variance is over a sample's own values.
        level: of the latents.
        window: width in time steps.

    Source: Li et al., arXiv:2305.15583, the time-shift sampler's choice of t_s.
    """
    variances = latents.flatten(1).var(dim=1).double().cpu()
    last = noise_schedule.num_train_timesteps - 1
    low, high = max(0, math.ceil(level.timestep - window / 2)), min(last, math.floor(level.timestep + window / 2))
    times = [level.timestep, *(float(time) for time in range(low, high + 1))]
    squares = torch.tensor([noise_schedule.at(time).sigma ** 2 for time in times], dtype=torch.float64)
    return torch.tensor(times, dtype=torch.float64)[(variances[:, None] - squares).abs().argmin(dim=1)]


class TimeShift(Wrapper[ShiftCount]):
    """The time-shift sampler over DDIM, PNDM or DPM-Solver++(2M).

    Only the time that the network is told changes; the solver's levels stay. A run's first evaluation is at its
    own time, and of a step only the evaluation at its own level is shifted. What the network says is read at the
    time that it was told, so eps and v networks of the same quality give the same.

    The criterion takes the latents' variance for that of the noise alone. That holds where the data's variance is
    small; at unit variance, which scaled VAE latents nearly have, var(x) is near 1 at every time and the choice is
    always the noisy end of the window: it is then a constant shift. The run's note tells how often a shifted time
    was chosen.

    Source: Li et al., Alleviating exposure bias in diffusion models through sampling with shifted time steps,
    arXiv:2305.15583, the time-shift sampler; window 30 and cutoff 300 are the authors' for DPM-Solver.
    Differs: every sample has a time of its own, where the authors average the variance over the batch, so that the
    batch size changes no picture.
    """

    empty = ShiftCount()

    def __init__(self, settings: TimeShiftSettings = TimeShiftSettings()):
        super().__init__(settings.base)
        self.window, self.cutoff = settings.window, settings.cutoff

    def asked(self, memory: ShiftCount, query: Query, context: StepContext) -> tuple[ShiftCount, Query]:
        level = query.level
        if self.window == 0 or context.index == 0 or level.timestep <= self.cutoff:
            return memory, query
        times = shifted_times(query.latents, level, self.window, context.noise_schedule).tolist()
        shifted = sum(time != level.timestep for time in times)
        memory = ShiftCount(memory.shifted + shifted, memory.considered + len(times))
        told = tuple(level if time == level.timestep else context.noise_schedule.at(time) for time in times)
        return memory, dataclasses.replace(query, conditioning_levels=told) if shifted else query

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        done = yield from super().step(state, level, next_level, context)
        count = shift_count(done)
        times = "time" if count.shifted == 1 else "times"
        note = f"Time-Shift told the network another time {count.shifted} {times} of the {count.considered} it could."
        return dataclasses.replace(done, note=note)


def shift_count(state: State) -> ShiftCount:
    """How often the run that led to this state was told a shifted time."""
    return state.memory[0] if state.memory else ShiftCount()
