"""What the page offers its tabs: a memory in the browser, a way to hand settings to each other, and one convention.

The convention: in each tab the primary button has the class "sw-run" and the stop button "sw-stop"; the page's
script presses the visible one on Ctrl+Enter and Escape.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import gradio as gr

from studio.ui.live_routes import LiveTab
from studio.ui.tab_settings import Setting

__all__ = ["BESIDE", "PageContext", "Receiver"]

BESIDE = ("convergence", "learn")
"""Keys of the runs that a tab has beside its own."""


@dataclasses.dataclass(frozen=True)
class Receiver:
    """How a tab takes over settings from another.

    Attributes:
        outputs: every component that `updates` may change.
        updates: from fields of a Request, as `Request.to_json` gives them, to component updates. Beside them may stand
            `name` with the tab's own settings, "picture" with the file of a stored picture, or another tab's name.
        name: under which `updates` finds the tab's own settings; "" for a tab without.
        settings: those that a link or a stored result may bring.
        request: whether it takes fields of a Request.
    """

    outputs: set[Any]
    updates: Callable[[Mapping[str, Any]], dict[Any, Any]]
    name: str = ""
    settings: Mapping[str, Setting] = dataclasses.field(default_factory=dict)
    request: bool = True


@dataclasses.dataclass
class PageContext:
    """Handed to every tab's `build(studio, context)` inside the Blocks.

    Attributes:
        demo: the Blocks being built, for `demo.load`.
        tabs: the row of tabs; `gr.Tabs(selected=key)` as its update opens one.
        tab_labels: of all tabs by key, in order.
        sessions: tab key, or that of another run, to what the browser remembers across a reload: None or a dict.
        receive: tab key to its Receiver; a tab enters itself while it is built.
        live: tab key to what it does behind the routes of studio.ui.live_routes; a tab enters itself likewise.
        model_lists: each tab's list of models to what it offers now; a tab that runs enters its own.
    """

    demo: gr.Blocks
    tabs: gr.Tabs
    tab_labels: Mapping[str, str]
    sessions: Mapping[str, gr.BrowserState]
    receive: dict[str, Receiver] = dataclasses.field(default_factory=dict)
    live: dict[str, LiveTab] = dataclasses.field(default_factory=dict)
    model_lists: dict[gr.Dropdown, Callable[[], list[tuple[str, str]]]] = dataclasses.field(default_factory=dict)
    _later: list[Callable[[], None]] = dataclasses.field(default_factory=list)

    @property
    def tab_keys(self) -> tuple[str, ...]:
        """The keys of all tabs, in order."""
        return tuple(self.tab_labels)

    def later(self, wire: Callable[[], None]) -> None:
        """Call this inside the Blocks when all tabs stand: for events that touch another tab."""
        self._later.append(wire)

    def finish(self) -> None:
        """Run what waits for all tabs."""
        for wire in self._later:
            wire()
