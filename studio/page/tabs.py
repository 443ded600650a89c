"""The tabs of the page, in order. A tab is a module with `build(studio, context)`, called inside its gr.Tab."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from studio.page.compare import tab as compare
from studio.page.edit import tab as edit
from studio.page.gallery import tab as gallery
from studio.page.live import tab as live
from studio.page.models import tab as models
from studio.page.quantize import tab as quantize
from studio.page.text_to_image import tab as text_to_image
from studio.page.video import tab as video

__all__ = ["TABS", "Tab"]


@dataclasses.dataclass(frozen=True)
class Tab:
    """Describes one line of the table: a key for the page's address and memory, the label, and what builds it."""

    key: str
    label: str
    build: Callable[[Any, Any], None]


TABS = (
    Tab("text_to_image", "Text to image", text_to_image.build),
    Tab("live", "Live", live.build),
    Tab("compare", "Compare", compare.build),
    Tab("edit", "Edit", edit.build),
    Tab("animate", "Video", video.build),
    Tab("quantize", "Quantize", quantize.build),
    Tab("gallery", "Gallery", gallery.build),
    Tab("models", "Models", models.build),
)
