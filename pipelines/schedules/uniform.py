"""Time steps at equal distances, in the three ways the field counts them."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np

from pipelines.core.errors import SettingsError
from pipelines.core.registry import setting
from pipelines.core.schedule import CLEAN, FlowSchedule, Level, NoiseSchedule

__all__ = ["Uniform", "UniformSettings", "require_descending", "uniform_times"]


@dataclasses.dataclass(frozen=True)
class UniformSettings:
    spacing: str = setting(
        "trailing",
        "Trailing starts at the last time step, leading ends at the first, linspace does both. Of n + 1: as "
        "DPM-Solver++ and UniPC count them in diffusers. The last four are A1111's and ComfyUI's.",
        choices=(
            *("trailing", "leading", "linspace", "leading of n + 1", "linspace of n + 1"),
            *("linspace unrounded", "sgm", "simple", "ddim_uniform"),
        ),
    )
    final: str = setting(
        "zero",
        "Where the last step ends: at no noise, or at the model's first training level (old DDIM).",
        choices=("zero", "first"),
        label="ends at",
    )


def require_descending(levels: list[Level]) -> list[Level]:
    """Return the levels, if every one has less noise than the one before.

    Raises:
        SettingsError: two steps would share a noise level.
    """
    for earlier, later in itertools.pairwise(levels):
        if not later.sigma_ve < earlier.sigma_ve:
            raise SettingsError(
                f"The schedule of {len(levels) - 1} steps visits time {later.timestep:g} after {earlier.timestep:g}, "
                "which "
                "has no more noise. Choose fewer steps or another schedule."
            )
    return levels


def uniform_times(noise_schedule: NoiseSchedule, num_inference_steps: int, spacing: str) -> np.ndarray:
    """Return (N,) descending network times; of ddim_uniform there may be more or fewer.

    Source: table 2 of Lin et al., arXiv:2305.08891; leading with diffusers' `steps_offset`. Of n + 1: diffusers'
    DPMSolverMultistepScheduler and UniPCMultistepScheduler. linspace unrounded is k-diffusion's `get_sigmas`; sgm,
    simple and ddim_uniform are schedulers of ComfyUI and A1111.
    """
    total, count = noise_schedule.num_train_timesteps, num_inference_steps
    if isinstance(noise_schedule, FlowSchedule):
        return _flow_times(total, count, spacing)
    last = total - 1.0
    if spacing == "trailing":
        return np.round(np.arange(count, 0, -1) * (total / count)) - 1
    if spacing == "leading":
        return np.arange(count)[::-1] * (total // count) + noise_schedule.steps_offset
    if spacing == "leading of n + 1":
        return np.arange(1, count + 1)[::-1] * (total // (count + 1)) + noise_schedule.steps_offset
    if spacing == "linspace of n + 1":
        return np.linspace(0, last, count + 1).round()[:0:-1]
    if spacing == "sgm":
        return np.linspace(last, 0, count + 1)[:-1]
    if spacing == "simple":
        return last - np.floor(np.arange(count) * (total / count))
    if spacing == "ddim_uniform":
        return np.arange(1, total, max(total // count, 1))[::-1].astype(float)
    times = np.linspace(0, last, count)[::-1] if count > 1 else np.array([last])
    return times if spacing == "linspace unrounded" else times.round()


def _flow_times(total: int, count: int, spacing: str) -> np.ndarray:
    """The same of a flow model, whose time is continuous."""
    if spacing == "simple":
        return total - np.floor(np.arange(count) * (total / count))
    if spacing in ("sgm", "linspace of n + 1"):
        return np.linspace(total, 1, count + 1)[:-1]
    first = {"trailing": 1 / count, "linspace": 1 / total, "linspace unrounded": 1 / total}.get(spacing)
    if first is None:
        raise SettingsError(
            f"The spacing {spacing!r} starts below full noise, which a flow model cannot. Choose trailing or linspace."
        )
    return np.linspace(1, first, count) * total if count > 1 else np.array([float(total)])


class Uniform:
    """Visits equal distances in the network's time.

    Source: Lin et al., Common diffusion noise schedules and sample steps are flawed, arXiv:2305.08891.
    """

    def __init__(self, settings: UniformSettings = UniformSettings()):
        self.settings = settings

    def levels(self, noise_schedule: NoiseSchedule, num_inference_steps: int) -> list[Level]:
        """Return N + 1 descending levels, the last as `final` says.

        Raises:
            SettingsError: an end or a spacing that a flow model does not have.
        """
        if isinstance(noise_schedule, FlowSchedule) and self.settings.final == "first":
            raise SettingsError(
                "Uniform: a flow model's first training level is the clean end itself. Choose 'zero' for where it ends."
            )
        times = uniform_times(noise_schedule, num_inference_steps, self.settings.spacing)
        levels = [noise_schedule.at(float(time)) for time in times]
        end = noise_schedule.at(0) if self.settings.final == "first" and levels[-1].timestep > 0 else CLEAN
        return require_descending([*levels, end])
