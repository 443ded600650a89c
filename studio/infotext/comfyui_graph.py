"""ComfyUI's two forms of a graph as one: nodes with named inputs that are values or links."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["Graph", "Link", "Node", "from_prompt", "from_workflow"]

_MAX_WALK = 64
_VALUES = ("value", "seed", "noise_seed", "int", "float", "number", "string", "text")

_WIDGETS: dict[str, tuple[str, ...]] = {
    "KSampler": ("seed", "", "steps", "cfg", "sampler_name", "scheduler", "denoise"),
    "KSamplerAdvanced": ("", "noise_seed", "", "steps", "cfg", "sampler_name", "scheduler"),
    "SamplerCustom": ("", "noise_seed", "", "cfg"),
    "KSamplerSelect": ("sampler_name",),
    "BasicScheduler": ("scheduler", "steps", "denoise"),
    "RandomNoise": ("noise_seed",),
    "CFGGuider": ("cfg",),
    "FluxGuidance": ("guidance",),
    "CLIPTextEncode": ("text",),
    "CLIPTextEncodeFlux": ("clip_l", "t5xxl", "guidance"),
    "EmptyLatentImage": ("width", "height", "batch_size"),
    "EmptySD3LatentImage": ("width", "height", "batch_size"),
    "CheckpointLoaderSimple": ("ckpt_name",),
    "UNETLoader": ("unet_name",),
    "LoraLoader": ("lora_name", "strength_model"),
    "LoraLoaderModelOnly": ("lora_name", "strength_model"),
    "ModelSamplingSD3": ("shift",),
    "ModelSamplingAuraFlow": ("shift",),
    "PrimitiveInt": ("value",),
    "PrimitiveFloat": ("value",),
    "PrimitiveString": ("value",),
    "PrimitiveStringMultiline": ("value",),
}
"""The inputs that stand in `widgets_values` of a workflow's node, in order; "" for one that is not read."""


@dataclasses.dataclass(frozen=True)
class Link:
    """The output of another node."""

    node: str


@dataclasses.dataclass(frozen=True)
class Node:
    """One node: its class in ComfyUI, and its inputs: plain values or `Link`s."""

    kind: str
    inputs: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Graph:
    """Nodes by their ids, in the file's order."""

    nodes: Mapping[str, Node]

    def behind(self, value: Any) -> Node | None:
        """The node that a link leads to; None for a plain value or a dangling link."""
        return self.nodes.get(value.node) if isinstance(value, Link) else None

    def walk(self, link: Any, through: tuple[str, ...]) -> Iterator[Node]:
        """The nodes from a link backwards, each time along the first of these inputs that is a link."""
        seen: set[int] = set()
        node = self.behind(link)
        while node is not None and id(node) not in seen and len(seen) < _MAX_WALK:
            seen.add(id(node))
            yield node
            node = next(
                (self.behind(node.inputs[name]) for name in through if isinstance(node.inputs.get(name), Link)), None
            )

    def plain(self, value: Any, names: tuple[str, ...] = _VALUES) -> Any:
        """A value, or the one that the nodes behind a link hold under one of these names; None if neither."""
        for _ in range(_MAX_WALK):
            if not isinstance(value, Link):
                return None if isinstance(value, (list, dict)) else value
            node = self.behind(value)
            value = next((node.inputs[name] for name in names if name in node.inputs), None) if node else None
        return None


def from_prompt(data: Mapping[str, Any]) -> Graph:
    """The graph of `prompt`: {id: {"class_type": ..., "inputs": {name: value or [id, slot]}}}."""
    nodes = {}
    for key, node in data.items():
        if isinstance(node, dict) and isinstance(node.get("class_type"), str) and isinstance(node.get("inputs"), dict):
            nodes[key] = Node(node["class_type"], {name: _linked(value) for name, value in node["inputs"].items()})
    return Graph(nodes)


def _linked(value: Any) -> Any:
    if isinstance(value, list) and len(value) == 2 and isinstance(value[0], (str, int)) and isinstance(value[1], int):
        return Link(str(value[0]))
    return value


def from_workflow(data: Mapping[str, Any]) -> Graph:
    """The graph of `workflow`: lists of nodes with `widgets_values`, and of links [id, from, slot, to, ...]."""
    sources = {
        link[0]: Link(str(link[1]))
        for link in _list(data.get("links"))
        if isinstance(link, list) and len(link) >= 4 and isinstance(link[0], int)
    }
    nodes = {}
    for node in _list(data.get("nodes")):
        if isinstance(node, dict) and isinstance(node.get("type"), str) and node.get("mode", 0) in (0, 1):
            nodes[str(node.get("id"))] = Node(node["type"], _inputs(node, sources))
    return Graph(nodes)


def _inputs(node: Mapping[str, Any], sources: Mapping[int, Link]) -> dict[str, Any]:
    inputs = {
        name: value for name, value in zip(_WIDGETS.get(node["type"], ()), _list(node.get("widgets_values"))) if name
    }
    for socket in _list(node.get("inputs")):
        if isinstance(socket, dict) and isinstance(socket.get("name"), str) and isinstance(socket.get("link"), int):
            link = sources.get(socket["link"])
            if link is not None:
                inputs[socket["name"]] = link
    return inputs


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
