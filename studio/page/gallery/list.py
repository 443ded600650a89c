"""The gallery's list: what is searched for, a page of tiles, and the pages after it, one at a time."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from pipelines.core.errors import StepwiseError
from studio.page.gallery import markup as look
from studio.results.archives import thumbnail
from studio.results.search import find
from studio.results.store import Record
from studio.ui import markup
from studio.ui.controls import PLUMBING
from studio.ui.presentation import plural
from studio.ui.tab_settings import OneOf, Setting, Text

if TYPE_CHECKING:
    from studio.backend import Studio

__all__ = ["MOST", "PAGE", "TRASH", "ResultList"]

PAGE = 48
MOST = 20 * PAGE
"""Tiles that are drawn at once, where a long list is drawn anew after a deletion; the pages after them follow on demand."""

TRASH = "trash"
_LONGEST_SEARCH = 400


class ResultList:
    """Its components, and the handlers behind them, each of which gives updates by component.

    Args:
        studio: for the store.
        thumbnails: folder of the small pictures.
        on_load: from the name of a function of the page's script to the script that calls it.
    """

    def __init__(self, studio: Studio, thumbnails: Path, on_load: str):
        self._store, self._thumbnails, self._on_load = studio.store, thumbnails, on_load
        # No gr.State: one of those keeps a connection open all the time, and a browser has six to a host.
        self.place = gr.JSON({}, visible=False)

    # Sections, each built where it is called.

    def finder(self) -> None:
        """What is searched for."""
        self.search = gr.Textbox(
            label="Search the prompts",
            placeholder="fox blue",
            max_lines=1,
            scale=3,
            min_width=180,
            max_length=_LONGEST_SEARCH,
            elem_id="gal-search",
        )
        self.kind = gr.Dropdown(
            [("All kinds", "")], value="", label="Kind", filterable=False, scale=1, min_width=160, elem_id="gal-kind"
        )

    def found(self) -> None:
        """What was found."""
        self.summary = gr.HTML(elem_id="gal-summary")
        self.grid = gr.HTML(look.EMPTY, elem_id="gal-grid", js_on_load=self._on_load.format("shelf"))
        self.next = gr.HTML("", elem_id="gal-next", js_on_load=self._on_load.format("more"))
        self.more = gr.Button("Show more", visible=False, elem_id="gal-more")

    @property
    def inputs(self) -> list[Any]:
        """What `listed` takes."""
        return [self.search, self.kind, self.place]

    @property
    def outputs(self) -> set[Any]:
        """What `listed` changes."""
        return {self.grid, self.next, self.summary, self.more, self.kind, self.place}

    @property
    def settings(self) -> Mapping[str, Setting]:
        """What a link may bring."""
        kinds = OneOf("kind of result", lambda: ["", TRASH, *{**look.KINDS, **self._store.kinds()}])
        return {"search": Text(_LONGEST_SEARCH), "kind": kinds}

    def wire(self, tab: Any) -> None:
        """Connect them; the list is drawn anew whenever the tab is opened."""
        first = {"outputs": self.outputs, "trigger_mode": "always_last", **PLUMBING}
        tab.select(self.listed, self.inputs, outputs=self.outputs, **PLUMBING)
        self.search.change(lambda search, kind: self.listed(search, kind, {}), [self.search, self.kind], **first)
        self.kind.input(lambda search, kind: self.listed(search, kind, {}), [self.search, self.kind], **first)
        self.more.click(self.after, self.inputs, outputs=self.outputs, **PLUMBING)

    def searched(self, data: Mapping[Any, Any]) -> dict[str, Any]:
        """What is searched for, for a link."""
        return {"search": data[self.search] or "", "kind": data[self.kind] or ""}

    def opened(self, own: Mapping[str, Any]) -> dict[Any, Any]:
        """The updates that show what a link searches for."""
        search, kind = own.get("search", ""), own.get("kind", "")
        return {self.search: search, **self.listed(search, kind, {})}

    # Handlers.

    def listed(self, search: str, kind: str, place: Any) -> dict[Any, Any]:
        """The newest results that the filter lets through, as many as were shown; the place comes from a browser."""
        try:
            counts, trashed = self._store.kinds(), sum(self._store.kinds(trashed=True).values())
            choices = _choices(counts, trashed)
            kind = kind if kind in {key for _, key in choices} else ""
            count = min(max(_shown(place), PAGE), MOST)
            records, more = self._find(search, kind, count)
        except StepwiseError as error:
            return {self.grid: markup.notice(str(error)), self.more: gr.update(visible=False)}
        empty = look.NOTHING_FOUND if counts or kind == TRASH else look.EMPTY
        name = secrets.token_hex(8)
        return {
            self.grid: self._tiles(records, name) if records else empty,
            self.kind: gr.update(choices=choices, value=kind),
            **self._ended(records, more, name, len(records)),
        }

    def after(self, search: str, kind: str, place: Any) -> dict[Any, Any]:
        """The page after the last one; the page's script puts it at the end of the list that it belongs to."""
        last = str(place.get("last", "")) if isinstance(place, Mapping) else ""
        try:
            self._store.get(last)
            records, more = self._find(search, kind, PAGE, last)
        except StepwiseError:  # removed for good meanwhile, or no place of ours: the list begins anew
            return self.listed(search, kind, {})
        name = str(place.get("list", ""))[:32]
        ended = self._ended(records, more, name, _shown(place) + len(records), last)
        return {**ended, self.next: self._tiles(records, name, hidden=True)}

    def _find(self, search: str, kind: str, count: int, before: str = "") -> tuple[Sequence[Record], bool]:
        trashed = kind == TRASH
        words = str(search or "")[:_LONGEST_SEARCH]
        return find(self._store, words, "" if trashed else str(kind or ""), count, trashed=trashed, before=before)

    def _tiles(self, records: Sequence[Record], name: str, hidden: bool = False) -> str:
        return look.tiles([(record, thumbnail(record, self._thumbnails)) for record in records], name, hidden)

    def _ended(self, records: Sequence[Record], more: bool, name: str, shown: int, last: str = "") -> dict[Any, Any]:
        told = f"{plural(shown, 'result')}{', newest first' if shown > 1 else ''}" + (
            ", and more below" if more else ""
        )
        return {
            self.next: "",
            self.summary: f'<p class="sw-hint" role="status">{told if shown else ""}</p>',
            self.more: gr.update(visible=more),
            self.place: {"list": name, "last": records[-1].id if records else last, "shown": shown},
        }


def _shown(place: Any) -> int:
    shown = place.get("shown") if isinstance(place, Mapping) else None
    return shown if isinstance(shown, int) and 0 <= shown < 10**9 else 0


def _choices(counts: Mapping[str, int], trashed: int) -> list[tuple[str, str]]:
    choices = [
        (f"All kinds ({sum(counts.values())})", ""),
        *((f"{look.kind_label(one)} ({number})", one) for one, number in counts.items()),
    ]
    return [*choices, *([(f"Deleted ({trashed})", TRASH)] if trashed else [])]
