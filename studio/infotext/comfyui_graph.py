"""A graph of ComfyUI's: nodes with named inputs that are values or links, and the walks along them.

What a node of an unknown kind computes is not guessed: a walk ends there and says the node's kind.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["Graph", "Link", "Node", "from_prompt"]

_MAX_WALK = 64
_VALUES = ("value", "seed", "noise_seed", "int", "float", "number", "Number", "string", "text", "selected")
_PASSES = ("base_ctx", "ctx_01", "pipe", "basic_pipe", "sdxl_tuple", "any", "anything", "input", "source", "*", "")
"""Inputs through which nodes hand on what they were given: contexts, pipes, reroutes."""

_COMPUTES = re.compile(
    r"math|expression|random|replace|regex|format|split|substring|calc|wildcard|generat|translat|switch|select|convert"
    r"|llm|ollama|florence|caption|tagger|interrogat|upper|lower|scale|compare|operation"
    r"|get ?image ?size|image ?size to|easy imagesize",
    re.IGNORECASE,
)
_HOLDS = re.compile(r"seed|primitive|constant|literal", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Link:
    """Names an output of another node: the node's id, and the output's place."""

    node: str
    slot: int = 0


@dataclasses.dataclass(frozen=True)
class Node:
    """Describes one node: its class in ComfyUI, and its inputs: plain values or `Link`s."""

    kind: str
    inputs: Mapping[str, Any]

    @property
    def computes(self) -> bool:
        """Say whether its output is not simply what stands in it."""
        return bool(_COMPUTES.search(self.kind)) and not _HOLDS.search(self.kind)

    def links(self) -> dict[str, Link]:
        """Return the inputs that come from other nodes."""
        return {name: value for name, value in self.inputs.items() if isinstance(value, Link)}


@dataclasses.dataclass(frozen=True)
class Graph:
    """Maps ids to nodes, in the file's order."""

    nodes: Mapping[str, Node]

    def source_node(self, value: object) -> Node | None:
        """Return the node that a link leads to; None for a plain value or a dangling link."""
        return self.nodes.get(value.node) if isinstance(value, Link) else None

    def walk(self, link: object, through: tuple[str, ...]) -> Iterator[Node]:
        """Walk the nodes from a link backwards, each time along the first of these inputs that is a link."""
        visited: set[int] = set()
        node = self.source_node(link)
        while node is not None and id(node) not in visited and len(visited) < _MAX_WALK:
            visited.add(id(node))
            yield node
            node = next(
                (self.source_node(node.inputs[name]) for name in through if isinstance(node.inputs.get(name), Link)),
                None,
            )

    def resolve_value(self, value: object, names: tuple[str, ...] = ()) -> Any:
        """Return a value, or the one that the nodes behind a link hold under one of these names; None if neither."""
        return self.resolve(value, names)[0]

    def resolve(self, value: object, names: tuple[str, ...] = ()) -> tuple[Any, str]:
        """Resolve as `resolve_value` does; also return the kind of the node that is not known to hold such a value, ""
        if none.

        Args:
            value: a plain value or a link.
            names: inputs that may hold it in a node behind the link, before those of plain value nodes.
        """
        kind = ""
        for _ in range(_MAX_WALK):
            if isinstance(value, dict) and isinstance(value.get("content"), str):
                return value["content"], ""  # a choice with a picture beside it
            if not isinstance(value, Link):
                return (None, kind) if isinstance(value, (list, dict)) or value is None else (value, "")
            node = self.source_node(value)
            if node is None:
                return None, kind or "of no graph"
            kind = node.kind
            if node.computes:
                return None, kind
            value = next((node.inputs[name] for name in (*names, *_VALUES, *_PASSES) if name in node.inputs), None)
        return None, kind


def from_prompt(data: Mapping[str, object]) -> Graph:
    """Build the graph of `prompt`: {id: {"class_type": ..., "inputs": {name: value or [id, slot]}}}."""
    nodes = {}
    for key, node in data.items():
        if isinstance(node, dict) and isinstance(node.get("class_type"), str) and isinstance(node.get("inputs"), dict):
            nodes[key] = Node(node["class_type"], {name: _parse_link(value) for name, value in node["inputs"].items()})
    return Graph(nodes)


def _parse_link(value: object) -> Any:
    if isinstance(value, list) and len(value) == 2 and isinstance(value[0], (str, int)) and isinstance(value[1], int):
        return Link(str(value[0]), value[1])
    return value
