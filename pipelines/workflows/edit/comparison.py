"""One picture edited in several ways: every edit with every inversion that it takes, and why the others cannot."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pipelines.core.errors import SettingsError, StepwiseError
from pipelines.core.registry import Table
from pipelines.core.types import Choice, Traits
from pipelines.edits import EDITS
from pipelines.inversions import INVERSIONS
from pipelines.requests.limits import Limits
from pipelines.workflows.edit.request import EditRequest

__all__ = ["ALL", "EditCell", "EditComparison"]

ALL = "all"

Built = TypeVar("Built")


@dataclasses.dataclass(frozen=True)
class EditCell:
    """Describes one way of editing the picture.

    Attributes:
        request: the whole edit.
        label: what tells it from the others.
        problem: why it cannot run; "" where nothing is known against it.
    """

    request: EditRequest
    label: str
    problem: str = ""


@dataclasses.dataclass(frozen=True)
class EditComparison(EditRequest):
    """Holds an edit whose methods are several: picture, prompts, mask, seed and steps are the same for all.

    Attributes:
        edits: of the edit table, without repeats.
        inversions: of the inversion table; each edit that inverts is run on each.
        cells: in the order of `edits`, then of `inversions`; those that cannot run after all others.
    """

    edits: tuple[Choice, ...] = ()
    inversions: tuple[Choice, ...] = ()
    cells: tuple[EditCell, ...] = ()

    @classmethod
    def plan(
        cls, base: EditRequest, edits: object, inversions: object, limits: Limits, traits: Traits | None
    ) -> EditComparison:
        """Build the comparison, with each pair checked as an edit of its own.

        Args:
            base: picture, prompts and mask; the settings of its two methods count where these are among those compared.
            edits, inversions: untrusted: a list of methods, or "all".
            limits: the caps.
            traits: of the model; None where they are not known yet.

        Raises:
            SettingsError: a method that there is not, no pair that can run, or too many.
        """
        kept = {field.name: getattr(base, field.name) for field in dataclasses.fields(EditRequest)}
        edit_choices = _read_choices(EDITS, edits, base.edit)
        inversion_choices = _read_choices(INVERSIONS, inversions, base.inversion)
        planned = _plan_cells(base, edit_choices, inversion_choices, limits, traits)
        cells = tuple(sorted(planned, key=lambda cell: bool(cell.problem)))
        running = sum(not cell.problem for cell in cells)
        if not running:
            raise SettingsError(f"None of the {len(cells)} can run. {cells[0].label}: {cells[0].problem}")
        if running > limits.max_cells:
            raise SettingsError(
                f"These are {running} edits. At most {limits.max_cells} are allowed here: choose fewer methods."
            )
        return cls(**kept, edits=edit_choices, inversions=inversion_choices, cells=cells)

    def share_pictures(self, base: EditRequest) -> EditComparison:
        """Return the same with the pictures of another request, in each cell too, and its size."""
        picture, mask, request, reference = base.picture, base.mask, base.base, base.reference
        cells = tuple(
            dataclasses.replace(
                cell,
                request=cell.request.replace(
                    picture=picture, mask=mask, base=request, reference=cell.request.reference and reference
                ),
            )
            for cell in self.cells
        )
        return dataclasses.replace(self, picture=picture, mask=mask, base=request, reference=reference, cells=cells)

    def to_json(self) -> dict[str, Any]:
        """Return plain values; the pictures by their digest alone."""
        names = {"edits": self.edits, "inversions": self.inversions}
        return {**super().to_json(), **{name: [one.to_json() for one in choices] for name, choices in names.items()}}


def _read_choices(table: Table[Built], values: object, chosen: Choice) -> tuple[Choice, ...]:
    """The choices, each once; a bare key that is the chosen one has its settings.

    Raises:
        SettingsError: one that cannot be read, or none.
    """
    if isinstance(values, str):
        values = list(table) if values.strip().lower() == ALL else [one.strip() for one in values.split(",")]
    if not isinstance(values, Sequence) or not all(isinstance(one, (str, Mapping)) for one in values) or not values:
        raise SettingsError(f"The methods are given as {str(values)[:80]!r}. Give a list of keys, or 'all'.")
    read = [chosen if one == chosen.key else Choice.parse(one) for one in values]
    for one in read:
        table.build(one)
    return tuple(one for place, one in enumerate(read) if one not in read[:place])


def _plan_cells(
    base: EditRequest, edits: Sequence[Choice], inversions: Sequence[Choice], limits: Limits, traits: Traits | None
) -> list[EditCell]:
    requests = [
        base.replace(edit=edit, inversion=inversion, reference=base.reference if built.takes_reference else None)
        for edit in edits
        for built in [EDITS.build(edit)]
        for inversion in (inversions if built.inverts else inversions[:1])
    ]
    labels = [_label(request, len(inversions) > 1) for request in requests]
    counts, cells = Counter(labels), []
    for request, label in zip(requests, labels, strict=True):
        problem = ""
        try:
            request.check(limits, traits)
        except StepwiseError as error:
            problem = str(error)
        cells.append(EditCell(request, label + (_write_settings(request) if counts[label] > 1 else ""), problem))
    return cells


def _label(request: EditRequest, names_inversion: bool) -> str:
    label = EDITS[request.edit.key].label
    inverts = names_inversion and request.build_edit().inverts
    return f"{label} · {INVERSIONS[request.inversion.key].label}" if inverts else label


def _write_settings(request: EditRequest) -> str:
    """What tells two choices of one method apart."""
    settings = {**request.edit.settings, **(request.inversion.settings if request.build_edit().inverts else {})}
    return " (" + (", ".join(f"{name} {value}" for name, value in settings.items()) or "default settings") + ")"
