"""The tab "Quantize": a model in full precision beside its quantized copies, from one noise, all streaming."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.components import Component

from pipelines.core.errors import StepwiseError
from pipelines.core.registry import Method, NoSettings
from pipelines.quantizers import QUANTIZERS, Quantizer, this_machine
from pipelines.workflows.quantize import DEFAULTS
from studio.jobs.job import Job, JobStatus, View
from studio.page.quantize.markup import EXAMPLE, WORDS, QuantizationView, build_missing_list, take_nominal_sizes
from studio.page.quantize.presets import PRESETS, choose_preset, read_measured
from studio.page.quantize.saving import SavingRow
from studio.ui import markup, presentation
from studio.ui.component_data import Data
from studio.ui.controls import PLUMBING, build_elem_id
from studio.ui.deep_links import TabSettings, copy_link
from studio.ui.example_chips import finished_grid
from studio.ui.form import FIXED, RequestForm
from studio.ui.live_routes import LiveTab, Parts
from studio.ui.outputs import in_order
from studio.ui.page_context import PageContext, Receiver
from studio.ui.results_route import find_address
from studio.ui.running_tab import Form, RunningTab
from studio.ui.settings_panel import SettingsPanel, build_single_panel
from studio.ui.tab_settings import Chosen, ChosenSeveral, Flag, Setting

if TYPE_CHECKING:
    from studio.backend import Studio

__all__ = ["KEY", "QuantizeTab", "build"]

KEY = "quantize"
PROMPT = "a fox on a blue background"
STEPS = 10
SIMULATED = tuple(method.key for method in QUANTIZERS.group("simulated"))
"""Methods that show a recipe's pictures and save nothing, which stand apart from the others."""


class QuantizeTab(RunningTab):
    """Holds the tab's components and connects their events.

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
                self._build_results()
            with gr.Column(elem_classes="sw-settings", min_width=0):
                self._build_settings()
        self._wire()

    # Layout.

    def _compose(self) -> None:
        self.form.prompt(PROMPT)
        self.form.hint(syntax=False)
        able = [method for method in QUANTIZERS.values() if not method.fit(self.machine)]
        with gr.Row(elem_classes="qz-presets", visible=bool(read_measured())):
            self.presets = {
                key: gr.Button(label, size="sm", min_width=0, elem_id=f"qz-preset-{key}")
                for key, label in PRESETS.items()
            }
        self.variants = gr.CheckboxGroup(
            [(method.label, method.key) for method in able if method.key not in SIMULATED],
            value=list(DEFAULTS),
            label="Quantize to",
            elem_id="qz-variants",
        )
        with gr.Accordion("Simulated recipes", open=False, elem_id="qz-simulated"):
            self.recipes = gr.CheckboxGroup(
                [(method.label.removesuffix(" (simulated)"), method.key) for method in able if method.key in SIMULATED],
                value=[],
                label="Simulate",
                info="Weights and inputs are rounded as papers describe, then computed in full precision. This shows "
                "what a recipe does to the picture; it saves neither time nor memory, and some take minutes.",
                elem_id="qz-recipes",
            )
        self.run = gr.Button("Quantize", variant="primary", elem_id="qz-run", elem_classes="sw-run")
        self.stop = gr.Button("Stop", variant="stop", elem_id="qz-stop", elem_classes="sw-stop")
        gr.HTML(build_missing_list(self.machine), elem_id="qz-missing")

    def _build_results(self) -> None:
        self.notice = gr.HTML(elem_id="qz-notice", elem_classes="sw-notices")
        above = f'<div id="qz-progress"></div><div id="qz-grid">{finished_grid(EXAMPLE, *WORDS)}</div>'
        gr.HTML(f'<div class="sw-show">{above}</div>', js_on_load=f"window.stepwise.mounted({KEY!r}, {self.root!r})")
        self.saving = SavingRow(self.studio, self.context, self.notice, self._find_job)
        below = '<div id="qz-figures"></div><div id="qz-game"></div>'
        gr.HTML(f'<div class="sw-show">{below}</div>', js_on_load=f"window.stepwise.mounted({KEY!r}, {self.root!r})")

    def _build_settings(self) -> None:
        form = self.form
        form.model()
        form.steps()
        form.fields["num_inference_steps"].value = STEPS
        form.seed()
        form.fields["seed_mode"].value = FIXED
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
        self.settings: dict[str, SettingsPanel] = {}
        with gr.Accordion("Settings of the methods", open=False, elem_classes="sw-expert"):
            for method in QUANTIZERS.values():
                if method.settings is not NoSettings and not method.fit(self.machine) and method.key not in SIMULATED:
                    gr.HTML(f"<p class='sw-hint'>{markup.escape(method.label)}</p>")
                    self._build_method_settings(method)
        with gr.Accordion("Settings of the simulated recipes", open=False, elem_classes="sw-expert"):
            for key in SIMULATED:
                with gr.Accordion(QUANTIZERS[key].label.removesuffix(" (simulated)"), open=False):
                    self._build_method_settings(QUANTIZERS[key])
        with gr.Accordion("Guidance", open=False, elem_classes="sw-expert"):
            form.method("guidance")
        with gr.Accordion("Sampler and schedule", open=False, elem_classes="sw-expert"):
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
        link = TabSettings(lambda: self._tab_components, self._read_linked, lambda: self.context.receive[KEY])
        copy_link(form, self.context, KEY, "qz", link)
        form.wire()

    def _build_method_settings(self, method: Method[Quantizer]) -> None:
        self.settings[method.key] = build_single_panel(method.settings, build_elem_id("qz", method.key))

    # Events.

    @property
    def _tab_components(self) -> set[Component]:
        return {
            self.variants,
            self.recipes,
            self.measure,
            self.peak,
            *(panel.component for panel in self.settings.values()),
        }

    def _wire(self) -> None:
        inputs, outputs = {*self.form.inputs, *self._tab_components}, {*self.form.outputs, *self._tab_components}
        form = Form(inputs, self._read, outputs, self._refill, draft=self._draft)
        self.context.lists[KEY] = self.form.lists
        finished = self._wire_run(form, LiveTab(KEY, form.read, self._build_renderer))
        self.saving.wire(KEY, self.session, finished)
        for key, button in self.presets.items():
            choose = functools.partial(self._apply_preset, key)
            changed = in_order({self.notice, *self._tab_components})
            button.click(choose, inputs={self.form.fields["model"]}, outputs=changed, **PLUMBING)
        self.form.reuse.click(self._reuse_seed, inputs={self.session}, outputs=in_order(self.form.outputs), **PLUMBING)
        settings: dict[str, Setting] = {
            "variants": ChosenSeveral(Chosen(QUANTIZERS, lambda model: self.machine), self.studio.limits.max_variants),
            "measure": Flag(),
            "peak": Flag(),
        }
        self.context.receive[KEY] = Receiver(
            outputs, self._receive, KEY, settings, model=self.form.first.key, models=lambda: self.form.models
        )

    # Handlers: each takes the data of its inputs and gives updates by component.

    def _read_linked(self, data: Data) -> dict[str, Any]:
        """The tab's own settings as the task takes them."""
        settings = self._read_settings(data)
        variants = [{"key": key, **settings.get(key, {})} for key in self._list_chosen(data)]
        return {"variants": variants, "measure": data[self.measure], "peak": data[self.peak]}

    def _list_chosen(self, data: Data) -> list[str]:
        return [*data[self.variants], *data[self.recipes]]

    def _show_chosen(self, keys: Sequence[str]) -> Data:
        real = [key for key in keys if key not in SIMULATED]
        return {self.variants: real, self.recipes: [key for key in keys if key in SIMULATED]}

    def _read(self, data: Data) -> tuple[dict[str, Any], dict[str, Any]]:
        draft = self._draft(data)
        base = {**self.form.request(draft["form"]), "batch_size": 1, "loras": []}
        return draft, {"base": base, **self._read_linked(data)}

    def _draft(self, data: Data) -> dict[str, Any]:
        """What the browser remembers."""
        return {
            "form": self.form.draft(data),
            "variants": self._list_chosen(data),
            "measure": data[self.measure],
            "peak": data[self.peak],
            "settings": self._read_settings(data),
        }

    def _read_settings(self, data: Data) -> dict[str, dict[str, Any]]:
        """What each method's settings differ in from their defaults, by the method's key."""
        return {key: panel.read(data) for key, panel in self.settings.items()}

    def _refill(self, draft: Any) -> Data:
        """Component to update that shows a remembered draft; nothing for one that cannot be read."""
        try:
            updates = self.form.updates({**draft["form"], "batch_size": 1, "loras": []})
            variants = [key for key in draft["variants"] if key in QUANTIZERS]
            for key, panel in self.settings.items():
                updates |= panel.show(draft["settings"].get(key, {}))
            updates |= self._show_chosen(variants)
            return updates | {self.measure: draft["measure"], self.peak: draft["peak"]}
        except (StepwiseError, TypeError, ValueError, KeyError):  # written by an older version, or by hand
            return {}

    def _receive(self, values: Mapping[str, Any]) -> Data:
        """Settings from a link or a result; of a quantized model, the one that it was made of."""
        settings, base = values.get(KEY, {}), self._find_base_model(values.get("model"))
        form = {"seed_mode": FIXED, **values, **({"model": base} if base else {}), "batch_size": 1, "loras": []}
        updates = self.form.updates(form)
        updates |= {getattr(self, name): settings[name] for name in ("measure", "peak") if name in settings}
        if "variants" not in settings:
            return updates
        updates |= self._show_chosen([choice["key"] for choice in settings["variants"]])
        for choice in settings["variants"]:
            if panel := self.settings.get(choice["key"]):
                updates |= panel.show(choice)
        return updates

    def _apply_preset(self, key: str, data: Data) -> Data:
        """Choose the measured quantizer for the chosen model, and say what was measured."""
        entry = next((one for one in self.form.models if one.key == data[self.form.fields["model"]]), None)
        preset = choose_preset(key, entry.family if entry else "", self.machine, read_measured())
        if preset is None:
            return {self.notice: markup.notice("Nothing that was measured for this kind of model can run here.")}
        panel = self.settings.get(preset.choice.key)
        updates: Data = panel.show(preset.choice.settings) if panel else {}
        updates |= self._show_chosen([preset.choice.key])
        return {**updates, self.notice: markup.notice(preset.sentence, "news")}

    def _find_base_model(self, key: object) -> str | None:
        entry = next((one for one in self.form.models if one.key == key), None)
        return entry.quantized.base if entry and entry.quantized else None

    def _build_renderer(self, job: Job) -> Callable[[View], Parts]:
        renderer = QuantizationView(job, self._find_address, functools.partial(self._list_earlier, job))

        def render(view: View) -> Parts:
            finished = view.status.final and any(cell.images is not None for cell in view.cells[1:])
            return {
                "qz-progress": {"html": self._build_progress(view)},
                **renderer.build_parts(view, self.root),
                self.root: {"data-finished": "" if finished else None},
            }

        return render

    def _list_earlier(self, job: Job) -> list[Mapping[str, Any]]:
        """Rows of this visitor's earlier runs of the same model."""
        outcomes = [other.view().outcome for other in self.studio.list_finished_jobs(job) if other is not job]
        model = job.view().outcome.get("model")
        same = [outcome["rows"] for outcome in outcomes if outcome and outcome.get("model") == model]
        return [row for rows in same for row in take_nominal_sizes(rows)]

    @staticmethod
    def _build_progress(view: View) -> str:
        steps_done, total = sum(len(cell.rows) for cell in view.cells), sum(cell.num_steps for cell in view.cells)
        words = presentation.list_progress_parts(view)
        if view.status is JobStatus.RUNNING and view.message:
            words = [view.message, presentation.format_duration(view.seconds)]
        return markup.progress(view.status, words, steps_done, total)

    def _reuse_seed(self, data: Data) -> Any:
        job = self._find_job(data[self.session])
        return self.form.updates({"seed": job.request.base.seed, "seed_mode": FIXED}) if job else gr.skip()

    def _find_address(self, result: str) -> str | None:
        return find_address(self.studio.store, result)


def build(studio: Studio, context: PageContext) -> None:
    """Build the tab, in the present layout context."""
    QuantizeTab(studio, context)
