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
}


def read_swarmui(text: str) -> Restored | None:
    """The settings in SwarmUI's JSON, or None when the text is something else."""
    settings = (object_of(text) or {}).get("sui_image_params")
    if not isinstance(settings, dict):
        return None
    left = dict(settings)
    collector = Collector("swarmui", "comfyui")  # it runs ComfyUI and uses its names
    collector.text("prompt", left.pop("prompt", ""))
    collector.text("negative_prompt", left.pop("negativeprompt", ""))
    for name, field in _NUMBERS.items():
        if name in left:
            collector.number(field, left.pop(name))
    if "cfgscale" in left:
        collector.guidance_scale(left.pop("cfgscale"))
    for name in ("sampler", "comfyuisampler"):
        if name in left:
            collector.sampler(left.pop(name))
    for name in ("scheduler", "comfyuischeduler"):
        if name in left:
            collector.schedule(left.pop(name))
    collector.named_model(left.pop("model", ""))
    _take_loras(settings, collector)
    collector.ignored(left.keys() - _UNREMARKED)
    return collector.restored()


def _take_loras(settings: dict, collector: Collector) -> None:
    names, weights = (
        value if isinstance(value, list) else [] for value in (settings.get("loras"), settings.get("loraweights"))
    )
    for number, name in enumerate(names[:100]):
        collector.named_lora(name, weights[number] if number < len(weights) else 1.0)
