"""The tab "Video": prompts to walk between or a model of clips, the frames as they come, and the clip that plays."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import gradio as gr
from gradio.components import Component

from pipelines.core.errors import PictureError, SettingsError, StepwiseError
from pipelines.models.video_models import video_model
from pipelines.workflows.video import VIDEOS
from pipelines.workflows.video.request import CLIP_FORMATS
from studio.page.video.examples import EXAMPLES
from studio.page.video.form import (
    ClipChoices,
    ClipForm,
    build_draft,
    build_plan_markup,
    copy_result,
    find_uploaded,
    open_first_frame,
)
from studio.page.video.keys import MOST, build_key_rows
from studio.page.video.motion import WALK, plan_motion
from studio.page.video.viewer import ClipRenderer, build_video_viewer
from studio.ui.asking import list_visible_results
from studio.ui.clip_export import ClipExport
from studio.ui.component_data import Block, Data
from studio.ui.controls import PLUMBING, build_method_controls
from studio.ui.deep_links import TabSettings, copy_link
from studio.ui.example_chips import build_chip
from studio.ui.form import FIXED
from studio.ui.live_routes import LiveTab
from studio.ui.outputs import in_order
from studio.ui.page_context import PageContext, Receiver
from studio.ui.running_tab import Form, RunningTab
from studio.ui.tab_settings import Chosen, Keys, OneOf, Setting, Whole

if TYPE_CHECKING:
    from pipelines.models.entry import CatalogEntry
    from studio.backend import Studio
    from studio.results.store import Record

__all__ = ["KEY", "VideoTab", "build"]

KEY = "animate"


class VideoTab(RunningTab):
    """Holds the tab's components and connects their events.

    Args:
        studio: the backend.
        context: the page around the tab.
    """

    key, root = KEY, "vid"
    form: ClipForm

    def __init__(self, studio: Studio, context: PageContext):
        self.studio, self.context = studio, context
        self.session = context.sessions[KEY]
        self.form = ClipForm(studio, "vid", first=EXAMPLES[0].draft["form"]["model"])
        with gr.Column(elem_classes="sw-studio sw-video sw-live", elem_id="vid"):
            with gr.Column(elem_classes="sw-compose", min_width=0):
                self._compose()
            with gr.Column(elem_classes="sw-animated", min_width=0):
                self.notice = gr.HTML(elem_id="vid-notice", elem_classes="sw-notices")
                build_video_viewer(KEY, self.root, EXAMPLES[0])
                self.export = ClipExport("vid")
            with gr.Column(elem_classes="sw-settings", min_width=0):
                self._build_settings()
        self._wire()

    # Layout.

    def _compose(self) -> None:
        example = EXAMPLES[0].draft
        prompt = self.form.prompt(example["form"]["prompt"])
        prompt.label, prompt.lines, prompt.placeholder = "Prompt", 1, "What should the clip show first?"
        self.form.hint(syntax=False)
        self.keys = build_key_rows("vid", example["keys"], self.studio.limits.max_prompt)
        self.keys.section.visible = example["method"]["key"] == WALK
        self.plan = gr.HTML(elem_id="vid-plan")
        self.run = gr.Button("Animate", variant="primary", elem_id="vid-run", elem_classes="sw-run")
        self.stop = gr.Button("Stop", variant="stop", elem_id="vid-stop", elem_classes="sw-stop")
        with gr.Row(elem_classes="sw-examples", elem_id="vid-examples"):
            self.examples = {build_chip("vid", example): example for example in EXAMPLES}

    def _build_settings(self) -> None:
        form, entry = self.form, self.form.first
        form.model()
        self.method = build_method_controls(VIDEOS, "vid", label="Method", traits=entry, altered={})
        self.clip = ClipChoices(self.studio, entry)
        form.steps()
        form.seed()
        with gr.Accordion("Guidance", open=False, elem_classes="sw-expert"):
            form.method("guidance", {})
        with gr.Accordion("Negative prompt", open=False):
            form.words()
            form.fields["style"].visible = False
        with gr.Accordion("Size", open=False):
            form.size()
            form.fields["batch_size"].visible = False
        with gr.Accordion("Sampler and schedule", open=False, elem_classes="sw-expert"):
            gr.HTML("<p class='sw-hint'>Used by a walk and by AnimateDiff; any other model has its own.</p>")
            form.method("sampler")
            form.method("schedule")
            form.method("start")
        with gr.Accordion("Acceleration", open=False, elem_classes="sw-expert"):
            form.method("cache")
        with gr.Accordion("ControlNet, T2I-Adapter and IP-Adapter", open=False):
            gr.HTML("<p class='sw-hint'>They steer every frame of a walk alike.</p>")
            form.steering("control")
            form.steering("t2i_adapter")
            form.steering("image_prompt")
        with gr.Accordion("LoRA and VAE", open=False):
            form.loras()
            form.vae()
        with gr.Column(visible=False):
            form.variation()
        link = TabSettings(lambda: self._inputs, self._read_linked, lambda: self.context.receive[KEY])
        copy_link(form, self.context, KEY, "vid", link)
        for name in ("seed", "seed_mode", "num_inference_steps"):
            form.fields[name].value = EXAMPLES[0].draft["form"][name]
        form.fields["seed"].value = str(form.fields["seed"].value)
        form.beside = self._build_model_updates
        form.beside_outputs = frozenset({*self.clip.outputs, *self.method.outputs, self.keys.section})
        form.wire()
        self.keys.wire()

    # Events.

    @property
    def _inputs(self) -> set[Component]:
        return {*self.form.inputs, *self.keys.inputs, *self.clip.inputs, self.method.method, *self.method.fields}

    @property
    def _outputs(self) -> set[Block]:
        return {*self.form.outputs, *self.keys.outputs, self.plan}

    def _wire(self) -> None:
        form = Form(self._inputs, self._read, self._outputs, self._refill, draft=self._draft)
        self.context.lists[KEY] = self.form.lists
        finished = self._wire_run(form, LiveTab(KEY, form.read, lambda job: ClipRenderer(self.studio, self.root, job)))
        formats = {"inputs": {self.session}, "outputs": self.export.outputs, **PLUMBING}
        finished.then(self._update_formats, **formats)
        self.context.after_recall.setdefault(KEY, []).append({"fn": self._update_formats, **formats})
        self.export.wire([self.session], self._find_clip)
        self.form.reuse.click(self._reuse_seed, inputs={self.session}, outputs=in_order(self.form.outputs), **PLUMBING)
        model = self.form.fields["model"]
        self.plan.value = self._plan({component: component.value for component in self._inputs})[self.plan]
        planned = {model, self.clip.frames, self.clip.fps, self.form.fields["width"], self.form.fields["height"]}
        gr.on(
            [cast(Any, component).change for component in planned],
            self._plan,
            inputs=planned,
            outputs={self.plan},
            trigger_mode="always_last",
            **PLUMBING,
        )
        for button, example in self.examples.items():
            button.click(lambda draft=example.draft: self.updates(draft), outputs=in_order(self._outputs), **PLUMBING)
        limits = self.studio.limits
        settings: dict[str, Setting] = {
            "method": Chosen(VIDEOS, self.form.get_entry),
            "frames": Whole(1, limits.max_frames),
            "fps": Whole(1, limits.max_fps),
            "format": OneOf("format of a clip", lambda: CLIP_FORMATS),
            "keys": Keys(limits.max_prompt, MOST - 1),
        }
        self.context.receive[KEY] = Receiver(
            self._outputs, self._receive, KEY, settings, model=self.form.first.key, models=lambda: self.form.models
        )

    # Handlers: each takes the data of its inputs and gives updates by component.

    def _draft(self, data: Data) -> dict[str, Any]:
        """What the browser remembers; of the first frame, where it was uploaded to."""
        plain = {name: data[component] for name, component in self.clip.settings.items()}
        form, method = self.form.draft(data), self.method.choice(data)
        with contextlib.suppress(PictureError):  # it is gone
            if picture := find_uploaded(data[self.clip.picture]):
                plain["first_frame"] = str(picture)
        return {"form": form, "method": method, "keys": self.keys.read_keys(data), **plain}

    def _read(self, data: Data) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the browser remembers, and the values of the task."""
        draft = self._draft(data)
        form, method = draft["form"], draft["method"]
        model = video_model(self.form.get_entry(form["model"]))
        settings = {name: draft[name] for name in self.clip.settings}
        values = {"base": {**self.form.request(form), "batch_size": 1}, "method": method, **settings}
        if method["key"] == WALK:
            values["keys"] = draft["keys"]
        if model.first_frame != "no" and data[self.clip.picture]:
            values["first_frame"] = open_first_frame(data[self.clip.picture])
        return draft, values

    def _read_linked(self, data: Data) -> dict[str, Any]:
        """What a link carries besides the form: all but the first frame."""
        settings = {name: data[component] for name, component in self.clip.settings.items()}
        keys = {"keys": self.keys.read_keys(data)} if data[self.method.method] == WALK else {}
        return {"method": self.method.choice(data), **settings, **keys}

    def _plan(self, data: Data) -> Data:
        fields = self.form.fields
        values = {
            "frames": data[self.clip.frames],
            "fps": data[self.clip.fps],
            "width": data[fields["width"]],
            "height": data[fields["height"]],
        }
        return {self.plan: build_plan_markup(self.studio, self.form.get_entry(data[fields["model"]]), values)}

    def _build_model_updates(self, entry: CatalogEntry, method: Any = None) -> Data:
        """What a model brings beside the fields of its request: methods, frames, first frame, and keys for a walk."""
        method_key = method["key"] if method else VIDEOS.fitting(entry)[0].key
        walks = gr.update(visible=method_key == WALK)
        updates = self.method.updates(method, entry)
        takes = video_model(entry).true_guidance
        updates |= self.method.panel.alter({"pipeline": {"true_guidance_scale": {"hidden": not takes}}}, updates)
        return {**updates, **self.clip.build_model_updates(entry), self.keys.section: walks}

    def updates(self, draft: Mapping[str, Any]) -> Data:
        """Map each component to the update that shows a draft, as `_read` makes it; a model that is gone leaves the
        present one.

        Raises:
            StepwiseError: a method that is unknown.
        """
        model = draft["form"].get("model")
        updates, entry = self.form.updates(draft["form"]), self.form.get_entry(model)
        if entry.key == model and "method" in draft:
            updates |= self._build_model_updates(entry, draft["method"])
        elif model is None and "method" in draft:  # of a link: the model stays, and so do its frames and its rate
            walks = gr.update(visible=draft["method"]["key"] == WALK)
            updates |= {**self.method.updates(draft["method"], entry), self.keys.section: walks}
        updates |= {component: draft[name] for name, component in self.clip.settings.items() if name in draft}
        return {**updates, **(self.keys.updates(draft["keys"]) if "keys" in draft else {})}

    def _receive(self, values: Mapping[str, object]) -> Data:
        """Settings from another tab: of a clip all of them, of a picture what sets it in motion; and the picture."""
        draft = build_draft(values)
        if KEY not in values and "seed" in values:
            draft |= plan_motion(self.form, values)
        updates = self.updates(draft)
        if path := values.get("picture"):
            updates[self.clip.picture] = str(copy_result(Path(str(path)), self.studio.store.folder))
        return updates

    def _refill(self, draft: object) -> Data:
        if not isinstance(draft, dict):
            return {}
        try:
            updates = self.updates(draft)
            with contextlib.suppress(PictureError):  # it is gone
                if picture := find_uploaded(draft.get("first_frame")):
                    updates[self.clip.picture] = str(picture)
            return updates
        except (StepwiseError, TypeError, ValueError, KeyError):  # written by an older version, or gone
            return {}

    def _update_formats(self, data: Data) -> Data:
        """What the finished clip can be saved as, once the run is over or the page was loaded again."""
        try:
            return self.export.updates(self._find_clip(data))
        except StepwiseError:  # there is none, or it was deleted
            return self.export.updates(None)

    def _find_clip(self, data: Data) -> Record:
        """The clip of the job that the browser remembers.

        Raises:
            StepwiseError: there is none, or it was deleted.
        """
        job = self._find_job(data[self.session])
        results = [result for cell in job.view().cells for result in cell.results] if job else []
        if not results:
            raise SettingsError("There is no finished clip here. Animate again, or check the gallery.")
        return list_visible_results(self.studio).get(results[0])

    def _reuse_seed(self, data: Data) -> Any:
        job = self._find_job(data[self.session])
        return self.form.updates({"seed": job.request.base.seed, "seed_mode": FIXED}) if job else gr.skip()


def build(studio: Studio, context: PageContext) -> None:
    """Build the tab, in the present layout context."""
    VideoTab(studio, context)
