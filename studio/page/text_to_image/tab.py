"""The tab "Text to image": a prompt beside the picture that emerges from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gradio as gr

from pipelines.core.errors import StepwiseError
from studio.jobs.job import Job
from studio.page.text_to_image.examples import EXAMPLES
from studio.ui import markup, presentation
from studio.ui.controls import PLUMBING
from studio.ui.deep_links import copy_link
from studio.ui.form import FIXED, RequestForm
from studio.ui.live_routes import LiveTab
from studio.ui.page_context import PageContext, Receiver
from studio.ui.restore import build_restore, settings_of
from studio.ui.running_tab import Form, RunningTab
from studio.ui.viewer import ViewerRenderer, build_viewer

if TYPE_CHECKING:
    from studio.backend import Studio

__all__ = ["KEY", "TextToImageTab", "build"]

KEY = "text_to_image"


class TextToImageTab(RunningTab):
    """The tab's components and what happens between them.

    Args:
        studio: the backend.
        context: the page around the tab.
    """

    key, root = KEY, "t2i"

    def __init__(self, studio: Studio, context: PageContext):
        self.studio, self.context = studio, context
        self.session = context.sessions[KEY]
        self.form = RequestForm(studio, "t2i")
        with gr.Column(elem_classes="sw-studio sw-live", elem_id="t2i"):
            with gr.Column(elem_classes="sw-compose", min_width=0):
                self._compose()
            with gr.Column(elem_classes="sw-stage", min_width=0):
                self.notice = gr.HTML(elem_id="t2i-notice", elem_classes="sw-notices")
                build_viewer(KEY, self.root)
                self.send = gr.Button(
                    "Compare these settings", size="sm", visible=False, elem_id="t2i-send", elem_classes="sw-send"
                )
            with gr.Column(elem_classes="sw-settings", min_width=0):
                self._settings()
        self._wire()

    # Layout.

    def _compose(self) -> None:
        self.form.prompt(EXAMPLES[0].values["prompt"])
        self.form.hint()
        self.run = gr.Button("Generate", variant="primary", elem_id="t2i-run", elem_classes="sw-run")
        self.stop = gr.Button("Stop", variant="stop", elem_id="t2i-stop", elem_classes="sw-stop")
        with gr.Row(elem_classes="sw-examples", elem_id="t2i-examples"):
            self.examples = {gr.Button(example.label, size="sm", min_width=0): example for example in EXAMPLES}

    def _settings(self) -> None:
        form = self.form
        form.model()
        form.steps()
        form.seed()
        with gr.Accordion("Style and negative prompt", open=False):
            form.words()
        with gr.Accordion("Size and number of pictures", open=False):
            form.size()
        with gr.Accordion("Guidance", open=False):
            form.method("guidance")
        with gr.Accordion("Sampler and schedule", open=False):
            form.method("sampler")
            form.method("schedule")
            form.method("start")
        with gr.Accordion("Variation", open=False):
            form.variation()
        with gr.Accordion("LoRA", open=False):
            form.loras()
        self.restore = build_restore("t2i")
        copy_link(form, self.context, KEY, "t2i")
        form.wire()

    # Events.

    def _wire(self) -> None:
        form = Form(self.form.inputs, self._read, self.form.outputs, self._refilled)
        live = LiveTab(
            KEY, form.read, self._renderer, lambda job, step, sharp: self._renderer(job).at_step(step, sharp)
        )
        ended = self._wire_run(form, live)
        ended.then(self._show_seed, inputs={self.session}, outputs={self.form.fields["seed"]}, **PLUMBING)
        self.form.reuse.click(self._reuse_seed, inputs={self.session}, outputs=self.form.outputs, **PLUMBING)
        self.restore.picture.upload(
            self._restore,
            inputs={self.restore.picture, self.form.fields["model"]},
            outputs={*self.form.outputs, self.notice, self.restore.picture},
            **PLUMBING,
        )
        for button, example in self.examples.items():
            button.click(lambda values=example.values: self.form.updates(values), outputs=self.form.outputs, **PLUMBING)
        self.context.receive[KEY] = Receiver(self.form.outputs, self.form.updates)
        self.context.later(self._wire_send)

    def _wire_send(self) -> None:
        receiver = self.context.receive.get("compare")
        if receiver is None:
            return
        self.send.visible = True

        def send(data: dict[Any, Any]) -> dict[Any, Any]:
            values = self.form.request(self.form.draft(data))
            return {**receiver.updates(values), self.context.tabs: gr.Tabs(selected="compare")}

        self.send.click(send, inputs=self.form.inputs, outputs={*receiver.outputs, self.context.tabs}, **PLUMBING)

    # Handlers: each takes the data of its inputs and gives updates by component.

    def _read(self, data: dict[Any, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        draft = self.form.draft(data)
        return draft, self.form.request(draft)

    def _renderer(self, job: Job) -> ViewerRenderer:
        return ViewerRenderer(self.studio, self.root, job)

    def _show_seed(self, data: dict[Any, Any]) -> Any:
        """The seed that was drawn, once the run is over: so that nobody's typing is overwritten while it lasts."""
        job = self._job(data[self.session])
        return {self.form.fields["seed"]: str(job.request.seed)} if job else gr.skip()

    def _reuse_seed(self, data: dict[Any, Any]) -> Any:
        job = self._job(data[self.session])
        return self.form.updates({"seed": job.request.seed, "seed_mode": FIXED}) if job else gr.skip()

    def _restore(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """Take over the settings of a dropped picture."""
        cleared, model = {self.restore.picture: None}, data[self.form.fields["model"]]
        try:
            restored = settings_of(self.studio, data[self.restore.picture], model)
        except StepwiseError as error:
            return {self.notice: markup.notice(str(error)), **cleared}
        if restored is None:
            told = "This picture has no settings that can be read here."
            return {self.notice: markup.notice(told, "news"), **cleared}
        mode = {"seed_mode": FIXED} if "seed" in restored.values else {}
        told = f"Settings loaded from the picture, written by {presentation.program(restored.source)}."
        notice = markup.notice(told, "news", restored.notes)
        return {**self.form.updates({**restored.values, **mode}, model), self.notice: notice, **cleared}

    def _refilled(self, draft: Any) -> dict[Any, Any]:
        try:
            return self.form.updates(draft) if isinstance(draft, dict) else {}
        except (StepwiseError, TypeError, ValueError):  # written by an older version, or by hand
            return {}


def build(studio: Studio, context: PageContext) -> None:
    """The tab, in the present layout context."""
    TextToImageTab(studio, context)
