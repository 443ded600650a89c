"""The tab "Models": what can be used, where it is, what is in memory, and how to bring more."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import gradio as gr
from gradio.context import Context

from pipelines.core.errors import StepwiseError
from pipelines.models.catalog import shorten_path
from studio.models.memory_segments import list_devices
from studio.models.model_list import DOWNLOAD, LOAD
from studio.page.models import markup as look
from studio.page.models.machine_fit import describe_fit, read_free_disk, read_machine, recommend
from studio.ui import markup
from studio.ui.component_data import Data
from studio.ui.controls import PLUMBING
from studio.ui.outputs import in_order
from studio.ui.page_context import Lists, PageContext, Receiver
from studio.ui.presentation import format_file_size
from studio.ui.tab_settings import OneOf, Setting

if TYPE_CHECKING:
    from studio.backend import Studio

__all__ = ["KEY", "ModelsTab", "build"]

KEY = "models"
USED_IN = {"image": "text_to_image", "video": "animate"}
"""The tab that draws with a model, by its kind."""

EVERY = 0.7
"""Seconds between two looks at what is on its way."""

_ON_LOAD = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-action]');
  if (button) trigger('click', { action: button.dataset.action, id: button.dataset.id });
});
"""
WHERE = [("Any", ""), ("On this machine", "here"), ("In memory", "loaded"), ("Not downloaded", "hub")]


class ModelsTab:
    """Holds the tab's components and connects their events.

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
            with gr.Column(elem_classes="sw-models-card", min_width=0):
                gr.HTML("<h2>Memory</h2>")
                self.memory = gr.HTML(elem_id="mod-memory")
            with gr.Row(elem_classes="sw-finder"):
                self._build_filters()
            self.cards = gr.HTML(elem_id="mod-cards", js_on_load=_ON_LOAD)
            with gr.Column(elem_classes="sw-models-card sw-table", min_width=0):
                gr.HTML("<h2>LoRAs, embeddings and upscalers</h2>")
                self.loras = gr.HTML(elem_id="mod-loras")
        self._wire()

    def _build_filters(self) -> None:
        self.family = gr.Dropdown(
            self._list_families(), value="", label="Family", filterable=False, min_width=150, elem_id="mod-family"
        )
        self.kind = gr.Dropdown(
            [("Any", ""), *((words, key) for key, words in look.KINDS.items())],
            value="",
            label="Type",
            filterable=False,
            min_width=150,
            elem_id="mod-kind",
        )
        self.where = gr.Dropdown(WHERE, value="", label="Status", filterable=False, min_width=150, elem_id="mod-where")
        with gr.Column(min_width=150, elem_classes="sw-folder"):
            self.rescan = gr.Button("Rescan the models folder", size="sm", elem_id="mod-rescan")
            self.folder = gr.HTML(elem_id="mod-folder")

    def _list_families(self) -> list[tuple[str, str]]:
        families = dict.fromkeys(entry.family for entry in self.studio.models())
        return [("All families", ""), *((look.FAMILIES.get(family, family), family) for family in families)]

    # Events.

    def _wire(self) -> None:
        filters = [self.family, self.kind, self.where]
        outputs = {self.cards, self.memory, self.loras, self.folder, self.timer}
        cast(gr.Tab, self.tab).select(self._open, filters, in_order(outputs), **PLUMBING)
        for control in filters:
            control.input(self._show, filters, in_order(outputs), **PLUMBING)
        self.timer.tick(self._tick, filters, in_order([self.cards, self.memory, self.timer]), **PLUMBING)
        scanned = self.rescan.click(self._rescan, filters, in_order([*outputs, self.notice]), **PLUMBING)
        lists = self.context
        lists.lists[KEY] = Lists(
            set(), {self.family}, lambda _: {self.family: gr.update(choices=self._list_families())}
        )
        self.context.run_later(
            lambda: scanned.then(lists.update_lists, inputs=lists.list_inputs, outputs=lists.list_outputs, **PLUMBING)
        )
        self.context.receive[KEY] = Receiver(
            {*filters, *outputs}, self._receive, KEY, self._list_settings(), request=False
        )
        receivers = [self.context.receive[tab] for tab in USED_IN.values() if tab in self.context.receive]
        used_outputs = {self.context.tabs, *(output for receiver in receivers for output in receiver.outputs)}
        self.cards.click(self._act, filters, in_order([*outputs, self.notice, *used_outputs]), **PLUMBING)

    def _list_settings(self) -> dict[str, Setting]:
        families = dict.fromkeys(entry.family for entry in self.studio.models())
        choices = {"family": ["", *families], "kind": ["", *look.KINDS], "where": [key for _, key in WHERE]}
        return {name: OneOf(name, functools.partial(list, words)) for name, words in choices.items()}

    # Handlers: each gives updates by component.

    def _receive(self, values: Mapping[str, Any]) -> Data:
        """The filters that a link brings."""
        filters = {name: values.get(KEY, {}).get(name, "") for name in ("family", "kind", "where")}
        return {**{getattr(self, name): value for name, value in filters.items()}, **self._show(*filters.values())}

    def _show(self, family: str, kind: str, where: str) -> Data:
        folder = markup.escape(shorten_path(self.studio.catalog.folder))
        return {
            **self._tick(family, kind, where),
            self.loras: look.build_lora_list(self.model_list.loras())
            + look.build_embedding_list(self.model_list.embeddings())
            + look.build_upscaler_list(self.model_list.upscalers()),
            self.folder: f'<p class="sw-hint">Models folder: <code>{folder}</code>{self._describe_disk()}</p>',
        }

    def _describe_disk(self) -> str:
        """Say how much space the models folder's disk has left, and what its models take of it."""
        taken = sum(entry.size_bytes or 0 for entry in self.studio.models() if entry.path and entry.local)
        free = format_file_size(read_free_disk(self.studio.catalog.folder)) or "0 MB"
        return f", {free} free on the disk; the models on this machine take {format_file_size(taken) or '0 MB'}"

    def _open(self, family: str, kind: str, where: str) -> Data:
        """Show the models folder as it is now: what was put there since needs no button."""
        self.studio.catalog.rescan()
        return self._show(family, kind, where)

    def _tick(self, family: str, kind: str, where: str) -> Data:
        busy = self.model_list.busy  # before the cards, so that the last look shows how it ended
        return {
            self.cards: self._build_cards(family, kind, where),
            self.memory: look.build_memory(list_devices(self.studio.loaders), self._label),
            self.timer: gr.Timer(active=busy),
        }

    def _build_cards(self, family: str, kind: str, where: str) -> str:
        machine = read_machine(self.studio.loaders)
        entries = [(entry, self.model_list.is_here(entry)) for entry in self.studio.models()]
        return look.build_cards(
            self._list_cards(family, kind, where),
            lambda entry, is_here: describe_fit(entry, is_here, machine, self.studio.describe_placement(entry.key)),
            recommend(entries, machine),
        )

    def _list_cards(self, family: str, kind: str, where: str) -> list[look.Card]:
        cards = []
        for entry in self.studio.models():
            if (family and entry.family != family) or (kind and entry.kind != kind):
                continue
            is_here, is_loaded = self.model_list.is_here(entry), self.studio.is_loaded(entry.key)
            if where and not {"here": is_here, "loaded": is_loaded, "hub": not is_here and not entry.problem}.get(
                where
            ):
                continue
            cards.append((entry, is_here, is_loaded, self.model_list.get_transfer(entry.key)))
        return sorted(cards, key=lambda one: (not one[2], not one[1]))

    def _act(self, family: str, kind: str, where: str, event: gr.EventData) -> Data:
        data = event._data or {}
        action, key = str(data.get("action", "")), str(data.get("id", ""))
        try:
            text = self._perform(action, key)
            updates = self._use(key) if action == "use" else {}
        except StepwiseError as error:
            return {**self._show(family, kind, where), self.notice: markup.notice(str(error))}
        return {**self._show(family, kind, where), self.notice: markup.notice(text, "news"), **updates}

    def _perform(self, action: str, key: str) -> str:
        """Do what a card's button says; what there is to tell about it."""
        if action in (LOAD, DOWNLOAD):
            self.model_list.start(key, action)
        elif action == "cancel":
            self.model_list.cancel(key)
        elif action == "release" and not self.model_list.release(key):
            return f"{self._label(key)} is in use; its memory is freed when the job ends."
        return ""

    def _use(self, key: str) -> Data:
        entry = self.studio.catalog[key]
        tab = USED_IN.get(entry.kind, "")
        receiver = self.context.receive.get(tab)
        if receiver is None:
            return {}
        return {**receiver.updates({"model": entry.key}), self.context.tabs: gr.Tabs(selected=tab)}

    def _rescan(self, family: str, kind: str, where: str) -> Data:
        before = {*self.studio.catalog, *(lora.key for lora in self.model_list.loras())}
        self.model_list.rescan()
        num_new = len({*self.studio.catalog} - before)
        text = f"{num_new} new in the models folder." if num_new else "The models folder was scanned again."
        return {**self._show(family, kind, where), self.notice: markup.notice(text, "news")}

    def _label(self, key: str) -> str:
        entry = self.studio.catalog.get(key)
        return entry.label if entry else key


def build(studio: Studio, context: PageContext) -> None:
    """Build the tab, in the present layout context."""
    ModelsTab(studio, context)
