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
from studio.results.archives import pack
from studio.results.search import existing, model_label, reusable, without_model
from studio.ui import markup
from studio.ui.clip_export import ClipExport
from studio.ui.controls import PLUMBING
from studio.ui.deep_links import Own, copy_link
from studio.ui.page_context import PageContext, Receiver
from studio.ui.presentation import plural
from studio.ui.tab_settings import accepted

if TYPE_CHECKING:
    from studio.backend import Studio

__all__ = ["KEY", "GalleryTab", "build"]

KEY = "gallery"
_ON_LOAD = """
const page = window.stepwiseGallery;
watch('value', () => page.{0}(element));
page.{0}(element);
element.addEventListener('click', (event) => {{
  const button = event.target.closest('[data-action]');
  if (button) trigger('click', {{ action: button.dataset.action, id: button.dataset.id ?? '' }});
}});
"""
_CHOSEN = "(chosen, ...rest) => [window.stepwiseGallery.chosen(), ...rest]"


class GalleryTab:
    """The tab's components and what happens between them.

    Args:
        studio: the backend.
        context: the page around the tab.
    """

    def __init__(self, studio: Studio, context: PageContext):
        self.studio, self.context = studio, context
        self.tab = Context.block
        self.result_list = ResultList(studio, Path(get_upload_folder()) / "thumbnails", _ON_LOAD)
        self.opened, self.undone = gr.Textbox("", visible=False), gr.JSON([], visible=False)
        self.chosen = gr.JSON(visible=False)
        with gr.Column(elem_classes="sw-gallery", elem_id="gal"):
            with gr.Row(elem_classes="sw-finder"):
                self.result_list.finder()
                inputs = [self.result_list.search, self.result_list.kind]
                own = Own(lambda: inputs, self.result_list.searched, lambda: context.receive[KEY])
                copy_link(None, context, KEY, "gal", own)
            with gr.Column(elem_classes="sw-found", min_width=0):
                self._found()
            with gr.Column(elem_classes="sw-detail", min_width=0, visible=False, elem_id="gal-detail") as self.detail:
                self._detail()
        self._wire()

    # Layout.

    def _found(self) -> None:
        with gr.Row(elem_classes="sw-told", visible=False) as self.told:
            self.notice = gr.HTML(elem_id="gal-notice", js_on_load=_ON_LOAD.format("notice"))
            self.undo = gr.Button("Undo", size="sm", visible=False, min_width=0, elem_id="gal-undo")
        self.result_list.found()
        with gr.Row(elem_classes="sw-chosen", elem_id="gal-bar"):
            gr.HTML('<p class="sw-count" role="status"></p>', elem_id="gal-chosen")
            self.compare = gr.Button("Compare two", size="sm", min_width=0, elem_id="gal-compare")
            self.export = gr.Button("Export as zip", size="sm", min_width=0, elem_id="gal-export")
            self.remove = gr.Button("Delete", size="sm", min_width=0, elem_id="gal-delete")
            self.all = gr.Button("Select all shown", size="sm", min_width=0, elem_id="gal-all")
            self.none = gr.Button("Clear", size="sm", min_width=0, elem_id="gal-none")

    def _detail(self) -> None:
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
        self._panel = [self.detail, self.whole, self.uses, self.remove_one, self.restore_one, self.opened]
        self._panel += self.clips.outputs
        self._news = [self.told, self.notice, self.undo, self.undone]
        self.result_list.wire(self.tab)
        result_list = self.result_list
        self.context.receive[KEY] = Receiver(
            {result_list.search, *result_list.outputs},
            lambda values: result_list.opened(values.get(KEY, {})),
            KEY,
            result_list.settings,
            request=False,
        )
        self.result_list.grid.click(self._open, None, {*self._panel, *self._news}, **PLUMBING)
        self.close.click(self._closed, None, {self.detail, self.whole, self.opened}, **PLUMBING)
        self.clips.wire([self.opened], lambda data: self.studio.store.get(data[self.opened]))
        self._wire_chosen()
        for key, button in self.sends.items():
            receiver = self.context.receive[key]
            button.click(
                lambda opened, key=key, receiver=receiver: self._send(opened, key, receiver),
                [self.opened],
                {*receiver.outputs, self.context.tabs, *self._news},
                **PLUMBING,
            )

    def _wire_chosen(self) -> None:
        changed = {*self.result_list.outputs, *self._panel, *self._news}
        over = {"js": _CHOSEN, **PLUMBING}
        self.compare.click(self._compare, [self.chosen], {*self._panel, *self._news}, **over)
        self.export.click(self._export, [self.chosen], {*self._news}, **{**over, "queue": True, "concurrency_limit": 2})
        self.remove.click(self._remove, [self.chosen, *self.result_list.inputs], changed, **over)
        self.remove_one.click(
            lambda opened, *rest: self._remove([opened], *rest),
            [self.opened, *self.result_list.inputs],
            changed,
            **PLUMBING,
        )
        self.restore_one.click(
            lambda opened, *rest: self._restore([opened], *rest),
            [self.opened, *self.result_list.inputs],
            changed,
            **PLUMBING,
        )
        self.undo.click(self._restore, [self.undone, *self.result_list.inputs], changed, **PLUMBING)
        self.all.click(None, js="() => window.stepwiseGallery.choose(true)", **PLUMBING)
        self.none.click(None, js="() => window.stepwiseGallery.choose(false)", **PLUMBING)

    # Handlers: each gives updates by component.

    def _open(self, event: gr.EventData) -> dict[Any, Any]:
        data = event._data or {}
        if data.get("action") != "open":
            return {self.told: gr.skip()}
        try:
            record = self.studio.store.get(str(data.get("id", "")))
        except StepwiseError as error:
            return self._say(str(error), "problem")
        label = model_label(record, self.studio.catalog)
        return {
            self.detail: gr.update(visible=True),
            self.whole: look.opened(record, label),
            self.opened: record.id,
            self.uses: gr.update(visible=bool(self.sends) and reusable(record) is not None),
            self.remove_one: gr.update(visible=record.trashed is None),
            self.restore_one: gr.update(visible=record.trashed is not None),
            **self.clips.updates(record),
        }

    def _compare(self, chosen: Any) -> dict[Any, Any]:
        try:
            records = existing(self.studio.store, chosen)
            stills = [record for record in records if record.path.suffix.lower() in look.STILLS]
            if len(records) != 2 or len(stills) != 2:
                raise SettingsError("Two pictures can be compared: tick exactly two, and no clip or table.")
        except StepwiseError as error:
            return self._say(str(error), "problem")
        hidden = gr.update(visible=False)
        return {
            self.detail: gr.update(visible=True),
            self.whole: look.pair(*stills),
            self.opened: "",
            self.uses: hidden,
            self.remove_one: hidden,
            self.restore_one: hidden,
            **self.clips.updates(None),
        }

    def _export(self, chosen: Any) -> dict[Any, Any]:
        try:
            records = existing(self.studio.store, chosen)
            name = f"stepwise-{time.strftime('%Y%m%d-%H%M%S')}.zip"
            path = pack(records, Path(get_upload_folder()) / secrets.token_hex(16) / name)
        except StepwiseError as error:
            return self._say(str(error), "problem")
        return {
            **self._say(""),
            self.told: gr.update(visible=True),
            self.notice: look.archive(path, len(records), path.stat().st_size),
        }

    def _remove(self, chosen: Any, search: str, kind: str, place: Any) -> dict[Any, Any]:
        try:
            gone = [
                self.studio.store.delete(record.id).id
                for record in existing(self.studio.store, chosen)
                if record.trashed is None
            ]
        except StepwiseError as error:
            return {**self.result_list.listed(search, kind, place), **self._say(str(error), "problem")}
        told = f"{plural(len(gone), 'result')} deleted." if gone else "Everything selected is deleted already."
        return {**self.result_list.listed(search, kind, place), **self._closed(), **self._say(told, "news", gone)}

    def _restore(self, chosen: Any, search: str, kind: str, place: Any) -> dict[Any, Any]:
        try:
            back = [self.studio.store.restore(record.id).id for record in existing(self.studio.store, chosen)]
        except StepwiseError as error:
            return {**self.result_list.listed(search, kind, place), **self._say(str(error), "problem")}
        return {
            **self.result_list.listed(search, kind, place),
            **self._closed(),
            **self._say(f"{plural(len(back), 'result')} restored.", "news"),
        }

    def _send(self, opened: str, key: str, receiver: Receiver) -> dict[Any, Any]:
        """Open another tab with the settings of the opened result."""
        try:
            values = reusable(self.studio.store.get(opened))
            if values is None:
                raise SettingsError("This result has no settings that another tab can use.")
            lost = values["model"] not in self.studio.catalog
            told = f"The model {values['model'][:80]!r} is no longer available; the chosen one stays." if lost else ""
            values = without_model(values) if lost else values
            own, notes = accepted(receiver.settings, values.get(receiver.name), values.get("model", ""))
            values = {**values, receiver.name: own} if receiver.name in values else values
            told = " ".join(filter(None, (told, *notes)))
            return {**receiver.updates(values), self.context.tabs: gr.Tabs(selected=key), **self._say(told, "news")}
        except StepwiseError as error:
            return self._say(str(error), "problem")

    def _closed(self) -> dict[Any, Any]:
        return {self.detail: gr.update(visible=False), self.whole: "", self.opened: ""}

    def _say(self, text: str, kind: str = "news", gone: Sequence[str] = ()) -> dict[Any, Any]:
        return {
            self.told: gr.update(visible=bool(text)),
            self.notice: markup.notice(text, kind) if text else "",
            self.undo: gr.update(visible=bool(gone)),
            self.undone: list(gone),
        }


def build(studio: Studio, context: PageContext) -> None:
    """The tab, in the present layout context."""
    GalleryTab(studio, context)
