"""The form of the tab "Edit": source picture, prompts, method and mask beside the fields of a request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.components import Component
from PIL import Image

from pipelines.core.errors import StepwiseError
from pipelines.edits import EDITS
from pipelines.inversions import INVERSIONS
from pipelines.workflows.edit.request import FITS
from studio.jobs.job import Job
from studio.media.pictures import open_picture
from studio.page.edit.crop_preview import build_crop_preview
from studio.page.edit.examples import EXAMPLES, EditExample
from studio.page.edit.goals import GOALS
from studio.page.edit.mask_text import decode_mask, encode_mask
from studio.page.edit.pointing import Pointing
from studio.ui import markup
from studio.ui.component_data import Block, Data
from studio.ui.controls import build_method_controls
from studio.ui.example_chips import build_chip
from studio.ui.form import FIXED, RequestForm
from studio.ui.tab_settings import Chosen, OneOf, Setting, Text

if TYPE_CHECKING:
    from studio.backend import Studio

__all__ = ["EditForm"]

_WITHOUT_PICTURE = "Without one, the source picture."
_FIT_LABELS = {"crop": "Crop", "resize": "Stretch"}


class EditForm:
    """Lays out the components of an edit, reads their values and gives the updates that show others.

    Args:
        studio: models, methods that fit them, limits.
        base: the fields of the request under the edit.
    """

    def __init__(self, studio: Studio, base: RequestForm) -> None:
        self.studio, self.base = studio, base

    # Layout: each method is called once, in the layout context where its components stand.

    def lay_out_source(self) -> None:
        """Lay out the source picture, the examples and both prompts."""
        self.picture = gr.Image(
            EXAMPLES[0].picture,
            type="filepath",
            image_mode=None,
            format="png",
            sources=["upload", "clipboard"],
            label="Source picture",
            show_label=False,
            buttons=[],
            height=190,
            placeholder="Drop or choose a picture",
            elem_id="edit-source",
            elem_classes="sw-source",
        )
        with gr.Row(elem_classes="sw-examples", elem_id="edit-examples"):
            self.examples = {build_chip("edit", example): example for example in EXAMPLES}
        self.source_prompt = gr.Textbox(
            EXAMPLES[0].record["source_caption"],
            label="Source prompt",
            info="What the source picture shows.",
            max_length=self.studio.limits.max_prompt,
            lines=1,
            max_lines=4,
            elem_id="edit-source-prompt",
        )
        prompt = self.base.prompt(EXAMPLES[0].form["prompt"])
        prompt.info, prompt.placeholder, prompt.lines = "What the edited picture should show.", None, 1
        self.base.hint(syntax=False)

        with gr.Column(visible=False, min_width=0) as self.reference_panel:
            self.reference = gr.Image(
                type="filepath",
                image_mode=None,
                format="png",
                sources=["upload", "clipboard"],
                label="Reference picture: its style is taken over",
                buttons=[],
                height=170,
                placeholder="Drop or choose a picture that has the style",
                elem_id="edit-reference",
            )

    def lay_out_mask(self) -> None:
        """Lay out the board on which the mask is drawn, and what the model will see of the picture."""
        self.mask_section = gr.Accordion(
            "Mask: draw over what should change", open=False, elem_classes="sw-mask-section"
        )
        with self.mask_section:
            self.pointing = Pointing("edit")
            self.mask = self.pointing.mask
            self.crop = gr.HTML(elem_id="edit-crop")

    def lay_out_settings(self) -> None:
        """Lay out the methods, the mask and the request's fields."""
        base, traits = self.base, self.studio.traits(self.base.first.key)
        self.goal = gr.Dropdown(
            [("Choose a goal", ""), *((goal.label, goal.label) for goal in GOALS)],
            value="",
            label="What do you want to do?",
            info="Chooses the edit method that measured best at it. Or choose one yourself below.",
            elem_id="edit-goal",
        )
        self.reason = gr.HTML(elem_id="edit-goal-reason")
        self.edit = build_method_controls(EDITS, "edit", label="Edit method", choice=EXAMPLES[0].edit, traits=traits)
        with gr.Column(elem_classes="sw-panel", min_width=0) as self.inversion_panel:
            self.inversion = build_method_controls(INVERSIONS, "edit", traits=traits)
        base.model()
        base.steps()
        base.seed()
        base.fields["seed_mode"].value = FIXED
        with gr.Accordion("Guidance", open=False, elem_classes="sw-expert"):
            base.method("guidance")
        with gr.Accordion("Negative prompt", open=False):
            base.words()
            base.fields["style"].visible = False
        with gr.Accordion("Size", open=False):
            fits = [(_FIT_LABELS[fit], fit) for fit in FITS]
            self.fit = gr.Radio(fits, value=FITS[0], label="Resize mode", elem_id="edit-fit")
            base.size()
            base.fields["batch_size"].visible = False
        with gr.Accordion("Sampler and schedule", open=False, elem_classes="sw-expert"):
            gr.HTML("<p class='sw-hint'>Used by edits without inversion; an inversion has a sampler of its own.</p>")
            base.method("sampler")
            base.method("schedule")
        with gr.Accordion("Acceleration", open=False, elem_classes="sw-expert"):
            gr.HTML("<p class='sw-hint'>For edits without inversion; with one, no cache can be chosen.</p>")
            base.method("cache")
        with gr.Accordion("ControlNet, T2I-Adapter and IP-Adapter", open=False):
            base.steering("control", _WITHOUT_PICTURE)
            base.steering("t2i_adapter", _WITHOUT_PICTURE)
            base.steering("image_prompt", _WITHOUT_PICTURE)
        with gr.Accordion("LoRA and VAE", open=False):
            base.loras()
            base.vae()
        with gr.Column(visible=False):
            base.variation()

    # Its components.

    @property
    def method_inputs(self) -> set[Component]:
        """Return the components of the edit's and the inversion's choice."""
        return {*self.edit.fields, self.edit.method, *self.inversion.fields, self.inversion.method}

    @property
    def linked_inputs(self) -> set[Component]:
        """Return what a link carries besides the request: all but the pictures."""
        return {*self.method_inputs, self.source_prompt, self.fit}

    @property
    def inputs(self) -> set[Component]:
        """Return everything that holds a value."""
        return {*self.base.inputs, *self.linked_inputs, self.picture, self.mask, self.reference}

    @property
    def typed(self) -> set[Component]:
        """Return what the browser remembers: all but the pictures."""
        return self.inputs - {self.picture, self.mask, self.reference}

    @property
    def outputs(self) -> set[Block]:
        """Return everything that an update may change."""
        components = {self.source_prompt, self.fit, self.picture, self.mask, self.inversion_panel, self.mask_section}
        components |= {self.crop, self.goal, self.reason, self.reference, self.reference_panel}
        return {*self.base.outputs, *self.edit.outputs, *self.inversion.outputs, *components}

    @property
    def settings(self) -> dict[str, Setting]:
        """Name to what a link or a stored result may bring for the tab's own settings."""

        def traits(model: str) -> Any:
            return self.studio.traits(model or self.base.first.key)

        return {
            "edit": Chosen(EDITS, traits),
            "inversion": Chosen(INVERSIONS, traits),
            "source_prompt": Text(self.studio.limits.max_prompt),
            "fit": OneOf("way to fit a picture", lambda: FITS),
        }

    # From components to values.

    def read_linked(self, data: Data) -> dict[str, Any]:
        """Return the tab's own settings, as a link carries them."""
        return {
            "edit": self.edit.choice(data),
            "inversion": self.inversion.choice(data),
            "source_prompt": data[self.source_prompt],
            "fit": data[self.fit],
        }

    def draft(self, data: Data) -> dict[str, Any]:
        """Return what the browser remembers: all but the pictures."""
        return {"form": self.base.draft(data), **self.read_linked(data)}

    def read(self, data: Data, gives_reference: bool = False) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the draft, and the values as the task takes them, with picture and mask.

        Args:
            data: of the inputs.
            gives_reference: whether the reference goes along though the chosen edit takes none.

        Raises:
            StepwiseError: a field or a picture cannot be read.
        """
        draft = self.draft(data)
        picture = open_picture(data[self.picture]) if data[self.picture] else None
        mask = decode_mask(data[self.mask], picture.size) if picture else None
        takes = gives_reference or EDITS[data[self.edit.method]].build().takes_reference
        reference = open_picture(data[self.reference]) if takes and data[self.reference] else None
        base = {**self.base.request(draft["form"]), "batch_size": 1}
        pictures = {"picture": picture, "mask": mask, "reference": reference}
        return draft, {**self.read_linked(data), **pictures, "base": base}

    # From values to the updates that show them.

    def show_crop(self, data: Data) -> Data:
        """Show what the model will see of the picture; nothing where it sees all of it, or it cannot be read."""
        if data[self.edit.method] != "inpaint":
            return {self.crop: ""}
        sides = [data[self.base.fields[name]] for name in ("width", "height")]
        try:
            picture = open_picture(data[self.picture]) if data[self.picture] else None
            mask = decode_mask(data[self.mask], picture.size) if picture else None
            shown = build_crop_preview(picture, mask, self.edit.choice(data), (int(sides[0]), int(sides[1])))
        except StepwiseError:  # the run says what is wrong
            shown = ""
        return {self.crop: shown}

    @property
    def crop_inputs(self) -> set[Any]:
        """What the part that is drawn depends on."""
        sides = {self.base.fields[name] for name in ("width", "height")}
        return {self.picture, self.mask, self.edit.method, *self.edit.fields, *sides}

    def switch_panels(self, edit: str) -> Data:
        """Show the panels of inversion and reference where this edit has them, and open the mask where it takes one."""
        method = EDITS[edit].build()
        mask_update = gr.update(open=method.masked)
        return {
            self.inversion_panel: gr.update(visible=method.inverts),
            self.mask_section: mask_update,
            self.reference_panel: gr.update(visible=method.takes_reference),
        }

    def suggest_methods(self, goal: str | None, model: str) -> Data:
        """Show the methods that are best for what a person wants to do, and why; a goal that is taken back changes
        nothing."""
        chosen = next((one for one in GOALS if one.label == goal), None)
        if chosen is None:
            return self.no_goal
        suggestion = chosen.suggest(self.studio.traits(model))
        return {
            **self.update_methods(model, suggestion.edit, suggestion.inversion),
            **self.switch_panels(suggestion.edit["key"]),
            self.reason: f"<p class='sw-hint'>{markup.prose(suggestion.reason)}</p>",
        }

    @property
    def no_goal(self) -> Data:
        """Updates that show no goal: the methods were chosen otherwise."""
        return {self.goal: "", self.reason: ""}

    def update_methods(self, model: str, edit: Any, inversion: Any) -> Data:
        """Show these choices, with what of the tables fits the model."""
        traits = self.studio.traits(model)
        return {**self.edit.updates(edit, traits), **self.inversion.updates(inversion, traits)}

    def update_settings(self, tab_values: Mapping[str, Any], model: str) -> Data:
        """Show the tab's own settings of a link or a stored result; those that it lacks stay."""
        updates: Data = {}
        traits = self.studio.traits(model or self.base.first.key)
        if "edit" in tab_values:
            updates |= {
                **self.no_goal,
                **self.edit.updates(tab_values["edit"], traits),
                **self.switch_panels(tab_values["edit"]["key"]),
            }
        if "inversion" in tab_values:
            updates |= self.inversion.updates(tab_values["inversion"], traits)
        return updates | {
            getattr(self, name): tab_values[name] for name in ("source_prompt", "fit") if name in tab_values
        }

    def apply_example(self, example: EditExample) -> Data:
        """Show an example: its picture, its mask and its settings."""
        picture = example.picture
        return {
            **self.base.updates(example.form),
            **self.update_methods("emoji", example.edit, example.inversion),
            **self.switch_panels(example.edit["key"]),
            **self.no_goal,
            self.source_prompt: example.record["source_caption"],
            self.picture: picture,
            self.mask: encode_mask(example.mask),
            self.fit: FITS[0],
        }

    def refill(self, draft: Any, job: Job | None) -> Data:
        """Show the form as it was before a reload, with the pictures that its job still holds.

        Args:
            draft: of the browser's memory, untrusted; of one that cannot be read only the pictures are shown.
            job: the last run, if it is still known.
        """
        pictures: Data = {}
        if job is not None:
            picture = Image.fromarray(job.request.picture.pixels)
            mask = None if job.request.mask is None else job.request.mask.pixels
            pictures = {self.picture: picture, self.mask: encode_mask(mask)}
            if job.request.reference is not None:
                pictures[self.reference] = Image.fromarray(job.request.reference.pixels)
        try:
            return {
                **self.base.updates({**draft["form"], "batch_size": 1}),
                **self.switch_panels(draft["edit"]["key"]),
                **pictures,
                **self.update_methods(draft["form"]["model"], draft["edit"], draft["inversion"]),
                self.source_prompt: draft["source_prompt"],
                self.fit: draft["fit"],
            }
        except (StepwiseError, TypeError, ValueError, KeyError):  # written by an older version, or by hand
            return pictures
