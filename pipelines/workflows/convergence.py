"""How fast samplers come near the exact solution: the error of their last latents against their evaluations."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from pipelines.core.errors import SettingsError
from pipelines.core.loop import Run, denoise_together
from pipelines.core.types import Choice, Request, Step, Traits
from pipelines.core.validation import read_object, read_whole, require_fields
from pipelines.families.base import Family
from pipelines.requests.limits import Limits, check_orders
from pipelines.requests.reference import reference_of
from pipelines.requests.text_to_image import ResolvedRun, build_run, resolve
from pipelines.samplers import SAMPLERS
from pipelines.schedules.learned import LearnedSchedules
from pipelines.workflows.compare.axes import Axis
from pipelines.workflows.compare.axis_values import parse_numbers
from pipelines.workflows.compare.request import equal_steps, evaluations

__all__ = [
    "REFERENCE_STEPS",
    "ConvergenceRequest",
    "Finished",
    "Impossible",
    "Planned",
    "Settled",
    "plan_runs",
    "reference_run",
    "relative_error",
    "sampler_label",
    "select_feasible",
    "walked",
]

REFERENCE_STEPS = 999
EVALUATIONS = (8, 12, 16, 20, 30, 40, 60, 100)


def relative_error(latents: torch.Tensor, target: torch.Tensor) -> float:
    """Compute the root mean square of the difference, as a multiple of that of what was wanted."""
    return float((latents - target).square().mean().sqrt() / target.square().mean().sqrt())


@dataclasses.dataclass(frozen=True)
class ConvergenceRequest:
    """Holds everything that decides a convergence view.

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
        values: Mapping[str, object],
        read_request: Callable[[Mapping[str, object]], Request],
        traits: Callable[[str], Traits | None] = lambda model: None,
        limits: Limits = Limits(),
    ) -> ConvergenceRequest:
        """Read a convergence request from untrusted plain values.

        Args:
            values: {"base": fields of `Request`, "samplers": keys, or text such as "all first order, unipc",
                "evaluations": numbers, or text such as "8, 10-50:10", "reference_steps"}.
            read_request: makes a checked request of plain values.
            traits: of a model by key, where they are known.
            limits: the server's caps.

        Raises:
            SettingsError: the first thing that is wrong.
        """
        require_fields(values, [field.name for field in dataclasses.fields(cls)], "a convergence view")
        plain = read_object(values.get("base", {}), "base of a convergence view")
        base = read_request({**plain, "batch_size": 1})
        axis_fields = {"field": "sampler", "values": values.get("samplers", "all")}
        axis = Axis.parse(axis_fields, limits.max_cells, traits(base.model))
        samplers = tuple(Choice.parse(value) for value in axis.values)
        for sampler in samplers:
            read_request({**plain, "batch_size": 1, "sampler": sampler.to_json()})
        steps = read_whole(
            values.get("reference_steps", REFERENCE_STEPS), "number of reference steps", 20, REFERENCE_STEPS
        )
        return cls(base, samplers, _parse_budgets(values.get("evaluations", EVALUATIONS), limits), steps)

    def to_json(self) -> dict[str, Any]:
        """Return plain values that `parse` reads back to an equal request."""
        return {
            "base": self.base.to_json(),
            "samplers": [sampler.to_json() for sampler in self.samplers],
            "evaluations": list(self.evaluations),
            "reference_steps": self.reference_steps,
        }

    @property
    def model(self) -> str:
        return self.base.model


def _parse_budgets(values: object, limits: Limits) -> tuple[int, ...]:
    if isinstance(values, (list, tuple)):
        values = ",".join(str(one) for one in values)
    numbers = sorted(set(parse_numbers(str(values), True, limits.max_budgets)))
    if not numbers or numbers[0] < 1 or numbers[-1] > limits.max_evaluations:
        raise SettingsError(
            f"The evaluations are {str(values)[:80]!r}. Give numbers from 1 to {limits.max_evaluations}, such as 8, "
            "16, 32."
        )
    return tuple(int(number) for number in numbers)


@dataclasses.dataclass(frozen=True)
class Planned:
    """Describes one point that will be measured: sampler `series`, its request, and the evaluations it takes."""

    series: int
    request: Request
    evaluations: int


@dataclasses.dataclass(frozen=True)
class Impossible:
    """Describes a point that cannot be measured: sampler `series` at these steps, and why."""

    series: int
    num_inference_steps: int
    reason: str


@dataclasses.dataclass(frozen=True)
class Settled(Planned):
    """Describes a point that can be measured: its run, settled on the model."""

    resolved: ResolvedRun


def select_feasible(
    groups: Sequence[Sequence[Planned]], family: Family
) -> tuple[list[list[Settled]], list[Impossible]]:
    """Select the points whose schedule and order serve their number of steps, and the others: a typed schedule serves
    few.

    Asked before the long reference runs, which would be in vain.

    Args:
        groups: as `plan_runs` returned them, with the model's own size.
        family: the loaded model.

    Raises:
        SettingsError: no point is left; its text is the first one's reason.
    """
    feasible: list[list[Settled]] = []
    impossible: list[Impossible] = []
    for group in groups:
        feasible.append([])
        for point in group:
            try:
                resolved = resolve(point.request, family)
                check_orders(resolved.request)
            except SettingsError as error:
                impossible.append(Impossible(point.series, point.request.num_inference_steps, str(error)))
            else:
                feasible[-1].append(Settled(point.series, resolved.request, point.evaluations, resolved))
    if impossible and not any(feasible):
        raise SettingsError(
            f"None of the {len(impossible)} planned runs is possible with this schedule. The first: "
            f"{impossible[0].reason}"
        )
    return feasible, impossible


def plan_runs(
    request: ConvergenceRequest, traits: Traits, most_steps: int, learned: LearnedSchedules = LearnedSchedules()
) -> list[list[Planned]]:
    """Plan the points of each budget in turn; none where one step costs more, or as many steps were planned before.

    Args:
        request: checked.
        traits: of the model.
        most_steps: of one run.
        learned: the fitted schedules that there are; by default the shipped ones.
    """
    planned_runs: set[tuple[int, int]] = set()
    groups = []
    for budget in request.evaluations:
        group = []
        for series, sampler in enumerate(request.samplers):
            point = equal_steps(request.base.replace(sampler=sampler), traits, budget, most_steps, learned)
            cost, key = evaluations(point, traits, learned), (series, point.num_inference_steps)
            if cost <= budget and key not in planned_runs:
                planned_runs.add(key)
                group.append(Planned(series, point, cost))
        groups.append(group)
    return groups


@dataclasses.dataclass(frozen=True)
class Finished:
    """Describes a run that came to its end.

    Attributes:
        point: what was planned.
        step: the last.
        network_seconds, own_seconds: of the whole run, in the network and in the sampler's own arithmetic.
    """

    point: Settled
    step: Step
    network_seconds: float
    own_seconds: float


def reference_run(request: ConvergenceRequest, family: Family, cancelled: Callable[[], bool]) -> Run:
    """Return the long run whose last latents stand for the exact solution from the same noise."""
    reference = reference_of(request.base, family.traits.flow, request.reference_steps)
    return build_run(resolve(reference, family), family, cancelled)


def walked(points: Sequence[Settled], family: Family, cancelled: Callable[[], bool]) -> Iterator[Finished]:
    """Walk all points' runs together, which share the network's batches, and yield each as it ends."""
    runs = [build_run(point.resolved, family, cancelled) for point in points]
    for place, step in denoise_together(runs):
        if step.index + 1 == step.num_steps:
            network = runs[place].denoiser.seconds
            yield Finished(points[place], step, network, max(0.0, step.seconds - network))


def sampler_label(sampler: Choice) -> str:
    """Return the sampler's label, with the settings that were chosen."""
    settings = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in sampler.settings.items())
    return SAMPLERS[sampler.key].label + (f" ({settings})" if settings else "")
