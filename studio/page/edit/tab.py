"""The tab "Edit": a picture, what it shows and what it should show, and the way between the two."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import gradio as gr
from PIL import Image

from pipelines.core.errors import SettingsError, StepwiseError
from pipelines.edits import EDITS
from pipelines.inversions import INVERSIONS
from pipelines.workflows.edit.request import FITS
from studio.jobs.job import Job
from studio.media.pictures import open_picture
from studio.page.edit.examples import EXAMPLES, EditExample
from studio.page.edit.mask_editor import board_of, mask_editor, mask_on
from studio.page.edit.viewer import EditRenderer, build_edit_viewer
from studio.ui import markup
from studio.ui.controls import PLUMBING, method_controls
from studio.ui.deep_links import Own, copy_link
from studio.ui.form import FIXED, RequestForm
from studio.ui.live_routes import LiveTab
from studio.ui.page_context import PageContext, Receiver
from studio.ui.running_tab import Form, ReadyForms, RunningTab
from studio.ui.tab_settings import Chosen, OneOf, Text

if TYPE_CHECKING:
    from studio.backend import Studio

__all__ = ["KEY", "EditTab", "build"]

KEY = "edit"
_FIT_LABELS = {"crop": "Crop", "resize": "Stretch"}
_OWN_SOURCE = (
    "The source and the mask of an edit are not saved with it: the source is now the edited picture. Check what it "
    "shows."
)


class EditTab(RunningTab):
    """The tab's components and what happens between them.

    Args:
        studio: the backend.
        context: the page around the tab.
    """

    key, root = KEY, "edit"

    def __init__(self, studio: Studio, context: PageContext):
        self.studio, self.context = studio, context
        self.session = context.sessions[KEY]
        self.form = RequestForm(studio, "edit", own_loop=True)
        self.traits = studio.traits(self.form.first.key)
        with gr.Column(elem_classes="sw-studio sw-edit sw-live", elem_id="edit"):
            with gr.Column(elem_classes="sw-compose", min_width=0):
                self._compose()
            with gr.Column(elem_classes="sw-edited", min_width=0):
                self.notice = gr.HTML(elem_id="edit-notice", elem_classes="sw-notices")
                build_edit_viewer(KEY, self.root)
            with gr.Column(elem_classes="sw-settings", min_width=0):
                self._settings()
        self._wire()

    # Layout.

    def _compose(self) -> None:
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
            self.examples = {gr.Button(example.label, size="sm", min_width=0): example for example in EXAMPLES}
        limit = self.studio.limits.max_prompt
        self.source_prompt = gr.Textbox(
            EXAMPLES[0].record["source_caption"],
            label="What the source shows",
            max_length=limit,
            lines=1,
            max_lines=4,
            elem_id="edit-source-prompt",
        )
        prompt = self.form.prompt(EXAMPLES[0].form["prompt"])
        prompt.label, prompt.lines = "What the edit should show", 1
        self.run = gr.Button("Edit", variant="primary", elem_id="edit-run", elem_classes="sw-run")
        self.stop = gr.Button("Stop", variant="stop", elem_id="edit-stop", elem_classes="sw-stop")

    def _settings(self) -> None:
        form = self.form
        self.edit = method_controls(EDITS, "edit", label="Edit method", choice=EXAMPLES[0].edit, traits=self.traits)
        self.mask_section = gr.Accordion("Mask: draw what may change", open=False, elem_classes="sw-mask-section")
        with self.mask_section:
            self.mask = mask_editor("edit-mask")
        with gr.Column(elem_classes="sw-panel", min_width=0) as self.inversion_panel:
            self.inversion = method_controls(INVERSIONS, "edit", traits=self.traits)
        form.model()
        form.steps()
        form.seed()
        form.fields["seed_mode"].value = FIXED
        with gr.Accordion("Guidance", open=False):
            form.method("guidance")
        with gr.Accordion("Negative prompt", open=False):
            form.words()
            form.fields["style"].visible = False
        with gr.Accordion("Size", open=False):
            fits = [(_FIT_LABELS[fit], fit) for fit in FITS]
            self.fit = gr.Radio(fits, value=FITS[0], label="Resize mode", elem_id="edit-fit")
            form.size()
            form.fields["batch_size"].visible = False
        with gr.Accordion("Sampler and schedule", open=False):
            gr.HTML("<p class='sw-hint'>Used by edits without inversion; an inversion has a sampler of its own.</p>")
            form.method("sampler")
            form.method("schedule")
        with gr.Accordion("LoRA", open=False):
            form.loras()
        with gr.Column(visible=False):
            form.variation()
        own = Own(lambda: self._linked_inputs, self._linked, lambda: self.context.receive[KEY])
        copy_link(form, self.context, KEY, "edit", own)
        form.wire()

    # Events.

    @property
    def _own(self) -> set[Any]:
        """Everything but the form that the tab fills."""
        own = {self.source_prompt, self.fit, self.picture, self.mask, self.inversion_panel, self.mask_section}
        return {*self.edit.outputs, *self.inversion.outputs, *own}

    @property
    def _linked_inputs(self) -> set[Any]:
        """What a link carries besides the form: all but the pictures."""
        methods = {*self.edit.fields, self.edit.method, *self.inversion.fields, self.inversion.method}
        return {*methods, self.source_prompt, self.fit}

    def _wire(self) -> None:
        methods = {*self.edit.fields, self.edit.method, *self.inversion.fields, self.inversion.method}
        inputs = {*self.form.inputs, *self._linked_inputs, self.picture, self.mask}
        filled = {*self._own, *self.form.outputs}
        form = Form(inputs, self._read, filled, self._refilled, lambda: {self.mask: board_of(EXAMPLES[0].picture)})
        ready = ReadyForms()
        ended = self._wire_run(form, LiveTab(KEY, ready.take, self._renderer), ready)
        ended.then(self._show_seed, inputs={self.session}, outputs={self.form.fields["seed"]}, **PLUMBING)
        self.form.reuse.click(self._reuse_seed, inputs={self.session}, outputs=self.form.outputs, **PLUMBING)
        self.picture.input(self._board, inputs={self.picture}, outputs={self.mask, self.notice}, **PLUMBING)
        self.edit.method.input(
            lambda data: self._panels(data[self.edit.method]),
            inputs={self.edit.method},
            outputs={self.inversion_panel, self.mask_section},
            **PLUMBING,
        )
        model = self.form.fields["model"]
        model.input(
            lambda data: self._offered(data[model], self.edit.choice(data), self.inversion.choice(data)),
            inputs={model, *methods},
            outputs={*self.edit.outputs, *self.inversion.outputs},
            **PLUMBING,
        )
        for button, example in self.examples.items():
            button.click(lambda example=example: self._example(example), outputs=filled, **PLUMBING)
        self.context.receive[KEY] = self._receiver(filled)

    def _receiver(self, filled: set[Any]) -> Receiver:
        def traits(model: str) -> Any:
            return self.studio.traits(model or self.form.first.key)

        settings = {
            "edit": Chosen(EDITS, traits),
            "inversion": Chosen(INVERSIONS, traits),
            "source_prompt": Text(self.studio.limits.max_prompt),
            "fit": OneOf("way to fit a picture", lambda: FITS),
        }
        return Receiver({*filled, self.notice}, self._received, KEY, settings)

    # Handlers: each takes the data of its inputs and gives updates by component.

    def _received(self, values: Mapping[str, Any]) -> dict[Any, Any]:
        """Settings from a link or a result, and the result itself as the source, under the brush."""
        if "animate" in values:
            raise SettingsError("This is a clip, and Edit changes pictures. Choose a picture.")
        own, traits = values.get(KEY, {}), self.studio.traits(values.get("model") or self.form.first.key)
        updates = self.form.updates({"seed_mode": FIXED, **values, "batch_size": 1})
        if "edit" in own:
            updates |= {**self.edit.updates(own["edit"], traits), **self._panels(own["edit"]["key"])}
        if "inversion" in own:
            updates |= self.inversion.updates(own["inversion"], traits)
        updates |= {getattr(self, name): own[name] for name in ("source_prompt", "fit") if name in own}
        if path := values.get("picture"):
            updates |= {
                self.picture: str(path),
                self.mask: board_of(open_picture(path)),
                self.notice: markup.notice(_OWN_SOURCE, "news") if KEY in values else "",
            }
            updates.setdefault(self.source_prompt, values.get("prompt", ""))
        return updates

    def _panels(self, edit: str) -> dict[Any, Any]:
        method = EDITS[edit].build()
        opened = gr.update(open=method.masked)
        return {self.inversion_panel: gr.update(visible=method.inverts), self.mask_section: opened}

    def _offered(self, model: str, edit: Any, inversion: Any) -> dict[Any, Any]:
        traits = self.studio.traits(model)
        return {**self.edit.updates(edit, traits), **self.inversion.updates(inversion, traits)}

    def _example(self, example: EditExample) -> dict[Any, Any]:
        picture = example.picture
        return {
            **self.form.updates(example.form),
            **self._offered("emoji", example.edit, example.inversion),
            **self._panels(example.edit["key"]),
            self.source_prompt: example.record["source_caption"],
            self.picture: picture,
            self.mask: board_of(picture, example.mask),
            self.fit: FITS[0],
        }

    def _board(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """Show a new source under the brush."""
        try:
            picture = open_picture(data[self.picture]) if data[self.picture] else None
        except StepwiseError as error:
            return {self.mask: None, self.notice: markup.notice(str(error))}
        return {self.mask: board_of(picture), self.notice: ""}

    def _linked(self, data: dict[Any, Any]) -> dict[str, Any]:
        return {
            "edit": self.edit.choice(data),
            "inversion": self.inversion.choice(data),
            "source_prompt": data[self.source_prompt],
            "fit": data[self.fit],
        }

    def _draft(self, data: dict[Any, Any]) -> dict[str, Any]:
        return {"form": self.form.draft(data), **self._linked(data)}

    def _values(self, draft: Mapping[str, Any], data: dict[Any, Any]) -> dict[str, Any]:
        """A draft as the task takes it, with picture and mask."""
        picture = open_picture(data[self.picture]) if data[self.picture] else None
        mask = mask_on(data[self.mask], picture.size) if picture else None
        return {
            **{name: value for name, value in draft.items() if name != "form"},
            "picture": picture,
            "mask": mask,
            "base": {**self.form.request(draft["form"]), "batch_size": 1},
        }

    def _read(self, data: dict[Any, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        draft = self._draft(data)
        return draft, self._values(draft, data)

    def _renderer(self, job: Job) -> EditRenderer:
        return EditRenderer(self.studio.store, self.root, job)

    def _show_seed(self, data: dict[Any, Any]) -> Any:
        """The seed that was drawn, once the run is over: so that nobody's typing is overwritten while it lasts."""
        job = self._job(data[self.session])
        return {self.form.fields["seed"]: str(job.request.base.seed)} if job else gr.skip()

    def _reuse_seed(self, data: dict[Any, Any]) -> Any:
        job = self._job(data[self.session])
        return self.form.updates({"seed": job.request.base.seed, "seed_mode": FIXED}) if job else gr.skip()

    def _refilled(self, draft: Any) -> dict[Any, Any]:
        """The tab as it was before a reload, with the pictures that the job still holds."""
        job = self._job(draft)
        if job is None:
            return {}
        picture = Image.fromarray(job.request.picture.pixels)
        mask = None if job.request.mask is None else job.request.mask.pixels
        filled = {self.picture: picture, self.mask: board_of(picture, mask)}
        try:
            form = self.form.updates({**draft["form"], "batch_size": 1})
            return {
                **form,
                **self._panels(draft["edit"]["key"]),
                **filled,
                **self._offered(draft["form"]["model"], draft["edit"], draft["inversion"]),
                self.source_prompt: draft["source_prompt"],
                self.fit: draft["fit"],
            }
        except (StepwiseError, TypeError, ValueError, KeyError):  # written by an older version, or by hand
            return filled


def build(studio: Studio, context: PageContext) -> None:
    """The tab, in the present layout context."""
    EditTab(studio, context)
