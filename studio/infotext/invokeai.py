"""InvokeAI's settings: `invokeai_metadata` (version 3 on) and `sd-metadata` (version 2)."""

from __future__ import annotations

import re
from typing import Any

from studio.infotext.fields import MAX_TEXT, Collector, Restored, object_of

__all__ = ["read_dream", "read_invokeai", "read_old_invokeai"]

_NOTHING: tuple[Any, ...] = (None, [], {}, "", 0)
_BRACKETS = re.compile(r"\[([^\[\]]*)\]")
_NUMBERS = {"steps": "num_inference_steps", "seed": "seed", "width": "width", "height": "height"}
_UNREMARKED = {"app_version", "generation_mode", "rand_device", "canvas_v2_metadata", "metadata_version", "type"}
_DREAM = re.compile(r'\A\s*"((?:\\.|[^"\\])*)"((?:\s+-\w+(?:[ =]\S+)?)+)')
_UNREMARKED_OLD = {
    "type",
    "postprocessing",
    "seed",
    "extra",
    "variations",
    "threshold",
    "perlin",
    "seamless",
    "hires_fix",
    "facetool",
    "facetool_strength",
    "upscale",
}


def read_invokeai(text: str) -> Restored | None:
    """The settings in `invokeai_metadata`, or None when the text is something else."""
    left = object_of(text)
    if left is None:
        return None
    collector = Collector("invokeai", "invokeai")
    for field, name in (("prompt", "positive_prompt"), ("negative_prompt", "negative_prompt")):
        if left.get(name) is not None:
            collector.text(field, left[name])
    _take_numbers(left, collector)
    scale = left.get("guidance") if left.get("guidance") is not None else left.get("cfg_scale")
    if scale is not None:
        collector.guidance_scale(scale)
    if left.get("scheduler") is not None:
        _take_scheduler(left["scheduler"], collector)
    collector.named_model(_name(left.get("model")))
    loras = left.get("loras")
    for lora in loras[:100] if isinstance(loras, list) else []:
        if isinstance(lora, dict):
            collector.named_lora(_name(lora.get("model", lora.get("lora"))), lora.get("weight", 1.0))
    taken = {"positive_prompt", "negative_prompt", "guidance", "cfg_scale", "scheduler", "model", "loras", *_NUMBERS}
    collector.ignored(name for name, value in left.items() if value not in _NOTHING and name not in taken | _UNREMARKED)
    return collector.restored()


def read_old_invokeai(text: str) -> Restored | None:
    """The settings in `sd-metadata`, or None when the text is something else."""
    whole = object_of(text) or {}
    image = whole.get("image")
    if not isinstance(image, dict):
        return None
    collector = Collector("invokeai", "invokeai")
    prompt, negative = _old_prompts(image.get("prompt"))
    collector.text("prompt", prompt)
    collector.text("negative_prompt", negative)
    _take_numbers(image, collector)
    if image.get("cfg_scale") is not None:
        collector.guidance_scale(image["cfg_scale"])
    if image.get("sampler") is not None:
        collector.sampler(image["sampler"])
    collector.named_model(whole.get("model_weights"))
    taken = {"prompt", "cfg_scale", "sampler", *_NUMBERS}
    collector.ignored(
        name for name, value in image.items() if value not in _NOTHING and name not in taken | _UNREMARKED_OLD
    )
    return collector.restored()


def read_dream(text: str) -> Restored | None:
    """The settings in `Dream`, the command line of versions 1 and 2, or None when the text is something else."""
    found = _DREAM.match(text[:MAX_TEXT])
    if found is None:
        return None
    options = dict(re.findall(r"-([sSWHCA])[ =]?(\S+)", found[2]))
    collector = Collector("invokeai", "invokeai")
    prompt, negative = _old_prompts(found[1])
    collector.text("prompt", prompt)
    collector.text("negative_prompt", negative)
    for letter, field in (("s", "num_inference_steps"), ("S", "seed"), ("W", "width"), ("H", "height")):
        if letter in options:
            collector.number(field, options[letter])
    if "C" in options:
        collector.guidance_scale(options["C"])
    if "A" in options:
        collector.sampler(options["A"])
    return collector.restored()


def _take_numbers(values: dict[str, Any], collector: Collector) -> None:
    for name, field in _NUMBERS.items():
        if values.get(name) is not None:
            collector.number(field, values[name])


def _take_scheduler(name: Any, collector: Collector) -> None:
    # "dpmpp_2m_k" is the sampler dpmpp_2m over Karras' schedule.
    if isinstance(name, str) and name.endswith("_k"):
        collector.values["schedule"] = {"key": "karras"}
        name = name.removesuffix("_k")
    collector.sampler(name)


def _name(model: Any) -> Any:
    return model.get("name", model.get("model_name", "")) if isinstance(model, dict) else ""


def _old_prompts(prompt: Any) -> tuple[Any, str]:
    # A list of {"prompt", "weight"}, of which version 2 only ever wrote one; [negative words] stand inside it.
    if isinstance(prompt, list):
        first = prompt[0] if prompt else {}
        prompt = first.get("prompt", "") if isinstance(first, dict) else ""
    if not isinstance(prompt, str):
        return prompt, ""
    negative = ", ".join(words.strip() for words in _BRACKETS.findall(prompt))
    return re.sub(r" {2,}", " ", _BRACKETS.sub("", prompt)).strip(), negative
