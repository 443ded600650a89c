"""SwarmUI's settings: a JSON object with `sui_image_params`, where A1111 has its text."""

from __future__ import annotations

from studio.infotext.fields import Collector, Restored, object_of

__all__ = ["read_swarmui"]

_NUMBERS = {
    "steps": "num_inference_steps",
    "seed": "seed",
    "width": "width",
    "height": "height",
    "variationseed": "variation_seed",
    "variationseedstrength": "variation_strength",
}
_UNREMARKED = {
    "aspectratio",
    "swarm_version",
    "date",
    "generation_time",
    "images",
    "batchsize",
    "imageformat",
    "nopreviews",
    "automaticvae",
    "loras",
    "loraweights",
    "original_prompt",
    "used_wildcards",
    "wildcardseed",
    "prep_time",
    "loratencweights",
    "sidelength",
}


def read_swarmui(text: str) -> Restored | None:
    """The settings in SwarmUI's JSON, or None when the text is something else."""
    settings = (object_of(text) or {}).get("sui_image_params")
    if not isinstance(settings, dict):
        return None
    left = dict(settings)
    collector = Collector("swarmui", "comfyui")  # it runs ComfyUI and uses its names
    for name, field in (("prompt", "prompt"), ("negativeprompt", "negative_prompt")):
        if name in left:
            collector.text(field, left.pop(name))
    for name, field in _NUMBERS.items():
        if name in left:
            collector.number(field, left.pop(name))
    _take_guidance(left, collector)
    for name in ("sampler", "comfyuisampler"):
        if name in left:
            collector.sampler(left.pop(name))
    for name in ("scheduler", "comfyuischeduler"):
        if name in left:
            collector.schedule(left.pop(name))
    shift = left.pop("sigmashift", None)
    if shift is not None and collector.values.get("schedule", {"key": "uniform"})["key"] == "uniform":
        collector.values["schedule"] = {"key": "shift"}
        collector.setting("schedule", "shift", shift)
    collector.named_model(left.pop("model", ""))
    _take_loras(settings, collector)
    collector.ignored(left.keys() - _UNREMARKED)
    return collector.restored()


def _take_guidance(left: dict, collector: Collector) -> None:
    scale, distilled = left.pop("cfgscale", None), left.pop("fluxguidancescale", None)
    if distilled is not None and scale in (None, 1, "1", "1.0"):
        scale = distilled  # Flux takes its scale as an input of the network
    if scale is not None:
        collector.guidance_scale(scale)


def _take_loras(settings: dict, collector: Collector) -> None:
    names, weights = (
        value if isinstance(value, list) else str(value or "").split(",")
        for value in (settings.get("loras"), settings.get("loraweights"))
    )
    for number, name in enumerate(names[:100]):
        collector.named_lora(name, weights[number] if number < len(weights) else 1.0)
