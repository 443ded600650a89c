"""What the page offers its tabs: a memory in the browser, a way to hand settings to each other, and one convention.

The convention: in each tab the primary button has the class "sw-run" and the stop button "sw-stop"; the page's
script presses the visible one on Ctrl+Enter and Escape.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.components import Component

from studio.ui.component_data import Block, Data
from studio.ui.live_routes import LiveTab
from studio.ui.tab_settings import Setting

if TYPE_CHECKING:
    from pipelines.models.entry import CatalogEntry

__all__ = ["BESIDE", "Lists", "PageContext", "Receiver"]

BESIDE = ("upscale", "inspect", "convergence", "learn", "compare_edits", "edit_words")
"""Keys of the runs that a tab has beside its own."""


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
    """

    inputs: set[Component]
    outputs: set[Block]
    updates: Callable[[Data], Data]


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

    def finish(self) -> None:
        """Run what waits for all tabs."""
        for wire in self._later:
            wire()
