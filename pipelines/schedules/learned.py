"""Schedules that were fitted to a model, a sampler and a number of steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pipelines.core.errors import SettingsError, UnknownMethodError
from pipelines.core.registry import setting
from pipelines.core.sampler import Sampler
from pipelines.core.schedule import CLEAN, Level, NoiseSchedule
from pipelines.core.types import Choice, Request
from pipelines.guidance import GUIDANCE
from pipelines.samplers import SAMPLERS
from pipelines.samplers.scaled_steps import ScaledSteps
from pipelines.schedules.learned_file import METHODS, SHIPPED, LearnedSchedule, fill_settings, find_all, find_broken
from pipelines.schedules.uniform import require_descending

__all__ = ["FittedSchedule", "Learned", "LearnedSchedules", "LearnedSettings", "learned_levels", "same_sampler"]

_ROUNDING = 1e-6
"""By which a fitted first time may miss the model's last."""


@dataclasses.dataclass(frozen=True)
class LearnedSettings:
    """Says which of the fitted schedules is taken."""

    method: str = setting(
        "best",
        "How it was fitted; best takes the one with the smallest error on held-out pictures, of those "
        "at this guidance, or else at the nearest.",
        choices=("best", *METHODS),
    )
    name: str = setting(
        "", "A fitted schedule by name; empty takes the one for this model, sampler and number of steps."
    )


def learned_levels(times: Sequence[float], model_times: Sequence[float], noise_schedule: NoiseSchedule) -> list[Level]:
    """Return N + 1 levels: those of `times`, of which the network is given `model_times`, and the clean end."""
    visited = [noise_schedule.at(float(time)) for time in times]
    levels = [
        dataclasses.replace(level, timestep=float(time)) for level, time in zip(visited, model_times, strict=True)
    ]
    return [*levels, CLEAN]


class Learned:
    """Visits the schedule that LD3 or AutoDiffusion found for exactly this run, before one was looked for.

    Fit one with `python -m studio learn`, or on the page. Another model, sampler or number of steps than it was
    fitted for is refused, since there it means nothing. Another guidance than fitted is allowed where none was fitted
    at the run's: then the one of the nearest guidance scale serves, unless its factors stand in the guidance's place.
    Errors are compared among fits of one guidance only, because weaker guidance is easier to follow: a fit without
    guidance has a smaller error than any with it.

    Source: Tong et al., Learning to discretize denoising diffusion ODEs (LD3), arXiv:2405.15506; Li et al.,
    AutoDiffusion, arXiv:2309.10438.
    """

    def __init__(self, settings: LearnedSettings = LearnedSettings()):
        self.settings = settings

    def levels(self, noise_schedule: NoiseSchedule, num_inference_steps: int) -> list[Level]:
        """It has none of its own: `LearnedSchedules.choose` finds the schedule that has.

        Raises:
            SettingsError: always.
        """
        raise SettingsError(f"The learned schedule is not settled on a run; {num_inference_steps} steps are asked for.")


@dataclasses.dataclass(frozen=True)
class FittedSchedule:
    """Describes a learned schedule that was chosen for a run.

    Attributes:
        name: of its file.
        record: what the file holds.
    """

    name: str
    record: LearnedSchedule

    def levels(self, noise_schedule: NoiseSchedule, num_inference_steps: int) -> list[Level]:
        """Returns N + 1 descending levels, the last clean.

        Raises:
            SettingsError: the number of steps is another one, or a time is beyond the model's last.
        """
        record = self.record
        if record.num_inference_steps != num_inference_steps:
            raise SettingsError(
                f"The learned schedule is fitted for {record.num_inference_steps} steps; {num_inference_steps} steps "
                "are "
                "asked for."
            )
        last, highest = noise_schedule.network_time(1.0), max(*record.times, *record.model_times)
        if highest > last + _ROUNDING:
            raise SettingsError(
                f"The learned schedule {self.name!r} has the time {highest:g}, where this model's go up to {last:g}. "
                "Fit it again."
            )
        return require_descending(learned_levels(record.times, record.model_times, noise_schedule))

    def solver(self, sampler: Sampler) -> Sampler:
        """Return the sampler, the fitted factors that take its place, or fitted coefficients around it."""
        if self.record.coefficients:
            return ScaledSteps(sampler, *self.record.coefficients)
        return self.record.factors() if self.record.rows else sampler


@dataclasses.dataclass(frozen=True)
class LearnedSchedules:
    """The fitted schedules that one studio knows: those of its folders, read anew at each question.

    Attributes:
        folders: where their files lie, the later the more wanted.
    """

    folders: tuple[Path, ...] = (SHIPPED,)

    @classmethod
    def beside_models(cls, models: Path) -> LearnedSchedules:
        """Take the shipped ones, and before them those of the folder "schedules" in a models folder."""
        return cls((SHIPPED, models / "schedules"))

    def require(self, name: str) -> None:
        """Refuse a name that no file has; the empty name asks for none.

        Raises:
            UnknownMethodError: there is no such file.
            SettingsError: there is, and it is broken.
        """
        if not name or name in (schedules := find_all(*self.folders)):
            return
        if problem := find_broken(*self.folders).get(name):
            raise SettingsError(f"The learned schedule {name!r} is broken. {problem}")
        raise UnknownMethodError("learned schedule", name, schedules)

    def choose(
        self, settings: LearnedSettings, request: Request, network: Callable[[], str] | None = None
    ) -> FittedSchedule:
        """Choose the schedule that serves a run best.

        Args:
            settings: what is asked for.
            request: the run.
            network: names the loaded network's weights; None where no model is loaded, which leaves them unchecked.

        Raises:
            SettingsError: nothing was fitted for this model, sampler and number of steps, or only to other weights.
        """
        self.require(settings.name)
        schedules = find_all(*self.folders)
        candidates = {
            name: one
            for name, one in schedules.items()
            if settings.method in ("best", one.method) and settings.name in ("", name)
        }
        fitting = {name: one for name, one in candidates.items() if _fits(one, request)}
        if not fitting:
            raise self._build_refusal(request, list(candidates.values()), settings.name)
        if network is not None:
            fitting = _require_network(fitting, network(), request)
        name = min(
            fitting,
            key=lambda name: (
                *_measure_distance(fitting[name].guidance, request.guidance),
                fitting[name].held_out["fitted"],
            ),
        )
        return FittedSchedule(name, fitting[name])

    def _build_refusal(self, request: Request, candidates: Sequence[LearnedSchedule], name: str) -> SettingsError:
        run = f"{request.num_inference_steps} steps of {request.sampler.key} on the model {request.model}"
        descriptions = "; ".join(
            f"{one.num_inference_steps} steps of {one.sampler.key} on {one.model}{_describe_guidance(one)}"
            for one in candidates[:12]
        )
        which = f"The learned schedule {name!r} was not fitted for" if name else "No schedule has been fitted for"
        broken = list(find_broken(*self.folders).items())
        left_out = "".join(f" The file {one!r} is left out: {problem}" for one, problem in broken[:3])
        ending = f" So are {len(broken) - 3} others." if len(broken) > 3 else ""
        return SettingsError(
            f"{which} {run}. Fitted: {descriptions or 'none'}. Choose one of these, or fit one with "
            f"{_write_command(request)}.{left_out}{ending}"
        )


def _fits(schedule: LearnedSchedule, request: Request) -> bool:
    # Factors for the branches stand in the guidance's place too, so that another one would change nothing.
    fits_guidance = not schedule.branches or not _measure_distance(schedule.guidance, request.guidance)[0]
    return (
        schedule.model == request.model
        and schedule.num_inference_steps == request.num_inference_steps
        and same_sampler(schedule.sampler, request.sampler)
        and fits_guidance
    )


def same_sampler(choice: Choice, other: Choice) -> bool:
    """Say whether two choices are the same sampler with the same settings, defaults filled in."""
    return choice.key == other.key and fill_settings(choice, SAMPLERS) == fill_settings(other, SAMPLERS)


def _measure_distance(choice: Choice, other: Choice) -> tuple[bool, float]:
    """How far two guidances are from each other: whether they differ at all, and by which scale."""
    first, second = fill_settings(choice, GUIDANCE), fill_settings(other, GUIDANCE)
    scales = [settings.get("guidance_scale", 1.0) for settings in (first, second)]
    return (choice.key, first) != (other.key, second), abs(scales[0] - scales[1])


def _require_network(
    fitting: Mapping[str, LearnedSchedule], network: str, request: Request
) -> dict[str, LearnedSchedule]:
    matching = {name: one for name, one in fitting.items() if one.network == network}
    if not matching:
        subject = (
            f"The learned schedule {next(iter(fitting))!r} was"
            if len(fitting) == 1
            else f"{len(fitting)} learned schedules were"
        )
        raise SettingsError(
            f"{subject} fitted to other weights than the model {request.model} has now. Fit it again with "
            f"{_write_command(request)}."
        )
    return matching


def _describe_guidance(schedule: LearnedSchedule) -> str:
    """What a fit that replaces its guidance too must be run with."""
    settings = (
        ", ".join(f"{name} {value:g}" for name, value in fill_settings(schedule.guidance, GUIDANCE).items())
        if schedule.branches
        else ""
    )
    return f" with {schedule.guidance.key} at {settings}" if settings else ""


def _write_command(request: Request) -> str:
    sampler = ",".join([request.sampler.key, *(f"{name}={value}" for name, value in request.sampler.settings.items())])
    return f"`python -m studio learn --model {request.model} --sampler {sampler} --steps {request.num_inference_steps}`"
