"""The editor of a comparison's cells: two to eight compact rows, and presets that fill them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr
from gradio.components import Component

from pipelines.core.errors import SettingsError
from pipelines.core.types import Traits
from pipelines.samplers import SAMPLERS
from pipelines.schedules import SCHEDULES
from pipelines.workflows.compare.request import FEW
from studio.ui.component_data import Block, Data
from studio.ui.controls import build_elem_id

__all__ = ["DEFAULT_SAMPLERS", "FEWEST", "CellsEditor", "Rows", "build_family_cells", "build_preset_cells"]

FEWEST = 2
DEFAULT_SAMPLERS = ("dpmpp_2m", "unipc", "dpmpp_2s", "heun", "ddim", "euler_a")
PRESETS = ("samplers", "steps", "schedules", "guidance")

Rows = list[dict[str, str]]
"""Cells: keys of "sampler" and "schedule", "steps" and "guidance_scale" as typed, empty for the shared ones."""


def _build_row(sampler: str, schedule: str = "uniform", steps: str = "", scale: str = "") -> dict[str, str]:
    return {"sampler": sampler, "schedule": schedule, "steps": steps, "guidance_scale": scale}


def build_family_cells(keys: Sequence[str]) -> Rows:
    """Build the rows of these samplers, with the shared settings."""
    return [_build_row(key) for key in keys]


def build_preset_cells(preset: str, traits: Traits | None) -> Rows:
    """Build the rows of a preset: every sampler that fits a model, or one sampler with other steps, schedules or
    guidance.

    Args:
        preset: "default", "samplers", "steps", "schedules" or "guidance".
        traits: of the model; None offers every method.
    """
    samplers = [method.key for method in (SAMPLERS.fitting(traits) if traits else SAMPLERS.values())]
    if preset == "default":
        keys = [key for key in DEFAULT_SAMPLERS if key in samplers]
        return [_build_row(key) for key in (keys if len(keys) >= FEWEST else samplers[:FEW])]
    if preset == "steps":
        return [_build_row(samplers[0], steps=steps) for steps in ("4", "8", "16", "32")]
    if preset == "schedules":
        return [
            _build_row(samplers[0], method.key)
            for method in (SCHEDULES.fitting(traits) if traits else SCHEDULES.values())
        ][:FEW]
    if preset == "guidance":
        return [_build_row(samplers[0], scale=scale) for scale in ("1", "3", "5", "8")]
    return [_build_row(key) for key in samplers[:FEW]]


class CellsEditor:
    """Lays out eight rows of components, of which as many are shown as there are cells.

    Args:
        prefix: begins every component's id.
        rows: shown at first.
        traits: of the model chosen at first.
        equal_nfe: whether each cell's steps follow from its evaluations, at first.
    """

    def __init__(self, prefix: str, rows: Rows, traits: Traits | None, equal_nfe: bool):
        # No gr.State: one of those keeps a connection open all the time, and a browser has six to a host.
        self.count = gr.Number(len(rows), precision=0, visible=False)
        self.groups: list[gr.Row] = []
        self.fields: list[dict[str, Component]] = []
        self.copies: list[gr.Button] = []
        self.removals: list[gr.Button] = []
        for place in range(FEW):
            values = rows[place] if place < len(rows) else rows[-1]
            self._build(build_elem_id(prefix, "cell", str(place + 1)), place, values, traits)
            self.groups[-1].visible = place < len(rows)
            self.fields[-1]["steps"].visible = not equal_nfe

    def _build(self, identity: str, place: int, values: Mapping[str, str], traits: Traits | None) -> None:
        number = place + 1
        tight: dict[str, Any] = {"show_label": False, "container": False, "min_width": 0}
        with gr.Row(elem_classes="sw-cell-row", elem_id=identity) as group:
            sampler = gr.Dropdown(
                _list_choices(SAMPLERS, traits),
                value=values["sampler"],
                label=f"Sampler of cell {number}",
                filterable=False,
                elem_id=f"{identity}-sampler",
                **tight,
            )
            schedule = gr.Dropdown(
                _list_choices(SCHEDULES, traits),
                value=values["schedule"],
                label=f"Schedule of cell {number}",
                filterable=False,
                elem_id=f"{identity}-schedule",
                **tight,
            )
            # Text, since an empty number field of Gradio's says 0; empty takes the shared value.
            steps = gr.Textbox(
                values["steps"],
                label=f"Steps of cell {number}",
                placeholder="steps",
                max_lines=1,
                elem_id=f"{identity}-steps",
                **tight,
            )
            scale = gr.Textbox(
                values["guidance_scale"],
                label=f"Guidance of cell {number}",
                placeholder="guidance",
                max_lines=1,
                elem_id=f"{identity}-guidance",
                **tight,
            )
            self.copies.append(gr.Button("Copy", size="sm", min_width=0, elem_id=f"{identity}-copy"))
            self.removals.append(gr.Button("Remove", size="sm", min_width=0, elem_id=f"{identity}-remove"))
        self.groups.append(group)
        self.fields.append({"sampler": sampler, "schedule": schedule, "steps": steps, "guidance_scale": scale})

    @property
    def inputs(self) -> set[Component]:
        """Return everything that holds a value."""
        return {self.count, *(component for fields in self.fields for component in fields.values())}

    @property
    def outputs(self) -> set[Block]:
        """Return everything that `updates` may change."""
        return {*self.inputs, *self.groups, *self.copies, *self.removals}

    def rows(self, data: Mapping[Block, Any]) -> Rows:
        """Return the cells as they stand."""
        return [
            {name: data[component] for name, component in fields.items()}
            for fields in self.fields[: min(max(FEWEST, int(data[self.count])), FEW)]
        ]

    def updates(self, rows: Sequence[Mapping[str, object]], traits: Traits | None, equal_nfe: bool) -> Data:
        """Map each component to the update that shows these cells; a method that does not fit the model becomes the
        first that does.

        Args:
            rows: two to eight cells.
            traits: of the model.
            equal_nfe: whether each cell's steps follow from its evaluations.
        """
        updates: Data = {self.count: len(rows)}
        tables = {"sampler": SAMPLERS, "schedule": SCHEDULES}
        choices = {name: _list_choices(table, traits) for name, table in tables.items()}
        for place, fields in enumerate(self.fields):
            updates[self.groups[place]] = gr.update(visible=place < len(rows))
            updates[self.copies[place]] = gr.update(interactive=len(rows) < FEW)
            updates[self.removals[place]] = gr.update(interactive=len(rows) > FEWEST)
            updates[fields["steps"]] = gr.update(visible=not equal_nfe)
            if place >= len(rows):
                continue
            for name, options in choices.items():
                keys = [key for _, key in options]
                requested = rows[place].get(name)
                updates[fields[name]] = gr.update(choices=options, value=requested if requested in keys else keys[0])
            updates[fields["steps"]] = gr.update(value=rows[place].get("steps", ""), visible=not equal_nfe)
            updates[fields["guidance_scale"]] = gr.update(value=rows[place].get("guidance_scale", ""))
        return updates

    @staticmethod
    def list_changes(rows: Sequence[Mapping[str, Any]], equal_nfe: bool) -> list[dict[str, Any]]:
        """List the cells as the task "compare" takes them: only what differs from the shared settings.

        Raises:
            SettingsError: a number that is none.
        """
        cells = []
        for number, row in enumerate(rows, 1):
            cell: dict[str, Any] = {"sampler": row["sampler"], "schedule": row["schedule"]}
            if row["steps"].strip() and not equal_nfe:
                cell["num_inference_steps"] = _parse_number(row["steps"], f"steps of cell {number}")
            if row["guidance_scale"].strip():
                cell["guidance.guidance_scale"] = _parse_number(row["guidance_scale"], f"guidance of cell {number}")
            cells.append(cell)
        return cells


def _parse_number(text: str, name: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise SettingsError(
            f"The {name} is {text[:80]!r}. Write a number, or leave it empty for the shared value."
        ) from None


def _list_choices(table: Any, traits: Traits | None) -> list[tuple[str, str]]:
    # Nothing fits a model with a pipeline of its own, which the tab does not offer: the model that is chosen stays.
    methods = table.fitting(traits) if traits else ()
    return [(method.label, method.key) for method in methods or table.values()]
