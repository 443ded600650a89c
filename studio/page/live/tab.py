"""The tab "Live": a drawing or a camera becomes a picture, frame by frame, as it changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.components import Component

from pipelines.core.errors import SettingsError
from pipelines.samplers import SAMPLERS
from studio.jobs.inbox import Inbox
from studio.jobs.job import Job
from studio.page.live.board import EXAMPLES, LiveRenderer, build_board
from studio.tasks.context import TaskContext
from studio.ui.component_data import Data
from studio.ui.controls import PLUMBING
from studio.ui.example_chips import build_chip
from studio.ui.live_routes import LiveTab
from studio.ui.page_context import Lists, PageContext
from studio.ui.presentation import format_model_label
from studio.ui.running_tab import Form, RunningTab

if TYPE_CHECKING:
    from studio.backend import Studio

__all__ = ["FIRST", "KEY", "LiveModeTab", "build"]

KEY = "live"
FRAMES_A_SECOND = 20.0
"""That a page is sent at most; each is a few kilobytes."""

_MODEL, _LORA, _SAMPLER, _STEPS = "emoji-128", "emoji-128-four-steps", "ddim", 4
_STRENGTH = 0.6

FIRST: Mapping[str, Any] = {
    "base": {
        "model": _MODEL,
        "seed": 0,
        "num_inference_steps": _STEPS,
        "sampler": _SAMPLER,
        "guidance": {"key": "cfg", "guidance_scale": 1},
        "loras": [{"name": _LORA, "weight": 1.0}],
    },
    "strength": _STRENGTH,
    "similarity": 1.0,
}
"""What the form holds at first, besides the prompt, as the task takes it."""


class LiveModeTab(RunningTab):
    """Holds the tab's components and connects their events.

    Args:
        studio: the backend.
        context: the page around the tab.
    """

    key, root, draws = KEY, "live", False

    def __init__(self, studio: Studio, context: PageContext):
        self.studio, self.context = studio, context
        self.session = context.sessions[KEY]
        self.fields: dict[str, Component] = {}
        with gr.Column(elem_classes="sw-studio sw-live sw-live-tab", elem_id="live"):
            with gr.Column(elem_classes="sw-compose", min_width=0):
                self._compose()
            with gr.Column(elem_classes="sw-live-view", min_width=0):
                self.notice = gr.HTML(elem_id="live-notice", elem_classes="sw-notices")
                build_board(KEY, self.root)
            with gr.Column(elem_classes="sw-settings", min_width=0):
                self._build_settings()
        self._wire()

    # Layout.

    def _compose(self) -> None:
        fields = self.fields
        fields["prompt"] = gr.Textbox(
            EXAMPLES[0].prompt,
            label="Prompt",
            placeholder="What should the drawing become?",
            lines=2,
            max_lines=6,
            elem_id="live-prompt",
        )
        fields["strength"] = gr.Slider(
            0.05,
            1,
            _STRENGTH,
            step=0.01,
            label="Strength",
            info="Little keeps the drawing, 1 all but forgets it.",
            buttons=[],
            elem_id="live-strength",
        )
        self.run = gr.Button("Start", variant="primary", elem_id="live-run", elem_classes="sw-run")
        self.stop = gr.Button("Stop", variant="stop", elem_id="live-stop", elem_classes="sw-stop")
        self.save = gr.Button("Save picture", size="sm", elem_id="live-save")
        with gr.Row(elem_classes="sw-examples", elem_id="live-examples"):
            self.examples = {build_chip("live", example): example for example in EXAMPLES}

    def _build_settings(self) -> None:
        fields, entry = self.fields, self._find_default_model()
        with gr.Row(elem_classes="sw-seed"):
            fields["seed"] = gr.Textbox("0", label="Seed", max_lines=1, min_width=130, scale=3, elem_id="live-seed")
            self.roll = gr.Button("Shuffle", size="sm", min_width=50, scale=1, elem_id="live-seed-roll")
        fields["guidance_scale"] = gr.Slider(
            1,
            4,
            1,
            step=0.05,
            label="Residual guidance",
            info="Leads away from the drawing, at no cost; 1 is none.",
            buttons=[],
            elem_id="live-guidance",
        )
        fields["similarity"] = gr.Slider(
            0.9,
            1,
            1,
            step=0.001,
            label="Similarity threshold",
            info="Frames closer than this to the last may be skipped: for a camera. 1 skips none.",
            buttons=[],
            elem_id="live-similarity",
        )
        with gr.Accordion("Model", open=False):
            fields["model"] = self.model = gr.Dropdown(
                self._list_model_choices(),
                value=entry,
                label="Model",
                info="Live mode wants a model of few steps, here by its LoRA.",
                elem_id="live-model",
            )
            fields["loras"] = gr.Dropdown(
                self.studio.loras(entry),
                value=self._choose_loras(entry),
                multiselect=True,
                label="LoRA",
                elem_id="live-loras",
            )
            fields["sampler"] = gr.Dropdown(
                [(method.label, method.key) for method in SAMPLERS.values()],
                value=_SAMPLER,
                label="Sampler",
                elem_id="live-sampler",
            )
            fields["steps"] = gr.Slider(1, 12, _STEPS, step=1, label="Steps", buttons=[], elem_id="live-steps")

    def _list_models(self) -> list[Any]:
        return [one for one in self.studio.models() if one.kind == "image" and one.family != "stock"]

    def _list_model_choices(self) -> list[tuple[str, str]]:
        return [(format_model_label(one), one.key) for one in self._list_models()]

    def _list_files(self, data: Data) -> Data:
        """What the models folder holds now; only a chosen LoRA that is gone is taken out."""
        model, chosen = data[self.model], data[self.fields["loras"]] or []
        offered = self.studio.loras(model) if model in self.studio.catalog else []
        fitting = [name for name in chosen if name in offered]
        kept, taken_out = gr.update(choices=offered), gr.update(choices=offered, value=fitting)
        return {
            self.model: gr.update(choices=self._list_model_choices()),
            self.fields["loras"]: kept if fitting == list(chosen) else taken_out,
        }

    def _find_default_model(self) -> str:
        keys = [one.key for one in self._list_models()]
        return _MODEL if _MODEL in keys else keys[0]

    def _choose_loras(self, model: str) -> list[str]:
        """The LoRA of few steps, where the model is the one that it is for."""
        return [_LORA] if model == _MODEL and _LORA in self.studio.loras(model) else []

    # Events.

    def _wire(self) -> None:
        fields = self.fields
        form = Form(fields.values(), self._read, fields.values(), self._refill)
        self.context.lists[KEY] = Lists({self.model, fields["loras"]}, {self.model, fields["loras"]}, self._list_files)
        live = LiveTab(
            KEY,
            form.read,
            lambda job: LiveRenderer(self.root, job),
            hear=_find_inbox,
            understand=self._understand,
            per_second=FRAMES_A_SECOND,
        )
        self._wire_run(form, live)
        self.save.click(None, js=f"() => stepwise.saveLive({KEY!r})", **PLUMBING)
        roll = "() => String(Math.floor(Math.random() * 2**32))"
        self.roll.click(None, outputs=[fields["seed"]], js=roll, **PLUMBING)
        for button, example in self.examples.items():
            shown = f"() => {{ stepwise.drawLive({self.root!r}, {example.shapes!r}); return {example.prompt!r}; }}"
            button.click(None, outputs=[fields["prompt"]], js=shown, **PLUMBING)
        # Gradio sends "input" when a list is left, too: what was chosen since stays where the model is the same.
        model = self.model
        model.focus(None, inputs=model, js=f"(key) => stepwise.enterList({model.elem_id!r}, key)", **PLUMBING)
        another = f"(key) => stepwise.chooseAnother({model.elem_id!r}, key)"
        model.input(
            self._offer_loras, inputs=[model], outputs=[fields["loras"], fields["steps"]], js=another, **PLUMBING
        )

    def _offer_loras(self, model: str | None) -> tuple[Any, Any]:
        if model is None or model not in self.studio.catalog:
            return gr.skip(), gr.skip()
        chosen = self._choose_loras(model)
        loras = gr.update(choices=self.studio.loras(model), value=chosen)
        return loras, gr.update(value=_STEPS if chosen else 8)

    # Handlers.

    def _read(self, data: Data) -> tuple[dict[str, Any], dict[str, Any]]:
        draft = {name: data[component] for name, component in self.fields.items()}
        base = {
            "model": draft["model"],
            "prompt": draft["prompt"],
            "seed": _parse_seed(draft["seed"]),
            "num_inference_steps": draft["steps"],
            "sampler": draft["sampler"],
            "guidance": _choose_guidance(draft["guidance_scale"]),
            "loras": [{"name": name, "weight": 1.0} for name in draft["loras"] or ()],
        }
        return draft, {"base": base, "strength": draft["strength"], "similarity": draft["similarity"]}

    def _refill(self, draft: object) -> Data:
        if not isinstance(draft, dict):
            return {}
        return {self.fields[name]: gr.update(value=draft[name]) for name in self.fields.keys() & draft.keys()}

    def _understand(self, job: Job, values: Mapping[str, object]) -> Mapping[str, Any]:
        """What a running session is to do: `save`, or other settings."""
        if values.get("save"):
            return {"save": True}
        if not values:
            return {}
        from studio.tasks.runs.live import read_change  # late: see `Task`

        plain = dict(values)
        if "seed" in plain:
            plain["seed"] = _parse_seed(plain["seed"])
        if "guidance_scale" in plain:
            plain["guidance"] = _choose_guidance(plain.pop("guidance_scale"))
        context: TaskContext = self.studio
        job.request.live = read_change(job.request, plain, context)
        return {"live": job.request.live}


def _find_inbox(job: Job) -> Inbox:
    inbox: Inbox = job.request.inbox
    return inbox


def _choose_guidance(scale: object) -> dict[str, Any]:
    if isinstance(scale, bool) or not isinstance(scale, (int, float)):
        raise SettingsError(f"Residual guidance is {str(scale)[:80]!r}. It must be a number.")
    return {"key": "residual" if scale > 1 else "cfg", "guidance_scale": scale}


def _parse_seed(text: object) -> int:
    try:
        return int(str(text).strip())
    except ValueError:
        raise SettingsError(f"The seed is {str(text)[:80]!r}. It must be a whole number.") from None


def build(studio: Studio, context: PageContext) -> None:
    """Build the tab, in the present layout context."""
    LiveModeTab(studio, context)
