"""What a comparison is made of, on the page: shared settings, cells or axes, what is equal, the reference."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.components import Component

from pipelines.core.errors import StepwiseError
from pipelines.core.types import Traits
from studio.page.compare.axes import AxesForm
from studio.page.compare.cells import CellsEditor, Rows, build_preset_cells
from studio.page.compare.families import NONE, build_family_axis, build_family_picker, build_family_rows, list_families
from studio.page.compare.settings import AxisValues, Cells, build_rows
from studio.ui.component_data import Block, Data
from studio.ui.controls import PLUMBING
from studio.ui.example_chips import RESULTS, build_chip
from studio.ui.form import FIXED, RequestForm
from studio.ui.form_sections import SIDES
from studio.ui.outputs import in_order
from studio.ui.tab_settings import Flag, OneOf, Setting, Whole

if TYPE_CHECKING:
    from studio.backend import Studio

__all__ = ["DEFAULT_STEPS", "GRID", "PRESETS", "ComparisonSetup", "Preset"]

CELLS, GRID = "cells", "grid"
STEPS, NFE = "steps", "nfe"
DEFAULT_STEPS, REFERENCE_STEPS = 10, 100


@dataclasses.dataclass(frozen=True)
class Preset:
    """Describes a ready comparison to click.

    Attributes:
        rows: of the cells, as `build_preset_cells` takes it, or the grid.
        label: on the button.
        equal: what is equal among the cells.
    """

    rows: str
    label: str
    equal: str

    @property
    def key(self) -> str:
        """Return the key of its button and of the file of its result."""
        return f"compare-{self.rows}"

    @property
    def result(self) -> Path:
        """Return a small picture of its cells, written by `python -m studio.benchmarks.examples`."""
        return RESULTS / f"{self.key}.webp"


PRESETS = (
    Preset("samplers", "Samplers at equal NFE", NFE),
    Preset("steps", "Steps 4 to 32", STEPS),
    Preset("schedules", "Schedules", STEPS),
    Preset("guidance", "Guidance 1 to 8", STEPS),
    Preset(GRID, "Steps × guidance", STEPS),
)


def _copy_row(place: int, rows: Rows) -> Rows:
    return [*rows[: place + 1], *rows[place:]]


def _remove_row(place: int, rows: Rows) -> Rows:
    return [*rows[:place], *rows[place + 1 :]]


class ComparisonSetup:
    """Lays out the components that say what to compare; read and filled by name.

    Args:
        studio: models, LoRAs, limits.
        prefix: begins every component's id.
    """

    def __init__(self, studio: Studio, prefix: str):
        self.studio, self.prefix = studio, prefix
        self.form = RequestForm(studio, prefix, own_loop=True)

    # Sections, each built where it is called.

    def presets(self) -> None:
        """Lay out ready comparisons to click."""
        self.buttons = {build_chip(self.prefix, preset): preset for preset in PRESETS}

    def differences(self) -> None:
        """Hold equal, and the cells or the axes."""
        traits = self.studio.traits(self.form.first.key)
        info = (
            "An evaluation (NFE) is one run of the network. Equal evaluations: every cell runs as many steps as cost "
            "no more of them than the shared sampler’s."
        )
        equals = [("Equal steps", STEPS), ("Equal evaluations (NFE)", NFE)]
        self.equal = gr.Radio(equals, value=NFE, label="Hold equal", info=info, elem_id=f"{self.prefix}-equal")
        self.form.steps()
        self.form.fields["num_inference_steps"].value = DEFAULT_STEPS
        modes = [("Cells", CELLS), ("X/Y grid", GRID)]
        self.mode = gr.Radio(modes, value=CELLS, label="What differs", elem_id=f"{self.prefix}-mode")
        with gr.Column(elem_classes="sw-panel", min_width=0) as self.cells_panel:
            self.family = build_family_picker(self.prefix, traits)
            self.cells = CellsEditor(self.prefix, build_preset_cells("default", traits), traits, equal_nfe=True)
            self.add = gr.Button("Add a cell", size="sm", elem_id=f"{self.prefix}-add")
        with gr.Column(elem_classes="sw-panel", min_width=0, visible=False) as self.grid_panel:
            self.axes = AxesForm(self.prefix, self.studio.limits.max_cells)

    def shared(self) -> None:
        """Lay out what all cells have in common."""
        form = self.form
        form.model()
        form.seed()
        form.fields["seed_mode"].value = FIXED
        with gr.Accordion("Style and negative prompt", open=False):
            form.words()
        with gr.Accordion("Shared sampler and guidance", open=False):
            for name in ("sampler", "schedule", "start", "guidance", "cache", "made_like"):
                form.method(name)
        with gr.Accordion("Reference", open=False, elem_classes="sw-expert"):
            self._reference()
        with gr.Accordion("Size", open=False):
            form.size()
            form.fields["batch_size"].visible = False
        with gr.Accordion("Variation", open=False, elem_classes="sw-expert"):
            form.variation()
        with gr.Accordion("LoRA and VAE", open=False):
            form.loras()
            form.vae()

    def _reference(self) -> None:
        max_steps, identity = self.studio.limits.max_steps, f"{self.prefix}-reference"
        info = "PSNR and SSIM of every finished picture to a run of many steps from the same noise."
        self.reference = gr.Checkbox(True, label="Measure against a reference run", info=info, elem_id=identity)
        self.reference_steps = gr.Slider(
            2,
            max_steps,
            value=min(REFERENCE_STEPS, max_steps),
            step=1,
            label="Steps of the reference",
            buttons=[],
            elem_id=f"{identity}-steps",
        )

    def wire(self) -> None:
        """Connect what belongs together, once all sections stand."""
        self.form.wire()
        editor = {*self.cells.outputs, *self.axes.outputs, self.equal, self.mode, self.cells_panel, self.grid_panel}
        edit = {"inputs": {*self.cells.inputs, self.form.fields["model"], self.equal}, "outputs": editor, **PLUMBING}

        def on(listen: Callable[..., object], change: Callable[[Rows], Rows]) -> None:
            listen(lambda data: self._edit(data, change), **edit)

        for place in range(len(self.cells.groups)):
            on(self.cells.copies[place].click, functools.partial(_copy_row, place))
            on(self.cells.removals[place].click, functools.partial(_remove_row, place))
        on(self.add.click, lambda rows: [*rows, rows[-1]])
        on(self.equal.input, list)
        on(self.form.model_field.input, list)
        panels = {self.cells_panel, self.grid_panel}
        self.mode.input(
            lambda data: self._switch_panels(data[self.mode]), inputs={self.mode}, outputs=in_order(panels), **PLUMBING
        )
        family_event = {**edit, "inputs": {*edit["inputs"], self.family}, "outputs": {*editor, self.family}}
        self.family.input(self._fill_family, **family_event)
        model = self.form.model_field
        model.input(self._update_families, inputs={model}, outputs=self.family, **PLUMBING)
        for button, preset in self.buttons.items():
            button.click(lambda data, preset=preset: self._apply_preset(data, preset.rows, preset.equal), **edit)

    # From components to values and back.

    @property
    def inputs(self) -> set[Component]:
        """Return everything that holds a value."""
        setup_inputs = {self.equal, self.mode, self.reference, self.reference_steps}
        return {*self.form.inputs, *self.cells.inputs, *self.axes.inputs, *setup_inputs}

    @property
    def outputs(self) -> set[Block]:
        """Return everything that `updates` may change."""
        return {*self.inputs, *self.form.outputs, *self.cells.outputs, self.cells_panel, self.grid_panel}

    def draft(self, data: Mapping[Any, object]) -> dict[str, Any]:
        """Return what stands on the page, as plain values: for the browser's memory and for `updates`.

        Raises:
            SettingsError: the seed is no number.
        """
        setup_values = {name: data[getattr(self, name)] for name in ("equal", "mode", "reference", "reference_steps")}
        return {
            "form": self.form.draft(data),
            "rows": self.cells.rows(data),
            "axes": self.axes.draft(data),
            **setup_values,
        }

    def values(self, draft: Mapping[str, Any]) -> dict[str, Any]:
        """Return a draft as the task "compare" takes it.

        Raises:
            SettingsError: a cell's number is none.
        """
        if draft["mode"] == GRID:
            differences = self.axes.values(draft["axes"])
        else:
            differences = {"cells": self.cells.list_changes(draft["rows"], draft["equal"] == NFE)}
        setup_values = {name: draft[name] for name in ("equal", "reference", "reference_steps")}
        base = self.form.request(draft["form"])
        if any(axis.get("field") == "model" for axis in differences.values() if isinstance(axis, Mapping)):
            base = self._leave_own_size(base)
        return {"base": {**base, "batch_size": 1}, **differences, **setup_values}

    def _leave_own_size(self, base: Mapping[str, Any]) -> dict[str, Any]:
        """Without the size where it is the chosen model's own: then each model draws at its own."""
        defaults = self.studio.catalog[base["model"]].defaults if base["model"] in self.studio.catalog else {}
        is_own = all(base[side] == defaults.get(side) for side in SIDES)
        return {name: value for name, value in base.items() if not is_own or name not in SIDES}

    def updates(self, draft: Any) -> Data:
        """Map each component to the update that shows a remembered draft; nothing for one that cannot be read."""
        try:
            traits = self.studio.traits(draft["form"]["model"])
            return {
                **self.form.updates({**draft["form"], "batch_size": 1}),
                **self.cells.updates(draft["rows"], traits, draft["equal"] == NFE),
                **self.axes.updates(draft["axes"]),
                **self._switch_panels(draft["mode"]),
                **{getattr(self, name): draft[name] for name in ("equal", "mode", "reference", "reference_steps")},
            }
        except (StepwiseError, TypeError, ValueError, LookupError):  # written by an older version, or by hand
            return {}

    @property
    def settings(self) -> dict[str, Setting]:
        """Return what a link or a stored result may bring beside the shared settings."""
        limits = self.studio.limits

        def traits(model: str) -> Traits | None:
            return self.studio.traits(model or self.form.first.key)

        def is_here(model: str) -> bool:
            return any(entry.key == model and self.studio.model_list.is_here(entry) for entry in self.form.models)

        axis = AxisValues(limits.max_cells, traits, is_here)
        return {
            "cells": Cells(limits.max_steps, traits),
            "x": axis,
            "y": axis,
            "equal": OneOf("kind of equality", lambda: (STEPS, NFE)),
            "reference": Flag(),
            "reference_steps": Whole(2, limits.max_steps),
        }

    def receive(self, tab_values: Mapping[str, Any], base: Mapping[str, Any]) -> Data:
        """Map each component to the update that shows these.

        Args:
            tab_values: checked by `settings`.
            base: fields of a Request.
        """
        updates = self.form.updates({"seed_mode": FIXED, **base, "batch_size": 1})
        if "cells" in tab_values:
            traits = self.studio.traits(base.get("model") or self.form.first.key)
            updates |= self.cells.updates(
                build_rows(tab_values["cells"], base), traits, tab_values.get("equal", STEPS) == NFE
            )
            updates |= {self.mode: CELLS, **self._switch_panels(CELLS)}
        elif "x" in tab_values:
            axes = {
                name: [tab_values[name]["field"], tab_values[name]["values"]] if name in tab_values else [NONE, ""]
                for name in ("x", "y")
            }
            updates |= {**self.axes.updates(axes), self.mode: GRID, **self._switch_panels(GRID)}
        names = ("equal", "reference", "reference_steps")
        return updates | {getattr(self, name): tab_values[name] for name in names if name in tab_values}

    def _edit(self, data: Mapping[Block, Any], change: Callable[[Rows], Rows]) -> Data:
        traits = self.studio.traits(data[self.form.fields["model"]])
        rows = change(self.cells.rows(data))[: len(self.cells.groups)]
        return self.cells.updates(rows, traits, data[self.equal] == NFE)

    def _apply_preset(self, data: Mapping[Block, Any], preset: str, equal: str) -> Data:
        traits = self.studio.traits(data[self.form.fields["model"]])
        if preset == GRID:
            updates, mode = self.axes.updates(self.axes.first), GRID
        else:
            updates, mode = self.cells.updates(build_preset_cells(preset, traits), traits, equal == NFE), CELLS
        return {**updates, self.equal: equal, self.mode: mode, **self._switch_panels(mode)}

    def _fill_family(self, data: Mapping[Block, Any]) -> Data:
        """The cells filled with a family, or the grid's columns where it is larger than the cells are many."""
        name, traits = data[self.family], self.studio.traits(data[self.form.fields["model"]])
        if name == NONE:
            return {self.family: NONE}
        if (rows := build_family_rows(name, traits)) is not None:
            updates, mode = self.cells.updates(rows, traits, equal_nfe=True), CELLS
        else:
            updates, mode = self.axes.updates(build_family_axis(name)), GRID
        # Shown as unchosen again, so that the same family can be chosen a second time.
        return {**updates, self.family: NONE, self.equal: NFE, self.mode: mode, **self._switch_panels(mode)}

    def _update_families(self, data: Mapping[Block, Any]) -> Data:
        traits = self.studio.traits(data[self.form.fields["model"]])
        return {self.family: gr.update(choices=list_families(traits), value=NONE)}

    def _switch_panels(self, mode: str) -> Data:
        return {self.cells_panel: gr.update(visible=mode == CELLS), self.grid_panel: gr.update(visible=mode == GRID)}
