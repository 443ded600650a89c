"""LoRAs of the models folder as components: which ones, and a weight for each."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr
from gradio.components import Component

from studio.ui.controls import PLUMBING, elem_id

__all__ = ["LoraControls", "lora_controls"]


@dataclasses.dataclass(frozen=True)
class LoraControls:
    """Made by `lora_controls`.

    Attributes:
        names: the chosen ones.
        weights: one slider a place; as many are visible as are chosen.
    """

    names: gr.Dropdown
    weights: tuple[gr.Slider, ...]

    @property
    def components(self) -> set[Component]:
        """Everything that holds a value or may change."""
        return {self.names, *self.weights}

    def choice(self, data: Mapping[Component, Any]) -> list[dict[str, Any]]:
        """What is chosen, as `LoraChoice.parse` reads it, from an event's data."""
        chosen = data[self.names] or []
        return [{"name": name, "weight": data[weight]} for name, weight in zip(chosen, self.weights, strict=False)]

    def updates(self, offered: Sequence[str], chosen: Sequence[Mapping[str, Any]] = ()) -> dict[Any, Any]:
        """Component to update that offers these names and shows a choice; what is not offered is left out."""
        kept = [one for one in chosen if one.get("name") in offered][: len(self.weights)]
        names = [one["name"] for one in kept]
        dropdown = gr.update(choices=list(offered), value=names, info=_info(offered))
        return {self.names: dropdown, **self._shown(names, [one.get("weight", 1) for one in kept])}

    def _shown(self, names: Sequence[str], weights: Sequence[float] | None = None) -> dict[Any, Any]:
        updates = {}
        for place, slider in enumerate(self.weights):
            if place >= len(names):
                updates[slider] = gr.update(visible=False, value=1)
            else:
                value = {"value": weights[place]} if weights else {}
                updates[slider] = gr.update(visible=True, label=f"Weight of {names[place]}", **value)
        return updates

    def follow(self) -> None:
        """Wire the weights to the names, once, inside the Blocks."""
        names = self.names
        names.input(lambda data: self._shown(data[names] or []), inputs={names}, outputs=set(self.weights), **PLUMBING)


def lora_controls(offered: Sequence[str], places: int, prefix: str) -> LoraControls:
    """The components in the present layout context, showing that none is chosen.

    Args:
        offered: names of the LoRAs that fit the model chosen at first.
        places: how many may be applied together.
        prefix: begins every component's id.
    """
    names = gr.Dropdown(
        list(offered),
        value=[],
        multiselect=True,
        label="LoRA",
        info=_info(offered),
        max_choices=places,
        elem_id=elem_id(prefix, "loras"),
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
            elem_id=elem_id(prefix, f"lora-{place}"),
        )
        for place in range(places)
    )
    controls = LoraControls(names, weights)
    controls.follow()
    return controls


def _info(offered: Sequence[str]) -> str:
    if offered:
        return "They change how the model draws; a weight of 1 is as trained."
    return "The models folder has none for this model."
