"""The gallery's list: what is searched for, a page of tiles, and the pages after it, one at a time."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from pipelines.core.errors import StepwiseError
from studio.page.gallery import markup as look
from studio.page.gallery.trash import TrashButton
from studio.results.archives import make_thumbnail
from studio.results.options import KINDS, NEWEST, ORDERS, ListOptions
from studio.results.search import find
from studio.results.store import Record
from studio.ui import markup
from studio.ui.asking import list_visible_results
from studio.ui.component_data import Block, Data
from studio.ui.controls import PLUMBING
from studio.ui.outputs import in_order
from studio.ui.presentation import format_count
from studio.ui.tab_settings import Flag, OneOf, Setting, Text

if TYPE_CHECKING:
    from studio.backend import Studio
    from studio.results.visible import VisibleResults

__all__ = ["MOST", "PAGE", "TRASH", "ResultList"]

PAGE = 48
MOST = 20 * PAGE
"""Tiles that are drawn at once where a long list is drawn anew after a deletion; more pages follow on demand."""

TRASH = "trash"
_LONGEST_SEARCH = 400


class ResultList:
    """Lays out the list and its search, with handlers each of which gives updates by component.

    Args:
        studio: for the store.
        thumbnails: folder of the small pictures.
        on_load: from the name of a function of the page's script to the script that calls it.
    """

    def __init__(self, studio: Studio, thumbnails: Path, on_load: str):
        self._studio, self._thumbnails, self._on_load = studio, thumbnails, on_load
        # No gr.State: one of those keeps a connection open all the time, and a browser has six to a host.
        self.place = gr.JSON({}, visible=False)
        self.trash = TrashButton(lambda: self._results)

    @property
    def _results(self) -> VisibleResults:
        """The results as whoever sent the present event sees them."""
        return list_visible_results(self._studio)

    # Sections, each built where it is called.

    def build_search(self) -> None:
        """Lay out what is searched for."""
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
        self.model = gr.Dropdown(
            [("All models", "")], value="", label="Model", scale=1, min_width=140, elem_id="gal-model"
        )
        self.order = gr.Dropdown(
            [(order.label, name) for name, order in ORDERS.items()],
            value=NEWEST,
            label="Sort",
            filterable=False,
            scale=1,
            min_width=140,
            elem_id="gal-sort",
        )
        self.favorites = gr.Checkbox(label="Favorites", scale=0, min_width=120, elem_id="gal-favorites")
        self.trash.build()

    def build_results(self) -> None:
        """Lay out what was found."""
        self.summary = gr.HTML(elem_id="gal-summary")
        self.grid = gr.HTML(look.EMPTY, elem_id="gal-grid", js_on_load=self._on_load.format("showList"))
        self.next = gr.HTML("", elem_id="gal-next", js_on_load=self._on_load.format("more"))
        self.more = gr.Button("Show more", visible=False, elem_id="gal-more")

    @property
    def inputs(self) -> list[Any]:
        """Return what `list_newest` takes."""
        return [self.search, self.kind, self.place, *self.filters]

    @property
    def filters(self) -> list[Any]:
        """Return what narrows and orders the list beside the words and the kind, in the order of `ListOptions`."""
        return [self.model, self.favorites, self.order]

    @property
    def outputs(self) -> set[Block]:
        """Return what `list_newest` changes."""
        return {
            self.grid,
            self.next,
            self.summary,
            self.more,
            self.kind,
            self.model,
            self.place,
            *self.trash.outputs,
        }

    @property
    def settings(self) -> Mapping[str, Setting]:
        """Return what a link may bring."""
        kinds = OneOf("kind of result", lambda: ["", TRASH, *{**KINDS, **self._results.count_kinds()}])
        return {
            "search": Text(_LONGEST_SEARCH),
            "kind": kinds,
            "made_by": OneOf("model of results", lambda: ["", *self._results.count_models()]),
            "favorites": Flag(),
            "sort": OneOf("order of results", lambda: [*ORDERS]),
        }

    def wire(self, tab: Any) -> None:
        """Connect them; the list is drawn anew whenever the tab is opened."""
        first = {"outputs": self.outputs, "trigger_mode": "always_last", **PLUMBING}
        tab.select(self.list_newest, self.inputs, outputs=self.outputs, **PLUMBING)
        searched = [self.search.change, *(one.input for one in (self.kind, *self.filters))]
        for listen in searched:
            listen(
                lambda search, kind, *filters: self.list_newest(search, kind, {}, *filters),
                [self.search, self.kind, *self.filters],
                **first,
            )
        self.more.click(self.list_next, self.inputs, outputs=in_order(self.outputs), **PLUMBING)

    def read_search(self, data: Mapping[Any, object]) -> dict[str, Any]:
        """Return what is searched for, for a link."""
        return {
            "search": data[self.search] or "",
            "kind": data[self.kind] or "",
            "made_by": data[self.model] or "",
            "favorites": bool(data[self.favorites]),
            "sort": data[self.order] or NEWEST,
        }

    def update_from_link(self, values: Mapping[str, Any]) -> Data:
        """Return the updates that show what a link searches for."""
        search, kind = values.get("search", ""), values.get("kind", "")
        model, favorites = values.get("made_by", ""), values.get("favorites", False)
        order = values.get("sort", NEWEST)
        updates = self.list_newest(search, kind, {}, model, favorites, order)
        return {self.search: search, self.favorites: favorites, self.order: order, **updates}

    # Handlers.

    def list_newest(
        self,
        search: str,
        kind: str,
        place: object,
        model: object = "",
        favorites: object = False,
        order: object = NEWEST,
    ) -> Data:
        """Show the first results that the filters let through, as many as were shown; all values come from a
        browser."""
        try:
            models = self._results.count_models()
            model = model if isinstance(model, str) and model in models else ""
            options = ListOptions.parse(model, favorites, order)
            counts, trashed = self._results.count_kinds(), sum(self._results.count_kinds(trashed=True).values())
            choices = _list_kind_choices(counts, trashed)
            kind = kind if kind in {key for _, key in choices} else ""
            count = min(max(_read_shown_count(place), PAGE), MOST)
            records, more = self._find(search, kind, count, options)
            trash_updates = self.trash.show(kind == TRASH)
        except StepwiseError as error:
            return {self.grid: markup.notice(str(error)), self.more: gr.update(visible=False)}
        empty = look.NOTHING_FOUND if counts or kind == TRASH else look.EMPTY
        name = secrets.token_hex(8)
        return {
            self.grid: self._tiles(records, name) if records else empty,
            self.kind: gr.update(choices=choices, value=kind),
            self.model: gr.update(choices=self._list_model_choices(models), value=model),
            **trash_updates,
            **self._end_page(records, more, name, len(records), options),
        }

    def list_next(
        self, search: str, kind: str, place: Any, model: Any = "", favorites: Any = False, order: Any = NEWEST
    ) -> Data:
        """Show the page after the last one; the page's script puts it at the end of the list that it belongs to."""
        last = str(place.get("last", "")) if isinstance(place, Mapping) else ""
        try:
            options = ListOptions.parse(model, favorites, order)
            self._results.get(last)
            records, more = self._find(search, kind, PAGE, options, last)
        except StepwiseError:  # removed for good meanwhile, or no place of ours: the list begins anew
            return self.list_newest(search, kind, {}, model, favorites, order)
        name = str(place.get("list", ""))[:32]
        count = _read_shown_count(place) + len(records)
        page_updates = self._end_page(records, more, name, count, options, last)
        return {**page_updates, self.next: self._tiles(records, name, hidden=True)}

    def star(self, data: Any, inputs: Sequence[Any]) -> tuple[Data, str]:
        """Mark a result as a favorite, or as none; the page has turned its star already.

        Args:
            data: action "star" or "unstar" and the result's id, from a browser.
            inputs: of `list_newest`.

        Returns:
            Updates and a sentence on why nothing was changed, which draw the list as it is; both empty otherwise.
        """
        action, id = (str(data.get(name, "")) for name in ("action", "id")) if isinstance(data, Mapping) else ("", "")
        try:
            (self._results.star if action == "star" else self._results.unstar)(id)
        except StepwiseError as error:
            return self.list_newest(*inputs), str(error)
        return {}, ""

    def _list_model_choices(self, models: Mapping[str, int]) -> list[tuple[str, str]]:
        catalog = self._studio.catalog
        labels = {key: catalog[key].label if key in catalog else key[:80] for key in models}
        return [("All models", ""), *((f"{labels[key]} ({number})", key) for key, number in models.items())]

    def _find(
        self, search: str, kind: str, count: int, options: ListOptions, before: str = ""
    ) -> tuple[Sequence[Record], bool]:
        trashed = kind == TRASH
        words = str(search or "")[:_LONGEST_SEARCH]
        kind = "" if trashed else str(kind or "")
        return find(self._results, words, kind, count, trashed=trashed, before=before, options=options)

    def _tiles(self, records: Sequence[Record], name: str, hidden: bool = False) -> str:
        return look.build_tiles(
            [(record, make_thumbnail(record, self._thumbnails)) for record in records],
            name,
            hidden,
            {entry.key: entry.label for entry in self._studio.catalog.values()},
        )

    def _end_page(
        self, records: Sequence[Record], more: bool, name: str, count: int, options: ListOptions, last: str = ""
    ) -> Data:
        order = f", {ORDERS[options.order].label.lower()}" if count > 1 else ""
        text = f"{format_count(count, 'result')}{order}" + (", and more below" if more else "")
        return {
            self.next: "",
            self.summary: f'<p class="sw-hint" role="status">{text if count else ""}</p>',
            self.more: gr.update(visible=more),
            self.place: {"list": name, "last": records[-1].id if records else last, "shown": count},
        }


def _read_shown_count(place: object) -> int:
    count = place.get("shown") if isinstance(place, Mapping) else None
    return count if isinstance(count, int) and 0 <= count < 10**9 else 0


def _list_kind_choices(counts: Mapping[str, int], trashed: int) -> list[tuple[str, str]]:
    choices = [
        (f"All kinds ({sum(counts.values())})", ""),
        *((f"{look.get_kind_label(one)} ({number})", one) for one, number in counts.items()),
    ]
    return [*choices, *([(f"Deleted ({trashed})", TRASH)] if trashed else [])]
