"""SwarmUI's settings: a JSON object with `sui_image_params`, where A1111 has its text."""

from __future__ import annotations

from studio.infotext.equality import set_program
from studio.infotext.fields import Collector, Restored, parse_object

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
    """Read the settings in SwarmUI's JSON, or None when the text is something else."""
    image_params = (parse_object(text) or {}).get("sui_image_params")
    if not isinstance(image_params, dict):
        return None
    settings = dict(image_params)
    collector = Collector("swarmui", "comfyui")  # it runs ComfyUI and uses its names
    for name, field in (("prompt", "prompt"), ("negativeprompt", "negative_prompt")):
        if name in settings:
            collector.take_text(field, settings.pop(name))
    for name, field in _NUMBERS.items():
        if name in settings:
            collector.take_number(field, settings.pop(name))
    _take_guidance(settings, collector)
    for name in ("sampler", "comfyuisampler"):
        if name in settings:
            collector.take_sampler(settings.pop(name))
    for name in ("scheduler", "comfyuischeduler"):
        if name in settings:
            collector.take_schedule(settings.pop(name))
    shift = settings.pop("sigmashift", None)
    if shift is not None and collector.values.get("schedule", {"key": "uniform"})["key"] == "uniform":
        collector.values["schedule"] = {"key": "shift"}
        collector.take_setting("schedule", "shift", shift)
    collector.take_model(settings.pop("model", ""))
    _take_loras(image_params, collector)
    collector.note_ignored(settings.keys() - _UNREMARKED)
    set_program(collector, "comfyui", reasons=["SwarmUI may run ComfyUI with nodes of its own"])
    return collector.finish()


def _take_guidance(settings: dict, collector: Collector) -> None:
    scale, distilled = settings.pop("cfgscale", None), settings.pop("fluxguidancescale", None)
    if distilled is not None and scale in (None, 1, "1", "1.0"):
        scale = distilled  # Flux takes its scale as an input of the network
    if scale is not None:
        collector.take_guidance_scale(scale)


def _take_loras(settings: dict, collector: Collector) -> None:
    names, weights = (
        value if isinstance(value, list) else str(value or "").split(",")
        for value in (settings.get("loras"), settings.get("loraweights"))
    )
    for number, name in enumerate(names[:100]):
        collector.take_lora(name, weights[number] if number < len(weights) else 1.0)
