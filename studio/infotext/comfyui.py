"""ComfyUI's settings: the graph that made the picture, `prompt`, or else the graph on the screen, `workflow`.

The graph is walked backwards from the saved picture to its sampler, and from there to the texts, the empty latents, the
LoRAs, the checkpoint. Only fields of known names are read; what a node of another kind computes is not guessed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from studio.infotext.civitai import take_extra
from studio.infotext.comfyui_branch import find_samplers_of_saved_picture, gather_inputs
from studio.infotext.comfyui_clip import find_clip_layer
from studio.infotext.comfyui_graph import Graph, Node, from_prompt
from studio.infotext.comfyui_loras import take_loras
from studio.infotext.comfyui_nodes import METHOD_NODES, find_picked_index, take_node_settings
from studio.infotext.comfyui_size import Beginning, find_beginning, take_size
from studio.infotext.comfyui_text import take_prompts
from studio.infotext.comfyui_unfollowed import find_partial_settings, find_unfollowed_kinds
from studio.infotext.comfyui_vae import take_graph_vae
from studio.infotext.comfyui_workflow import from_workflow
from studio.infotext.equality import set_program
from studio.infotext.fields import MAX_GRAPH, Collector, Restored, parse_object

__all__ = ["read_comfyui", "read_comfyui_text"]

_MODELS = (
    *("model", "unet", "base_model", "model1", "opt_model", "base_ctx", "ctx_01", "pipe", "basic_pipe", "sdxl_tuple"),
    *("any", "anything", "input", "*", ""),
)
_CHECKPOINTS = ("ckpt_name", "unet_name", "base_ckpt_name", "model_name", "model_path", "checkpoint", "gguf_name")
_NUMBERS = (("seed", ("seed", "noise_seed")), ("num_inference_steps", ("steps",)))
_PENULTIMATE = ("dpm2", "dpm2_a", "unipc")
"""Samplers for which KSampler makes one sigma more and leaves out the last but one."""


def read_comfyui(texts: Mapping[str, str]) -> Restored | None:
    """Read the settings in a picture's `prompt` or `workflow`, or None when neither is ComfyUI's."""
    candidates = [
        _read_graph(parse(parse_object(texts.get(name, ""), MAX_GRAPH) or {}))
        for name, parse in (("prompt", from_prompt), ("workflow", from_workflow))
    ]
    readable = [restored for restored in candidates if restored is not None]
    if readable:
        return next((restored for restored in readable if restored.values), readable[0])
    if max((len(texts.get(name, "")) for name in ("prompt", "workflow")), default=0) > MAX_GRAPH:
        collector = Collector("comfyui")
        collector.note(f"The picture's ComfyUI graph has more than {MAX_GRAPH} characters: it is too long to be read.")
        return collector.finish()
    return None


def read_comfyui_text(text: str) -> Restored | None:
    """Read the settings of a graph in a comment, as Civitai's generator and some nodes that save JPEGs write it; or
    None."""
    data = parse_object(text, MAX_GRAPH)
    if data is None:
        return None
    for name, parse in (("prompt", from_prompt), ("workflow", from_workflow)):
        inner = data.get(name)
        inner = parse_object(inner, MAX_GRAPH) if isinstance(inner, str) else inner
        if isinstance(inner, dict) and (restored := _read_graph(parse(inner))) is not None:
            return restored
    return _read_graph(from_prompt(data), data.get("extraMetadata")) or _read_graph(from_workflow(data))


def _read_graph(graph: Graph, extra: object = None) -> Restored | None:
    if not graph.nodes:
        return None
    collector = Collector("comfyui", "comfyui")
    samplers, num_others = find_samplers_of_saved_picture(graph)
    if samplers:
        _take(graph, samplers, collector)
    if num_others:
        collector.note("The graph saves several pictures that began differently; the first one's settings were read.")
    take_extra(extra, collector)
    if not samplers and not collector.values:
        kinds = ", ".join(sorted({node.kind for node in graph.nodes.values()})[:8])
        collector.note(f"The picture's ComfyUI graph has no sampler that is known here, only: {kinds[:200]}.")
    return collector.finish()


def _take(graph: Graph, samplers: Sequence[Node], collector: Collector) -> None:
    sampler = samplers[0]
    inputs = gather_inputs(graph, sampler)
    if len(samplers) > 1:
        collector.note(f"The graph has {len(samplers)} samplers; the settings of the first were read.")
    guidance = take_prompts(graph, inputs, collector)
    for field, names in _NUMBERS:
        value = _resolve_input(graph, inputs, names, field, collector)
        if value is not None:
            collector.take_number(field, value)
    scale = _resolve_input(graph, inputs, ("cfg",), "guidance scale", collector)
    if guidance is not None and scale in (None, 1):
        scale = guidance  # Flux takes its scale as an input of the network
    if scale is not None:
        collector.take_guidance_scale(scale)
    _take_methods(graph, inputs, collector)
    if not {"seed", "num_inference_steps", "sampler"} & collector.values.keys():
        collector.note(f"Steps, seed and sampler were left out: the node {sampler.kind[:80]!r} is not known here.")
    batch = _take_latents(graph, inputs, sampler, collector)
    _take_models(graph, inputs, collector)
    take_graph_vae(graph, collector)
    _take_rules(graph, inputs, batch, samplers, collector)


def _resolve_input(
    graph: Graph, inputs: Mapping[str, object], names: tuple[str, ...], label: str, collector: Collector
) -> Any:
    """The first of these inputs, with a note where it comes from a node that is not known to hold it."""
    source = next((inputs[name] for name in names if name in inputs), None)
    value, kind = graph.resolve(source, names)
    if value is None and kind:
        label = label.replace("_", " ").replace("num inference steps", "number of steps")
        collector.note(f"The {label} was left out: it comes from the node {kind[:80]!r}, which is not known here.")
    return value


def _take_methods(graph: Graph, inputs: Mapping[str, object], collector: Collector) -> None:
    for name, input_name, table, take in (
        ("sampler_name", "sampler", "sampler", collector.take_sampler),
        ("scheduler", "sigmas", "schedule", collector.take_schedule),
    ):
        node = graph.source_node(inputs.get(input_name))
        method = METHOD_NODES.get(node.kind) if node is not None else None
        if node is not None and method is not None and method.table == table:
            take(method.name)
            take_node_settings(graph, node, collector)
            continue
        if node is not None and name not in inputs:
            collector.note(
                f"The {name.removesuffix('_name')} was left out: the node {node.kind[:80]!r} is not known here."
            )
            continue
        value = _resolve_input(graph, inputs, (name, input_name), name.removesuffix("_name"), collector)
        if value is not None:
            take(value)


def _take_rules(
    graph: Graph, inputs: Mapping[str, object], batch: int | None, samplers: Sequence[Node], collector: Collector
) -> None:
    """Set ComfyUI's rules: a batch has one generator, names ending in _gpu draw on the GPU, CLIP is read at a layer.

    Square brackets are text there: without its rules they are marked as such.

    Args:
        graph: of the picture.
        inputs: of its first sampler.
        batch: pictures that began together; None where they did not begin from noise alone.
        samplers: that made the picture, one after another.
        collector: with all else taken.
    """
    for name in ("prompt", "negative_prompt"):
        if name in collector.values and "sampler" not in collector.values:
            collector.values[name] = re.sub(r"(?<!\\)([\[\]])", r"\\\1", collector.values[name])
    reasons, settings = [], dict[str, Any]()
    if batch is None:
        reasons.append("it does not start from noise alone")
    elif batch > 1:
        settings["batch_total"] = batch
        index = find_picked_index(graph, inputs, samplers[0])
        if index is None:
            reasons.append(f"it is one of a batch of {batch}: set its batch index")
        else:
            settings["batch_index"] = min(index, batch - 1)
    scheduler = graph.source_node(inputs.get("sigmas"))
    if scheduler is not None and collector.values.get("sampler", {}).get("key") in _PENULTIMATE:
        settings["whole_schedule"] = True  # only KSampler leaves a sigma out
    layer = find_clip_layer(graph, inputs)
    if layer != find_clip_layer(graph, inputs, "negative"):
        reasons.append("its two prompts are read at different layers of the text encoder")
    if isinstance(layer, int) and -12 <= layer <= -1:
        settings["clip_skip"] = -layer
    elif layer is not None:
        reasons.append("its text encoder is read at a layer that is not followed here")
    if len(samplers) > 1:
        reasons.append("further samplers went on from the first")
    if partial := find_partial_settings(graph, inputs):
        collector.note_ignored(partial)
        reasons.append("its sampler ran a part of the steps or another one's noise")
    if kinds := find_unfollowed_kinds(graph, samplers[0]):
        reasons.append(f"its graph has nodes that are not followed here ({', '.join(kinds[:4])})")
    name = graph.resolve_value(inputs.get("sampler_name"), ("sampler_name",))
    select = graph.source_node(inputs.get("sampler"))
    noise_device = graph.resolve_value(select.inputs.get("noise_device")) if select is not None else None
    if (isinstance(name, str) and name.endswith("_gpu")) or noise_device == "gpu":
        settings["path_noise"] = "CUDA"
    set_program(collector, "comfyui", settings, reasons)


def _take_latents(graph: Graph, inputs: Mapping[str, object], sampler: Node, collector: Collector) -> int | None:
    """Take the size; returns how many pictures began together from noise alone, None where they did not."""
    start, node = find_beginning(graph, inputs)
    batch: Any = 1
    if start is Beginning.EMPTY and node is not None:
        take_size(graph, node, collector)
        batch = graph.resolve_value(node.inputs.get("batch_size"))
        if isinstance(batch, int) and batch > 1 and find_picked_index(graph, inputs, sampler) is None:
            collector.note(f"The picture is one of a batch of {batch}; its seed alone does not say which.")
    elif start is Beginning.PICTURE:
        collector.note("The graph starts from another picture, which is not in this one.")
        return None
    elif start is Beginning.UNKNOWN:
        kind = f" {node.kind[:80]!r}" if node is not None else ""
        collector.note(f"The size was left out: the latents come from a node{kind} that is not known here.")
    if graph.resolve_value(inputs.get("denoise")) not in (None, 1):
        collector.note_ignored(["denoise"])
        return None
    return (batch if isinstance(batch, int) else 1) if start is Beginning.EMPTY else None


def _take_models(graph: Graph, inputs: Mapping[str, object], collector: Collector) -> None:
    nodes = list(graph.walk(inputs.get("model"), _MODELS))
    if not nodes or not any(name in node.inputs for node in nodes for name in _CHECKPOINTS):
        nodes.append(Node("", inputs))  # a loader whose fields came along in a pipe
    for node in nodes:
        if not take_loras(graph, node, collector):
            collector.note(
                f"The node {node.kind[:80]!r} loads LoRAs in a way that is not known here; they were left out."
            )
        for name in _CHECKPOINTS:
            if name in node.inputs and not collector.model:
                collector.take_model(graph.resolve_value(node.inputs[name], (name,)))
        uniform = collector.values.get("schedule", {}).get("key") == "uniform"
        if uniform and node.kind.startswith("ModelSampling") and "shift" in node.inputs:
            collector.values["schedule"] = {"key": "shift"}
            collector.take_setting("schedule", "shift", graph.resolve_value(node.inputs["shift"]))
    if nodes[-1].kind and not collector.model:
        collector.note(f"The model comes from the node {nodes[-1].kind[:80]!r}, which is not known here.")
