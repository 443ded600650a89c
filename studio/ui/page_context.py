"""What the page offers its tabs: a memory in the browser, a way to hand settings to each other, and one convention.

The convention: in each tab the primary button has the class "sw-run" and the stop button "sw-stop"; the page's
script presses the visible one on Ctrl+Enter and Escape.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import gradio as gr
from gradio.components import Component

from studio.ui.component_data import Block, Data
from studio.ui.controls import PLUMBING
from studio.ui.live_routes import LiveTab
from studio.ui.outputs import in_order
from studio.ui.tab_settings import Setting

if TYPE_CHECKING:
    from pipelines.models.catalog import Catalog
    from pipelines.models.entry import CatalogEntry

__all__ = ["BESIDE", "FILES", "Lists", "PageContext", "Receiver"]

BESIDE = ("upscale", "inspect", "convergence", "learn", "compare_edits", "edit_words")
"""Keys of the runs that a tab has beside its own."""


FILES = "sw-files"
"""Class of what lists files of the models folder, which is looked into when the list is opened."""


@dataclasses.dataclass(frozen=True)
class Receiver:
    """Says how a tab takes over settings from another.

    Attributes:
        outputs: every component that `updates` may change.
        updates: from fields of a Request, as `Request.to_json` gives them, to component updates. Beside them may stand
            `name` with the tab's own settings, "picture" with the file of a stored picture, or another tab's name.
        name: under which `updates` finds the tab's own settings; "" for a tab without.
        settings: those that a link or a stored result may bring.
        request: whether it takes fields of a Request.
        model: key of the model that its form opens on; "" for the first that there is.
        models: those that its form offers; a link chooses one of them where it is on this machine.
    """

    outputs: set[Block]
    updates: Callable[[Mapping[str, Any]], Data]
    name: str = ""
    settings: Mapping[str, Setting] = dataclasses.field(default_factory=dict)
    request: bool = True
    model: str = ""
    models: Callable[[], Sequence[CatalogEntry]] = tuple


@dataclasses.dataclass(frozen=True)
class Lists:
    """Says what a tab offers of the models folder: models, LoRAs, and the like.

    Attributes:
        inputs: the components whose values say for which model, and what is chosen.
        outputs: the lists.
        updates: from the inputs' data to the updates that offer what is there now, and leave what is chosen.
        entered: what has further lists, at whose opening the folder is looked into.
    """

    inputs: set[Component]
    outputs: set[Block]
    updates: Callable[[Data], Data]
    entered: frozenset[Block] = frozenset()


@dataclasses.dataclass
class PageContext:
    """Connects the tabs; handed to every tab's `build(studio, context)` inside the Blocks.

    Attributes:
        demo: the Blocks being built, for `demo.load`.
        tabs: the row of tabs; `gr.Tabs(selected=key)` as its update opens one.
        tab_labels: of all tabs by key, in order.
        sessions: tab key, or that of another run, to what the browser remembers across a reload: None or a dict.
        receive: tab key to its Receiver; a tab enters itself while it is built.
        live: tab key to what it does behind the routes of studio.ui.live_routes; a tab enters itself likewise.
        lists: tab key to what it offers of the models folder; a tab that runs enters its own.
        linked: from a tab's key and the page's request to the updates that show the settings of the link that opened
            the page; None where no link names the tab.
        link_outputs: what they may change beside the tab's own components.
        after_recall: tab key to the events that follow when the tab shows again what the browser remembers.
    """

    demo: gr.Blocks
    tabs: gr.Tabs
    tab_labels: Mapping[str, str]
    sessions: Mapping[str, gr.BrowserState]
    receive: dict[str, Receiver] = dataclasses.field(default_factory=dict)
    live: dict[str, LiveTab] = dataclasses.field(default_factory=dict)
    lists: dict[str, Lists] = dataclasses.field(default_factory=dict)
    linked: Callable[[str, gr.Request], Data | None] = lambda tab, request: None
    link_outputs: set[Block] = dataclasses.field(default_factory=set)
    after_recall: dict[str, list[Mapping[str, Any]]] = dataclasses.field(default_factory=dict)
    _later: list[Callable[[], None]] = dataclasses.field(default_factory=list)

    @property
    def tab_keys(self) -> tuple[str, ...]:
        """Return the keys of all tabs, in order."""
        return tuple(self.tab_labels)

    def run_later(self, wire: Callable[[], None]) -> None:
        """Call this inside the Blocks when all tabs stand: for events that touch another tab."""
        self._later.append(wire)

    @property
    def list_inputs(self) -> set[Component]:
        """Return the components that `update_lists` reads."""
        return set().union(*(one.inputs for one in self.lists.values()))

    @property
    def list_outputs(self) -> set[Block]:
        """Return the components that `update_lists` may change."""
        return set().union(*(one.outputs for one in self.lists.values()))

    def update_lists(self, data: Data) -> Data:
        """Return the updates of every tab's lists that offer what the models folder holds now."""
        return {component: update for one in self.lists.values() for component, update in one.updates(data).items()}

    def finish(self, catalog: Catalog) -> None:
        """Run what waits for all tabs, and have the page's lists follow the models folder.

        It is looked into when the page is loaded and when a list is opened.
        """
        for wire in self._later:
            wire()
        asked = gr.Textbox(label="Tabs", visible=False)
        # What the folder held when the lists were last filled: where that changes, all are filled anew.
        held = gr.Textbox(describe_holdings(catalog), label="Models folder", visible=False)

        def begin(asked: object) -> Any:
            catalog.rescan()
            keys = [key for key in str(asked).split() if key in self.lists]
            data: Data = {cast(Any, one): one.value for key in keys for one in self.lists[key].inputs}
            updates = {one: update for key in keys for one, update in self.lists[key].updates(data).items()}
            # Gradio takes an empty dict for an answer that lacks values, and refuses it.
            return {one: update for one, update in updates.items() if not _shows_already(one, update)} or gr.skip()

        def look() -> str:
            catalog.rescan()
            return describe_holdings(catalog)

        self.demo.load(begin, [asked], in_order(self.list_outputs), js="() => [stepwise.bringBack()]", **PLUMBING)
        opened: set[Block] = {part for one in self.lists.values() for part in one.entered}
        opened |= {part for one in self.lists.values() for part in one.outputs if isinstance(part, gr.Dropdown)}
        for part in opened:  # the page's script presses the button: Gradio's own listeners cost the start
            part.elem_classes = [*part.elem_classes, FILES]
        gr.Button("Look", elem_id="look-into-folder", elem_classes="sw-unseen").click(look, None, held, **PLUMBING)
        asking: set[Block] = {*self.list_inputs}
        held.change(self.update_lists, inputs=asking, outputs=in_order(self.list_outputs), **PLUMBING)


def describe_holdings(catalog: Catalog) -> str:
    """Describe what there is to choose from in a few letters, which change with any file of the models folder and with
    any model that comes otherwise."""
    lines = [f"{entry.key} {entry.local} {entry.problem}" for entry in catalog.values()]
    for file in catalog.folders.files():
        with contextlib.suppress(OSError):  # it went meanwhile
            state = file.path.stat()
            lines.append(f"{file.path} {state.st_size} {state.st_mtime_ns}")
    return f"{zlib.crc32(chr(10).join(lines).encode(errors='replace')):08x}"


def _shows_already(component: Any, update: Any) -> bool:
    """Whether the page was built with all that an update brings."""
    built, is_whole = component.get_config(), isinstance(update, dict) and update.get("__type__") == "update"
    brought = {name: one for name, one in update.items() if name != "__type__"} if is_whole else {"value": update}
    if "choices" in brought:
        brought["choices"] = _list_pairs(brought["choices"])
    return all(json.dumps(built.get(name)) == json.dumps(one) for name, one in brought.items())


def _list_pairs(choices: Iterable[Any]) -> list[tuple[Any, Any]]:
    """Choices as components have them, label and value."""
    return [tuple(one) if isinstance(one, tuple | list) else (str(one), one) for one in choices]
