"""The layer at which a ComfyUI graph reads its text encoders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from studio.infotext.comfyui_graph import Graph, Link
from studio.infotext.comfyui_text import CONDITIONINGS

__all__ = ["find_clip_layer"]

_CLIPS = ("clip", "*", "")


def find_clip_layer(graph: Graph, inputs: Mapping[str, object], side: str = "positive") -> Any:
    """Find what the CLIPSetLastLayer node next to a sampler's prompt says, such as -2; None where there is none.

    Args:
        graph: of the picture.
        inputs: of its sampler.
        side: "positive" or "negative"; of a sampler without negative prompt, both are the one that it has.
    """
    side = side if isinstance(inputs.get(side), Link) else "positive"
    start = inputs.get(side, inputs.get("conditioning"))
    for node in graph.walk(start, (side, *CONDITIONINGS)):
        if not isinstance(node.inputs.get("clip"), Link):
            continue
        for loader in graph.walk(node.inputs["clip"], _CLIPS):
            if loader.kind == "CLIPSetLastLayer":
                return graph.resolve_value(loader.inputs.get("stop_at_clip_layer"))
        return None
    return None
