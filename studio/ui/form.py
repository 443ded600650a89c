"""The fields of a text-to-image request as components: built by sections, read and filled by name."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.components import Component

from pipelines.core.errors import SettingsError
from pipelines.core.types import Choice
from pipelines.families.prompt_weighting import WEIGHTINGS
from pipelines.requests.limits import TABLES
from studio.ui.component_data import Block, Data
from studio.ui.controls import PLUMBING, MethodControls
from studio.ui.form_sections import FIXED, RANDOM, SIDES, FormSections, list_style_choices
from studio.ui.outputs import in_order
from studio.ui.page_context import Lists
from studio.ui.presentation import format_model_note
from studio.ui.settings_panel import Alterations
from studio.ui.steering_controls import SteeringControls
from studio.ui.styles import NO_STYLE, STYLES, apply_style

if TYPE_CHECKING:
    from pipelines.models.entry import CatalogEntry

__all__ = ["FIXED", "RANDOM", "TABLES", "RequestForm"]

SEEDS_DRAWN = 2**32
"""Below this are the seeds that are drawn at random."""

SEEDS = ("seed", "variation_seed")
PLAIN = {"prompt", "negative_prompt", "num_inference_steps", "batch_size", "variation_strength", "seed_mode"}


class RequestForm(FormSections):
    """Holds the components of a request, reads their values and fills them; arguments as of `FormSections`."""

    def wire(self) -> None:
        """Connect what belongs together, once all sections stand."""
        model, mode, seed = self.model_field, self.fields["seed_mode"], self.fields["seed"]
        # Gradio sends "input" when a list is left, too, even if nothing was chosen: nobody's settings give way to that.
        model.focus(None, inputs=model, js=f"(key) => stepwise.enterList({model.elem_id!r}, key)", **PLUMBING)
        model.input(
            lambda data: self.updates({"model": data[model]}) if data[model] else gr.skip(),
            inputs={model},
            outputs=in_order(self.outputs),
            js=f"(key) => stepwise.chooseAnother({model.elem_id!r}, key)",
            **PLUMBING,
        )
        if "ensemble" in self.methods:
            self._wire_sizes()
        # In the browser: on the way to the server and back a quick run would draw another seed. The page's script
        # chooses "fixed" when somebody types or pastes a seed (assets/js/forms.js).
        rolled = f"() => {{ {self.hold_seed} return [String(Math.floor(Math.random() * {SEEDS_DRAWN})), {FIXED!r}]; }}"
        self.roll.click(None, outputs=[seed, mode], js=rolled, **PLUMBING)

    def _wire_sizes(self) -> None:
        """Have the sizes step by what all chosen models draw, once others stand beside the first."""
        ensemble, sides = self.methods["ensemble"], [self.fields[side] for side in SIDES]

        def fit(data: Data) -> Data:
            entry = self._find_entry(data[self.model_field]) or self.first
            companions = self._find_companions(ensemble.choice(data))
            step = self._sides_allowed(entry, 0, companions)[-1]
            near = {side: max(step, round(data[side] / step) * step) for side in sides}
            return {side: self._build_size_update(entry, near[side], companions) for side in sides}

        changes = [ensemble.method.input, ensemble.panel.component.select]  # pressed by a person
        inputs = {self.model_field, ensemble.method, *ensemble.fields, *sides}
        gr.on(changes, fit, inputs=inputs, outputs=sides, **PLUMBING)

    def _find_companions(self, choice: object) -> list[CatalogEntry]:
        """The models that a choice of several puts beside the first."""
        settings = Choice.parse(choice).settings if choice else {}
        found = [self._find_entry(settings.get(name)) for name in ("second", "third")]
        return [entry for entry in found if entry]

    @property
    def hold_seed(self) -> str:
        """Return the statement of a script that sets the seed for a person: no answer on its way sets it after that."""
        return f"stepwise.hold({self.fields['seed'].elem_id!r}, {self.fields['seed_mode'].elem_id!r});"

    # From components to values and back.

    @property
    def inputs(self) -> set[Component]:
        """Return everything that holds a value."""
        methods = {component for one in self.methods.values() for component in (one.method, *one.fields)}
        steered = {component for one in self.steered.values() for component in one.inputs}
        return {*self.fields.values(), *methods, *self.lora.components, *steered}

    @property
    def outputs(self) -> set[Block]:
        """Return everything that `updates` may change."""
        hint = {self.prompt_hint} if self.prompt_hint else set()
        controls: list[MethodControls | SteeringControls] = [*self.methods.values(), *self.steered.values()]
        return {*self.inputs, *hint, *(component for one in controls for component in one.outputs)}

    @property
    def lists(self) -> Lists:
        """Return what the form offers of the models folder."""
        model, loras = self.fields["model"], self.lora
        hint = {self.prompt_hint} if self.prompt_hint else set()

        def updates(data: Data) -> Data:
            entry = self._find_entry(data[model]) or self.first
            hint_updates: Data = {}
            if self.prompt_hint:
                hint_updates[self.prompt_hint] = gr.update(value=self._build_hint(entry.key))
            lora_updates = loras.offer(self.studio.loras(entry.key), data)
            vae: Data = dict.fromkeys(self._vae, gr.update(choices=self.list_vae_choices(entry.key)))
            models: Data = {model: gr.update(choices=self.list_model_choices())}
            steered: Data = {}
            for name, one in self.steered.items():
                steered |= one.offer(self.list_steering_choices(name, entry.key))
            files: Data = {}
            for name, offered in self._list_offers(entry.key).items():
                files |= self.methods[name].panel.alter(offered)
            if "second_pass" in self.methods:
                files |= self.methods["second_pass"].panel.alter(self.list_upscaler_files())
            return {**models, **lora_updates, **hint_updates, **vae, **steered, **files}

        steered = {one.model for one in self.steered.values()}
        offering = self.methods.keys() & {"ensemble", "sliders", "second_pass"}
        files = {part for name in offering for part in self.methods[name].panel.outputs}
        outputs: set[Block] = {model, *loras.components, *hint, *self._vae, *steered, *files}
        entered = {
            part for name in offering for part in (self.methods[name].method, self.methods[name].panel.component)
        }
        return Lists({model, *loras.components}, outputs, updates, frozenset(entered))

    @property
    def _vae(self) -> set[Component]:
        """The list of VAEs, where the form has one."""
        return {self.fields["vae"]} if "vae" in self.fields else set()

    def draft(self, data: Mapping[Block, Any]) -> dict[str, Any]:
        """Return what stands on the page, as plain values by name: for the browser's memory and for `updates`.

        Raises:
            SettingsError: a seed that is no whole number.
        """
        values = {name: data[component] for name, component in self.fields.items()}
        values |= {name: _parse_seed(values[name]) for name in SEEDS}
        if "vae" in values:
            values["vae"] = {"key": "file", "name": values["vae"]} if values["vae"] else {"key": "own"}
        methods = {name: one.choice(data) for name, one in self.methods.items()}
        steered = {name: one.choice(data) for name, one in self.steered.items()}
        return {**values, **methods, **steered, "loras": self.lora.choice(data)}

    @staticmethod
    def request(draft: Mapping[str, Any]) -> dict[str, Any]:
        """Return a draft as the values of a Request: the style put around the prompt, a random seed drawn."""
        values = {name: value for name, value in draft.items() if name not in ("style", "seed_mode")}
        values = {name: value for name, value in values.items() if name not in TABLES or value is not None}
        if draft["seed_mode"] == RANDOM:
            values["seed"] = _draw_seed()
        values["prompt"], values["negative_prompt"] = apply_style(
            draft["style"], draft["prompt"], draft["negative_prompt"]
        )
        return values

    def updates(self, values: Mapping[str, Any], current: str = "") -> Data:
        """Map each component to the update that shows these values (a draft, or fields of a Request); the others stay.

        Args:
            values: untrusted names and plain values; a model brings its own settings first.
            current: key of the model that is chosen, for values that name none.

        Raises:
            SettingsError: an unknown method.
        """
        new_entry = self._find_entry(values.get("model"))
        entry = new_entry or self._find_entry(current) or self.first
        updates = self._build_model_updates(entry) if new_entry else {}
        traits, fields = self.studio.traits(entry.key), self.fields
        for name in self.methods.keys() & values.keys():
            updates |= self.methods[name].updates(values[name], traits)
        if new_entry:
            for name, offered in self._list_offers(entry.key).items():  # one that does not fit is not chosen
                updates |= self.methods[name].panel.alter(offered, updates)
        updates |= {fields[name]: gr.update(value=values[name]) for name in PLAIN & values.keys()}
        updates |= {fields[name]: gr.update(value=str(values[name])) for name in SEEDS if name in values}
        beside = self._find_companions(values.get("ensemble"))
        sizes = {name: values[name] for name in SIDES if values.get(name)}
        updates |= {fields[name]: self._build_size_update(entry, side, beside) for name, side in sizes.items()}
        if values.get("prompt_weighting") in WEIGHTINGS:
            updates[fields["prompt_weighting"]] = gr.update(value=values["prompt_weighting"])
        if values.get("style") in STYLES:
            updates[fields["style"]] = gr.update(value=values["style"])
        if "loras" in values:
            updates |= self.lora.updates(self.studio.loras(entry.key), values["loras"])
        for name in self.steered.keys() & values.keys():
            updates |= self.steered[name].updates(self.list_steering_choices(name, entry.key), values[name])
        if "vae" in fields and "vae" in values:
            updates[fields["vae"]] = self._build_vae_update(entry.key, values["vae"])
        return updates

    def _list_offers(self, model: str) -> dict[str, Alterations]:
        """The files that fit a model, for settings of methods, by the name of the choice."""
        offers = {"ensemble": self.list_companion_files, "sliders": self.list_direction_files}
        return {name: offer(model) for name, offer in offers.items() if name in self.methods}

    def _build_vae_update(self, model: str, choice: object = "own") -> Any:
        """Offer the VAEs that fit a model; one that does not is not chosen."""
        offered = self.list_vae_choices(model)
        name = Choice.parse(choice).settings.get("name", "")
        return gr.update(choices=offered, value=name if name in [key for _, key in offered] else "")

    def _build_model_updates(self, entry: CatalogEntry) -> Data:
        traits = self.studio.traits(entry.key)
        model_update = gr.update(choices=self.list_model_choices(), value=entry.key, info=format_model_note(entry))
        updates: Data = {self.fields["model"]: model_update}
        for name, controls in self.methods.items():
            updates |= controls.updates(entry.defaults.get(name), traits)
        updates |= {
            self.fields[side]: self._build_size_update(entry, self._get_default_side(entry, side)) for side in SIDES
        }
        if self.prompt_hint:
            updates[self.prompt_hint] = gr.update(value=self._build_hint(entry.key))
        updates[self.fields["num_inference_steps"]] = gr.update(value=self._get_default_steps(entry))
        if "vae" in self.fields:
            updates[self.fields["vae"]] = self._build_vae_update(entry.key)
        for name, steered in self.steered.items():
            updates |= steered.updates(self.list_steering_choices(name, entry.key))
        updates[self.fields["style"]] = gr.update(choices=list_style_choices(entry.key), value=NO_STYLE)
        return updates | self.lora.updates(self.studio.loras(entry.key))


def _draw_seed() -> int:
    return secrets.randbelow(SEEDS_DRAWN)


def _parse_seed(text: str | int | None) -> int:
    try:
        return int(str(text).strip())
    except ValueError:
        raise SettingsError(f"The seed is {str(text)[:80]!r}. It must be a whole number.") from None
