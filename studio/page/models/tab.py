"""The tab "Models": what can be used, where it is, what is in memory, and how to bring more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.context import Context

from pipelines.core.errors import StepwiseError
from pipelines.models.catalog import shown
from studio.models.model_list import DOWNLOAD, LOAD, memory_of
from studio.page.models import markup as look
from studio.ui import markup
from studio.ui.controls import PLUMBING
from studio.ui.page_context import PageContext, Receiver
from studio.ui.tab_settings import OneOf, Setting

if TYPE_CHECKING:
    from studio.backend import Studio

__all__ = ["KEY", "ModelsTab", "build"]

KEY = "models"
USED_IN = "text_to_image"
EVERY = 0.7
"""Seconds between two looks at what is on its way."""

_ON_LOAD = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-action]');
  if (button) trigger('click', { action: button.dataset.action, id: button.dataset.id });
});
"""
WHERE = [("Anywhere", ""), ("On this machine", "here"), ("In memory", "loaded"), ("Not downloaded", "hub")]


class ModelsTab:
    """The tab's components and what happens between them.

    Args:
        studio: the backend.
        context: the page around the tab.
    """

    def __init__(self, studio: Studio, context: PageContext):
        self.studio, self.context, self.model_list = studio, context, studio.model_list
        self.tab = Context.block
        self.timer = gr.Timer(EVERY, active=False)
        with gr.Column(elem_classes="sw-catalog", elem_id="mod"):
            self.notice = gr.HTML(elem_id="mod-notice", elem_classes="sw-notices")
            with gr.Column(elem_classes="sw-shelf-card", min_width=0):
                gr.HTML("<h2>Memory</h2>")
                self.memory = gr.HTML(elem_id="mod-memory")
            with gr.Row(elem_classes="sw-finder"):
                self._finder()
            self.cards = gr.HTML(elem_id="mod-cards", js_on_load=_ON_LOAD)
            with gr.Column(elem_classes="sw-shelf-card sw-table", min_width=0):
                gr.HTML("<h2>LoRAs</h2>")
                self.loras = gr.HTML(elem_id="mod-loras")
        self._wire()

    def _finder(self) -> None:
        families = dict.fromkeys(entry.family for entry in self.studio.models())
        choices = [("All families", ""), *((look.FAMILIES.get(family, family), family) for family in families)]
        self.family = gr.Dropdown(
            choices, value="", label="Family", filterable=False, min_width=150, elem_id="mod-family"
        )
        self.kind = gr.Dropdown(
            [("Anything", ""), *((words, key) for key, words in look.KINDS.items())],
            value="",
            label="Makes",
            filterable=False,
            min_width=150,
            elem_id="mod-kind",
        )
        self.where = gr.Dropdown(WHERE, value="", label="Where", filterable=False, min_width=150, elem_id="mod-where")
        with gr.Column(min_width=150, elem_classes="sw-folder"):
            self.rescan = gr.Button("Rescan the models folder", size="sm", elem_id="mod-rescan")
            self.folder = gr.HTML(elem_id="mod-folder")

    # Events.

    def _wire(self) -> None:
        filters = [self.family, self.kind, self.where]
        outputs = {self.cards, self.memory, self.loras, self.folder, self.timer}
        self.tab.select(self._show, filters, outputs, **PLUMBING)
        for one in filters:
            one.input(self._show, filters, outputs, **PLUMBING)
        self.timer.tick(self._tick, filters, {self.cards, self.memory, self.timer}, **PLUMBING)
        self.rescan.click(self._rescan, filters, {*outputs, self.notice}, **PLUMBING)
        self.context.receive[KEY] = Receiver({*filters, *outputs}, self._received, KEY, self._settings(), request=False)
        receiver = self.context.receive.get(USED_IN)
        used = {*receiver.outputs, self.context.tabs} if receiver else set()
        self.cards.click(self._act, filters, {*outputs, self.notice, *used}, **PLUMBING)

    def _settings(self) -> dict[str, Setting]:
        families = dict.fromkeys(entry.family for entry in self.studio.models())
        offered = {"family": ["", *families], "kind": ["", *look.KINDS], "where": [key for _, key in WHERE]}
        return {name: OneOf(name, lambda words=words: words) for name, words in offered.items()}

    # Handlers: each gives updates by component.

    def _received(self, values: Mapping[str, Any]) -> dict[Any, Any]:
        """The filters that a link brings."""
        own = {name: values.get(KEY, {}).get(name, "") for name in ("family", "kind", "where")}
        return {**{getattr(self, name): value for name, value in own.items()}, **self._show(*own.values())}

    def _show(self, family: str, kind: str, where: str) -> dict[Any, Any]:
        folder = markup.escape(shown(self.studio.catalog.folder))
        return {
            **self._tick(family, kind, where),
            self.loras: look.lora_list(self.model_list.loras()),
            self.folder: f'<p class="sw-hint">Models folder: <code>{folder}</code></p>',
        }

    def _tick(self, family: str, kind: str, where: str) -> dict[Any, Any]:
        busy = self.model_list.busy  # before the cards, so that the last look shows how it ended
        segments, limit = memory_of(self.studio.loader)
        return {
            self.cards: look.cards(self._cards(family, kind, where)),
            self.memory: look.memory_bar(segments, limit, self._label),
            self.timer: gr.Timer(active=busy),
        }

    def _cards(self, family: str, kind: str, where: str) -> list[look.Card]:
        chosen = []
        for entry in self.studio.models():
            if (family and entry.family != family) or (kind and entry.kind != kind):
                continue
            here, loaded = self.model_list.here(entry), self.studio.loader.loaded(entry.key)
            if where and not {"here": here, "loaded": loaded, "hub": not here and not entry.problem}.get(where):
                continue
            chosen.append((entry, here, loaded, self.model_list.errand(entry.key)))
        return sorted(chosen, key=lambda one: (not one[2], not one[1]))

    def _act(self, family: str, kind: str, where: str, event: gr.EventData) -> dict[Any, Any]:
        data = event._data or {}
        action, key = str(data.get("action", "")), str(data.get("id", ""))
        try:
            told = self._done(action, key)
            used = self._use(key) if action == "use" else {}
        except StepwiseError as error:
            return {**self._show(family, kind, where), self.notice: markup.notice(str(error))}
        return {**self._show(family, kind, where), self.notice: markup.notice(told, "news"), **used}

    def _done(self, action: str, key: str) -> str:
        """Do what a card's button says; what there is to tell about it."""
        if action in (LOAD, DOWNLOAD):
            self.model_list.start(key, action)
        elif action == "cancel":
            self.model_list.cancel(key)
        elif action == "release" and not self.model_list.release(key):
            return f"{self._label(key)} is in use; its memory is freed when the job ends."
        return ""

    def _use(self, key: str) -> dict[Any, Any]:
        receiver = self.context.receive.get(USED_IN)
        entry = self.studio.catalog[key]
        if receiver is None:
            return {}
        return {**receiver.updates({"model": entry.key}), self.context.tabs: gr.Tabs(selected=USED_IN)}

    def _rescan(self, family: str, kind: str, where: str) -> dict[Any, Any]:
        before = {*self.studio.catalog, *(lora.key for lora in self.model_list.loras())}
        self.model_list.rescan()
        found = len({*self.studio.catalog} - before)
        told = f"{found} new in the models folder." if found else "The models folder was scanned again."
        return {**self._show(family, kind, where), self.notice: markup.notice(told, "news")}

    def _label(self, key: str) -> str:
        entry = self.studio.catalog.get(key)
        return entry.label if entry else key


def build(studio: Studio, context: PageContext) -> None:
    """The tab, in the present layout context."""
    ModelsTab(studio, context)
