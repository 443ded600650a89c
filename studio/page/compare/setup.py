"""What a comparison is made of, on the page: shared settings, cells or axes, what is equal, the reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import gradio as gr

from pipelines.core.errors import StepwiseError
from pipelines.core.types import Traits
from studio.page.compare.axes import AxesForm
from studio.page.compare.cells import CellsEditor, Rows, preset_cells
from studio.page.compare.families import NONE, families, family_axis, family_picker, family_rows
from studio.page.compare.settings import AxisValues, Cells, rows_of
from studio.ui.controls import PLUMBING
from studio.ui.form import FIXED, RequestForm
from studio.ui.tab_settings import Flag, OneOf, Setting, Whole

if TYPE_CHECKING:
    from studio.backend import Studio

__all__ = ["ComparisonSetup"]

CELLS, GRID = "cells", "grid"
STEPS, NFE = "steps", "nfe"
DEFAULT_STEPS, REFERENCE_STEPS = 10, 100

PRESETS = {
    "Samplers at equal NFE": ("samplers", NFE),
    "Steps 4 to 32": ("steps", STEPS),
    "Schedules": ("schedules", STEPS),
    "Guidance 1 to 8": ("guidance", STEPS),
    "Steps × guidance": (GRID, STEPS),
}
"""Button to the preset's rows, or the grid, and to what is equal among the cells."""


class ComparisonSetup:
    """The components that say what to compare; read and filled by name.

    Args:
        studio: models, LoRAs, limits.
        prefix: begins every component's id.
    """

    def __init__(self, studio: Studio, prefix: str):
        self.studio, self.prefix = studio, prefix
        self.form = RequestForm(studio, prefix, own_loop=True)

    # Sections, each built where it is called.

    def presets(self) -> None:
        """Ready comparisons to click."""
        self.buttons = {gr.Button(label, size="sm", min_width=0): preset for label, preset in PRESETS.items()}

    def differences(self) -> None:
        """What is equal, and the cells or the axes."""
        traits = self.studio.traits(self.form.first.key)
        info = "Equal evaluations: every cell takes the most steps that cost no more than these of the shared sampler."
        equals = [("Equal steps", STEPS), ("Equal evaluations", NFE)]
        self.equal = gr.Radio(equals, value=NFE, label="What is equal", info=info, elem_id=f"{self.prefix}-equal")
        self.form.steps()
        self.form.fields["num_inference_steps"].value = DEFAULT_STEPS
        modes = [("Cells", CELLS), ("X/Y grid", GRID)]
        self.mode = gr.Radio(modes, value=CELLS, label="What differs", elem_id=f"{self.prefix}-mode")
        with gr.Column(elem_classes="sw-panel", min_width=0) as self.cells_panel:
            self.family = family_picker(self.prefix, traits)
            self.cells = CellsEditor(self.prefix, preset_cells("default", traits), traits, equal_nfe=True)
            self.add = gr.Button("Add a cell", size="sm", elem_id=f"{self.prefix}-add")
        with gr.Column(elem_classes="sw-panel", min_width=0, visible=False) as self.grid_panel:
            self.axes = AxesForm(self.prefix, self.studio.limits.max_cells)

    def shared(self) -> None:
        """What all cells have in common."""
        form = self.form
        form.model()
        form.seed()
        with gr.Accordion("Style and negative prompt", open=False):
            form.words()
        with gr.Accordion("Shared sampler and guidance", open=False):
            for name in ("sampler", "schedule", "start", "guidance"):
                form.method(name)
        with gr.Accordion("Reference", open=False):
            self._reference()
        with gr.Accordion("Size", open=False):
            form.size()
            form.fields["batch_size"].visible = False
        with gr.Accordion("Variation", open=False):
            form.variation()
        with gr.Accordion("LoRA", open=False):
            form.loras()

    def _reference(self) -> None:
        most, identity = self.studio.limits.max_steps, f"{self.prefix}-reference"
        info = "PSNR and SSIM of every finished picture to a long run from the same noise."
        self.reference = gr.Checkbox(True, label="Measure against a long run", info=info, elem_id=identity)
        self.reference_steps = gr.Slider(
            2,
            most,
            value=min(REFERENCE_STEPS, most),
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

        def on(listen: Callable[..., Any], change: Callable[[Rows], Rows]) -> None:
            listen(lambda data: self._edited(data, change), **edit)

        for place in range(len(self.cells.groups)):
            on(self.cells.copies[place].click, lambda rows, i=place: [*rows[: i + 1], *rows[i:]])
            on(self.cells.removals[place].click, lambda rows, i=place: [*rows[:i], *rows[i + 1 :]])
        on(self.add.click, lambda rows: [*rows, rows[-1]])
        on(self.equal.input, list)
        on(self.form.fields["model"].input, list)
        panels = {self.cells_panel, self.grid_panel}
        self.mode.input(lambda data: self._panels(data[self.mode]), inputs={self.mode}, outputs=panels, **PLUMBING)
        chosen = {**edit, "inputs": {*edit["inputs"], self.family}, "outputs": {*editor, self.family}}
        self.family.input(self._whole_family, **chosen)
        self.form.fields["model"].input(
            self._families, inputs={self.form.fields["model"]}, outputs={self.family}, **PLUMBING
        )
        for button, preset in self.buttons.items():
            button.click(lambda data, preset=preset: self._preset(data, *preset), **edit)

    # From components to values and back.

    @property
    def inputs(self) -> set[Any]:
        """Everything that holds a value."""
        own = {self.equal, self.mode, self.reference, self.reference_steps}
        return {*self.form.inputs, *self.cells.inputs, *self.axes.inputs, *own}

    @property
    def outputs(self) -> set[Any]:
        """Everything that `updates` may change."""
        return {*self.inputs, *self.form.outputs, *self.cells.outputs, self.cells_panel, self.grid_panel}

    def draft(self, data: Mapping[Any, Any]) -> dict[str, Any]:
        """What stands on the page, as plain values: for the browser's memory and for `updates`.

        Raises:
            SettingsError: the seed is no number.
        """
        own = {name: data[getattr(self, name)] for name in ("equal", "mode", "reference", "reference_steps")}
        return {"form": self.form.draft(data), "rows": self.cells.rows(data), "axes": self.axes.draft(data), **own}

    def values(self, draft: Mapping[str, Any]) -> dict[str, Any]:
        """A draft as the task "compare" takes it.

        Raises:
            SettingsError: a cell's number is none.
        """
        if draft["mode"] == GRID:
            what = self.axes.values(draft["axes"])
        else:
            what = {"cells": self.cells.changes(draft["rows"], draft["equal"] == NFE)}
        own = {name: draft[name] for name in ("equal", "reference", "reference_steps")}
        return {"base": {**self.form.request(draft["form"]), "batch_size": 1}, **what, **own}

    def updates(self, draft: Any) -> dict[Any, Any]:
        """Component to update that shows a remembered draft; nothing for one that cannot be read."""
        try:
            traits = self.studio.traits(draft["form"]["model"])
            return {
                **self.form.updates({**draft["form"], "batch_size": 1}),
                **self.cells.updates(draft["rows"], traits, draft["equal"] == NFE),
                **self.axes.updates(draft["axes"]),
                **self._panels(draft["mode"]),
                **{getattr(self, name): draft[name] for name in ("equal", "mode", "reference", "reference_steps")},
            }
        except (StepwiseError, TypeError, ValueError, LookupError):  # written by an older version, or by hand
            return {}

    @property
    def settings(self) -> dict[str, Setting]:
        """What a link or a stored result may bring beside the shared settings."""
        limits = self.studio.limits

        def traits(model: str) -> Traits | None:
            return self.studio.traits(model or self.form.first.key)

        axis = AxisValues(limits.max_cells, traits)
        return {
            "cells": Cells(limits.max_steps, traits),
            "x": axis,
            "y": axis,
            "equal": OneOf("kind of equality", lambda: (STEPS, NFE)),
            "reference": Flag(),
            "reference_steps": Whole(2, limits.max_steps),
        }

    def received(self, own: Mapping[str, Any], base: Mapping[str, Any]) -> dict[Any, Any]:
        """Component to update that shows these.

        Args:
            own: checked by `settings`.
            base: fields of a Request.
        """
        updates = self.form.updates({"seed_mode": FIXED, **base, "batch_size": 1})
        if "cells" in own:
            traits = self.studio.traits(base.get("model") or self.form.first.key)
            updates |= self.cells.updates(rows_of(own["cells"], base), traits, own.get("equal", STEPS) == NFE)
            updates |= {self.mode: CELLS, **self._panels(CELLS)}
        elif "x" in own:
            axes = {
                name: [own[name]["field"], own[name]["values"]] if name in own else [NONE, ""] for name in ("x", "y")
            }
            updates |= {**self.axes.updates(axes), self.mode: GRID, **self._panels(GRID)}
        names = ("equal", "reference", "reference_steps")
        return updates | {getattr(self, name): own[name] for name in names if name in own}

    def _edited(self, data: Mapping[Any, Any], change: Callable[[Rows], Rows]) -> dict[Any, Any]:
        traits = self.studio.traits(data[self.form.fields["model"]])
        rows = change(self.cells.rows(data))[: len(self.cells.groups)]
        return self.cells.updates(rows, traits, data[self.equal] == NFE)

    def _preset(self, data: Mapping[Any, Any], preset: str, equal: str) -> dict[Any, Any]:
        traits = self.studio.traits(data[self.form.fields["model"]])
        if preset == GRID:
            updates, mode = self.axes.updates(self.axes.first), GRID
        else:
            updates, mode = self.cells.updates(preset_cells(preset, traits), traits, equal == NFE), CELLS
        return {**updates, self.equal: equal, self.mode: mode, **self._panels(mode)}

    def _whole_family(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """The cells filled with a family, or the grid's columns where it is larger than the cells are many."""
        name, traits = data[self.family], self.studio.traits(data[self.form.fields["model"]])
        if name == NONE:
            return {self.family: NONE}
        if (rows := family_rows(name, traits)) is not None:
            updates, mode = self.cells.updates(rows, traits, equal_nfe=True), CELLS
        else:
            updates, mode = self.axes.updates(family_axis(name)), GRID
        # Shown as unchosen again, so that the same family can be chosen a second time.
        return {**updates, self.family: NONE, self.equal: NFE, self.mode: mode, **self._panels(mode)}

    def _families(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        traits = self.studio.traits(data[self.form.fields["model"]])
        return {self.family: gr.update(choices=families(traits), value=NONE)}

    def _panels(self, mode: str) -> dict[Any, Any]:
        return {self.cells_panel: gr.update(visible=mode == CELLS), self.grid_panel: gr.update(visible=mode == GRID)}
