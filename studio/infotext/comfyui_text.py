"""The texts of a ComfyUI graph's prompts: from the sampler back to what was typed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from studio.infotext.comfyui_graph import Graph, Link, Node
from studio.infotext.comfyui_loras import is_tag_reader
from studio.infotext.fields import Collector
from studio.infotext.lora_tags import strip_lora_tags

__all__ = ["CONDITIONINGS", "take_prompts"]

CONDITIONINGS = (
    *("conditioning", "conditioning_1", "conditioning1", "conditioning_to", "cond1", "cond", "base_positive"),
    *("base_ctx", "ctx_01", "pipe", "basic_pipe", "sdxl_tuple", "any", "anything", "input", "*", ""),
)
_TEXTS = ("populated_text", "text", "text_g", "t5xxl", "prompt", "string", "value", "clip_l", "text_l", "clip_g")
_COMBINES = {"ConditioningCombine", "ConditioningConcat", "ConditioningAverage", "ConditioningSetTimestepRange"}
_MAX_DEPTH = 16

_JOINS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...], str]] = {
    "StringConcatenate": (("string_a", "string_b"), ("delimiter",), ""),
    "JoinStrings": (("string1", "string2"), ("delimiter",), " "),
    "Text Concatenate": (("text_a", "text_b", "text_c", "text_d"), ("delimiter",), ", "),
    "CR Text Concatenate": (("text1", "text2"), ("separator",), ""),
    "easy promptConcat": (("prompt1", "prompt2"), ("separator",), ""),
}
"""Nodes that join texts: the texts' inputs, the delimiter's, and the delimiter where none is said."""


def take_prompts(graph: Graph, inputs: Mapping[str, object], collector: Collector) -> Any:
    """Take both prompts of a sampler with these inputs.

    Returns:
        The guidance that a FluxGuidance node on the way holds, or None.
    """
    guidance = None
    for side, field in (("positive", "prompt"), ("negative", "negative_prompt")):
        start = inputs.get(side, inputs.get("conditioning") if side == "positive" else None)
        if isinstance(start, str):
            collector.take_text(field, start)
            continue
        text, last = None, ""
        for node in graph.walk(start, (side, *CONDITIONINGS)):
            last = node.kind
            if node.kind == "ConditioningZeroOut":
                text = ""
                break
            if side == "positive" and "guidance" in node.inputs:
                guidance = graph.resolve_value(node.inputs["guidance"])
            if node.kind in _COMBINES:
                collector.note("The graph combines several prompts; the first was read.")
            elif "ControlNet" in node.kind or "IPAdapter" in node.kind:
                collector.note_ignored([node.kind])
            text, last = _read_encoded_text(graph, node, (side, *_TEXTS), collector)
            if text is not None:
                break
        if text is not None:
            collector.take_text(field, text)
        elif isinstance(start, Link):
            collector.note(
                f"The {field.replace('_', ' ')} was not found in the graph: it comes from a node that is not known "
                f"here, {last[:80]!r}."
            )
    return guidance


def _read_encoded_text(
    graph: Graph, node: Node, names: tuple[str, ...], collector: Collector
) -> tuple[str | None, str]:
    """The text that a node encodes, or None, and the kind of the node where that was seen."""
    value = next(
        (node.inputs[name] for name in names if name in node.inputs and not _is_conditioning(graph, node, name)), None
    )
    if value is None:
        return None, node.kind
    text, kind = _resolve_text(graph, value, names, 0)
    if text is not None and node.inputs.get("text_l", node.inputs.get("text_g")) != node.inputs.get("text_g"):
        collector.note("The graph gives its two text encoders different prompts; the one of the larger was read.")
    if text is not None and is_tag_reader(node):
        text = strip_lora_tags(text, Collector(collector.source))  # named where the model's nodes are read
    return text, kind


def _is_conditioning(graph: Graph, node: Node, name: str) -> bool:
    """Whether an input called like a side leads on to another conditioning, and not to a text."""
    behind = graph.source_node(node.inputs[name])
    return name in ("positive", "negative") and behind is not None and "clip" in behind.inputs


def _resolve_text(graph: Graph, value: object, names: tuple[str, ...], depth: int) -> tuple[str | None, str]:
    if isinstance(value, str):
        return value, ""
    node = graph.source_node(value)
    if node is None or depth > _MAX_DEPTH:
        return None, ""
    if node.kind in _JOINS:
        return _join_texts(graph, node, names, depth)
    if isinstance(node.inputs.get("populated_text"), str):
        return node.inputs["populated_text"], ""
    if node.computes:
        return None, node.kind
    name = next((one for one in (*names, "input", "any", "anything", "*", "") if one in node.inputs), None)
    text, kind = _resolve_text(graph, node.inputs[name], names, depth + 1) if name is not None else (None, "")
    return text, kind or node.kind


def _join_texts(graph: Graph, node: Node, names: tuple[str, ...], depth: int) -> tuple[str | None, str]:
    inputs, delimiters, delimiter = _JOINS[node.kind]
    for name in delimiters:
        if isinstance(node.inputs.get(name), str):
            delimiter = node.inputs[name]
    parts = [_resolve_text(graph, node.inputs[name], names, depth + 4) for name in inputs if name in node.inputs]
    unknown = next((kind for text, kind in parts if text is None), None)
    if unknown is not None:
        return None, unknown or node.kind
    texts = [text for text, _ in parts if text or node.kind == "StringConcatenate"]
    return delimiter.replace("\\n", "\n").join(text or "" for text in texts), ""
