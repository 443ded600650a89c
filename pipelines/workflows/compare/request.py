"""Comparing: one initial noise, several settings, side by side, measured against one long run.

Cells are requests. Those of one model run through the loop together and share its batches. Two cells of one
seed and size begin from the same noise bit for bit, since the noise is a function of seed and shape alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from pipelines.core.errors import MethodFitError, SettingsError, StepwiseError, UnknownMethodError
from pipelines.core.types import Request, Traits
from pipelines.core.validation import read_flag, read_object, read_whole, require_fields, require_one_picture
from pipelines.models.extras import Extras
from pipelines.requests.costs import count_nfe, evaluations
from pipelines.requests.extras import find_extras
from pipelines.requests.limits import Limits
from pipelines.schedules.learned import LearnedSchedules
from pipelines.workflows.compare.axes import Axis, apply_changes, grid
from pipelines.workflows.compare.labels import labels

__all__ = ["FEW", "ComparisonCell", "ComparisonRequest", "by_model", "equal_steps", "evaluations", "waves"]

FEW = 8
"""Cells of a comparison without axes."""

REFERENCE_STEPS = 100


@dataclasses.dataclass(frozen=True)
class ComparisonCell:
    """Describes one cell.

    Attributes:
        changes: what it changes of the base request, by name as in `comparison_axes.axis_names`.
        request: the whole request, checked.
        label: what tells it from the other cells.
    """

    changes: Mapping[str, Any]
    request: Request
    label: str


@dataclasses.dataclass(frozen=True)
class ComparisonRequest:
    """Holds everything that decides a comparison.

    Attributes:
        base: what all cells have in common; its evaluations are the budget of "nfe".
        cells: in the order of reading: row by row.
        x, y: the columns and the rows of a grid; without x the cells are free.
        equal: "steps": every cell does its own number of steps; "nfe": the most whose evaluations the base has too.
        reference: whether to measure the cells against a long run.
        reference_steps: of that run.
    """

    base: Request
    cells: tuple[ComparisonCell, ...]
    x: Axis | None = None
    y: Axis | None = None
    equal: str = "steps"
    reference: bool = True
    reference_steps: int = REFERENCE_STEPS

    @classmethod
    def parse(
        cls,
        values: Mapping[str, object],
        read_request: Callable[[Mapping[str, object]], Request],
        limits: Limits,
        traits: Callable[[str], Traits | None] = lambda model: None,
    ) -> ComparisonRequest:
        """Read a comparison from untrusted plain values.

        Args:
            values: {"base": fields of `Request`, "cells": [changes, ...] or "x" and "y": {"field", "values"},
                "equal", "reference", "reference_steps"}.
            read_request: makes a checked request of plain values.
            limits: the caps.
            traits: of a model by key, where they are known.

        Raises:
            SettingsError: the first thing that is wrong; of a cell, with the cell's number.
            MethodFitError: a cell's method does not fit its model.
        """
        require_fields(values, [field.name for field in dataclasses.fields(cls)], "a comparison")
        plain = read_object(values.get("base", {}), "base of a comparison")
        base = read_request(plain)
        require_one_picture(base.batch_size, "A comparison makes one picture a cell")
        options = _parse_options(values, limits)
        x, y = _parse_axes(values, limits, traits(base.model))
        changes = grid([axis for axis in (x, y) if axis]) if x else _parse_changes(values.get("cells", ()))
        _require_count(len(changes), x is not None, limits)
        requests = [
            _parse_cell(index, plain, change, options["equal"], read_request) for index, change in enumerate(changes)
        ]
        cells = tuple(ComparisonCell(*parts) for parts in zip(changes, requests, labels(requests), strict=True))
        return cls(base, cells, x, y, **options)

    def to_json(self) -> dict[str, Any]:
        """Return plain values that `parse` reads back to an equal comparison."""
        axes = {name: axis.to_json() for name, axis in (("x", self.x), ("y", self.y)) if axis}
        cells = {"cells": [dict(cell.changes) for cell in self.cells]}
        return {
            "base": self.base.to_json(),
            **(axes or cells),
            "equal": self.equal,
            "reference": self.reference,
            "reference_steps": self.reference_steps,
        }


def _parse_options(values: Mapping[str, object], limits: Limits) -> dict[str, Any]:
    equal, reference = values.get("equal", "steps"), values.get("reference", True)
    if equal not in ("steps", "nfe"):
        raise UnknownMethodError("kind of equality", equal, ("steps", "nfe"))
    steps = values.get("reference_steps", min(REFERENCE_STEPS, limits.max_steps))
    return {
        "equal": equal,
        "reference": read_flag(reference, "reference"),
        "reference_steps": read_whole(steps, "number of reference steps", 2, limits.max_steps),
    }


def _parse_axes(values: Mapping[str, object], limits: Limits, traits: Traits | None) -> tuple[Axis | None, Axis | None]:
    x, y = (Axis.parse(values[name], limits.max_cells, traits) if values.get(name) else None for name in ("x", "y"))
    if x and values.get("cells"):
        raise SettingsError("Both cells and axes are given. Give one or the other.")
    if y and not x:
        raise SettingsError("Only the rows' axis y is given. Give the columns' axis x, or both.")
    if x and y and x.field == y.field:
        raise SettingsError(f"Both axes are {x.label}. Choose another setting for one of them.")
    return x, y


def _parse_changes(cells: object) -> list[Mapping[str, Any]]:
    if not isinstance(cells, (list, tuple)) or not all(isinstance(cell, Mapping) for cell in cells):
        raise SettingsError(
            f"The cells are given as {str(cells)[:80]!r}. Give a list of objects, each with what it changes."
        )
    return list(cells)


def _require_count(count: int, gridded: bool, limits: Limits) -> None:
    low, high = (1, limits.max_cells) if gridded else (2, min(FEW, limits.max_cells))
    if not low <= count <= high:
        raise SettingsError(f"The comparison has {count} cell{'s' * (count != 1)}. Choose {low} to {high}.")


def _parse_cell(
    index: int,
    plain: Mapping[str, object],
    changes: Mapping[str, object],
    equal: str,
    read_request: Callable[[Mapping[str, object]], Request],
) -> Request:
    try:
        if equal == "nfe" and {"num_inference_steps", "steps"} & changes.keys():
            raise SettingsError(
                "It sets a number of steps, which equal evaluations decide. Compare at equal steps instead."
            )
        if "batch_size" in changes:
            raise SettingsError("It sets a batch size. A comparison makes one picture a cell.")
        return read_request(apply_changes(plain, changes))
    except StepwiseError as error:
        kind = MethodFitError if isinstance(error, MethodFitError) else SettingsError
        values = ", ".join(f"{name} {value}" for name, value in changes.items())[:120]
        raise kind(f"Cell {index + 1} ({values or 'no change'}): {error}") from error


def equal_steps(
    request: Request,
    traits: Traits | None,
    budget: int,
    most: int,
    learned: LearnedSchedules = LearnedSchedules(),
) -> Request:
    """Return the request with the most steps, 1 to `most`, whose evaluations are within the budget; 1 if none is."""
    runs = (request.replace(num_inference_steps=steps) for steps in range(most, 0, -1))
    # Even a solver that leaves branches out evaluates one a call; what was fitted is not looked for beyond that.
    return next(
        (one for one in runs if count_nfe(one, traits)[0] <= budget and evaluations(one, traits, learned) <= budget),
        request.replace(num_inference_steps=1),
    )


def by_model(requests: Sequence[Request]) -> list[tuple[tuple[str, Extras], list[list[int]]]]:
    """Return the order of work: each model with its extras once, and in it the indices of each set of LoRAs together.

    Within a set the costly differences come outermost (size, then prompt, then the rest as it stands), so
    whatever the grid looks like, a model is loaded and a LoRA applied once.
    """
    models: dict[tuple[str, Extras], dict[Hashable, list[int]]] = {}
    for index, request in enumerate(requests):
        models.setdefault((request.model, find_extras(request)), {}).setdefault(request.loras, []).append(index)
    first: dict[Hashable, int] = {}
    for index, request in enumerate(requests):
        for key in _list_costs(request):
            first.setdefault(key, index)
    return [
        (
            model,
            [
                sorted(indices, key=lambda index: [first[key] for key in _list_costs(requests[index])])
                for indices in sets.values()
            ],
        )
        for model, sets in models.items()
    ]


def _list_costs(request: Request) -> tuple[Hashable, ...]:
    size, texts = (request.width, request.height), (request.prompt, request.negative_prompt)
    return ("size", size), ("prompt", size, texts)


def waves(indices: Sequence[int], requests: Mapping[int, Request], max_pixels: int) -> list[list[int]]:
    """Return the indices in parts, in order, each of pictures that together have at most so many pixels (or of one)."""
    parts: list[list[int]] = []
    room = 0
    for index in indices:
        pixels = requests[index].width * requests[index].height
        if not parts or pixels > room:
            parts.append([])
            room = max_pixels
        parts[-1].append(index)
        room -= pixels
    return parts
