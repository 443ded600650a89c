"""The tab "Edit": a picture, what it shows and what it should show, and the way between the two."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import gradio as gr

from pipelines.core.errors import SettingsError, StepwiseError
from studio.jobs.job import Job
from studio.media.pictures import open_picture
from studio.page.edit.every_way import EveryWayPanel
from studio.page.edit.examples import EXAMPLES
from studio.page.edit.form import EditForm
from studio.page.edit.several import SeveralPictures
from studio.page.edit.source_prompt import suggest_source_prompt
from studio.page.edit.viewer import EditRenderer, build_edit_viewer
from studio.page.edit.word_maps import WordMapsPanel
from studio.ui import markup
from studio.ui.component_data import Data
from studio.ui.controls import PLUMBING
from studio.ui.deep_links import TabSettings, copy_link
from studio.ui.form import FIXED, RequestForm
from studio.ui.live_routes import LiveTab
from studio.ui.outputs import in_order
from studio.ui.page_context import PageContext, Receiver
from studio.ui.running_tab import Form, ReadyForms, RunningTab

if TYPE_CHECKING:
    from studio.backend import Studio

__all__ = ["KEY", "EditTab", "build"]

KEY = "edit"
_OWN_SOURCE = (
    "The source and the mask of an edit are not saved with it: the source is now the edited picture. Check what it "
    "shows."
)


class EditTab(RunningTab):
    """Holds the tab's components and connects their events.

    Args:
        studio: the backend.
        context: the page around the tab.
    """

    key, root = KEY, "edit"

    def __init__(self, studio: Studio, context: PageContext):
        self.studio, self.context = studio, context
        self.session = context.sessions[KEY]
        self.form = RequestForm(studio, "edit", own_loop=True)
        self.edit_form = EditForm(studio, self.form)
        with gr.Column(elem_classes="sw-studio sw-edit sw-live", elem_id="edit"):
            with gr.Column(elem_classes="sw-compose", min_width=0):
                self.edit_form.lay_out_source()
                self.run = gr.Button("Edit", variant="primary", elem_id="edit-run", elem_classes="sw-run")
                self.stop = gr.Button("Stop", variant="stop", elem_id="edit-stop", elem_classes="sw-stop")
                self.every_way = gr.Button("Compare methods", size="sm", min_width=0, elem_id="edit-every-way")
            with gr.Column(elem_classes="sw-edited", min_width=0):
                self.notice = gr.HTML(elem_id="edit-notice", elem_classes="sw-notices")
                self.edit_form.lay_out_mask()
                build_edit_viewer(KEY, self.root, EXAMPLES[0])
                self.word_maps = WordMapsPanel(studio, context, self.root)
                self.ways = EveryWayPanel(studio, context, self.edit_form)
            with gr.Column(elem_classes="sw-settings", min_width=0):
                self.edit_form.lay_out_settings()
                self.several = SeveralPictures()
                link = TabSettings(
                    lambda: self.edit_form.linked_inputs, self.edit_form.read_linked, lambda: self.context.receive[KEY]
                )
                copy_link(self.form, self.context, KEY, "edit", link)
        self.form.wire()
        self._wire()

    # Events.

    def _wire(self) -> None:
        edit_form, outputs = self.edit_form, self.edit_form.outputs
        form = Form(
            edit_form.inputs,
            self._read,
            outputs,
            lambda draft: edit_form.refill(draft, self._find_job(draft)),
            draft=edit_form.draft,
            typed=edit_form.typed,
        )
        ready = ReadyForms()
        self.context.lists[KEY] = self.form.lists
        self._wire_run(form, LiveTab(KEY, ready.take, self._build_renderer), ready)
        self.form.reuse.click(self._reuse_seed, inputs={self.session}, outputs=in_order(self.form.outputs), **PLUMBING)
        edit_form.picture.input(
            self._show_board,
            inputs={edit_form.picture, self.form.fields["model"]},
            outputs=in_order([edit_form.mask, edit_form.source_prompt, self.notice]),
            **PLUMBING,
        )
        self._wire_methods()
        self.word_maps.wire()
        self.ways.wire(self.every_way)
        self.several.wire(edit_form, self.notice, self.root)
        edit_form.pointing.wire(edit_form, self.notice)
        crop = {"fn": edit_form.show_crop, "inputs": edit_form.crop_inputs, "outputs": {edit_form.crop}}
        changes = [one.change for one in edit_form.crop_inputs - {edit_form.picture}]
        gr.on(changes, trigger_mode="always_last", **crop, **PLUMBING)
        for button, example in edit_form.examples.items():
            button.click(
                lambda example=example: edit_form.apply_example(example), outputs=in_order(outputs), **PLUMBING
            )
        self.context.receive[KEY] = Receiver(
            {*outputs, self.notice},
            self._receive,
            KEY,
            edit_form.settings,
            model=self.form.first.key,
            models=lambda: self.form.models,
        )

    def _wire_methods(self) -> None:
        edit_form, model = self.edit_form, self.form.model_field
        edit, inversion = edit_form.edit, edit_form.inversion
        panels = {edit_form.inversion_panel, edit_form.mask_section, edit_form.reference_panel}
        goal = {edit_form.goal, edit_form.reason}
        edit.method.input(
            lambda data: {**edit_form.switch_panels(data[edit.method]), **edit_form.no_goal},
            inputs={edit.method},
            outputs=in_order([*panels, *goal]),
            **PLUMBING,
        )
        # Gradio sends "input" when a list is left, too: what was changed since stays where nothing else was chosen.
        chosen = edit_form.goal
        chosen.focus(None, inputs=chosen, js=f"(key) => stepwise.enterList({chosen.elem_id!r}, key)", **PLUMBING)
        chosen.input(
            lambda key, entry: edit_form.suggest_methods(key, entry) if key is not None else gr.skip(),
            inputs=[chosen, model],
            outputs=in_order([*panels, *goal, *edit.outputs, *inversion.outputs]),
            js=f"(key, model) => [stepwise.chooseAnother({chosen.elem_id!r}, key), model]",
            **PLUMBING,
        )
        model.input(
            lambda data: edit_form.update_methods(data[model], edit.choice(data), inversion.choice(data)),
            inputs={model, *edit_form.method_inputs},
            outputs=in_order([*edit.outputs, *inversion.outputs]),
            **PLUMBING,
        )

    # Handlers: each takes the data of its inputs and gives updates by component.

    def _receive(self, values: Mapping[str, Any]) -> Data:
        """Settings from a link or a result, and the result itself as the source, under the brush."""
        if "animate" in values:
            raise SettingsError("This is a clip, and Edit changes pictures. Choose a picture.")
        edit_form = self.edit_form
        updates = self.form.updates({"seed_mode": FIXED, **values, "batch_size": 1})
        updates |= edit_form.update_settings(values.get(KEY, {}), values.get("model") or "")
        if path := values.get("picture"):
            updates |= {
                edit_form.picture: str(path),
                edit_form.mask: "",
                self.notice: markup.notice(_OWN_SOURCE, "news") if KEY in values else "",
            }
            updates.setdefault(edit_form.source_prompt, values.get("prompt", ""))
        return updates

    def _show_board(self, data: Data) -> Data:
        """Show a new source under the brush, and what the classifier reads of it, where it is sure."""
        form = self.edit_form
        mask, source = form.mask, data[form.picture]
        try:
            picture = open_picture(source) if source else None
        except StepwiseError as error:
            return {mask: "", self.notice: markup.notice(str(error))}
        prompt = suggest_source_prompt(picture, data[self.form.fields["model"]]) if picture else ""
        suggested: Data = {form.source_prompt: prompt} if prompt else {}
        return {mask: "", self.notice: "", **suggested}

    def _read(self, data: Data) -> tuple[dict[str, Any], dict[str, Any]]:
        return self.edit_form.read(data)

    def _build_renderer(self, job: Job) -> EditRenderer:
        return EditRenderer(self.studio.store, self.root, job)

    def _reuse_seed(self, data: Data) -> Any:
        job = self._find_job(data[self.session])
        return self.form.updates({"seed": job.request.base.seed, "seed_mode": FIXED}) if job else gr.skip()


def build(studio: Studio, context: PageContext) -> None:
    """Build the tab, in the present layout context."""
    EditTab(studio, context)
