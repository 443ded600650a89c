"""The X/Y grid's axes as components: a field and its values as text, twice."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import gradio as gr
from gradio.components import Component

from pipelines.core.registry import setting_type
from pipelines.workflows.compare.axes import axis_names
from pipelines.workflows.compare.axis_values import TABLES
from studio.ui.component_data import Block, Data
from studio.ui.controls import PLUMBING, build_elem_id

__all__ = ["AxesForm", "build_first_axes", "describe_values", "suggest_values"]

NONE = ""
_FIRST = {"x": "num_inference_steps", "y": "guidance.guidance_scale"}
_SUGGESTIONS = {
    "model": "emoji-128, emoji-128-flow",
    "sampler": "dpmpp_2m, unipc, heun, ddim",
    "schedule": "all",
    "guidance": "all",
    "start": "all",
    "cache": "all",
    "made_like": "all",
    "num_inference_steps": "4, 8, 16",
    "seed": "1-4",
    "size": "64x64, 96x96",
    "width": "64, 96",
    "height": "64, 96",
    "prompt": "a fox | a cat face | an owl",
    "negative_prompt": "red | blue",
    "prompt_sr": "fox, cat, owl",
    "prompt_weighting": "interpolate | mean",
    "variation_seed": "1-4",
    "variation_strength": "0-0.6:0.2",
    "guidance.guidance_scale": "2, 4, 8",
}

_HINTS = {
    "prompt_sr": "The first is looked for in the prompt; then each of the others takes its place.",
    "prompt": "Prompts apart by |.",
    "negative_prompt": "Prompts apart by |.",
    "prompt_weighting": "Rules apart by |.",
    "model": "Keys of models with commas, such as emoji-128.",
    "sampler": "Keys or names with commas; all, or a family, such as all first order.",
    "size": "Width x height with commas.",
}
_LIST_HINT, _NUMBERS_HINT = "With commas, or all.", "Lists and ranges: 4, 8, 10-30:10."


def describe_values(field: str, most: int) -> str:
    """Say how the values of an axis are written.

    Args:
        field: a name of `axis_names`; "" for no axis.
        most: cells of a grid.
    """
    if field == NONE:
        return " "
    hint = _HINTS.get(field) or (_LIST_HINT if field in TABLES else _NUMBERS_HINT)
    return f"{hint} At most {most} cells."


def suggest_values(field: str) -> str:
    """Suggest values worth trying on an axis, as a person would write them; empty where nothing is known."""
    if field in _SUGGESTIONS:
        return _SUGGESTIONS[field]
    table, _, name = field.partition(".")
    for method in TABLES[table].values() if table in TABLES else ():
        for field_of_method in dataclasses.fields(method.settings):
            if field_of_method.name == name:
                return _format_range(setting_type(method.settings, name), field_of_method.metadata)
    return ""


def _format_range(kind: type, meta: Mapping[str, Any]) -> str:
    if kind is bool:
        return "yes, no"
    if meta.get("choices"):
        return ", ".join(meta["choices"])
    if meta.get("low") is None or meta.get("high") is None:
        return ""
    low, high = meta["low"], meta["high"]
    return f"{low}, {round(low + (high - low) / 2) if kind is int else low + (high - low) / 2:g}, {high}"


def build_first_axes() -> dict[str, list[str]]:
    """Build the draft of the axes that is shown at first: steps against guidance."""
    return {name: [field, suggest_values(field)] for name, field in _FIRST.items()}


class AxesForm:
    """Lays out columns x, and rows y that may be none.

    Args:
        prefix: begins every component's id.
        max_cells: of a grid, for the hint.

    Attributes:
        first: the draft shown at first, steps against guidance.
    """

    def __init__(self, prefix: str, max_cells: int):
        fields = [(label, name) for name, label in axis_names().items()]
        self.parts: dict[str, tuple[gr.Dropdown, gr.Textbox]] = {}
        self.max_cells = max_cells
        self.first = build_first_axes()
        for name, label in (("x", "Columns"), ("y", "Rows")):
            field, text = self.first[name]
            choices = fields if name == "x" else [("None", NONE), *fields]
            dropdown = gr.Dropdown(choices, value=field, label=label, elem_id=build_elem_id(prefix, name))
            values = gr.Textbox(
                text,
                label=f"Values of the {label.lower()}",
                info=describe_values(field, max_cells),
                max_lines=4,
                max_length=8000,
                elem_id=build_elem_id(prefix, name, "values"),
            )
            # Gradio sends "input" when a list is left, too: typed values stay where nothing else was chosen.
            dropdown.focus(
                None, inputs=dropdown, js=f"(key) => stepwise.enterList({dropdown.elem_id!r}, key)", **PLUMBING
            )
            dropdown.input(
                lambda field: (
                    gr.update(value=suggest_values(field), info=describe_values(field, max_cells))
                    if field is not None
                    else gr.skip()
                ),
                inputs=dropdown,
                outputs=values,
                js=f"(key) => stepwise.chooseAnother({dropdown.elem_id!r}, key)",
                **PLUMBING,
            )
            self.parts[name] = (dropdown, values)

    @property
    def inputs(self) -> set[Component]:
        """Return everything that holds a value."""
        return {component for parts in self.parts.values() for component in parts}

    outputs = inputs

    def draft(self, data: Mapping[Block, Any]) -> dict[str, list[str]]:
        """Return what stands on the page."""
        return {name: [data[field], data[values]] for name, (field, values) in self.parts.items()}

    @staticmethod
    def values(draft: Mapping[str, list[str]]) -> dict[str, Any]:
        """Return a draft as the task "compare" takes it."""
        return {name: {"field": field, "values": values} for name, (field, values) in draft.items() if field != NONE}

    def updates(self, draft: Mapping[str, list[str]]) -> Data:
        """Map each component to the value that shows a draft."""
        updates: Data = {}
        for name, (dropdown, values) in self.parts.items():
            field, text = draft[name]
            updates |= {dropdown: field, values: gr.update(value=text, info=describe_values(field, self.max_cells))}
        return updates
