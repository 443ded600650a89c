"""ComfyUI's `workflow`, the graph as it stands on the screen, in the form of the graph that runs.

Nodes have lists of widget values instead of named inputs; muted ones are gone, bypassed ones hand their inputs on, and
Reroute, primitive and Get/Set nodes exist on the screen only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from studio.infotext.comfyui_graph import Graph, Link, Node

__all__ = ["from_workflow"]

_MUTED, _BYPASSED = 2, 4
_AFTER_SEED = ["fixed", "increment", "decrement", "randomize"]

_WIDGETS: Mapping[str, tuple[str, ...]] = {
    "KSampler": ("seed", "", "steps", "cfg", "sampler_name", "scheduler", "denoise"),
    "KSamplerAdvanced": ("", "noise_seed", "", "steps", "cfg", "sampler_name", "scheduler"),
    "SamplerCustom": ("", "noise_seed", "", "cfg"),
    "KSamplerSelect": ("sampler_name",),
    "BasicScheduler": ("scheduler", "steps", "denoise"),
    "KarrasScheduler": ("steps", "sigma_max", "sigma_min", "rho"),
    "ExponentialScheduler": ("steps", "sigma_max", "sigma_min"),
    "BetaSamplingScheduler": ("steps", "alpha", "beta"),
    "SamplerEulerAncestral": ("eta", "s_noise"),
    "SamplerLMS": ("order",),
    "SamplerDPMPP_SDE": ("eta", "s_noise", "r", "noise_device"),
    "SamplerDPMPP_2M_SDE": ("solver_type", "eta", "s_noise", "noise_device"),
    "SamplerDPMPP_3M_SDE": ("eta", "s_noise", "noise_device"),
    "LatentFromBatch": ("batch_index", "length"),
    "AlignYourStepsScheduler": ("model_type", "steps", "denoise"),
    "RandomNoise": ("noise_seed",),
    "CFGGuider": ("cfg",),
    "FluxGuidance": ("guidance",),
    "CLIPTextEncode": ("text",),
    "CLIPTextEncodeFlux": ("clip_l", "t5xxl", "guidance"),
    "CLIPTextEncodeSDXL": ("width", "height", "", "", "", "", "text_g", "text_l"),
    "EmptyLatentImage": ("width", "height", "batch_size"),
    "EmptySD3LatentImage": ("width", "height", "batch_size"),
    "CLIPSetLastLayer": ("stop_at_clip_layer",),
    "CheckpointLoaderSimple": ("ckpt_name",),
    "UNETLoader": ("unet_name",),
    "UnetLoaderGGUF": ("unet_name",),
    "LoraLoader": ("lora_name", "strength_model", "strength_clip"),
    "LoraLoaderModelOnly": ("lora_name", "strength_model"),
    "ModelSamplingSD3": ("shift",),
    "ModelSamplingAuraFlow": ("shift",),
    "PrimitiveNode": ("value",),
    "PrimitiveInt": ("value",),
    "PrimitiveFloat": ("value",),
    "PrimitiveString": ("value",),
    "PrimitiveStringMultiline": ("value",),
}
"""The inputs that stand in `widgets_values` of a workflow's node, in order; "" for one that is not read."""


def from_workflow(data: Mapping[str, object]) -> Graph:
    """Build the graph of `workflow`: lists of nodes with `widgets_values`, and of links [id, from, slot, to, ...]."""
    sources = dict(_iter_sources(data))
    nodes, setters = {}, {}
    for node in _list(data.get("nodes")):
        if not isinstance(node, dict) or not isinstance(node.get("type"), str) or node.get("mode", 0) == _MUTED:
            continue
        inputs = _collect_inputs(node, sources)
        if node["type"] == "SetNode" and _list(node.get("widgets_values")):
            setters[str(node["widgets_values"][0])] = next(
                (value for value in inputs.values() if isinstance(value, Link)), None
            )
        nodes[str(node.get("id"))] = node, inputs
    return Graph({key: _build_node(node, inputs, setters) for key, (node, inputs) in nodes.items()})


def _build_node(node: Mapping[str, Any], inputs: dict[str, Any], setters: Mapping[str, Link | None]) -> Node:
    if node["type"] == "GetNode":
        names = _list(node.get("widgets_values"))
        return Node("Reroute", {"": setters.get(str(names[0]))} if names else {})
    if node.get("mode") == _BYPASSED:
        links = {name: value for name, value in inputs.items() if isinstance(value, Link)}
        return Node("Reroute", {**links, "": next(iter(links.values()), None)})
    return Node(node["type"], inputs)


def _iter_sources(data: Mapping[str, object]) -> Iterator[tuple[int, Link]]:
    for link in _list(data.get("links")):
        if isinstance(link, list) and len(link) >= 4 and isinstance(link[0], int):
            yield link[0], Link(str(link[1]), link[2] if isinstance(link[2], int) else 0)
        elif isinstance(link, dict) and isinstance(link.get("id"), int):
            slot = link.get("origin_slot")
            yield link["id"], Link(str(link.get("origin_id")), slot if isinstance(slot, int) else 0)


def _collect_inputs(node: Mapping[str, object], sources: Mapping[int, Link]) -> dict[str, Any]:
    inputs = _collect_widgets(node)
    for socket in _list(node.get("inputs")):
        if isinstance(socket, dict) and isinstance(socket.get("name"), str) and isinstance(socket.get("link"), int):
            link = sources.get(socket["link"])
            if link is not None:
                inputs[socket["name"]] = link
    return inputs


def _collect_widgets(node: Mapping[str, Any]) -> dict[str, Any]:
    values = node.get("widgets_values")
    if isinstance(values, dict):
        return {str(name): value for name, value in values.items()}
    values = _list(values)
    loras = [value for value in values if isinstance(value, dict) and "lora" in value]
    if loras:  # rgthree's Power Lora Loader
        return {f"lora_{number}": lora for number, lora in enumerate(loras, 1)}
    names = _WIDGETS.get(node["type"])
    if names is None:
        names = _list_declared_widgets(node)
        # Behind a seed stands what becomes of it after the run, which is no input.
        values = [value for place, value in enumerate(values) if not (place and value in _AFTER_SEED)]
    return {name: value for name, value in zip(names, values, strict=False) if name}


def _list_declared_widgets(node: Mapping[str, object]) -> tuple[str, ...]:
    """The names of the widgets, which a newer workflow lists among the inputs."""
    widgets = [socket.get("widget") for socket in _list(node.get("inputs")) if isinstance(socket, dict)]
    return tuple(str(widget.get("name", "")) for widget in widgets if isinstance(widget, dict))


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
