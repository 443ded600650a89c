"""Fooocus' own scheme: a JSON object where A1111 has its text, with the names of ComfyUI's samplers and schedules.

Source: lllyasviel and contributors, Fooocus, `modules/meta_parser.py` (FooocusMetadataParser), for the fields.
"""

from __future__ import annotations

import re
from typing import Any

from studio.infotext.fields import Collector, Restored, parse_object

__all__ = ["read_fooocus"]

_NUMBERS = {"steps": "num_inference_steps", "seed": "seed"}
_PAIR = re.compile(r"\D*(\d{1,6})\D+(\d{1,6})\D*\Z")
_UNREMARKED = {
    *("base_model_hash", "created_by", "full_negative_prompt", "full_prompt", "metadata_scheme", "version", "vae"),
    *("refiner_model_hash", "prompt_expansion", "performance", "refiner_swap_method"),
}
_NOTHING: tuple[Any, ...] = (None, "", [], "[]", "None", False)


def read_fooocus(text: str) -> Restored | None:
    """Read the settings in Fooocus' JSON, or None when the text is something else."""
    settings = parse_object(text)
    if settings is None or "base_model" not in settings or not {"sampler", "styles", "performance"} & settings.keys():
        return None
    collector = Collector("fooocus", ("comfyui", "a1111"))
    for name in ("prompt", "negative_prompt"):
        if name in settings:
            collector.take_text(name, settings.pop(name))
    for name, field in _NUMBERS.items():
        if name in settings:
            collector.take_number(field, settings.pop(name))
    if size := _PAIR.match(str(settings.pop("resolution", ""))[:40]):
        collector.take_number("width", size[1])
        collector.take_number("height", size[2])
    if "guidance_scale" in settings:
        collector.take_guidance_scale(settings.pop("guidance_scale"))
    for name, take in (("sampler", collector.take_sampler), ("scheduler", collector.take_schedule)):
        if name in settings:
            take(settings.pop(name))
    collector.take_model(settings.pop("base_model"))
    _take_loras(settings, collector)
    if settings.pop("refiner_model", None) in _NOTHING:
        settings.pop("refiner_switch", None)
    collector.note_ignored(
        name for name, value in settings.items() if value not in _NOTHING and name not in _UNREMARKED
    )
    return collector.finish()


def _take_loras(settings: dict[str, Any], collector: Collector) -> None:
    """`loras` holds [name, weight, hash]; the older `lora_combined_1` and so on hold "name : weight"."""
    combined = [settings.pop(name) for name in sorted(settings) if name.startswith("lora_combined_")]
    loras = settings.pop("loras", None)
    if isinstance(loras, list) and loras:
        for lora in loras[:100]:
            if isinstance(lora, list) and len(lora) >= 2:
                collector.take_lora(lora[0], lora[1])
        return
    for text in combined[:100]:
        name, separator, weight = str(text).rpartition(" : ")
        if separator:
            collector.take_lora(name, weight)
