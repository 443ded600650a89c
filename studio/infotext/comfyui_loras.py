"""The LoRAs that a ComfyUI node loads, in the ways of ComfyUI itself and of the common packs of nodes.

Read are: `lora_name` with its strength; numbered names with numbered weights and switches (Efficiency, Comfyroll,
Easy-Use, rgthree's stack); objects with `lora` and `strength` (rgthree's Power Lora Loader); lists of objects (LoRA
Manager); and tags in a text, where the node's kind says that it reads them (Impact, Inspire, rgthree, LoRA Manager).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from studio.infotext.comfyui_graph import Graph, Link, Node
from studio.infotext.fields import Collector
from studio.infotext.lora_tags import strip_lora_tags

__all__ = ["is_tag_reader", "take_loras"]

_NAME = re.compile(r"lora(?:_name)?(?:_?(?P<number>\d{1,2}))?(?:_name)?\Z")
_COUNTS = ("lora_count", "num_loras")
_WEIGHTS = (
    *("strength_model", "lora_model_strength", "model_strength", "lora_strength", "strength", "lora_weight", "weight"),
    *("model_weight", "lora_wt"),
)
_SIMPLE = (
    *("lora_wt_{}", "lora_{}_strength", "strength_{}", "lora_strength_{}", "weight_{}", "lora_weight_{}"),
    *("model_weight_{}", "strength_model_{}", "model_strength_{}"),
)
_ADVANCED = ("model_str_{}", "lora_{}_model_strength", *_SIMPLE)
_SWITCHES = ("switch_{}", "toggle_{}", "lora_{}_on", "enabled_{}")
_OFF = (False, "Off", "off", "OFF", "disabled", "disable", "False", "false")
_TAGGED = ("populated_text", "text", "lora_syntax", "lora_text", "loras", "prompt", "positive")


def is_tag_reader(node: Node) -> bool:
    """Say whether a node makes LoRAs of the <lora:name:weight> in its text."""
    kind = node.kind.lower()
    return (
        "wildcard" in kind
        or "power prompt" in kind
        or ("lora" in kind and ("tag" in kind or "manager" in kind or "text" in kind))
    )


def take_loras(graph: Graph, node: Node, collector: Collector) -> bool:
    """Name a node's LoRAs to the collector, and those of the stacks that it is given.

    Returns:
        Whether the node's way of naming LoRAs is known, if it has any.
    """
    is_understood, queue = True, [node]
    visited: set[int] = set()
    while queue and len(visited) < 64:
        node = queue.pop()
        if id(node) in visited:
            continue
        visited.add(id(node))
        stacks = [value for name, value in node.links().items() if "lora" in name.lower()]
        queue += [behind for link in stacks if (behind := graph.source_node(link)) is not None]
        is_understood = _take(graph, node, collector, bool(stacks)) and is_understood
    return is_understood


def _take(graph: Graph, node: Node, collector: Collector, stacked: bool) -> bool:
    if any(node.inputs.get(name, True) in _OFF for name in ("toggle", "enabled", "switch", "is_enabled")):
        return True
    entries = list(_iter_entries(graph, node))
    for name, weight in entries:
        if weight != 0:  # ComfyUI itself leaves it out then
            collector.take_lora(name, weight)
    # LoraManager's nodes say the same twice: in the text, and in a list that also knows what is switched off.
    has_list = any(isinstance(value, dict) and "__value__" in value for value in node.inputs.values())
    if is_tag_reader(node) and not has_list:
        for text in (node.inputs.get(name) for name in _TAGGED):
            if isinstance(text, str) and "<lora:" in text:
                entries.append((text, 1))
                strip_lora_tags(text, collector)
                break
    has_lora_input = any(_NAME.match(name) for name in node.inputs)
    has_unread_text = any(isinstance(value, str) and value.strip() for value in node.inputs.values())
    return (
        bool(entries) or has_list or has_lora_input or stacked or "lora" not in node.kind.lower() or not has_unread_text
    )


def _iter_entries(graph: Graph, node: Node) -> Iterator[tuple[Any, Any]]:
    count = next(
        (value for name in _COUNTS if isinstance(value := graph.resolve_value(node.inputs.get(name)), int)), 100
    )
    for name, value in node.inputs.items():
        if isinstance(value, dict) and "lora" in value:
            if value.get("on", True) not in _OFF:
                yield value["lora"], value.get("strength", 1.0)
        elif isinstance(value, dict) and isinstance(value.get("__value__"), list):
            yield from _iter_listed(value["__value__"])
        elif isinstance(value, list):
            yield from _iter_listed(value)
        elif (match := _NAME.match(name)) and not _is_switched_off(node, match["number"], count):
            lora = graph.resolve_value(value, (name,))
            if isinstance(lora, str):
                yield lora, _find_weight(graph, node, match["number"])


def _iter_listed(values: list[Any]) -> Iterator[tuple[Any, Any]]:
    for value in values[:100]:
        if isinstance(value, dict) and value.get("active", True) not in _OFF:
            name = value.get("lora", value.get("name", value.get("lora_name")))
            if isinstance(name, str):
                yield name, value.get("strength", value.get("weight", 1.0))


def _is_switched_off(node: Node, number: str | None, count: int) -> bool:
    if number is None:
        return False
    return int(number) > count or any(node.inputs.get(name.format(number), True) in _OFF for name in _SWITCHES)


def _find_weight(graph: Graph, node: Node, number: str | None) -> Any:
    advanced = "advanced" in (node.inputs.get("mode"), node.inputs.get("input_mode"))
    names = _WEIGHTS if number is None else [name.format(number) for name in (_ADVANCED if advanced else _SIMPLE)]
    if number is not None and not advanced:
        names = [*names, *(name.format(number) for name in _ADVANCED)]
    weight = next((node.inputs[name] for name in names if name in node.inputs), 1.0)
    return graph.resolve_value(weight) if isinstance(weight, Link) else weight
