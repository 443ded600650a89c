"""The page: header, tabs, and what they share."""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.blocks import Block
from gradio.utils import get_upload_folder
from starlette.routing import Route

from pipelines.models.device_choice import name_device, read_memory
from studio import api
from studio.api.arguments import add_defaults
from studio.page.tabs import TABS
from studio.ui import deep_links, markup
from studio.ui.live_routes import build_live_routes
from studio.ui.page_context import BESIDE, PageContext
from studio.ui.presentation import format_count, format_file_size
from studio.ui.results_route import build_result_routes
from studio.ui.settings_panel import DescribingBlocks, build_descriptions
from studio.ui.theme import launch_values

if TYPE_CHECKING:
    from pipelines.models.loader import Loader
    from studio.backend import Studio

__all__ = ["Page", "build_page", "launch_options"]

NAME = "Stepwise"
READERS = 128
"""Threads for handlers: everyone who watches a run holds one, and past Gradio's 40 nobody could press Stop."""

PURPOSE = "Make pictures with diffusion models, and watch every step"
_LOG = logging.getLogger("stepwise.page")
_SECRET = "stepwise"  # no secret: it only has to be the same after a restart, so that the browser's memory can be read


class Page(DescribingBlocks):
    """Extends Gradio's Blocks with routes of our own, which stand before Gradio's when the page is served.

    Attributes:
        routes: of the stored results and the live tabs.
        opens_on: key of the model that a run is offered with first; whoever serves the page loads it.
    """

    routes: Sequence[Route] = ()
    opens_on = ""
    _is_built, _is_described = False, False

    def __exit__(self, *raised: Any) -> None:
        """End the page, as Gradio does."""
        self._is_built = True
        super().__exit__(*raised)

    def get_config_file(self) -> Any:
        """Describe the page as Gradio does, its components and events only once.

        Gradio asks first when they all are built, and describes them anew each time: five times until the page stands.
        """
        if self._is_built and not self._is_described:
            self._is_described = True
            _leave_unmarked(self)
            describe = self.default_config.get_config
            parts = describe()
            self.default_config.get_config = (  # type: ignore[method-assign]
                lambda renderable=None: describe(renderable) if renderable else dict(parts)
            )
        return super().get_config_file()

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *arguments: Any, **more: Any) -> Any:
        """Read an event's values as Gradio does, which takes those that the page never sends for faults of the program.

        What a program leaves out at the end of an endpoint's arguments has its default, so that an endpoint may get
        further ones: Gradio refuses a list that is too short.

        Raises:
            gr.Error: with a sentence for whoever sent them.
        """
        try:
            return await super().preprocess_data(block_fn, add_defaults(block_fn, inputs), *arguments, **more)
        except gr.Error as error:  # a number out of range, a choice that is none
            plain = str(error.message).encode("utf-8", "replace").decode()[:200]  # it quotes the value, whatever it is
            raise gr.Error(plain, print_exception=False) from error
        except Exception as error:  # nothing of ours runs in it: whatever breaks, a value broke
            _LOG.info("values that cannot be read: %r", error)
            message = (
                "The values could not be read. Send as many as are asked for and of their kinds, or reload the page."
            )
            raise gr.Error(message, print_exception=False) from error


def build_page(studio: Studio) -> Page:
    """Build the whole page and its endpoints, not launched yet.

    Args:
        studio: the backend behind every tab.
    """
    _remember_signatures()
    with Page(title=NAME, analytics_enabled=False, fill_width=True) as demo:
        # At the top: in a tab that was not opened yet the browser's memory would not be restored.
        keys = [*(tab.key for tab in TABS), *BESIDE]
        sessions = {key: gr.BrowserState(None, storage_key=f"stepwise-{key}", secret=_SECRET) for key in keys}
        gr.HTML(
            markup.header(NAME, PURPOSE, _status(studio), studio.people.are_separate, studio.release.describe()),
            elem_id="header",
        )
        notice = deep_links.build_notice()
        with gr.Tabs(elem_id="tabs") as tabs:
            context = PageContext(demo, tabs, {tab.key: tab.label for tab in TABS}, sessions)
            for tab in TABS:
                with gr.Tab(tab.label, id=tab.key, elem_id=f"tab-{tab.key.replace('_', '-')}"):
                    tab.build(studio, context)
        deep_links.wire(studio, context, notice)
        context.finish(studio.catalog)
        build_descriptions(demo)
        demo.opens_on = context.receive[TABS[0].key].model
        api.attach(studio)
    demo.routes = [*build_result_routes(studio, Path(get_upload_folder())), *build_live_routes(studio, context.live)]
    return demo


def _remember_signatures() -> None:
    """Have Python keep the arguments of each kind of component, of which there are some sixty.

    Gradio asks for them at each of the page's thousands of components, whenever it builds or describes one: when the
    studio starts, and again for each person.
    """
    for kind in _list_kinds(Block):
        function = vars(kind).get("__init__")
        while function is not None:
            if "__signature__" not in vars(function):
                function.__signature__ = inspect.signature(function)
            function = getattr(function, "__wrapped__", None)


def _list_kinds(kind: type) -> Iterator[type]:
    subclasses: list[type] = kind.__subclasses__()
    for subclass in subclasses:
        yield subclass
        yield from _list_kinds(subclass)


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
    """Return the arguments of `Blocks.launch` that belong to the page: theme, styles, script, icon, threads for its
    readers."""
    return {**launch_values(), "max_threads": READERS}


def _status(studio: Studio) -> list[str]:
    ready = sum(1 for entry in studio.models() if entry.local and not entry.problem)
    return [*map(_describe_device, studio.loaders), f"{format_count(ready, 'model')} ready"]


def _describe_device(loader: Loader) -> str:
    memory = read_memory(loader.device)
    if memory is None:
        return f"{name_device(loader.device)}, {format_count(os.cpu_count() or 1, 'core')}"
    return f"{name_device(loader.device)}, {format_file_size(memory.total)}"
