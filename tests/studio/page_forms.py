"""The page's tabs as objects, and what a tab reads from its form after some updates."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import gradio as gr

from studio.page.compare import tab as compare
from studio.page.edit import tab as edit
from studio.page.gallery import tab as gallery
from studio.page.live import tab as live
from studio.page.models import tab as models
from studio.page.quantize import tab as quantize
from studio.page.tabs import TABS
from studio.page.text_to_image import tab as text_to_image
from studio.page.video import tab as video
from studio.ui.page_context import BESIDE, PageContext
from studio.ui.settings_panel import DescribingBlocks, build_descriptions

CLASSES = {
    "text_to_image": text_to_image.TextToImageTab,
    "live": live.LiveModeTab,
    "compare": compare.CompareTab,
    "edit": edit.EditTab,
    "animate": video.VideoTab,
    "quantize": quantize.QuantizeTab,
    "gallery": gallery.GalleryTab,
    "models": models.ModelsTab,
}


@dataclasses.dataclass(frozen=True)
class Built:
    """The tabs by key, and the page around them."""

    tabs: Mapping[str, Any]
    context: PageContext


def built(studio: Any) -> Built:
    """Every tab of the table, as the page builds them."""
    labels = {tab.key: tab.label for tab in TABS}
    with DescribingBlocks() as demo:
        sessions = {key: gr.BrowserState(None, storage_key=key, secret="x") for key in (*labels, *BESIDE)}
        with gr.Tabs() as row:
            context, tabs = PageContext(demo, row, labels, sessions), {}
            for key in labels:
                with gr.Tab(key, id=key):
                    tabs[key] = CLASSES[key](studio, context)
        context.finish(studio.catalog)
        build_descriptions(demo)
    return Built(tabs, context)


def shown(inputs: Any, updates: Mapping[Any, Any]) -> dict[Any, Any]:
    """Component to the value that it has after the updates."""
    data = {component: component.value for component in inputs}
    for component in data.keys() & updates.keys():
        update = updates[component]
        if not (isinstance(update, dict) and update.get("__type__") == "update"):
            data[component] = update
        elif "value" in update:
            data[component] = update["value"]
    return data


def read_after(tab: Any, updates: Mapping[Any, Any]) -> dict[str, Any]:
    """The values of a tab's task as its form gives them after the updates."""
    data = shown(
        {part for part in tab.context.demo.blocks.values() if isinstance(part, gr.components.Component)}, updates
    )
    return tab._read(data)[1]
