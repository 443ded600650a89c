"""Programs whose fields stand side by side, in JSON or in one PNG chunk each: Easy Diffusion and DiffusionBee."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from studio.infotext.fields import Collector, Restored, parse_object

__all__ = ["read_plain_chunks", "read_plain_fields"]

_NUMBERS: Mapping[str, tuple[str, ...]] = {
    "num_inference_steps": ("num_inference_steps", "ddim_steps", "num_steps", "steps"),
    "seed": ("seed",),
    "width": ("width", "img_width", "image_width"),
    "height": ("height", "img_height", "image_height"),
}
_SCALES = ("guidance_scale", "unconditional_guidance_scale", "cfg_scale", "scale")
_SAMPLERS = ("sampler_name", "sampler", "scheduler")
_MODELS = ("use_stable_diffusion_model", "stable_diffusion_model", "model", "selected_sd_model", "model_tdict_path")
_LORAS = ("use_lora_model", "lora_model")


def read_plain_chunks(texts: Mapping[str, str]) -> Restored | None:
    """Read the settings in PNG chunks of a field each, or None when there are none such."""
    return _read({name.strip().lower().replace(" ", "_"): value for name, value in texts.items()})


def read_plain_fields(text: str) -> Restored | None:
    """Read the settings in a JSON object of plain fields, or None when the text is something else."""
    fields = parse_object(text)
    return (
        None if fields is None else _read({name.strip().lower().replace(" ", "_"): one for name, one in fields.items()})
    )


def _read(fields: Mapping[str, Any]) -> Restored | None:
    easy = any(name in fields for name in _MODELS[:2])
    numbers = {field: value for field, names in _NUMBERS.items() if (value := _find_first(fields, names)) is not None}
    scale = _find_first(fields, _SCALES)
    num_known = len(numbers) + (scale is not None)
    if not isinstance(fields.get("prompt"), str) or fields["prompt"].lstrip().startswith("{") or num_known < 3:
        return None
    collector = Collector("easydiffusion" if easy else "diffusionbee", ("invokeai", "comfyui", "a1111"))
    for name in ("prompt", "negative_prompt"):
        if isinstance(fields.get(name), str):
            collector.take_text(name, fields[name])
    for field, value in numbers.items():
        collector.take_number(field, value)
    if scale is not None:
        collector.take_guidance_scale(scale)
    if (sampler := _find_first(fields, _SAMPLERS)) is not None:
        collector.take_sampler(sampler)
    collector.take_model(_find_first(fields, _MODELS))
    _take_loras(fields, collector)
    return collector.finish()


def _take_loras(fields: Mapping[str, object], collector: Collector) -> None:
    names, weights = _find_first(fields, _LORAS), fields.get("lora_alpha", 1.0)
    names = names if isinstance(names, list) else [names]
    weights = weights if isinstance(weights, list) else [weights] * len(names)
    for name, weight in zip(names[:100], weights, strict=False):
        if isinstance(name, str):
            collector.take_lora(name, weight)


def _find_first(fields: Mapping[str, object], names: tuple[str, ...]) -> Any:
    return next((fields[name] for name in names if fields.get(name) not in (None, "")), None)
