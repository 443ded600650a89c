"""The tab "Gallery": every result that was ever made here, to find, to look at, to compare and to use again."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.context import Context
from gradio.utils import get_upload_folder

from pipelines.core.errors import SettingsError, StepwiseError
from studio.page.gallery import markup as look
from studio.page.gallery.list import ResultList
from studio.page.gallery.names import NamePattern
from studio.results.archives import THUMBNAILS, pack
from studio.results.search import drop_model, extract_settings, get_existing, get_model_label
from studio.ui import markup
from studio.ui.asking import list_visible_results
from studio.ui.clip_export import ClipExport
from studio.ui.component_data import Data
from studio.ui.controls import PLUMBING
from studio.ui.deep_links import TabSettings, copy_link
from studio.ui.outputs import in_order
from studio.ui.page_context import PageContext, Receiver
from studio.ui.presentation import format_count
from studio.ui.tab_settings import accept_settings

if TYPE_CHECKING:
    from studio.backend import Studio
    from studio.results.visible import VisibleResults

__all__ = ["KEY", "GalleryTab", "build"]

KEY = "gallery"
_ON_LOAD = """
const page = window.stepwiseGallery;
watch('value', () => page.{0}(element));
page.{0}(element);
element.addEventListener('click', (event) => {{
  const button = event.target.closest('[data-action]');
  if (!button) return;
  const detail = {{ action: button.dataset.action, id: button.dataset.id ?? '' }};
  if (!button.matches('.sw-star')) return trigger('click', detail);
  page.star(button);
  trigger('like', detail);
}});
"""
_CHOSEN = "(chosen, ...rest) => [window.stepwiseGallery.chosen(), ...rest]"


class GalleryTab:
    """Holds the tab's components and connects their events.

    Args:
        studio: the backend.
        context: the page around the tab.
    """

    def __init__(self, studio: Studio, context: PageContext):
        self.studio, self.context = studio, context
        self.tab = Context.block
        self.result_list = ResultList(studio, Path(get_upload_folder()) / THUMBNAILS, _ON_LOAD)
        self.opened_id, self.undone = gr.Textbox("", visible=False), gr.JSON([], visible=False)
        self.chosen = gr.JSON(visible=False)
        with gr.Column(elem_classes="sw-gallery", elem_id="gal"):
            with gr.Row(elem_classes="sw-finder"):
                self.result_list.build_search()
                inputs = [self.result_list.search, self.result_list.kind, *self.result_list.filters]
                link = TabSettings(lambda: inputs, self.result_list.read_search, lambda: context.receive[KEY])
                copy_link(None, context, KEY, "gal", link)
            with gr.Column(elem_classes="sw-result-list", min_width=0):
                self._build_list()
            with gr.Column(elem_classes="sw-detail", min_width=0, visible=False, elem_id="gal-detail") as self.detail:
                self._build_details()
        self._wire()

    @property
    def _results(self) -> VisibleResults:
        """The results as whoever sent the present event sees them."""
        return list_visible_results(self.studio)

    # Layout.

    def _build_list(self) -> None:
        with gr.Row(elem_classes="sw-action-notice", visible=False) as self.news:
            self.notice = gr.HTML(elem_id="gal-notice", js_on_load=_ON_LOAD.format("notice"))
            self.undo = gr.Button("Undo", size="sm", visible=False, min_width=0, elem_id="gal-undo")
        self.result_list.build_results()
        self.names = NamePattern()
        with gr.Row(elem_classes="sw-chosen", elem_id="gal-bar"):
            gr.HTML('<p class="sw-count" role="status"></p>', elem_id="gal-chosen")
            self.compare = gr.Button("Compare two", size="sm", min_width=0, elem_id="gal-compare")
            self.export = gr.Button("Export as zip", size="sm", min_width=0, elem_id="gal-export")
            self.remove = gr.Button("Delete", size="sm", min_width=0, elem_id="gal-delete")
            self.all = gr.Button("Select all shown", size="sm", min_width=0, elem_id="gal-all")
            self.none = gr.Button("Clear", size="sm", min_width=0, elem_id="gal-none")

    def _build_details(self) -> None:
        self.whole = gr.HTML(elem_id="gal-opened", js_on_load=_ON_LOAD.format("shown"))
        with gr.Row(elem_classes="sw-acts", visible=False) as self.uses:
            labels = self.context.tab_labels
            self.sends = {
                key: gr.Button(
                    f"Use in {labels.get(key, key)}", size="sm", min_width=0, elem_id=f"gal-use-{key.replace('_', '-')}"
                )
                for key in self.context.receive
            }
        self.clips = ClipExport("gal")
        with gr.Row(elem_classes="sw-acts"):
            self.remove_one = gr.Button("Delete", size="sm", min_width=0, elem_id="gal-delete-one")
            self.restore_one = gr.Button("Restore", size="sm", min_width=0, visible=False, elem_id="gal-restore-one")
            self.close = gr.Button("Close", size="sm", min_width=0, elem_id="gal-close")

    # Events.

    def _wire(self) -> None:
        self._panel = [self.detail, self.whole, self.uses, self.remove_one, self.restore_one, self.opened_id]
        self._panel += self.clips.outputs
        self._news = [self.news, self.notice, self.undo, self.undone]
        self.result_list.wire(self.tab)
        result_list = self.result_list
        self.context.receive[KEY] = Receiver(
            {result_list.search, result_list.favorites, result_list.order, *result_list.outputs},
            lambda values: result_list.update_from_link(values.get(KEY, {})),
            KEY,
            result_list.settings,
            request=False,
        )
        searches = [result_list.search, result_list.kind, *result_list.filters]
        for searched in [component.input for component in searches]:  # what was said is about another list
            searched(lambda: self._say(""), None, {*self._news}, **PLUMBING)
        self.result_list.grid.click(self._open, None, in_order([*self._panel, *self._news]), **PLUMBING)
        starred = {*self.result_list.outputs, *self._news}
        for stars in (self.result_list.grid, self.whole):
            stars.like(self._star, self.result_list.inputs, in_order(starred), **PLUMBING)
        self.close.click(self._close, None, in_order([self.detail, self.whole, self.opened_id]), **PLUMBING)
        self.names.wire(self.context.demo, self._say, {*self._news})
        self.clips.wire([self.opened_id], lambda data: self._results.get(data[self.opened_id]))
        self._wire_selection()
        for key, button in self.sends.items():
            receiver = self.context.receive[key]
            button.click(
                lambda opened, key=key, receiver=receiver: self._send(opened, key, receiver),
                [self.opened_id],
                in_order([*receiver.outputs, self.context.tabs, *self._news]),
                **PLUMBING,
            )

    def _wire_selection(self) -> None:
        outputs = {*self.result_list.outputs, *self._panel, *self._news}
        over = {"js": _CHOSEN, **PLUMBING}
        self.compare.click(self._compare, [self.chosen], in_order([*self._panel, *self._news]), **over)
        exports = {**over, "queue": True, "concurrency_limit": 2}
        self.export.click(self._export, [self.chosen, self.names.text], in_order(self._news), **exports)
        self.remove.click(self._remove, [self.chosen, *self.result_list.inputs], in_order(outputs), **over)
        self.remove_one.click(
            lambda opened, *rest: self._remove([opened], *rest),
            [self.opened_id, *self.result_list.inputs],
            in_order(outputs),
            **PLUMBING,
        )
        self.restore_one.click(
            lambda opened, *rest: self._restore([opened], *rest),
            [self.opened_id, *self.result_list.inputs],
            in_order(outputs),
            **PLUMBING,
        )
        self.undo.click(self._restore, [self.undone, *self.result_list.inputs], in_order(outputs), **PLUMBING)
        trash = self.result_list.trash
        trash.button.click(
            self._empty_trash, [trash.was_asked, *self.result_list.inputs], in_order(outputs), **PLUMBING
        )
        self.all.click(None, js="() => window.stepwiseGallery.choose(true)", **PLUMBING)
        self.none.click(None, js="() => window.stepwiseGallery.choose(false)", **PLUMBING)

    # Handlers: each gives updates by component.

    def _open(self, event: gr.EventData) -> Data:
        data = event._data or {}
        if data.get("action") != "open":
            return {self.news: gr.skip()}
        try:
            record = self._results.get(str(data.get("id", "")))
        except StepwiseError as error:
            return self._say(str(error), "problem")
        label = get_model_label(record, self.studio.catalog)
        return {
            **self._say(""),
            self.detail: gr.update(visible=True),
            self.whole: look.build_opened(record, label),
            self.opened_id: record.id,
            self.uses: gr.update(visible=bool(self.sends) and extract_settings(record) is not None),
            self.remove_one: gr.update(visible=record.trashed is None),
            self.restore_one: gr.update(visible=record.trashed is not None),
            **self.clips.updates(record),
        }

    def _star(self, event: gr.EventData, *inputs: object) -> Data:
        updates, problem = self.result_list.star(event._data, inputs)
        return {**updates, **self._say(problem, "problem")} if problem else {self.news: gr.skip()}

    def _compare(self, chosen: object) -> Data:
        try:
            records = get_existing(self._results, chosen)
            stills = [record for record in records if record.path.suffix.lower() in look.STILLS]
            if len(records) != 2 or len(stills) != 2:
                raise SettingsError("Two pictures can be compared: select exactly two, and no clip or table.")
        except StepwiseError as error:
            return self._say(str(error), "problem")
        hidden = gr.update(visible=False)
        return {
            self.detail: gr.update(visible=True),
            self.whole: look.build_pair(*stills),
            self.opened_id: "",
            self.uses: hidden,
            self.remove_one: hidden,
            self.restore_one: hidden,
            **self.clips.updates(None),
        }

    def _export(self, chosen: object, pattern: object = "") -> Data:
        try:
            records = get_existing(self._results, chosen)
            name = f"stepwise-{time.strftime('%Y%m%d-%H%M%S')}.zip"
            path = pack(records, Path(get_upload_folder()) / secrets.token_hex(16) / name, str(pattern or ""))
        except StepwiseError as error:
            return self._say(str(error), "problem")
        return {
            **self._say(""),
            self.news: gr.update(visible=True),
            self.notice: look.build_archive_notice(path, len(records), path.stat().st_size),
        }

    def _remove(self, chosen: Any, *inputs: Any) -> Data:
        try:
            deleted = [
                self._results.delete(record.id).id
                for record in get_existing(self._results, chosen)
                if record.trashed is None
            ]
        except StepwiseError as error:
            return {**self.result_list.list_newest(*inputs), **self._say(str(error), "problem")}
        text = (
            f"{format_count(len(deleted), 'result')} deleted." if deleted else "Everything selected is deleted already."
        )
        return {
            **self.result_list.list_newest(*inputs),
            **self._close(),
            **self._say(text, "news", deleted),
        }

    def _restore(self, chosen: Any, *inputs: Any) -> Data:
        try:
            restored = [self._results.restore(record.id).id for record in get_existing(self._results, chosen)]
        except StepwiseError as error:
            return {**self.result_list.list_newest(*inputs), **self._say(str(error), "problem")}
        return {
            **self.result_list.list_newest(*inputs),
            **self._close(),
            **self._say(f"{format_count(len(restored), 'result')} restored.", "news"),
        }

    def _empty_trash(self, was_asked: Any, *inputs: Any) -> Data:
        try:
            if not self.result_list.trash.is_confirmed(was_asked):
                return self.result_list.trash.ask()
            text = self.result_list.trash.empty()
        except StepwiseError as error:
            return self._say(str(error), "problem")
        return {**self.result_list.list_newest(*inputs), **self._close(), **self._say(text, "news")}

    def _send(self, opened: str, key: str, receiver: Receiver) -> Data:
        """Open another tab with the settings of the opened result."""
        try:
            values = extract_settings(self._results.get(opened))
            if values is None:
                raise SettingsError("This result has no settings that another tab can use.")
            is_gone = values["model"] not in self.studio.catalog
            text = (
                f"The model {values['model'][:80]!r} is no longer available; the chosen one stays." if is_gone else ""
            )
            values = drop_model(values) if is_gone else values
            accepted, notes = accept_settings(receiver.settings, values.get(receiver.name), values.get("model", ""))
            values = {**values, receiver.name: accepted} if receiver.name in values else values
            text = " ".join(filter(None, (text, *notes)))
            return {**receiver.updates(values), self.context.tabs: gr.Tabs(selected=key), **self._say(text, "news")}
        except StepwiseError as error:
            return self._say(str(error), "problem")

    def _close(self) -> Data:
        return {self.detail: gr.update(visible=False), self.whole: "", self.opened_id: ""}

    def _say(self, text: str, kind: str = "news", deleted: Sequence[str] = ()) -> Data:
        return {
            self.news: gr.update(visible=bool(text)),
            self.notice: markup.notice(text, kind) if text else "",
            self.undo: gr.update(visible=bool(deleted)),
            self.undone: list(deleted),
        }


def build(studio: Studio, context: PageContext) -> None:
    """Build the tab, in the present layout context."""
    GalleryTab(studio, context)
