"""The page: header, tabs, and what they share."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.utils import get_upload_folder
from starlette.routing import Route

from studio import api
from studio.page.tabs import TABS
from studio.ui import deep_links, markup
from studio.ui.live_routes import live_routes
from studio.ui.page_context import BESIDE, PageContext
from studio.ui.presentation import plural
from studio.ui.results_route import result_routes
from studio.ui.theme import launch_values

if TYPE_CHECKING:
    from studio.backend import Studio

__all__ = ["Page", "build_page", "launch_options"]

NAME = "Stepwise"
READERS = 128
"""Threads for handlers: everyone who watches a run holds one, and past Gradio's 40 nobody could press Stop."""

PURPOSE = "Make pictures with diffusion models, and watch every step"
_LOG = logging.getLogger("stepwise.page")
_SECRET = "stepwise"  # no secret: it only has to be the same after a restart, so that the browser's memory can be read


class Page(gr.Blocks):
    """Gradio's Blocks with routes of our own, which stand before Gradio's when the page is served.

    Attributes:
        routes: of the stored results and the live tabs.
    """

    routes: Sequence[Route] = ()

    async def preprocess_data(self, *arguments: Any, **more: Any) -> Any:
        """Gradio's reading of an event's values, which takes those that the page never sends for faults of the program.

        Raises:
            gr.Error: with a sentence for whoever sent them.
        """
        try:
            return await super().preprocess_data(*arguments, **more)
        except gr.Error as error:  # a number out of range, a choice that is none
            plain = str(error.message).encode("utf-8", "replace").decode()[:200]  # it quotes the value, whatever it is
            raise gr.Error(plain, print_exception=False) from error
        except Exception as error:  # nothing of ours runs in it: whatever breaks, a value broke
            _LOG.info("values that cannot be read: %r", error)
            told = "The values could not be read. Send as many as are asked for and of their kinds, or reload the page."
            raise gr.Error(told, print_exception=False) from error


def build_page(studio: Studio) -> Page:
    """The whole page and its endpoints, not launched yet.

    Args:
        studio: the backend behind every tab.
    """
    with Page(title=NAME, analytics_enabled=False, fill_width=True) as demo:
        # At the top: in a tab that was not opened yet the browser's memory would not be restored.
        keys = [*(tab.key for tab in TABS), *BESIDE]
        sessions = {key: gr.BrowserState(None, storage_key=f"stepwise-{key}", secret=_SECRET) for key in keys}
        gr.HTML(markup.header(NAME, PURPOSE, _status(studio)), elem_id="header")
        with gr.Tabs(elem_id="tabs") as tabs:
            context = PageContext(demo, tabs, {tab.key: tab.label for tab in TABS}, sessions)
            for tab in TABS:
                with gr.Tab(tab.label, id=tab.key, elem_id=f"tab-{tab.key.replace('_', '-')}"):
                    tab.build(studio, context)
        deep_links.wire(studio, context)
        context.finish()
        api.attach(studio)
    _leave_unmarked(demo)
    demo.routes = [*result_routes(studio, Path(get_upload_folder())), *live_routes(studio, context.live)]
    return demo


def _leave_unmarked(demo: gr.Blocks) -> None:
    """Have events whose progress is hidden mark none of their outputs as waiting.

    Gradio's script searches the whole page for each component that it marks, at every event anew for all that it ever
    marked: with the links' outputs, which are nearly all components, that was 6 of the 7.4 s that the page took to
    be ready.
    """
    for event in demo.fns.values():
        if event.show_progress == "hidden":
            event.show_progress_on = []


def launch_options() -> dict[str, Any]:
    """Arguments of `Blocks.launch` that belong to the page: theme, styles, script, icon, threads for its readers."""
    return {**launch_values(), "max_threads": READERS}


def _status(studio: Studio) -> list[str]:
    device = studio.loader.device
    name = {"cpu": f"CPU, {plural(os.cpu_count() or 1, 'core')}", "cuda": "GPU", "mps": "Apple GPU"}.get(
        device.split(":")[0], device
    )
    ready = sum(1 for entry in studio.models() if entry.local and not entry.problem)
    return [name, f"{plural(ready, 'model')} ready"]
