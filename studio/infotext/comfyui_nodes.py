"""ComfyUI's nodes that are one sampler or one schedule, with their settings, and the one that picks from a batch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from studio.infotext.comfyui_branch import find_saving_node
from studio.infotext.comfyui_graph import Graph, Node
from studio.infotext.fields import Collector

__all__ = ["METHOD_NODES", "MethodNode", "find_picked_index", "has_usual_settings", "take_node_settings"]

_PICKS = "LatentFromBatch"
_TO_SAVED = ("images", "image", "pixels", "samples", "latent_image", "latent", "*", "")


@dataclasses.dataclass(frozen=True)
class MethodNode:
    """Describes a node that is one sampler or one schedule.

    Attributes:
        name: of the method, as KSampler has it.
        table: "sampler" or "schedule".
        usual: its inputs beside steps, and their values where it makes what KSampler makes of that name.
        ours: those of them that are settings here, by the same name.
        is_compared: whether such a node, as usual, was compared with ComfyUI 0.3.64.
    """

    name: str
    table: str
    usual: Mapping[str, Any]
    ours: frozenset[str]
    is_compared: bool = False


_RANGE = {"sigma_max": 14.614642, "sigma_min": 0.0291675}
_NOISE = {"eta": 1.0, "s_noise": 1.0}
_SDE = {**_NOISE, "noise_device": "cpu"}

METHOD_NODES: Mapping[str, MethodNode] = {
    "KarrasScheduler": MethodNode("karras", "schedule", {**_RANGE, "rho": 7.0}, frozenset((*_RANGE, "rho")), True),
    "ExponentialScheduler": MethodNode("exponential", "schedule", _RANGE, frozenset(_RANGE), True),
    "BetaSamplingScheduler": MethodNode(
        "beta", "schedule", {"alpha": 0.6, "beta": 0.6}, frozenset(("alpha", "beta")), True
    ),
    "SamplerEulerAncestral": MethodNode("euler_ancestral", "sampler", _NOISE, frozenset(("eta",))),
    "SamplerLMS": MethodNode("lms", "sampler", {"order": 4}, frozenset(("order",))),
    "SamplerDPMPP_SDE": MethodNode("dpmpp_sde", "sampler", {**_SDE, "r": 0.5}, frozenset(("eta",))),
    "SamplerDPMPP_2M_SDE": MethodNode(
        "dpmpp_2m_sde", "sampler", {**_SDE, "solver_type": "midpoint"}, frozenset(("eta",))
    ),
    "SamplerDPMPP_3M_SDE": MethodNode("dpmpp_3m_sde", "sampler", _SDE, frozenset(("eta",))),
}


def has_usual_settings(graph: Graph, node: Node) -> bool:
    """Say whether a node makes what KSampler makes of its method's name, which was compared.

    Args:
        graph: that the node is of.
        node: of any kind.
    """
    method = METHOD_NODES.get(node.kind)
    return method is not None and method.is_compared and not _find_unusual(graph, node, method)


def take_node_settings(graph: Graph, node: Node, collector: Collector) -> None:
    """Take what a sampler's or a schedule's node says beside its name, where it is not as usual.

    Args:
        graph: that the node is of.
        node: of a kind in `METHOD_NODES`, whose method was taken.
        collector: gets the settings, and notes on those that are none here.
    """
    method = METHOD_NODES[node.kind]
    if method.table not in collector.values:
        return
    unusual = _find_unusual(graph, node, method)
    for name in sorted(method.ours & unusual.keys()):
        collector.take_setting(method.table, name, unusual[name])
    collector.note_ignored(unusual.keys() - method.ours - {"noise_device"})


def _find_unusual(graph: Graph, node: Node, method: MethodNode) -> dict[str, Any]:
    values = {name: graph.resolve_value(node.inputs.get(name)) for name in method.usual}
    return {name: value for name, value in values.items() if value is not None and not _same(value, method.usual[name])}


def _same(value: object, usual: object) -> bool:
    if isinstance(value, (int, float)) and isinstance(usual, (int, float)):
        return math.isclose(value, usual, rel_tol=1e-6)
    return value == usual


def find_picked_index(graph: Graph, inputs: Mapping[str, object], sampler: Node) -> int | None:
    """Find which picture of the batch a graph goes on with: before its sampler, or between that and the saved picture.

    Args:
        graph: of the picture.
        inputs: of its sampler.
        sampler: where they are of.

    Returns:
        The index from 0; None where no node picks one, or it picks several.
    """
    start = inputs.get("latent_image", inputs.get("samples"))
    save = find_saving_node(graph)
    after = graph.walk(next(iter(save.links().values()), None), _TO_SAVED) if save is not None else iter(())
    for node in (*graph.walk(start, _TO_SAVED), *_until(after, sampler)):
        if node.kind == _PICKS:
            index, length = (graph.resolve_value(node.inputs.get(name)) for name in ("batch_index", "length"))
            return index if isinstance(index, int) and index >= 0 and length in (None, 1) else None
    return None


def _until(nodes: Any, last: Node) -> list[Node]:
    found = []
    for node in nodes:
        if node is last:
            break
        found.append(node)
    return found
