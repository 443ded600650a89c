"""What a ComfyUI graph does to its saved picture that is not followed here: kinds of nodes, and parts of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from studio.infotext.comfyui_branch import find_saving_node
from studio.infotext.comfyui_graph import Graph, Node
from studio.infotext.comfyui_nodes import has_usual_settings

__all__ = ["find_partial_settings", "find_unfollowed_kinds"]

_FOLLOWED = frozenset(
    {
        *("KSampler", "KSamplerAdvanced", "SamplerCustom", "SamplerCustomAdvanced", "KSamplerSelect"),
        *("BasicScheduler", "RandomNoise", "CFGGuider", "CheckpointLoaderSimple", "VAELoader", "EmptyLatentImage"),
        *("CLIPTextEncode", "CLIPSetLastLayer", "VAEDecode", "Reroute", "Reroute (rgthree)"),
    }
)
"""Nodes of which all that changes a picture is taken over."""

_LEADING = (
    *("images", "image", "samples", "latent_image", "model", "clip", "vae", "positive", "negative", "conditioning"),
    *("noise", "guider", "sampler", "sigmas", "lora_stack", "optional_lora_stack", "", "*", "any", "input"),
)
"""Inputs that lead to what changes a picture, beside numbers and texts, which are resolved where they are read."""

_MOST = 500  # nodes that are looked at: a graph comes from anybody
_NAMED = 40  # letters of a kind that a sentence quotes

_PARTS: Mapping[str, tuple[Any, ...]] = {
    "add_noise": ("enable", True),
    "start_at_step": (0,),
    "return_with_leftover_noise": ("disable", False),
}
"""Inputs of a sampler that runs a part of the steps, and their values where it runs all."""


def find_unfollowed_kinds(graph: Graph, sampler: Node) -> list[str]:
    """Find the kinds of the nodes between the loaded model and the saved picture that are not followed here.

    LoRAs are left to the list of LoRAs. What stands behind a node that is not followed is not looked at.

    Args:
        graph: of the picture.
        sampler: where the walk begins in a graph that saves no picture.
    """
    save = find_saving_node(graph)
    queue, visited = [save or sampler], set[int]()
    kinds: dict[str, None] = {}
    while queue and len(visited) < _MOST:
        node = queue.pop(0)
        if id(node) in visited:
            continue
        visited.add(id(node))
        is_followed = node.kind in _FOLLOWED or "lora" in node.kind.lower() or has_usual_settings(graph, node)
        if node is not save and not is_followed:
            kinds[node.kind[:_NAMED]] = None
            continue
        links = node.links()
        queue += [behind for name in _LEADING if (behind := graph.source_node(links.get(name))) is not None]
    return list(kinds)


def find_partial_settings(graph: Graph, inputs: Mapping[str, object]) -> list[str]:
    """Find the inputs by which a sampler runs a part of the steps, or goes on from another one's noise."""
    values = {name: graph.resolve_value(inputs.get(name)) for name in (*_PARTS, "end_at_step", "steps")}
    partial = [name for name, whole in _PARTS.items() if values[name] is not None and values[name] not in whole]
    end, steps = values["end_at_step"], values["steps"]
    if isinstance(end, int) and isinstance(steps, int) and end < steps:
        partial.append("end_at_step")
    return partial
