"""The sections of a text-to-image form: each lays out its components where it is called, and names them by field."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import gradio as gr
from gradio.components import Component

from pipelines.emoji.vocabulary import shipped_vocabulary
from pipelines.families.prompt_weighting import DEFAULT_WEIGHTING, WEIGHTINGS
from pipelines.models.sizes import size_multiple
from pipelines.models.steering_entry import ADAPTER, CONTROLNET, T2I_ADAPTER
from pipelines.requests.limits import TABLES
from pipelines.requests.prompts import prompt_notes
from studio.results.search import FIXED_SEED
from studio.ui import markup
from studio.ui.controls import MethodControls, build_elem_id, build_method_controls
from studio.ui.lora_controls import build_lora_controls
from studio.ui.presentation import format_model_label, format_model_note
from studio.ui.settings_panel import Alterations
from studio.ui.steering_controls import SteeringControls, build_steering_controls
from studio.ui.styles import NO_STYLE, list_fitting_styles
from studio.ui.upscaler_choice import list_upscaler_choices

if TYPE_CHECKING:
    from pipelines.models.entry import CatalogEntry
    from studio.backend import Studio

__all__ = ["FIXED", "RANDOM", "SIDES", "FormSections", "list_style_choices"]

RANDOM, FIXED = "random", FIXED_SEED
SIDES = ("width", "height")
METHOD_LABELS = {"made_like": "Made like", "start": "Initialization", "ensemble": "Models"}


class FormSections:
    """Collects the components of a request while a tab lays them out, one call a section.

    Args:
        studio: models, LoRAs, limits.
        prefix: begins every component's id.
        own_loop: whether the tab works on our own loop's steps, so that models with a pipeline of their own are no use.
        first: key of the model that the form opens on; by default the first that there is.
    """

    def __init__(self, studio: Studio, prefix: str, own_loop: bool = False, first: str = ""):
        self.studio, self.prefix, self.own_loop = studio, prefix, own_loop
        self.first = next((entry for entry in self.models if entry.key == first), self.models[0])
        self.fields: dict[str, Component] = {}
        self.prompt_hint: gr.HTML | None = None
        self._hints_syntax = True
        self.methods: dict[str, MethodControls] = {}
        self.steered: dict[str, SteeringControls] = {}

    @property
    def models(self) -> list[CatalogEntry]:
        """List the models that make pictures, the models folder's as it was last scanned."""
        entries = [entry for entry in self.studio.models() if entry.kind == "image"]
        return [entry for entry in entries if entry.family != "stock"] if self.own_loop else entries

    def prompt(self, text: str = "") -> gr.Textbox:
        """Lay out the prompt, the page's first field."""
        return self._add_text(
            "prompt", "Prompt", text, placeholder="What should the picture show?", lines=3, max_lines=10
        )

    def hint(self, syntax: bool = True) -> None:
        """Lay out what the chosen model can draw and what a prompt may hold besides words.

        Args:
            syntax: whether to say the second; without it there is nothing to say of a model that knows any word.
        """
        self._hints_syntax = syntax
        self.prompt_hint = gr.HTML(self._build_hint(self.first.key), min_height=0)

    def _build_hint(self, model: str) -> str:
        entry = self._find_entry(model) or self.first
        base = entry.quantized.base if entry.quantized else entry.key
        drawn = markup.vocabulary(entry.label, shipped_vocabulary(base))
        if not self._hints_syntax:
            return drawn
        return drawn + markup.prompt_hint(list(self.studio.wildcards()), prompt_notes(self.studio.traits(model)))

    def words(self) -> None:
        """Lay out style, negative prompt and prompt weighting."""
        self.fields["style"] = gr.Dropdown(
            list_style_choices(self.first.key),
            value=NO_STYLE,
            label="Style",
            info="Words added around the prompt.",
            filterable=False,
            elem_id=self._id("style"),
        )
        self._add_text(
            "negative_prompt", "Negative prompt", info="What the picture should not show.", lines=2, max_lines=6
        )
        self.fields["prompt_weighting"] = gr.Dropdown(
            [(rule.label, key) for key, rule in WEIGHTINGS.items()],
            value=DEFAULT_WEIGHTING,
            label="Prompt weighting",
            info="What (word:1.2) does to a word's embedding.",
            filterable=False,
            elem_id=self._id("prompt_weighting"),
        )

    def model(self) -> None:
        """Lay out the model; choosing one brings its own settings and offers only what fits it."""
        self.fields["model"] = gr.Dropdown(
            self.list_model_choices(),
            value=self.first.key,
            label="Model",
            info=format_model_note(self.first),
            elem_id=self._id("model"),
        )

    def steps(self) -> None:
        """Lay out the number of steps."""
        self._add_slider(
            "num_inference_steps",
            "Steps",
            (1, self.studio.limits.max_steps),
            self._get_default_steps(self.first),
            elem_id=self._id("steps"),
        )

    def seed(self) -> None:
        """Lay out the seed, which is a new one for each run, or a fixed one. Text, since a browser's numbers end at
        2^53."""
        choices = [("Random", RANDOM), ("Fixed", FIXED)]
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
            self.roll = gr.Button("Shuffle", size="sm", min_width=50, scale=1, elem_id=self._id("seed-roll"))
            self.reuse = gr.Button("Reuse last", size="sm", min_width=90, scale=1, elem_id=self._id("seed-reuse"))

    def size(self) -> None:
        """Lay out size and batch."""
        for name in SIDES:
            side = self._get_default_side(self.first, name)
            low, high, step = self._sides_allowed(self.first, side)
            self._add_slider(name, name.capitalize(), (low, high), side, step=step)
        most = self.studio.limits.max_batch
        self._add_slider("batch_size", "Batch size", (1, most), 1, info="Picture i has the seed plus i.")

    def second_pass(self) -> None:
        """Lay out what is done to the finished picture at a larger size."""
        self.method("second_pass", self.list_upscaler_files())

    def ensemble(self) -> None:
        """Lay out further models that draw together with the chosen one."""
        self.method("ensemble", self.list_companion_files(self.first.key))

    def sliders(self) -> None:
        """Lay out the sliders along directions of the model's own."""
        self.method("sliders", self.list_direction_files(self.first.key))

    def list_upscaler_files(self) -> Alterations:
        """Return the upscalers that there are, as what the second passes that take one offer."""
        passes = TABLES["second_pass"].values()
        takes = [one.key for one in passes if "upscaler" in {field.name for field in dataclasses.fields(one.settings)}]
        return {key: {"upscaler": {"choices": list_upscaler_choices(self.studio)}} for key in takes}

    def list_direction_files(self, model: str) -> Alterations:
        """Return the files of directions that are of a model, as what the sliders offer."""
        names = self.studio.directions(model) if model in self.studio.catalog else []
        return {"directions": {"file": {"choices": [("None", ""), *((name, name) for name in names)]}}}

    def list_companion_files(self, model: str) -> Alterations:
        """Return the models that can stand beside one, as what the composition of several offers."""
        entries = self.studio.companions(model) if model in self.studio.catalog else []
        choices = {"choices": [("None", ""), *((format_model_label(entry), entry.key) for entry in entries)]}
        return {"composition": {"second": choices, "third": choices}}

    def method(self, name: str, altered: Alterations | None = None) -> None:
        """Lay out the sampler, the schedule or the guidance, with its settings."""
        self.methods[name] = build_method_controls(
            TABLES[name],
            self.prefix,
            label=METHOD_LABELS.get(name, ""),
            choice=self.first.defaults.get(name),
            traits=self.studio.traits(self.first.key),
            altered=altered,
        )

    def variation(self) -> None:
        """Lay out a second noise to turn towards."""
        self._add_slider(
            "variation_strength",
            "Variation strength",
            (0, 1),
            0,
            step=0.01,
            info="How far the initial noise is interpolated towards a second one.",
        )
        self.fields["variation_seed"] = gr.Textbox(
            "0", label="Variation seed", max_lines=1, elem_id=self._id("variation_seed")
        )

    def loras(self) -> None:
        """Lay out the LoRAs of the models folder, each with its weight."""
        self.lora = build_lora_controls(self.studio.loras(self.first.key), self.studio.limits.max_loras, self.prefix)

    def vae(self) -> None:
        """Lay out what encodes and decodes pictures: the model's own VAE, or one of the models folder that fits."""
        self.fields["vae"] = gr.Dropdown(
            self.list_vae_choices(self.first.key),
            value="",
            label="VAE",
            info="Decodes the finished latents. Put others into the models folder.",
            filterable=False,
            elem_id=self._id("vae"),
        )

    def steering(self, field: str, without: str = "") -> None:
        """Lay out a picture that steers the run.

        Args:
            field: "control", "t2i_adapter" or "image_prompt".
            without: a sentence on what is taken where no picture is chosen; "" where one must be.
        """
        offered = self.list_steering_choices(field, self.first.key)
        self.steered[field] = build_steering_controls(self.studio, field, self.prefix, offered, without)

    def list_steering_choices(self, field: str, model: str) -> list[tuple[str, str]]:
        """List label and key of each ControlNet, T2I-Adapter or IP-Adapter that is made for a model."""
        what = {"control": CONTROLNET, "t2i_adapter": T2I_ADAPTER, "image_prompt": ADAPTER}[field]
        return [(one.label, one.key) for one in self.studio.steering(model, what)]

    def list_vae_choices(self, model: str) -> list[tuple[str, str]]:
        """List label and key of each VAE that fits a model, its own one first."""
        vaes = self.studio.vaes(model) if model in self.studio.catalog else []
        return [("The model's own", ""), *((vae.label, vae.key) for vae in vaes)]

    def _add_slider(self, name: str, label: str, bounds: tuple[float, float], value: float, **options: Any) -> None:
        self.fields[name] = gr.Slider(
            *bounds, value=value, label=label, buttons=[], **{"step": 1, "elem_id": self._id(name), **options}
        )

    def _add_text(self, name: str, label: str, value: str = "", **options: Any) -> gr.Textbox:
        field = gr.Textbox(
            value=value, label=label, max_length=self.studio.limits.max_prompt, elem_id=self._id(name), **options
        )
        self.fields[name] = field
        return field

    @property
    def model_field(self) -> gr.Dropdown:
        """Return the list of models."""
        return cast(gr.Dropdown, self.fields["model"])

    def list_model_choices(self) -> list[tuple[str, str]]:
        """List label and key of each model that is offered, as the models folder was last scanned."""
        return [(format_model_label(entry), entry.key) for entry in self.models]

    def _id(self, name: str) -> str:
        return build_elem_id(self.prefix, name)

    def _find_entry(self, key: object) -> CatalogEntry | None:
        return next((entry for entry in self.models if entry.key == key), None)

    def _build_size_update(self, entry: CatalogEntry, side: int, companions: Sequence[CatalogEntry] = ()) -> Any:
        low, high, step = self._sides_allowed(entry, side, companions)
        return gr.update(value=side, minimum=low, maximum=high, step=step)

    def size_multiple(self, entry: CatalogEntry) -> int:
        """Return the step of the size sliders, in pixels: what the model's sides must be divisible by."""
        base = self._find_entry(entry.quantized.base) if entry.quantized else None
        return size_multiple(base or entry)

    def _sides_allowed(
        self, entry: CatalogEntry, side: int, companions: Sequence[CatalogEntry] = ()
    ) -> tuple[int, int, int]:
        """Ends and step of a size slider, which counts from its lower end: sizes that all these models draw.

        It ends at four times the model's own size, past which no model draws one picture.
        """
        step, limits = math.lcm(*map(self.size_multiple, (entry, *companions))), self.studio.limits
        own = max(self._get_default_side(entry, name) for name in SIDES)
        low = step * math.ceil(limits.min_side / step)
        return low, min(limits.max_side, max(4 * own, side)) // step * step, step

    @staticmethod
    def _get_default_side(entry: CatalogEntry, name: str) -> int:
        return entry.defaults.get(name) or 512

    @staticmethod
    def _get_default_steps(entry: CatalogEntry) -> int:
        return entry.defaults.get("num_inference_steps", 25)


def list_style_choices(model: str) -> list[tuple[str, str]]:
    """Return the label and the key of each style that fits a model."""
    return [(style.label, style.key) for style in list_fitting_styles(model)]
