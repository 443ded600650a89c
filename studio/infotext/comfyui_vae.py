"""The VAE that decoded a ComfyUI graph's saved picture, where it is not the checkpoint's own."""

from __future__ import annotations

from studio.infotext.comfyui_branch import find_saving_node
from studio.infotext.comfyui_graph import Graph
from studio.infotext.fields import Collector
from studio.infotext.vae_text import take_vae

__all__ = ["take_graph_vae"]

_PICTURES = ("images", "image", "any", "input", "*", "")
_THROUGH = ("vae", "any", "input", "*", "")


def take_graph_vae(graph: Graph, collector: Collector) -> None:
    """Take the name of the VAE from the node that loads it; whether it is here is looked up later."""
    save = find_saving_node(graph)
    if save is None:
        return
    link = next((save.inputs[name] for name in _PICTURES if name in save.inputs), None)
    for node in graph.walk(link, _PICTURES):
        if "vae" in node.links():
            for loader in graph.walk(node.inputs["vae"], _THROUGH):
                if "vae_name" in loader.inputs:
                    take_vae(graph.resolve_value(loader.inputs["vae_name"], ("vae_name",)), collector)
            return
