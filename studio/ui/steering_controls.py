"""A picture that steers a run, as components: what reads it, the picture, how strongly and in which steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.components import Component

from pipelines.controls.pictures import MAPS
from pipelines.core.errors import StepwiseError
from pipelines.core.types import Choice
from studio.ui.component_data import Block, Data
from studio.ui.controls import PLUMBING, build_elem_id

if TYPE_CHECKING:
    from studio.backend import Studio

__all__ = ["SteeringControls", "build_steering_controls"]

_MAP_LABELS = {"given": "It is a map already", "edges": "Find its edges"}
_WORDS = {
    "control": (
        "ControlNet",
        "Control picture",
        "Lines, depth, a pose or a mask; or a photograph whose edges are found.",
    ),
    "t2i_adapter": (
        "T2I-Adapter",
        "Adapter picture",
        "Lines or a shape, white on black; or a photograph whose edges are found.",
    ),
    "image_prompt": ("IP-Adapter", "Picture as prompt", "Its subject, style and colors act beside the words."),
}
_METHODS = {"control": "controlnet", "t2i_adapter": "t2i_adapter", "image_prompt": "ip_adapter"}
_MAPPED = ("control", "t2i_adapter")
_STRENGTHS = {"control": 1.0, "t2i_adapter": 1.0, "image_prompt": 0.6}


@dataclasses.dataclass(frozen=True)
class SteeringControls:
    """Holds what `build_steering_controls` made.

    Attributes:
        studio: keeps the pictures.
        field: of a request: "control", "t2i_adapter" or "image_prompt".
        model: the ControlNet, T2I-Adapter or IP-Adapter; "" for none.
        picture: as it is shown and chosen.
        name: of the kept picture, which a run and the browser's memory take.
        panel: all but the model, shown where one is chosen.
        sliders: "strength", "begin" and "end".
        map: what is made of the picture; None where nothing is.
    """

    studio: Studio
    field: str
    model: gr.Dropdown
    picture: gr.Image
    name: gr.Textbox
    panel: gr.Column
    sliders: Mapping[str, gr.Slider]
    map: gr.Radio | None

    @property
    def inputs(self) -> set[Component]:
        """Return everything that holds a value."""
        return {self.model, self.name, *self.sliders.values(), *([self.map] if self.map else [])}

    @property
    def outputs(self) -> set[Block]:
        """Return everything that `updates` may change."""
        return {*self.inputs, self.panel, self.picture}

    def choice(self, data: Mapping[Block, object]) -> dict[str, Any]:
        """Read what is chosen, as `Choice.parse` reads it, from an event's data.

        A picture that is still on its way has no name yet, and the run says that there is none.
        """
        if not data[self.model]:
            return {"key": "none"}
        values: dict[str, Any] = {"model": data[self.model], "picture": data[self.name] or ""}
        if self.map is not None and data[self.map] != MAPS[0]:
            values["map"] = data[self.map]
        defaults = {"strength": _STRENGTHS[self.field], "begin": 0.0, "end": 1.0}
        values |= {one: data[slider] for one, slider in self.sliders.items() if data[slider] != defaults[one]}
        return {"key": _METHODS[self.field], **values}

    def updates(self, offered: Sequence[tuple[str, str]], choice: object = "none") -> Data:
        """Map each component to the update that offers these and shows a choice; what is not offered is not chosen.

        Args:
            offered: label and key of each that fits the model.
            choice: as `Choice.parse` reads it.
        """
        settings = Choice.parse(choice).settings
        model = settings.get("model", "")
        model = model if model in [key for _, key in offered] else ""
        name = str(settings.get("picture", "")) if model else ""
        shown = self._read(name)
        updates: Data = {
            self.model: gr.update(choices=_list_choices(offered), value=model, info=_format_info(self.field, offered)),
            self.panel: gr.update(visible=bool(model)),
            self.name: name if shown is not None else "",
            self.picture: gr.update(value=shown),
        }
        defaults = {"strength": _STRENGTHS[self.field], "begin": 0.0, "end": 1.0}
        updates |= {slider: settings.get(one, defaults[one]) for one, slider in self.sliders.items()}
        return updates | ({self.map: settings.get("map", MAPS[0])} if self.map else {})

    def offer(self, offered: Sequence[tuple[str, str]]) -> Data:
        """Map the list to the update that offers these and leaves what is chosen."""
        return {self.model: gr.update(choices=_list_choices(offered), info=_format_info(self.field, offered))}

    def _read(self, name: str) -> Any:
        try:
            return self.studio.given.read(name) if name else None
        except StepwiseError:
            return None

    def follow(self) -> None:
        """Wire the panel to the model and the name to the picture, once, inside the Blocks."""
        self.model.input(lambda key: gr.update(visible=bool(key)), inputs=self.model, outputs=self.panel, **PLUMBING)
        # At once in the browser: a run that is asked for meanwhile takes no picture that was replaced.
        self.picture.input(None, outputs=self.name, js="() => ''", **PLUMBING).then(
            self._keep, inputs=self.picture, outputs=self.name, **PLUMBING
        )

    def _keep(self, path: str | None) -> str:
        try:
            return self.studio.given.add_file(path) if path else ""
        except StepwiseError:
            return ""  # the run says what is wrong with it


def build_steering_controls(
    studio: Studio, field: str, prefix: str, offered: Sequence[tuple[str, str]], without: str = ""
) -> SteeringControls:
    """Build the components in the present layout context, showing that none is chosen.

    Args:
        studio: keeps the pictures.
        field: of a request: "control", "t2i_adapter" or "image_prompt".
        prefix: begins each component's id.
        offered: label and key of each that fits the model chosen at first.
        without: a sentence on what is taken where no picture is chosen; "" where one must be.
    """
    label, picture_label, info = _WORDS[field]
    identity = build_elem_id(prefix, field)
    model = gr.Dropdown(
        _list_choices(offered),
        value="",
        label=label,
        info=_format_info(field, offered),
        filterable=False,
        elem_id=f"{identity}-model",
    )
    with gr.Column(visible=False, elem_classes="sw-panel", min_width=0) as panel:
        picture = gr.Image(
            type="filepath",
            image_mode=None,
            format="png",
            sources=["upload", "clipboard"],
            label=picture_label,
            buttons=[],
            height=170,
            placeholder="Drop or choose a picture",
            elem_id=f"{identity}-picture",
            elem_classes="sw-source",
        )
        name = gr.Textbox("", visible=False, label="Name", elem_id=f"{identity}-name")
        gr.HTML(f"<p class='sw-hint'>{info} {without}</p>")
        choices = [(_MAP_LABELS[key], key) for key in MAPS]
        map_choice = (
            gr.Radio(choices, value=MAPS[0], label="Map", elem_id=f"{identity}-map") if field in _MAPPED else None
        )
        sliders = {
            "strength": _build_slider("Strength", 2, _STRENGTHS[field], f"{identity}-strength"),
            "begin": _build_slider("From (share of the steps)", 1, 0, f"{identity}-begin"),
            "end": _build_slider("To (share of the steps)", 1, 1, f"{identity}-end"),
        }
    controls = SteeringControls(studio, field, model, picture, name, panel, sliders, map_choice)
    controls.follow()
    return controls


def _build_slider(label: str, high: float, value: float, identity: str) -> gr.Slider:
    return gr.Slider(0, high, value=value, step=0.05, label=label, buttons=[], elem_id=identity)


def _list_choices(offered: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    return [("None", ""), *offered]


def _format_info(field: str, offered: Sequence[tuple[str, str]]) -> str:
    if offered:
        return "The picture decides where things are." if field in _MAPPED else "The picture is a part of the prompt."
    return "The models folder has none for this model."
