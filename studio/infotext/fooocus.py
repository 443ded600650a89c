"""Fooocus' own scheme: a JSON object where A1111 has its text, with the names of ComfyUI's samplers and schedules.

Source: lllyasviel and contributors, Fooocus, `modules/meta_parser.py` (FooocusMetadataParser), for the fields.
"""

from __future__ import annotations

import re
from typing import Any

from studio.infotext.fields import Collector, Restored, object_of

__all__ = ["read_fooocus"]

_NUMBERS = {"steps": "num_inference_steps", "seed": "seed"}
_PAIR = re.compile(r"\D*(\d{1,6})\D+(\d{1,6})\D*\Z")
_UNREMARKED = {
    *("base_model_hash", "created_by", "full_negative_prompt", "full_prompt", "metadata_scheme", "version", "vae"),
    *("refiner_model_hash", "prompt_expansion", "performance", "refiner_swap_method"),
}
_NOTHING: tuple[Any, ...] = (None, "", [], "[]", "None", False)


def read_fooocus(text: str) -> Restored | None:
    """The settings in Fooocus' JSON, or None when the text is something else."""
    left = object_of(text)
    if left is None or "base_model" not in left or not {"sampler", "styles", "performance"} & left.keys():
        return None
    collector = Collector("fooocus", ("comfyui", "a1111"))
    for name in ("prompt", "negative_prompt"):
        if name in left:
            collector.text(name, left.pop(name))
    for name, field in _NUMBERS.items():
        if name in left:
            collector.number(field, left.pop(name))
    if size := _PAIR.match(str(left.pop("resolution", ""))[:40]):
        collector.number("width", size[1])
        collector.number("height", size[2])
    if "guidance_scale" in left:
        collector.guidance_scale(left.pop("guidance_scale"))
    for name, take in (("sampler", collector.sampler), ("scheduler", collector.schedule)):
        if name in left:
            take(left.pop(name))
    collector.named_model(left.pop("base_model"))
    _take_loras(left, collector)
    if left.pop("refiner_model", None) in _NOTHING:
        left.pop("refiner_switch", None)
    collector.ignored(name for name, value in left.items() if value not in _NOTHING and name not in _UNREMARKED)
    return collector.restored()


def _take_loras(left: dict[str, Any], collector: Collector) -> None:
    """`loras` holds [name, weight, hash]; the older `lora_combined_1` and so on hold "name : weight"."""
    combined = [left.pop(name) for name in sorted(left) if name.startswith("lora_combined_")]
    loras = left.pop("loras", None)
    if isinstance(loras, list) and loras:
        for lora in loras[:100]:
            if isinstance(lora, list) and len(lora) >= 2:
                collector.named_lora(lora[0], lora[1])
        return
    for text in combined[:100]:
        name, separator, weight = str(text).rpartition(" : ")
        if separator:
            collector.named_lora(name, weight)
