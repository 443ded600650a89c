"""The tab "Text to image": a prompt beside the picture that emerges from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.blocks import Block

from pipelines.core.errors import StepwiseError
from studio.jobs.job import Job
from studio.page.text_to_image.examples import EXAMPLES
from studio.page.text_to_image.inspect import InspectPanel
from studio.page.text_to_image.upscale import UpscalePanel
from studio.ui import markup, presentation
from studio.ui.component_data import Data
from studio.ui.controls import PLUMBING
from studio.ui.deep_links import copy_link
from studio.ui.example_chips import build_chip, finished_example
from studio.ui.form import FIXED, RequestForm
from studio.ui.live_routes import LiveTab
from studio.ui.outputs import in_order
from studio.ui.page_context import PageContext, Receiver
from studio.ui.restore import build_restore, read_settings
from studio.ui.result_actions import ResultActions
from studio.ui.running_tab import Form, RunningTab
from studio.ui.viewer import ViewerRenderer, build_viewer

if TYPE_CHECKING:
    from studio.backend import Studio

__all__ = ["KEY", "TextToImageTab", "build"]

KEY = "text_to_image"


_TITLE = "Every denoising step, as it happens"
_TEXT = "Write a prompt and generate: the preview appears after the first step and sharpens with each one."


class TextToImageTab(RunningTab):
    """Holds the tab's components and connects their events.

    Args:
        studio: the backend.
        context: the page around the tab.
    """

    key, root = KEY, "t2i"

    def __init__(self, studio: Studio, context: PageContext):
        self.studio, self.context = studio, context
        self.session = context.sessions[KEY]
        self.form = RequestForm(studio, "t2i", first=EXAMPLES[0].values["model"])
        with gr.Column(elem_classes="sw-studio sw-live", elem_id="t2i"):
            with gr.Column(elem_classes="sw-compose", min_width=0):
                self._compose()
            with gr.Column(elem_classes="sw-viewer-column", min_width=0):
                self.notice = gr.HTML(elem_id="t2i-notice", elem_classes="sw-notices")
                alt = f"{EXAMPLES[0].values['prompt']}, as the shipped model draws it"
                build_viewer(KEY, self.root, finished_example("t2i", EXAMPLES[0], alt, _TITLE, _TEXT))
                self.acts = ResultActions(studio, context, self.root)
                self.upscale = UpscalePanel(studio, context, self.root)
                self.inspect = InspectPanel(studio, context, self.root)
            with gr.Column(elem_classes="sw-settings", min_width=0):
                self._build_settings()
        self._wire()

    # Layout.

    def _compose(self) -> None:
        self.form.prompt(EXAMPLES[0].values["prompt"])
        self.form.hint()
        self.run = gr.Button("Generate", variant="primary", elem_id="t2i-run", elem_classes="sw-run")
        self.stop = gr.Button("Stop", variant="stop", elem_id="t2i-stop", elem_classes="sw-stop")
        with gr.Row(elem_classes="sw-examples", elem_id="t2i-examples"):
            self.examples = {build_chip("t2i", example): example for example in EXAMPLES}

    def _build_settings(self) -> None:
        form = self.form
        form.model()
        form.steps()
        form.seed()
        gr.Checkbox(
            label="Until stopped",
            info="Each picture begins the next; with a random seed no two are alike.",
            elem_id="t2i-forever",
            elem_classes="sw-forever",
        )
        with gr.Accordion("Style and negative prompt", open=False):
            form.words()
        with gr.Accordion("Size and batch", open=False):
            form.size()
        with gr.Accordion("Story (several scenes)", open=False):
            form.method("story")
        with gr.Accordion("Second pass (hires fix)", open=False):
            gr.HTML(
                "<p class='sw-hint'>For models that draw at several sizes, such as Stable Diffusion. The Emoji models "
                "learned one size, and lose their shapes at another: use Upscale under the picture.</p>"
            )
            form.second_pass()
        with gr.Accordion("Guidance", open=False, elem_classes="sw-expert"):
            form.method("guidance")
        with gr.Accordion("Sampler and schedule", open=False, elem_classes="sw-expert"):
            form.method("sampler")
            form.method("schedule")
            form.method("start")
            form.method("made_like")
        with gr.Accordion("Acceleration", open=False, elem_classes="sw-expert"):
            form.method("cache")
        with gr.Accordion("Search", open=False, elem_classes="sw-expert"):
            form.method("search")
            form.method("reward")
        with gr.Accordion("Variation", open=False, elem_classes="sw-expert"):
            form.variation()
        with gr.Accordion("Several models", open=False, elem_classes="sw-expert"):
            form.ensemble()
        with gr.Accordion("Sliders", open=False, elem_classes="sw-expert"):
            form.sliders()
        with gr.Accordion("ControlNet and T2I-Adapter", open=False):
            form.steering("control")
            form.steering("t2i_adapter")
        with gr.Accordion("Picture as prompt (IP-Adapter)", open=False):
            form.steering("image_prompt")
        with gr.Accordion("LoRA and VAE", open=False):
            form.loras()
            form.vae()
        self.restore = build_restore("t2i")
        self.send = gr.Button(
            "Compare these settings", size="sm", visible=False, elem_id="t2i-send", elem_classes="sw-send sw-expert"
        )
        copy_link(form, self.context, KEY, "t2i")
        form.wire()

    # Events.

    def _wire(self) -> None:
        form = Form(self.form.inputs, self._read, self.form.outputs, self._refill, draft=self.form.draft)
        self.context.lists[KEY] = self.form.lists
        live = LiveTab(
            KEY,
            form.read,
            self._build_renderer,
            lambda job, step, sharp: self._build_renderer(job).at_step(step, sharp),
        )
        self._wire_run(form, live)
        seed, mode = (self.form.fields[name] for name in ("seed", "seed_mode"))
        last = f"[String(stepwise.shownSeed({self.root!r}) ?? session?.seed ?? seed), {FIXED!r}]"
        shown = f"(session, seed) => {{ {self.form.hold_seed} return {last}; }}"
        self.form.reuse.click(None, inputs=[self.session, seed], outputs=[seed, mode], js=shown, **PLUMBING)
        self.restore.picture.upload(
            self._restore,
            inputs={self.restore.picture, self.form.fields["model"]},
            outputs=in_order([*self.form.outputs, self.notice, self.restore.picture]),
            **PLUMBING,
        )
        for button, example in self.examples.items():
            button.click(
                lambda example=example: self.form.updates(example.list_values(self.studio.given.add_file)),
                outputs=in_order(self.form.outputs),
                **PLUMBING,
            )
        self.context.receive[KEY] = Receiver(
            self.form.outputs, self.form.updates, model=self.form.first.key, models=lambda: self.form.models
        )
        self.upscale.wire()
        self.inspect.wire()
        self.context.run_later(self._wire_send)
        self.context.run_later(lambda: self.acts.wire(self.session, self._find_job, self.notice, self.upscale.fold))

    def _wire_send(self) -> None:
        receiver = self.context.receive.get("compare")
        if receiver is None:
            return
        self.send.visible = True

        def send(data: Data) -> Data:
            values = self.form.request(self.form.draft(data))
            return {**receiver.updates(values), self.context.tabs: gr.Tabs(selected="compare")}

        self.send.click(
            send,
            inputs=set[Block](self.form.inputs),
            outputs=in_order([*receiver.outputs, self.context.tabs]),
            **PLUMBING,
        )

    # Handlers: each takes the data of its inputs and gives updates by component.

    def _read(self, data: Data) -> tuple[dict[str, Any], dict[str, Any]]:
        draft = self.form.draft(data)
        return draft, self.form.request(draft)

    def _build_renderer(self, job: Job) -> ViewerRenderer:
        return ViewerRenderer(self.studio, self.root, job)

    def _restore(self, data: Data) -> Data:
        """Take over the settings of a dropped picture."""
        cleared: Data = {self.restore.picture: None}
        model = data[self.form.fields["model"]]
        try:
            restored = read_settings(self.studio, data[self.restore.picture], model)
        except StepwiseError as error:
            return {self.notice: markup.notice(str(error)), **cleared}
        if restored is None:
            text = "This picture has no settings that can be read here."
            return {self.notice: markup.notice(text, "news"), **cleared}
        mode = {"seed_mode": FIXED} if "seed" in restored.values else {}
        text = f"Settings loaded from the picture, written by {presentation.get_program_name(restored.source)}."
        notes = [restored.equality, *restored.notes] if restored.equality else restored.notes
        notice = markup.notice(text, "news", notes)
        return {**self.form.updates({**restored.values, **mode}, model), self.notice: notice, **cleared}

    def _refill(self, draft: object) -> Data:
        try:
            return self.form.updates(draft) if isinstance(draft, dict) else {}
        except (StepwiseError, TypeError, ValueError):  # written by an older version, or by hand
            return {}


def build(studio: Studio, context: PageContext) -> None:
    """Build the tab, in the present layout context."""
    TextToImageTab(studio, context)
