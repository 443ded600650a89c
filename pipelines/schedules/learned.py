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
from pipelines.schedules.learned_file import METHODS, SHIPPED, LearnedSchedule, filled, find_all, find_broken
from pipelines.schedules.uniform import require_descending

__all__ = ["FittedSchedule", "Learned", "LearnedSchedules", "LearnedSettings", "learned_levels", "same_sampler"]

_ROUNDING = 1e-6
"""By which a fitted first time may miss the model's last."""


@dataclasses.dataclass(frozen=True)
class LearnedSettings:
    """Which of the fitted schedules is taken."""

    method: str = setting(
        "best",
        "How it was fitted; best takes the one with the smallest error on pictures not fitted, of those "
        "at this guidance, or else at the nearest.",
        choices=("best", *METHODS),
    )
    name: str = setting(
        "", "A fitted schedule by name; empty takes the one for this model, sampler and number of steps."
    )


def learned_levels(times: Sequence[float], model_times: Sequence[float], noise_schedule: NoiseSchedule) -> list[Level]:
    """N + 1 levels: those of `times`, of which the network is told `model_times`, and the clean end."""
    visited = [noise_schedule.at(float(time)) for time in times]
    told = [dataclasses.replace(level, timestep=float(time)) for level, time in zip(visited, model_times, strict=True)]
    return [*told, CLEAN]


class Learned:
    """The schedule that LD3 or AutoDiffusion found for exactly this run, before one was looked for.

    Fit one with `python -m studio learn`, or on the page. Another model, sampler or number of steps than it was
    fitted for is refused, since there it means nothing. Another guidance than fitted is allowed where none was fitted
    at the run's: then the one of the nearest guidance scale serves, unless its factors stand in the guidance's place. Errors
    are compared among fits of one guidance only, because weaker guidance is easier to follow: a fit without guidance has a
    smaller error than any with it.

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
    """A learned schedule that was chosen for a run.

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
                f"The learned schedule is fitted for {record.num_inference_steps} steps; {num_inference_steps} steps are "
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
        """The sampler, or the fitted factors that take its place."""
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
        """The shipped ones, and before them those of the folder "schedules" in a models folder."""
        return cls((SHIPPED, models / "schedules"))

    def require(self, name: str) -> None:
        """Refuse a name that no file has; the empty name asks for none.

        Raises:
            UnknownMethodError: there is no such file.
            SettingsError: there is, and it is broken.
        """
        if not name or name in (known := find_all(*self.folders)):
            return
        if wrong := find_broken(*self.folders).get(name):
            raise SettingsError(f"The learned schedule {name!r} is broken. {wrong}")
        raise UnknownMethodError("learned schedule", name, known)

    def choose(
        self, settings: LearnedSettings, request: Request, network: Callable[[], str] | None = None
    ) -> FittedSchedule:
        """The schedule that serves a run best.

        Args:
            settings: what is asked for.
            request: the run.
            network: names the loaded network's weights; None where no model is loaded, which leaves them unchecked.

        Raises:
            SettingsError: nothing was fitted for this model, sampler and number of steps, or only to other weights.
        """
        self.require(settings.name)
        known = find_all(*self.folders)
        wanted = {
            name: one
            for name, one in known.items()
            if settings.method in ("best", one.method) and settings.name in ("", name)
        }
        fitting = {name: one for name, one in wanted.items() if _fits(one, request)}
        if not fitting:
            raise self._refusal(request, list(wanted.values()), settings.name)
        if network is not None:
            fitting = _of_network(fitting, network(), request)
        name = min(
            fitting,
            key=lambda name: (
                *_apart(fitting[name].guidance, request.guidance),
                fitting[name].held_out["fitted"],
            ),
        )
        return FittedSchedule(name, fitting[name])

    def _refusal(self, request: Request, known: Sequence[LearnedSchedule], name: str) -> SettingsError:
        run = f"{request.num_inference_steps} steps of {request.sampler.key} on the model {request.model}"
        told = "; ".join(
            f"{one.num_inference_steps} steps of {one.sampler.key} on {one.model}{_only_at(one)}" for one in known[:12]
        )
        which = f"The learned schedule {name!r} was not fitted for" if name else "No schedule has been fitted for"
        broken = list(find_broken(*self.folders).items())
        left_out = "".join(f" The file {one!r} is left out: {wrong}" for one, wrong in broken[:3])
        more = f" So are {len(broken) - 3} others." if len(broken) > 3 else ""
        return SettingsError(
            f"{which} {run}. Fitted: {told or 'none'}. Choose one of these, or fit one with {_command(request)}."
            f"{left_out}{more}"
        )


def _fits(one: LearnedSchedule, request: Request) -> bool:
    # Factors for the branches stand in the guidance's place too, so that another one would change nothing.
    guided = not one.branches or not _apart(one.guidance, request.guidance)[0]
    return (
        one.model == request.model
        and one.num_inference_steps == request.num_inference_steps
        and same_sampler(one.sampler, request.sampler)
        and guided
    )


def same_sampler(one: Choice, other: Choice) -> bool:
    """Whether two choices are the same sampler with the same settings, defaults filled in."""
    return one.key == other.key and filled(one, SAMPLERS) == filled(other, SAMPLERS)


def _apart(one: Choice, other: Choice) -> tuple[bool, float]:
    """How far two guidances are from each other: whether they differ at all, and by which scale."""
    first, second = filled(one, GUIDANCE), filled(other, GUIDANCE)
    scales = [settings.get("guidance_scale", 1.0) for settings in (first, second)]
    return (one.key, first) != (other.key, second), abs(scales[0] - scales[1])


def _of_network(fitting: Mapping[str, LearnedSchedule], network: str, request: Request) -> dict[str, LearnedSchedule]:
    own = {name: one for name, one in fitting.items() if one.network == network}
    if not own:
        one_of = (
            f"The learned schedule {next(iter(fitting))!r} was"
            if len(fitting) == 1
            else f"{len(fitting)} learned schedules were"
        )
        raise SettingsError(
            f"{one_of} fitted to other weights than the model {request.model} has now. Fit it again with "
            f"{_command(request)}."
        )
    return own


def _only_at(one: LearnedSchedule) -> str:
    """What a fit that replaces its guidance too must be run with."""
    settings = (
        ", ".join(f"{name} {value:g}" for name, value in filled(one.guidance, GUIDANCE).items()) if one.branches else ""
    )
    return f" with {one.guidance.key} at {settings}" if settings else ""


def _command(request: Request) -> str:
    sampler = ",".join([request.sampler.key, *(f"{name}={value}" for name, value in request.sampler.settings.items())])
    return f"`python -m studio learn --model {request.model} --sampler {sampler} --steps {request.num_inference_steps}`"
