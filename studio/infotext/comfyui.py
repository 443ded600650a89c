"""ComfyUI's settings: the graph that made the picture, `prompt`, or else the graph on the screen, `workflow`.

The graph is walked backwards from the sampler: to the texts, the empty latents, the LoRAs, the checkpoint.
Only fields of known names are read; what a node of another kind computes is not guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from studio.infotext.comfyui_graph import Graph, Node, from_prompt, from_workflow
from studio.infotext.fields import MAX_TEXT, Collector, Restored, object_of

__all__ = ["read_comfyui"]

_CONDITIONINGS = ("conditioning", "conditioning_1", "conditioning_to", "cond1", "base_positive")
_LATENTS = ("latent_image", "samples", "latent", "pixels", "image")
_TEXTS = ("text", "text_g", "t5xxl", "prompt", "string", "value", "clip_l", "text_l")
_MODELS = ("model", "unet", "base_model")


def read_comfyui(texts: Mapping[str, str]) -> Restored | None:
    """The settings in a picture's `prompt` or `workflow`, or None when neither is ComfyUI's."""
    for name, parse in (("prompt", from_prompt), ("workflow", from_workflow)):
        graph = parse(object_of(texts.get(name, "")) or {})
        sampler, others = _first_sampler(graph)
        if sampler is not None:
            return _read(graph, sampler, others)
    if max((len(texts.get(name, "")) for name in ("prompt", "workflow")), default=0) > MAX_TEXT:
        collector = Collector("comfyui")
        collector.note(f"The picture's ComfyUI graph has more than {MAX_TEXT} characters: it is too long to be read.")
        return collector.restored()
    return None


def _first_sampler(graph: Graph) -> tuple[Node | None, int]:
    # The sampler that starts from empty latents made the composition; later ones refine it.
    samplers = [
        node
        for node in graph.nodes.values()
        if node.kind.startswith(("KSampler", "SamplerCustom"))
        and ("latent_image" in node.inputs or "positive" in node.inputs)
    ]
    firsts = [node for node in samplers if _empty_latents(graph, node) is not None]
    return (firsts or samplers or [None])[0], len(samplers) - 1


def _read(graph: Graph, sampler: Node, others: int) -> Restored | None:
    collector = Collector("comfyui", "comfyui")
    inputs = _gathered(graph, sampler)
    if others:
        collector.note(f"The graph has {others + 1} samplers; the settings of the first were read.")
    guidance = _take_prompts(graph, inputs, collector)
    for names, field in ((("seed", "noise_seed"), "seed"), (("steps",), "num_inference_steps")):
        value = next((graph.plain(inputs[name]) for name in names if name in inputs), None)
        if value is not None:
            collector.number(field, value)
    scale = graph.plain(inputs.get("cfg"))
    if guidance is not None and scale in (None, 1):
        scale = guidance  # Flux takes its scale as an input of the network
    if scale is not None:
        collector.guidance_scale(scale)
    for name, take in (("sampler_name", collector.sampler), ("scheduler", collector.schedule)):
        value = graph.plain(inputs.get(name))
        if value is not None:
            take(value)
    _take_size(graph, inputs, sampler, collector)
    _take_models(graph, inputs, collector)
    return collector.restored()


def _gathered(graph: Graph, sampler: Node) -> dict[str, Any]:
    # SamplerCustom and SamplerCustomAdvanced have their settings in nodes of their own, one link away.
    inputs = dict(sampler.inputs)
    for name in ("noise", "guider", "sampler", "sigmas"):
        node = graph.behind(inputs.get(name))
        for key, value in node.inputs.items() if node else ():
            inputs.setdefault(key, value)
    return inputs


def _take_prompts(graph: Graph, inputs: Mapping[str, Any], collector: Collector) -> Any:
    # Both prompts; returns the guidance that a FluxGuidance node on the way holds, or None.
    guidance = None
    for side, field in (("positive", "prompt"), ("negative", "negative_prompt")):
        link = inputs.get(side, inputs.get("conditioning") if side == "positive" else None)
        for node in graph.walk(link, (side, *_CONDITIONINGS)):
            if node.kind == "ConditioningZeroOut":
                collector.text(field, "")
                break
            if side == "positive" and "guidance" in node.inputs:
                guidance = graph.plain(node.inputs["guidance"])
            if node.kind in {"ConditioningCombine", "ConditioningConcat", "ConditioningAverage"}:
                collector.note("The graph combines several prompts; the first was read.")
            text = next((graph.plain(node.inputs[name], _TEXTS) for name in _TEXTS if name in node.inputs), None)
            if isinstance(text, str):
                collector.text(field, text)
                break
        else:
            if link is not None:
                collector.note(
                    f"The {field.replace('_', ' ')} was not found in the graph: "
                    "it comes from a node that is not known here."
                )
    return guidance


def _empty_latents(graph: Graph, sampler: Node) -> Node | None:
    for node in graph.walk(sampler.inputs.get("latent_image"), _LATENTS):
        if node.kind.startswith("Empty"):
            return node
        if node.kind.startswith(("KSampler", "SamplerCustom", "VAEEncode", "LoadImage")):
            return None
    return None


def _take_size(graph: Graph, inputs: Mapping[str, Any], sampler: Node, collector: Collector) -> None:
    latents = _empty_latents(graph, sampler)
    if latents is None:
        collector.note("The graph starts from another picture, which is not in this one.")
        return
    for name in ("width", "height"):
        value = graph.plain(latents.inputs.get(name))
        if value is not None:
            collector.number(name, value)
    denoise = graph.plain(inputs.get("denoise"))
    if denoise not in (None, 1):
        collector.ignored(["denoise"])


def _take_models(graph: Graph, inputs: Mapping[str, Any], collector: Collector) -> None:
    for node in graph.walk(inputs.get("model"), _MODELS):
        if "lora_name" in node.inputs:
            collector.named_lora(
                graph.plain(node.inputs["lora_name"]), graph.plain(node.inputs.get("strength_model", 1.0))
            )
        for name in ("ckpt_name", "unet_name"):
            if name in node.inputs:
                collector.named_model(graph.plain(node.inputs[name]))
        uniform = collector.values.get("schedule", {}).get("key") == "uniform"
        if uniform and node.kind.startswith("ModelSampling") and "shift" in node.inputs:
            collector.values["schedule"] = {"key": "shift"}
            collector.setting("schedule", "shift", graph.plain(node.inputs["shift"]))
