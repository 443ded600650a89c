"""Which of a ComfyUI graph's samplers made the saved picture, and all the settings around it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from studio.infotext.comfyui_graph import Graph, Node
from studio.infotext.comfyui_size import Beginning, find_beginning

__all__ = ["find_samplers_of_saved_picture", "find_saving_node", "gather_inputs"]

_MOST_SAVES, _MOST_SAMPLERS = 20, 100  # that are looked at: a graph comes from anybody
_LATENTS = {"latent_image", "latent", "samples", "latents", "optional_latent"}
_PIPES = {"pipe", "basic_pipe", "sdxl_tuple", "base_ctx"}
_PICTURES = {"image", "images", "upscaled_image"}
_ASIDE = {
    *(
        "model",
        "clip",
        "vae",
        "positive",
        "negative",
        "conditioning",
        "control_net",
        "mask",
        "noise",
        "guider",
        "sampler",
    ),
    *("sigmas", "text", "prompt", "seed", "steps", "cfg", "filename_prefix"),
}
"""Inputs that do not lead towards the picture that a node works on."""


def find_samplers_of_saved_picture(graph: Graph) -> tuple[Sequence[Node], int]:
    """Return the saved picture's samplers, first the one that began it, and how many other saved pictures began
    otherwise.

    Where nothing saves a picture, all samplers of the graph; the one that starts from empty latents first.
    """
    chains = [chain for save in _find_saving_nodes(graph)[:_MOST_SAVES] if (chain := _trace_samplers(graph, save))]
    if not chains:
        return _sort_by_beginning(
            graph, [node for node in graph.nodes.values() if _is_sampler(node)][:_MOST_SAMPLERS]
        ), 0
    first = _sort_by_beginning(graph, chains[0])
    other_starts = {id(_sort_by_beginning(graph, chain)[0]) for chain in chains[1:]} - {id(first[0])}
    return first, len(other_starts)


def find_saving_node(graph: Graph) -> Node | None:
    """Return the node that saves the picture whose samplers are read; None where nothing saves one."""
    return next((save for save in _find_saving_nodes(graph)[:_MOST_SAVES] if _trace_samplers(graph, save)), None)


def _find_saving_nodes(graph: Graph) -> list[Node]:
    """Nodes that save pictures; those that only show them where there are none."""
    shows = [node for node in graph.nodes.values() if _PICTURES & node.links().keys()]
    saves = [node for node in shows if "save" in node.kind.lower()]
    return saves or [node for node in shows if "preview" in node.kind.lower()]


def _trace_samplers(graph: Graph, save: Node) -> list[Node]:
    """The samplers from a saved picture backwards."""
    samplers: list[Node] = []
    visited: set[int] = set()
    queue = [save]
    while queue and len(visited) < 2000:
        node = queue.pop(0)
        if id(node) in visited:
            continue
        visited.add(id(node))
        sampler = _is_sampler(node)
        if sampler:
            samplers.append(node)
        links = {name: link for name, link in node.links().items() if name not in _ASIDE}
        if sampler:
            links = {name: link for name, link in links.items() if name in _LATENTS}
        queue += [behind for link in links.values() if (behind := graph.source_node(link)) is not None]
    return samplers[: -_MOST_SAMPLERS - 1 : -1]


def _is_sampler(node: Node) -> bool:
    names, kind = node.inputs.keys(), node.kind.lower()
    latents = bool(names & (_LATENTS | _PIPES))
    if _PICTURES & node.links().keys() and not names & _LATENTS:
        return False  # it changes a finished picture
    if node.kind.startswith(("KSampler", "SamplerCustom")) or "sampler" in kind:
        return latents or "positive" in names
    runs = bool(names & {"steps", "sigmas"}) and bool(names & {"seed", "noise_seed", "noise"})
    return runs and "sampler_name" in names and (latents or "positive" in names)


def _sort_by_beginning(graph: Graph, samplers: Sequence[Node]) -> list[Node]:
    # The sampler that starts from empty latents made the composition; later ones refine it.
    ranks = {Beginning.EMPTY: 0, Beginning.PICTURE: 1, Beginning.UNKNOWN: 1, Beginning.SAMPLER: 2}
    return sorted(samplers, key=lambda node: ranks[find_beginning(graph, gather_inputs(graph, node))[0]])


def gather_inputs(graph: Graph, sampler: Node) -> dict[str, Any]:
    """Gather a sampler's inputs, and those of the nodes that hold settings for it: guider, noise, sigmas, pipes,
    contexts."""
    inputs = dict(sampler.inputs)
    visited, queue = {id(sampler)}, [sampler]
    while queue and len(visited) < 64:
        node = queue.pop(0)
        for name in ("noise", "guider", "sampler", "sigmas", *_PIPES):
            behind = graph.source_node(node.inputs.get(name))
            if behind is not None and id(behind) not in visited:
                visited.add(id(behind))
                queue.append(behind)
                for key, value in behind.inputs.items():
                    inputs.setdefault(key, value)
    return inputs
