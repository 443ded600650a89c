"""The tab "Quantize": a model in full precision beside its quantized copies, from one noise, all streaming."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import gradio as gr

from pipelines.core.errors import StepwiseError
from pipelines.core.registry import NoSettings
from pipelines.quantizers import QUANTIZERS, this_machine
from pipelines.workflows.quantize import DEFAULTS
from studio.jobs.job import Job, JobStatus, View
from studio.page.quantize.markup import EMPTY, QuantizationView, missing_list
from studio.ui import markup, presentation
from studio.ui.controls import PLUMBING, elem_id, settings_controls, settings_values
from studio.ui.deep_links import Own, copy_link
from studio.ui.form import FIXED, RequestForm
from studio.ui.live_routes import LiveTab, Parts
from studio.ui.page_context import PageContext, Receiver
from studio.ui.results_route import address_of
from studio.ui.running_tab import Form, RunningTab
from studio.ui.tab_settings import Chosen, ChosenSeveral, Flag

if TYPE_CHECKING:
    from studio.backend import Studio

__all__ = ["KEY", "QuantizeTab", "build"]

KEY = "quantize"
PROMPT = "a fox on a blue background"
STEPS = 10
USED_IN = "text_to_image"
_LOOK_AGAIN = 2.0
"""Seconds after which what is said of a waiting model is said anew."""


class QuantizeTab(RunningTab):
    """The tab's components and what happens between them.

    Args:
        studio: the backend.
        context: the page around the tab.
    """

    key, root = KEY, "qz"

    def __init__(self, studio: Studio, context: PageContext):
        self.studio, self.context = studio, context
        self.session = context.sessions[KEY]
        self.machine = this_machine(studio.loader.device)
        self.form = RequestForm(studio, "qz", own_loop=True)
        with gr.Column(elem_classes="sw-studio sw-comparison sw-live", elem_id="qz"):
            with gr.Column(elem_classes="sw-compose", min_width=0):
                self._compose()
            with gr.Column(elem_classes="sw-compared", min_width=0):
                self._results()
            with gr.Column(elem_classes="sw-settings", min_width=0):
                self._settings()
        self._wire()

    # Layout.

    def _compose(self) -> None:
        self.form.prompt(PROMPT)
        able = [method for method in QUANTIZERS.values() if not method.fit(self.machine)]
        self.variants = gr.CheckboxGroup(
            [(method.label, method.key) for method in able],
            value=list(DEFAULTS),
            label="Quantize to",
            elem_id="qz-variants",
        )
        self.run = gr.Button("Quantize", variant="primary", elem_id="qz-run", elem_classes="sw-run")
        self.stop = gr.Button("Stop", variant="stop", elem_id="qz-stop", elem_classes="sw-stop")
        gr.HTML(missing_list(self.machine), elem_id="qz-missing")

    def _results(self) -> None:
        self.notice = gr.HTML(elem_id="qz-notice", elem_classes="sw-notices")
        shown = f'<div id="qz-progress"></div><div id="qz-grid">{EMPTY}</div>'
        gr.HTML(f'<div class="sw-show">{shown}</div>', js_on_load=f"window.stepwise.mounted({KEY!r}, {self.root!r})")
        with gr.Row(elem_classes="qz-keep"):
            self.which = gr.Dropdown([], label="Save for the other tabs", filterable=False, elem_id="qz-which")
            self.keep = gr.Button("Save it", size="sm", min_width=0, elem_id="qz-keep")
            self.use = gr.Button("Save and use it", size="sm", min_width=0, elem_id="qz-use")
        below = '<div id="qz-figures"></div><div id="qz-game"></div>'
        gr.HTML(f'<div class="sw-show">{below}</div>', js_on_load=f"window.stepwise.mounted({KEY!r}, {self.root!r})")

    def _settings(self) -> None:
        form = self.form
        form.model()
        form.steps()
        form.fields["num_inference_steps"].value = STEPS
        form.seed()
        self.measure = gr.Checkbox(
            True,
            label="Measure where the error is",
            elem_id="qz-measure",
            info="SQNR by layer and step and the time of a step: takes longer than the runs.",
        )
        self.peak = gr.Checkbox(
            False,
            label="Measure the peak of memory",
            elem_id="qz-peak",
            info="Each in a process of its own: some ten seconds each.",
        )
        self.settings: dict[str, Mapping[str, Any]] = {}
        with gr.Accordion("Settings of the methods", open=False):
            for method in QUANTIZERS.values():
                if method.settings is not NoSettings and not method.fit(self.machine):
                    gr.HTML(f"<p class='sw-hint'>{markup.escape(method.label)}</p>")
                    self.settings[method.key] = settings_controls(method.settings, elem_id("qz", method.key))
        with gr.Accordion("Guidance", open=False):
            form.method("guidance")
        with gr.Accordion("Sampler and schedule", open=False):
            form.method("sampler")
            form.method("schedule")
            form.method("start")
        with gr.Accordion("Style and negative prompt", open=False):
            form.words()
        with gr.Accordion("Size", open=False):
            form.size()
            form.fields["batch_size"].visible = False
        with gr.Column(visible=False):
            form.variation()
            form.loras()
        own = Own(lambda: self._own, self._linked, lambda: self.context.receive[KEY])
        copy_link(form, self.context, KEY, "qz", own)
        form.wire()

    # Events.

    @property
    def _own(self) -> set[Any]:
        fields = {one for components in self.settings.values() for one in components.values()}
        return {self.variants, self.measure, self.peak, *fields}

    def _wire(self) -> None:
        form = Form({*self.form.inputs, *self._own}, self._read, {*self.form.outputs, *self._own}, self._refilled)
        ended = self._wire_run(form, LiveTab(KEY, form.read, self._renderer))
        told = {"inputs": {self.session}, "outputs": {self.form.fields["seed"], self.which}, **PLUMBING}
        ended.then(self._ended, **told)
        self.context.demo.load(self._ended, **told)
        self.form.reuse.click(self._reuse_seed, inputs={self.session}, outputs=self.form.outputs, **PLUMBING)
        settings = {
            "variants": ChosenSeveral(Chosen(QUANTIZERS, lambda model: self.machine), self.studio.limits.max_variants),
            "measure": Flag(),
            "peak": Flag(),
        }
        outputs = {*self.form.outputs, *self._own}
        self.context.receive[KEY] = Receiver(outputs, self._received, KEY, settings)
        self.context.later(self._wire_keep)

    def _wire_keep(self) -> None:
        """Once all tabs stand: every list of models learns of a kept one, also after a reload."""
        self.lists = self.context.model_lists
        self.listed = self._listed()
        receiver = self.context.receive[USED_IN]
        kept = {"inputs": {self.session, self.which}, **PLUMBING, "queue": True, "concurrency_limit": None}
        self.keep.click(self._keep, outputs={self.notice, *self.lists}, **kept)
        outputs = {self.notice, self.context.tabs, *self.lists, *receiver.outputs}
        self.use.click(self._keep_and_use, outputs=outputs, **kept)
        self.context.demo.load(
            lambda: self._model_lists() if self._listed() != self.listed else gr.skip(),
            outputs=set(self.lists),
            **PLUMBING,
        )

    # Handlers: each takes the data of its inputs and gives updates by component.

    def _linked(self, data: dict[Any, Any]) -> dict[str, Any]:
        """The tab's own settings as the task takes them."""
        settings = {
            key: settings_values(components, data, QUANTIZERS[key].settings)
            for key, components in self.settings.items()
        }
        variants = [{"key": key, **settings.get(key, {})} for key in data[self.variants]]
        return {"variants": variants, "measure": data[self.measure], "peak": data[self.peak]}

    def _read(self, data: dict[Any, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        draft = self.form.draft(data)
        own = {
            "variants": data[self.variants],
            "measure": data[self.measure],
            "peak": data[self.peak],
            "settings": {
                key: settings_values(components, data, QUANTIZERS[key].settings)
                for key, components in self.settings.items()
            },
        }
        base = {**self.form.request(draft), "batch_size": 1, "loras": []}
        return {"form": draft, **own}, {"base": base, **self._linked(data)}

    def _refilled(self, draft: Any) -> dict[Any, Any]:
        """Component to update that shows a remembered draft; nothing for one that cannot be read."""
        try:
            updates = self.form.updates({**draft["form"], "batch_size": 1, "loras": []})
            chosen = [key for key in draft["variants"] if key in QUANTIZERS]
            for key, components in self.settings.items():
                updates |= {components[name]: value for name, value in draft["settings"].get(key, {}).items()}
            return updates | {self.variants: chosen, self.measure: draft["measure"], self.peak: draft["peak"]}
        except (StepwiseError, TypeError, ValueError, KeyError):  # written by an older version, or by hand
            return {}

    def _received(self, values: Mapping[str, Any]) -> dict[Any, Any]:
        """Settings from a link or a result; of a quantized model, the one that it was made of."""
        own, base = values.get(KEY, {}), self._plain_model(values.get("model"))
        form = {"seed_mode": FIXED, **values, **({"model": base} if base else {}), "batch_size": 1, "loras": []}
        updates = self.form.updates(form)
        updates |= {getattr(self, name): own[name] for name in ("measure", "peak") if name in own}
        if "variants" not in own:
            return updates
        updates[self.variants] = [choice["key"] for choice in own["variants"]]
        for choice in own["variants"]:
            fields = dataclasses.fields(QUANTIZERS[choice["key"]].settings)
            components = self.settings.get(choice["key"], {})
            updates |= {components[one.name]: choice.get(one.name, one.default) for one in fields}
        return updates

    def _plain_model(self, key: Any) -> str | None:
        entry = next((one for one in self.form.models if one.key == key), None)
        return entry.quantized.base if entry and entry.quantized else None

    def _renderer(self, job: Job) -> Callable[[View], Parts]:
        drawn = QuantizationView(job, self._address)

        def parts(view: View) -> Parts:
            finished = view.status.final and any(cell.images is not None for cell in view.cells[1:])
            return {
                "qz-progress": {"html": self._progress(view)},
                **drawn.parts(view, self.root),
                self.root: {"data-finished": "" if finished else None},
            }

        return parts

    @staticmethod
    def _progress(view: View) -> str:
        done, total = sum(len(cell.rows) for cell in view.cells), sum(cell.num_steps for cell in view.cells)
        words = presentation.progress(view)
        if view.status is JobStatus.RUNNING and view.message:
            words = [view.message, presentation.duration(view.seconds)]
        return markup.progress(view.status, words, done, total)

    def _ended(self, data: dict[Any, Any]) -> Any:
        """The seed that was drawn, and what can be kept, once the run is over or the page was loaded again."""
        job = self._job(data[self.session])
        if job is None:
            return gr.skip()
        made = [(cell.label, index) for index, cell in enumerate(job.view().cells[1:])]
        which = gr.update(choices=made, value=made[0][1] if made else None)
        return {self.form.fields["seed"]: str(job.request.base.seed), self.which: which}

    def _keep(self, data: dict[Any, Any], receiver: Receiver | None = None) -> Iterator[dict[Any, Any]]:
        """What is going on, until the queue has come to it and it is kept."""
        job, which = self._job(data[self.session]), data[self.which]
        if job is None or not isinstance(which, int) or not 0 <= which < len(job.request.variants):
            yield {self.notice: markup.notice("There is no quantized model to save any more. Run it again.")}
            return
        values = {"model": job.request.base.model, "variant": job.request.variants[which]}
        try:
            keeping = self.studio.submit("keep", values, job.owner)
        except StepwiseError as error:
            yield {self.notice: markup.notice(str(error))}
            return
        view = keeping.view()
        while not view.status.final:
            yield {self.notice: markup.notice(", ".join(presentation.progress(view)), "news")}
            view = keeping.wait(view.version, _LOOK_AGAIN)
        yield self._kept(view, receiver)

    def _keep_and_use(self, data: dict[Any, Any]) -> Iterator[dict[Any, Any]]:
        yield from self._keep(data, self.context.receive[USED_IN])

    def _kept(self, view: View, receiver: Receiver | None) -> dict[Any, Any]:
        if view.status is not JobStatus.DONE:
            return {self.notice: markup.notice(view.message or "Stopped: the model was not saved.")}
        key = view.outcome["key"]
        told = f"Saved as {key}: it is in every tab’s list of models, and found again after a restart."
        used = (
            {}
            if receiver is None
            else {**receiver.updates({"model": key}), self.context.tabs: gr.Tabs(selected=USED_IN)}
        )
        return {**self._model_lists(), self.notice: markup.notice(told, "news"), **used}

    def _listed(self) -> set[str]:
        return {entry.key for entry in self.studio.models()}

    def _model_lists(self) -> dict[Any, Any]:
        """Every list with what it offers itself: the Video tab has other models than those that make pictures."""
        return {one: gr.update(choices=choices()) for one, choices in self.lists.items()}

    def _reuse_seed(self, data: dict[Any, Any]) -> Any:
        job = self._job(data[self.session])
        return self.form.updates({"seed": job.request.base.seed, "seed_mode": FIXED}) if job else gr.skip()

    def _address(self, result: str) -> str | None:
        return address_of(self.studio.store, result)


def build(studio: Studio, context: PageContext) -> None:
    """The tab, in the present layout context."""
    QuantizeTab(studio, context)
