"""The fields of a text-to-image request as components: built by sections, read and filled by name."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.components import Component

from pipelines.core.errors import SettingsError
from pipelines.requests.limits import TABLES
from studio.results.search import FIXED_SEED
from studio.ui.controls import PLUMBING, MethodControls, elem_id, method_controls
from studio.ui.lora_controls import lora_controls
from studio.ui.presentation import model_label, model_note
from studio.ui.styles import NO_STYLE, STYLES, fitting, styled

if TYPE_CHECKING:
    from pipelines.models.entry import CatalogEntry
    from studio.backend import Studio

__all__ = ["FIXED", "RANDOM", "TABLES", "RequestForm"]

RANDOM, FIXED = "random", FIXED_SEED
SIZE_STEP = 8
"""Pixels between two sizes that a slider offers: every latent model here shrinks a side by eight at most."""

SIDES = ("width", "height")
SEEDS = ("seed", "variation_seed")
PLAIN = {"prompt", "negative_prompt", "num_inference_steps", "batch_size", "variation_strength", "seed_mode"}


class RequestForm:
    """Collects the components while a tab lays them out, one call a section.

    Args:
        studio: models, LoRAs, limits.
        prefix: begins every component's id.
        own_loop: whether the tab works on our own loop's steps, so that models with a pipeline of their own are no use.
    """

    def __init__(self, studio: Studio, prefix: str, own_loop: bool = False):
        self.studio, self.prefix, self.own_loop = studio, prefix, own_loop
        self.first = self.models[0]
        self.fields: dict[str, Component] = {}
        self.methods: dict[str, MethodControls] = {}

    @property
    def models(self) -> list[CatalogEntry]:
        """Those that make pictures, the models folder's as it was last scanned."""
        found = [entry for entry in self.studio.models() if entry.kind == "image"]
        return [entry for entry in found if entry.family != "stock"] if self.own_loop else found

    # Sections, each built where it is called.

    def prompt(self, text: str = "") -> gr.Textbox:
        """The prompt, the page's first field."""
        return self._text("prompt", "Prompt", text, placeholder="What should the picture show?", lines=3, max_lines=10)

    def words(self) -> None:
        """Style and negative prompt."""
        self.fields["style"] = gr.Dropdown(
            _style_choices(self.first.key),
            value=NO_STYLE,
            label="Style",
            info="A few words put around the prompt.",
            filterable=False,
            elem_id=self._id("style"),
        )
        self._text("negative_prompt", "Negative prompt", info="What the picture should not show.", lines=2, max_lines=6)

    def model(self) -> None:
        """The model; choosing one brings its own settings and offers only what fits it."""
        self.fields["model"] = gr.Dropdown(
            self.model_choices(),
            value=self.first.key,
            label="Model",
            info=model_note(self.first),
            elem_id=self._id("model"),
        )

    def steps(self) -> None:
        """How many steps."""
        self._slider(
            "num_inference_steps",
            "Steps",
            (1, self.studio.limits.max_steps),
            self._steps(self.first),
            elem_id=self._id("steps"),
        )

    def seed(self) -> None:
        """A new seed for each run, or a fixed one. Text, since a browser's numbers end at 2^53."""
        choices = [("New each time", RANDOM), ("Fixed", FIXED)]
        self.fields["seed_mode"] = gr.Radio(choices, value=RANDOM, label="Seed", elem_id=self._id("seed_mode"))
        with gr.Row(elem_classes="sw-seed"):
            self.fields["seed"] = gr.Textbox(
                "0",
                label="Seed number",
                show_label=False,
                max_lines=1,
                min_width=130,
                scale=3,
                elem_id=self._id("seed"),
            )
            self.roll = gr.Button("Roll", size="sm", min_width=50, scale=1, elem_id=self._id("seed-roll"))
            self.reuse = gr.Button("Reuse last", size="sm", min_width=90, scale=1, elem_id=self._id("seed-reuse"))

    def size(self) -> None:
        """Size and batch."""
        limits = self.studio.limits
        for name in SIDES:
            side = self._side(self.first, name)
            allowed = (limits.min_side, self._longest(self.first, side))
            self._slider(name, name.capitalize(), allowed, side, step=SIZE_STEP)
        self._slider("batch_size", "Pictures", (1, limits.max_batch), 1, info="Picture i has the seed plus i.")

    def method(self, name: str) -> None:
        """The sampler, the schedule or the guidance, with its settings."""
        self.methods[name] = method_controls(
            TABLES[name], self.prefix, choice=self.first.defaults.get(name), traits=self.studio.traits(self.first.key)
        )

    def variation(self) -> None:
        """A second noise to turn towards."""
        self._slider(
            "variation_strength",
            "Variation strength",
            (0, 1),
            0,
            step=0.01,
            info="How far the noise is turned towards a second one.",
        )
        self.fields["variation_seed"] = gr.Textbox(
            "0", label="Variation seed", max_lines=1, elem_id=self._id("variation_seed")
        )

    def loras(self) -> None:
        """LoRAs of the models folder, each with its weight."""
        self.lora = lora_controls(self.studio.loras(self.first.key), self.studio.limits.max_loras, self.prefix)

    def wire(self) -> None:
        """Connect what belongs together, once all sections stand."""
        model, mode, seed = (self.fields[name] for name in ("model", "seed_mode", "seed"))
        model.input(lambda data: self.updates({"model": data[model]}), inputs={model}, outputs=self.outputs, **PLUMBING)
        seed.input(lambda: FIXED, outputs=mode, **PLUMBING)
        self.roll.click(lambda: {seed: str(_roll()), mode: FIXED}, outputs={seed, mode}, **PLUMBING)

    # From components to values and back.

    @property
    def inputs(self) -> set[Component]:
        """Everything that holds a value."""
        methods = {component for one in self.methods.values() for component in (one.method, *one.fields)}
        return {*self.fields.values(), *methods, *self.lora.components}

    @property
    def outputs(self) -> set[Any]:
        """Everything that `updates` may change."""
        return {*self.inputs, *(component for one in self.methods.values() for component in one.outputs)}

    def draft(self, data: Mapping[Component, Any]) -> dict[str, Any]:
        """What stands on the page, as plain values by name: for the browser's memory and for `updates`.

        Raises:
            SettingsError: a seed that is no whole number.
        """
        plain = {name: data[component] for name, component in self.fields.items()}
        plain |= {name: _whole(plain[name]) for name in SEEDS}
        methods = {name: one.choice(data) for name, one in self.methods.items()}
        return {**plain, **methods, "loras": self.lora.choice(data)}

    @staticmethod
    def request(draft: Mapping[str, Any]) -> dict[str, Any]:
        """A draft as the values of a Request: the style put around the prompt, a random seed drawn."""
        values = {name: value for name, value in draft.items() if name not in ("style", "seed_mode")}
        values = {name: value for name, value in values.items() if name not in TABLES or value is not None}
        if draft["seed_mode"] == RANDOM:
            values["seed"] = _roll()
        values["prompt"], values["negative_prompt"] = styled(draft["style"], draft["prompt"], draft["negative_prompt"])
        return values

    def updates(self, values: Mapping[str, Any], current: str = "") -> dict[Any, Any]:
        """Component to update that shows these values (a draft, or fields of a Request); the others stay.

        Args:
            values: untrusted names and plain values; a model brings its own settings first.
            current: key of the model that is chosen, for values that name none.

        Raises:
            SettingsError: an unknown method.
        """
        named = self._entry(values.get("model"))
        entry = named or self._entry(current) or self.first
        updates = self._model_updates(entry) if named else {}
        traits, fields = self.studio.traits(entry.key), self.fields
        for name in self.methods.keys() & values.keys():
            updates |= self.methods[name].updates(values[name], traits)
        updates |= {fields[name]: gr.update(value=values[name]) for name in PLAIN & values.keys()}
        updates |= {fields[name]: gr.update(value=str(values[name])) for name in SEEDS if name in values}
        updates |= {fields[name]: self._size_update(entry, values[name]) for name in SIDES if values.get(name)}
        if values.get("style") in STYLES:
            updates[fields["style"]] = gr.update(value=values["style"])
        if "loras" in values:
            updates |= self.lora.updates(self.studio.loras(entry.key), values["loras"])
        return updates

    def _model_updates(self, entry: CatalogEntry) -> dict[Any, Any]:
        traits = self.studio.traits(entry.key)
        shown = gr.update(choices=self.model_choices(), value=entry.key, info=model_note(entry))
        updates: dict[Any, Any] = {self.fields["model"]: shown}
        for name, one in self.methods.items():
            updates |= one.updates(entry.defaults.get(name), traits)
        updates |= {self.fields[side]: self._size_update(entry, self._side(entry, side)) for side in SIDES}
        updates[self.fields["num_inference_steps"]] = gr.update(value=self._steps(entry))
        updates[self.fields["style"]] = gr.update(choices=_style_choices(entry.key), value=NO_STYLE)
        return updates | self.lora.updates(self.studio.loras(entry.key))

    def _slider(self, name: str, label: str, allowed: tuple[float, float], value: float, **more: Any) -> None:
        self.fields[name] = gr.Slider(
            *allowed, value=value, label=label, buttons=[], **{"step": 1, "elem_id": self._id(name), **more}
        )

    def _text(self, name: str, label: str, value: str = "", **more: Any) -> gr.Textbox:
        self.fields[name] = gr.Textbox(
            value=value, label=label, max_length=self.studio.limits.max_prompt, elem_id=self._id(name), **more
        )
        return self.fields[name]

    def model_choices(self) -> list[tuple[str, str]]:
        """Label and key of each model that is offered, as the models folder was last scanned."""
        return [(model_label(entry), entry.key) for entry in self.models]

    def _id(self, name: str) -> str:
        return elem_id(self.prefix, name)

    def _entry(self, key: Any) -> CatalogEntry | None:
        return next((entry for entry in self.models if entry.key == key), None)

    def _size_update(self, entry: CatalogEntry, side: int) -> Any:
        return gr.update(value=side, maximum=self._longest(entry, side))

    def _longest(self, entry: CatalogEntry, side: int) -> int:
        """Where a size slider ends: past four times the model's own size no model draws one picture."""
        own = max(self._side(entry, name) for name in SIDES)
        return min(self.studio.limits.max_side, max(4 * own, side))

    @staticmethod
    def _side(entry: CatalogEntry, name: str) -> int:
        return entry.defaults.get(name) or 512

    @staticmethod
    def _steps(entry: CatalogEntry) -> int:
        return entry.defaults.get("num_inference_steps", 25)


def _style_choices(model: str) -> list[tuple[str, str]]:
    return [(style.label, style.key) for style in fitting(model)]


def _roll() -> int:
    return secrets.randbelow(2**32)


def _whole(text: str | int | None) -> int:
    try:
        return int(str(text).strip())
    except ValueError:
        raise SettingsError(f"The seed is {str(text)[:80]!r}. It must be a whole number.") from None
