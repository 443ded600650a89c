"""LoRAs of the models folder as components: which ones, and a weight for each."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr
from gradio.components import Component

from studio.ui.component_data import Block, Data
from studio.ui.controls import PLUMBING, build_elem_id
from studio.ui.outputs import in_order

__all__ = ["LoraControls", "build_lora_controls"]


@dataclasses.dataclass(frozen=True)
class LoraControls:
    """Holds what `build_lora_controls` made.

    Attributes:
        names: the chosen ones.
        weights: one slider a place; as many are visible as are chosen.
    """

    names: gr.Dropdown
    weights: tuple[gr.Slider, ...]

    @property
    def components(self) -> set[Component]:
        """Return everything that holds a value or may change."""
        return {self.names, *self.weights}

    def choice(self, data: Mapping[Block, Any]) -> list[dict[str, Any]]:
        """Read what is chosen, as `LoraChoice.parse` reads it, from an event's data."""
        names = data[self.names] or []
        return [{"name": name, "weight": data[weight]} for name, weight in zip(names, self.weights, strict=False)]

    def updates(self, names_offered: Sequence[str], choices: Sequence[Mapping[str, Any]] = ()) -> Data:
        """Map each component to the update that offers these names and shows a choice; what is not offered is left
        out."""
        fitting = [one for one in choices if one.get("name") in names_offered][: len(self.weights)]
        names = [one["name"] for one in fitting]
        dropdown = gr.update(choices=list(names_offered), value=names, info=_format_info(names_offered))
        return {self.names: dropdown, **self._build_weight_updates(names, [one.get("weight", 1) for one in fitting])}

    def offer(self, offered: Sequence[str], data: Mapping[Block, object]) -> Data:
        """Map each component to the update that offers these names; only a chosen one that is gone is taken out."""
        choices = self.choice(data)
        if any(lora["name"] not in offered for lora in choices):
            return self.updates(offered, choices)
        return {self.names: gr.update(choices=list(offered), info=_format_info(offered))}

    def _build_weight_updates(self, names: Sequence[str], weights: Sequence[float] | None = None) -> Data:
        updates: Data = {}
        for place, slider in enumerate(self.weights):
            if place >= len(names):
                updates[slider] = gr.update(visible=False, value=1)
            else:
                value: dict[str, Any] = {"value": weights[place]} if weights else {}
                updates[slider] = gr.update(visible=True, label=f"Weight of {names[place]}", **value)
        return updates

    def follow(self) -> None:
        """Wire the weights to the names, once, inside the Blocks."""
        names = self.names
        names.input(
            lambda data: self._build_weight_updates(data[names] or []),
            inputs={names},
            outputs=in_order(self.weights),
            **PLUMBING,
        )


def build_lora_controls(names_offered: Sequence[str], places: int, prefix: str) -> LoraControls:
    """Build the components in the present layout context, showing that none is chosen.

    Args:
        names_offered: names of the LoRAs that fit the model chosen at first.
        places: how many may be applied together.
        prefix: begins every component's id.
    """
    names = gr.Dropdown(
        list(names_offered),
        value=[],
        multiselect=True,
        label="LoRA",
        info=_format_info(names_offered),
        max_choices=places,
        elem_id=build_elem_id(prefix, "loras"),
    )
    weights = tuple(
        gr.Slider(
            -4,
            4,
            value=1,
            step=0.05,
            label=f"Weight {place + 1}",
            visible=False,
            buttons=[],
            elem_id=build_elem_id(prefix, f"lora-{place}"),
        )
        for place in range(places)
    )
    controls = LoraControls(names, weights)
    controls.follow()
    return controls


def _format_info(names_offered: Sequence[str]) -> str:
    if names_offered:
        return "They change how the model draws; a weight of 1 is as trained."
    return "The models folder has none for this model."
