"""ComfyUI's settings: the graph that made the picture, `prompt`, or else the graph on the screen, `workflow`.

The graph is walked backwards from the saved picture to its sampler, and from there to the texts, the empty latents, the
LoRAs, the checkpoint. Only fields of known names are read; what a node of another kind computes is not guessed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from studio.infotext.civitai import take_extra
from studio.infotext.comfyui_branch import gathered, samplers_of_saved_picture
from studio.infotext.comfyui_graph import Graph, Node, from_prompt
from studio.infotext.comfyui_loras import take_loras
from studio.infotext.comfyui_size import Beginning, beginning, take_size
from studio.infotext.comfyui_text import take_prompts
from studio.infotext.comfyui_workflow import from_workflow
from studio.infotext.fields import MAX_GRAPH, Collector, Restored, object_of

__all__ = ["read_comfyui", "read_comfyui_text"]

_MODELS = (
    *("model", "unet", "base_model", "model1", "opt_model", "base_ctx", "ctx_01", "pipe", "basic_pipe", "sdxl_tuple"),
    *("any", "anything", "input", "*", ""),
)
_CHECKPOINTS = ("ckpt_name", "unet_name", "base_ckpt_name", "model_name", "model_path", "checkpoint", "gguf_name")
_NUMBERS = (("seed", ("seed", "noise_seed")), ("num_inference_steps", ("steps",)))
_SCHEDULERS = {
    "KarrasScheduler": "karras",
    "ExponentialScheduler": "exponential",
    "BetaSamplingScheduler": "beta",
}
_SAMPLERS = {
    "SamplerEulerAncestral": "euler_ancestral",
    "SamplerLMS": "lms",
    "SamplerDPMPP_SDE": "dpmpp_sde",
    "SamplerDPMPP_2M_SDE": "dpmpp_2m_sde",
    "SamplerDPMPP_3M_SDE": "dpmpp_3m_sde",
}
"""Nodes that are one schedule or one sampler, and its name in ComfyUI."""


def read_comfyui(texts: Mapping[str, str]) -> Restored | None:
    """The settings in a picture's `prompt` or `workflow`, or None when neither is ComfyUI's."""
    read = [
        _restored(parse(object_of(texts.get(name, ""), MAX_GRAPH) or {}))
        for name, parse in (("prompt", from_prompt), ("workflow", from_workflow))
    ]
    found = [restored for restored in read if restored is not None]
    if found:
        return next((restored for restored in found if restored.values), found[0])
    if max((len(texts.get(name, "")) for name in ("prompt", "workflow")), default=0) > MAX_GRAPH:
        collector = Collector("comfyui")
        collector.note(f"The picture's ComfyUI graph has more than {MAX_GRAPH} characters: it is too long to be read.")
        return collector.restored()
    return None


def read_comfyui_text(text: str) -> Restored | None:
    """The settings of a graph in a comment, as Civitai's generator and some nodes that save JPEGs write it; or None."""
    data = object_of(text, MAX_GRAPH)
    if data is None:
        return None
    for name, parse in (("prompt", from_prompt), ("workflow", from_workflow)):
        inner = data.get(name)
        inner = object_of(inner, MAX_GRAPH) if isinstance(inner, str) else inner
        if isinstance(inner, dict) and (restored := _restored(parse(inner))) is not None:
            return restored
    return _restored(from_prompt(data), data.get("extraMetadata")) or _restored(from_workflow(data))


def _restored(graph: Graph, extra: Any = None) -> Restored | None:
    if not graph.nodes:
        return None
    collector = Collector("comfyui", "comfyui")
    samplers, others = samplers_of_saved_picture(graph)
    if samplers:
        _take(graph, samplers, collector)
    if others:
        collector.note("The graph saves several pictures that began differently; the first one's settings were read.")
    take_extra(extra, collector)
    if not samplers and not collector.values:
        kinds = ", ".join(sorted({node.kind for node in graph.nodes.values()})[:8])
        collector.note(f"The picture's ComfyUI graph has no sampler that is known here, only: {kinds[:200]}.")
    return collector.restored()


def _take(graph: Graph, samplers: Sequence[Node], collector: Collector) -> None:
    sampler = samplers[0]
    inputs = gathered(graph, sampler)
    if len(samplers) > 1:
        collector.note(f"The graph has {len(samplers)} samplers; the settings of the first were read.")
    guidance = take_prompts(graph, inputs, collector)
    for field, names in _NUMBERS:
        value = _known(graph, inputs, names, field, collector)
        if value is not None:
            collector.number(field, value)
    scale = _known(graph, inputs, ("cfg",), "guidance scale", collector)
    if guidance is not None and scale in (None, 1):
        scale = guidance  # Flux takes its scale as an input of the network
    if scale is not None:
        collector.guidance_scale(scale)
    _take_methods(graph, inputs, collector)
    _take_latents(graph, inputs, collector)
    _take_models(graph, inputs, collector)


def _known(graph: Graph, inputs: Mapping[str, Any], names: tuple[str, ...], what: str, collector: Collector) -> Any:
    """The first of these inputs, with a note where it comes from a node that is not known to hold it."""
    given = next((inputs[name] for name in names if name in inputs), None)
    value, kind = graph.resolve(given, names)
    if value is None and kind:
        what = what.replace("_", " ").replace("num inference steps", "number of steps")
        collector.note(f"The {what} was left out: it comes from the node {kind[:80]!r}, which is not known here.")
    return value


def _take_methods(graph: Graph, inputs: Mapping[str, Any], collector: Collector) -> None:
    for name, what, kinds, take in (
        ("sampler_name", "sampler", _SAMPLERS, collector.sampler),
        ("scheduler", "sigmas", _SCHEDULERS, collector.schedule),
    ):
        node = graph.behind(inputs.get(what))
        if node is not None and node.kind in kinds:
            value = kinds[node.kind]
        elif node is not None and name not in inputs:
            collector.note(
                f"The {name.removesuffix('_name')} was left out: the node {node.kind[:80]!r} is not known here."
            )
            continue
        else:
            value = _known(graph, inputs, (name, what), name.removesuffix("_name"), collector)
        if value is not None:
            take(value)


def _take_latents(graph: Graph, inputs: Mapping[str, Any], collector: Collector) -> None:
    start, node = beginning(graph, inputs)
    if start is Beginning.EMPTY and node is not None:
        take_size(graph, node, collector)
        batch = graph.plain(node.inputs.get("batch_size"))
        if isinstance(batch, int) and batch > 1:
            collector.note(f"The picture is one of a batch of {batch}; its seed alone does not say which.")
    elif start is Beginning.PICTURE:
        collector.note("The graph starts from another picture, which is not in this one.")
        return
    elif start is Beginning.UNKNOWN:
        kind = f" {node.kind[:80]!r}" if node is not None else ""
        collector.note(f"The size was left out: the latents come from a node{kind} that is not known here.")
    if graph.plain(inputs.get("denoise")) not in (None, 1):
        collector.ignored(["denoise"])


def _take_models(graph: Graph, inputs: Mapping[str, Any], collector: Collector) -> None:
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
                collector.named_model(graph.plain(node.inputs[name], (name,)))
        uniform = collector.values.get("schedule", {}).get("key") == "uniform"
        if uniform and node.kind.startswith("ModelSampling") and "shift" in node.inputs:
            collector.values["schedule"] = {"key": "shift"}
            collector.setting("schedule", "shift", graph.plain(node.inputs["shift"]))
    if nodes[-1].kind and not collector.model:
        collector.note(f"The model comes from the node {nodes[-1].kind[:80]!r}, which is not known here.")
