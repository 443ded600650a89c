"""How fast samplers come near the exact solution: the error of their last latents against their evaluations."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from pipelines.core.errors import SettingsError, UnknownMethodError
from pipelines.core.loop import Run, denoise_together
from pipelines.core.types import Choice, Request, Step, Traits
from pipelines.families.base import Family
from pipelines.requests.limits import check_orders
from pipelines.requests.reference import reference_of
from pipelines.requests.text_to_image import ResolvedRun, build_run, resolve
from pipelines.samplers import SAMPLERS
from pipelines.schedules.learned import LearnedSchedules
from pipelines.workflows.compare.axes import Axis, spread
from pipelines.workflows.compare.request import equal_steps, evaluations

__all__ = [
    "MOST_EVALUATIONS",
    "REFERENCE_STEPS",
    "ConvergenceRequest",
    "Finished",
    "Impossible",
    "Planned",
    "Settled",
    "planned",
    "possible",
    "reference_run",
    "relative_error",
    "sampler_label",
    "walked",
]

REFERENCE_STEPS = 999
EVALUATIONS = (8, 12, 16, 20, 30, 40, 60, 100)
MOST_EVALUATIONS, MOST_SERIES, MOST_POINTS = 400, 36, 16


def relative_error(latents: torch.Tensor, wanted: torch.Tensor) -> float:
    """The root mean square of the difference, as a multiple of that of what was wanted."""
    return float((latents - wanted).square().mean().sqrt() / wanted.square().mean().sqrt())


@dataclasses.dataclass(frozen=True)
class ConvergenceRequest:
    """Everything that decides a convergence view.

    Attributes:
        base: prompt, seed, schedule, guidance and start of all runs.
        samplers: with their settings, no two the same.
        evaluations: ascending budgets of network evaluations, every guidance branch counted.
        reference_steps: of the run that stands for the exact solution.
    """

    base: Request
    samplers: tuple[Choice, ...]
    evaluations: tuple[int, ...] = EVALUATIONS
    reference_steps: int = REFERENCE_STEPS

    @classmethod
    def parse(
        cls,
        values: Mapping[str, Any],
        read: Callable[[Mapping[str, Any]], Request],
        traits: Callable[[str], Traits | None] = lambda model: None,
    ) -> ConvergenceRequest:
        """From untrusted plain values.

        Args:
            values: {"base": fields of `Request`, "samplers": keys, or text such as "all first order, unipc",
                "evaluations": numbers, or text such as "8, 10-50:10", "reference_steps"}.
            read: makes a checked request of plain values.
            traits: of a model by key, where they are known.

        Raises:
            SettingsError: the first thing that is wrong.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        if unknown := [name for name in values if name not in known]:
            raise UnknownMethodError("setting of a convergence view", unknown[0], known)
        plain = values.get("base", {})
        if not isinstance(plain, Mapping):
            raise SettingsError(f"The base of a convergence view is {str(plain)[:80]!r}. Give an object of settings.")
        base = read({**plain, "batch_size": 1})
        given = {"field": "sampler", "values": values.get("samplers", "all")}
        axis = Axis.parse(given, MOST_SERIES, traits(base.model))
        samplers = tuple(Choice.parse(value) for value in axis.values)
        for sampler in samplers:
            read({**plain, "batch_size": 1, "sampler": sampler.to_json()})
        return cls(base, samplers, _budgets(values.get("evaluations", EVALUATIONS)), _reference_steps(values))

    def to_json(self) -> dict[str, Any]:
        """Plain values that `parse` reads back to an equal request."""
        return {
            "base": self.base.to_json(),
            "samplers": [sampler.to_json() for sampler in self.samplers],
            "evaluations": list(self.evaluations),
            "reference_steps": self.reference_steps,
        }

    @property
    def model(self) -> str:
        return self.base.model


def _budgets(given: Any) -> tuple[int, ...]:
    if isinstance(given, (list, tuple)):
        given = ",".join(str(one) for one in given)
    numbers = sorted(set(spread(str(given), True, MOST_POINTS)))
    if not numbers or numbers[0] < 1 or numbers[-1] > MOST_EVALUATIONS:
        raise SettingsError(
            f"The evaluations are {str(given)[:80]!r}. Give numbers from 1 to {MOST_EVALUATIONS}, such as 8, 16, 32."
        )
    return tuple(numbers)


def _reference_steps(values: Mapping[str, Any]) -> int:
    steps = values.get("reference_steps", REFERENCE_STEPS)
    whole = isinstance(steps, (int, float)) and not isinstance(steps, bool) and steps == steps // 1
    if not whole or not 20 <= steps <= REFERENCE_STEPS:
        raise SettingsError(
            f"The reference's steps are {str(steps)[:80]}. Choose a whole number from 20 to {REFERENCE_STEPS}."
        )
    return int(steps)


@dataclasses.dataclass(frozen=True)
class Planned:
    """One point that will be measured: sampler `series`, its request, and the evaluations it takes."""

    series: int
    request: Request
    evaluations: int


@dataclasses.dataclass(frozen=True)
class Impossible:
    """A point that cannot be measured: sampler `series` at these steps, and why."""

    series: int
    num_inference_steps: int
    reason: str


@dataclasses.dataclass(frozen=True)
class Settled(Planned):
    """A point that can be measured: its run, settled on the model."""

    resolved: ResolvedRun


def possible(groups: Sequence[Sequence[Planned]], family: Family) -> tuple[list[list[Settled]], list[Impossible]]:
    """The points whose schedule and order serve their number of steps, and the others: a typed schedule serves few.

    Asked before the long reference runs, which would be in vain.

    Args:
        groups: as `planned` returned them, with the model's own size.
        family: the loaded model.

    Raises:
        SettingsError: no point is left; its text is the first one's reason.
    """
    left: list[list[Settled]] = []
    impossible: list[Impossible] = []
    for group in groups:
        left.append([])
        for point in group:
            try:
                resolved = resolve(point.request, family)
                check_orders(resolved.request)
            except SettingsError as error:
                impossible.append(Impossible(point.series, point.request.num_inference_steps, str(error)))
            else:
                left[-1].append(Settled(point.series, resolved.request, point.evaluations, resolved))
    if impossible and not any(left):
        raise SettingsError(
            f"None of the {len(impossible)} planned runs is possible with this schedule. The first: "
            f"{impossible[0].reason}"
        )
    return left, impossible


def planned(
    asked: ConvergenceRequest, traits: Traits, most_steps: int, learned: LearnedSchedules = LearnedSchedules()
) -> list[list[Planned]]:
    """The points of each budget in turn; none where one step costs more, or as many steps were planned before.

    Args:
        asked: checked.
        traits: of the model.
        most_steps: of one run.
        learned: the fitted schedules that there are; by default the shipped ones.
    """
    seen: set[tuple[int, int]] = set()
    groups = []
    for budget in asked.evaluations:
        group = []
        for series, sampler in enumerate(asked.samplers):
            request = equal_steps(asked.base.replace(sampler=sampler), traits, budget, most_steps, learned)
            cost, key = evaluations(request, traits, learned), (series, request.num_inference_steps)
            if cost <= budget and key not in seen:
                seen.add(key)
                group.append(Planned(series, request, cost))
        groups.append(group)
    return groups


@dataclasses.dataclass(frozen=True)
class Finished:
    """A run that came to its end.

    Attributes:
        point: what was planned.
        step: the last.
        network_seconds, own_seconds: of the whole run, in the network and in the sampler's own arithmetic.
    """

    point: Settled
    step: Step
    network_seconds: float
    own_seconds: float


def reference_run(asked: ConvergenceRequest, family: Family, cancelled: Callable[[], bool]) -> Run:
    """The long run whose last latents stand for the exact solution from the same noise."""
    request = reference_of(asked.base, family.traits.flow, asked.reference_steps)
    return build_run(resolve(request, family), family, cancelled)


def walked(points: Sequence[Settled], family: Family, cancelled: Callable[[], bool]) -> Iterator[Finished]:
    """Walk all points' runs together, which share the network's batches, and yield each as it ends."""
    runs = [build_run(point.resolved, family, cancelled) for point in points]
    for place, step in denoise_together(runs):
        if step.index + 1 == step.num_steps:
            network = runs[place].denoiser.seconds
            yield Finished(points[place], step, network, max(0.0, step.seconds - network))


def sampler_label(sampler: Choice) -> str:
    """The sampler's label, with the settings that were chosen."""
    settings = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in sampler.settings.items())
    return SAMPLERS[sampler.key].label + (f" ({settings})" if settings else "")
