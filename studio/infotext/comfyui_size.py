"""The size of the latents that a ComfyUI graph starts from, and what they are: empty, a picture's, or not known."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from typing import Any

from studio.infotext.comfyui_graph import Graph, Link, Node
from studio.infotext.fields import Collector

__all__ = ["Beginning", "find_beginning", "take_size"]

_SIDES = ("width", "height")
_LATENTS = (
    *("latent_image", "samples", "latent", "latents", "optional_latent", "pixels", "image", "images"),
    *("base_ctx", "ctx_01", "pipe", "basic_pipe", "sdxl_tuple", "any", "anything", "input", "*", ""),
)
_PRESET = re.compile(r"(?<!\d)(\d{2,5})\s*[x\u00d7*]\s*(\d{2,5})(?!\d)")
_SWAPS = ("swap_dimensions", "invert", "swap", "flip")
_HOLDS_SIZE = re.compile(r"resolution|size|aspect|ratio|dimension|width|height|latent|int|number|constant|param", re.I)


class Beginning(enum.Enum):
    """Describes what a sampler starts from."""

    EMPTY = "empty latents"
    PICTURE = "a picture"
    SAMPLER = "another sampler's latents"
    UNKNOWN = "a node that is not known"


def find_beginning(graph: Graph, inputs: Mapping[str, object]) -> tuple[Beginning, Node | None]:
    """Find what a sampler with these inputs starts from, and the node where that was seen."""
    link = next((inputs[name] for name in _LATENTS[:5] if isinstance(inputs.get(name), Link)), None)
    if link is None:
        node = Node("", inputs)
        return (Beginning.EMPTY, node) if _has_size(node) else (Beginning.UNKNOWN, None)
    last: Node | None = None
    for node in graph.walk(link, _LATENTS):
        if (
            node.kind.startswith(("KSampler", "SamplerCustom"))
            or {"positive", "steps", "sampler_name"} <= node.inputs.keys()
        ):
            return Beginning.SAMPLER, node
        if re.match(r"load\s?_?(?:image|latent)|image ?load", node.kind, re.IGNORECASE):
            return Beginning.PICTURE, node
        if _has_size(node) and not any(name in _LATENTS[:8] for name in node.links()):
            return Beginning.EMPTY, node
        last = node
    is_encoder = any(one.kind.startswith("VAEEncode") for one in graph.walk(link, _LATENTS))
    return (Beginning.PICTURE if is_encoder else Beginning.UNKNOWN), last


def _has_size(node: Node) -> bool:
    sides = {"width", "height"}
    return (
        sides <= node.inputs.keys()
        or {f"empty_latent_{side}" for side in sides} <= node.inputs.keys()
        or _parse_preset(node) is not None
    )


def take_size(graph: Graph, node: Node, collector: Collector) -> None:
    """Take the width and the height of empty latents, with a note on a node that is not known to hold them."""
    overrides = {side: node.inputs.get(f"{side}_override") for side in _SIDES}
    preset = _parse_preset(node)
    if preset is not None and not all(isinstance(value, int) and value > 0 for value in overrides.values()):
        sides: list[Any] = list(preset)
    else:
        sides = [
            next(
                (
                    node.inputs[name]
                    for name in (f"{side}_override", f"empty_latent_{side}", side)
                    if name in node.inputs
                ),
                None,
            )
            for side in _SIDES
        ]
    swapped = (
        all(isinstance(side, Link) for side in sides)
        and sides[0].node == sides[1].node
        and sides[0].slot > sides[1].slot
    )
    for number, (name, value) in enumerate(zip(_SIDES, sides, strict=True)):
        size, kind = _resolve_side(graph, value, 1 - number if swapped else number)
        if size is not None:
            collector.take_number(name, size)
        elif kind:
            collector.note(f"The {name} was left out: it comes from the node {kind[:80]!r}, which is not known here.")


def _resolve_side(graph: Graph, value: object, number: int) -> tuple[Any, str]:
    if not isinstance(value, Link):
        return value, ""
    for node in graph.walk(value, ("", "*", "any", "anything", "input", "base_ctx", "ctx_01")):
        if node.computes or {"image", "images", "pixels", "latent", "samples"} & node.links().keys():
            return None, node.kind
        if (preset := _parse_preset(node)) is not None:
            return preset[number], ""
        if set(_SIDES) <= node.inputs.keys() and _HOLDS_SIZE.search(node.kind):
            return graph.resolve(node.inputs[_SIDES[number]], (_SIDES[number],))
    return graph.resolve(value, (_SIDES[number], f"empty_latent_{_SIDES[number]}", _SIDES[number].upper()))


def _parse_preset(node: Node) -> tuple[int, int] | None:
    """Width and height of a choice such as "3:4 portrait 896x1152"."""
    for name, value in node.inputs.items():
        if name in ("text", "prompt", "positive", "negative") or not isinstance(value, str) or len(value) > 80:
            continue
        if match := _PRESET.search(value):
            size = int(match[1]), int(match[2])
            swapped = any(node.inputs.get(switch) in (True, "On", "on") for switch in _SWAPS)
            return size[::-1] if swapped else size
    return None
