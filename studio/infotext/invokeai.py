"""InvokeAI's settings: `invokeai_metadata` (version 3 on) and `sd-metadata` (version 2)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.prompts.plus_and_minus import UNREAD, has_plus_and_minus
from studio.infotext.equality import set_program
from studio.infotext.fields import MAX_TEXT, Collector, Restored, parse_object

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
    """Read the settings in `invokeai_metadata`, or None when the text is something else."""
    settings = parse_object(text)
    if settings is None:
        return None
    collector = Collector("invokeai", "invokeai")
    for field, name in (("prompt", "positive_prompt"), ("negative_prompt", "negative_prompt")):
        if settings.get(name) is not None:
            collector.take_text(field, settings[name])
    _take_numbers(settings, collector)
    scale = settings.get("guidance") if settings.get("guidance") is not None else settings.get("cfg_scale")
    if scale is not None:
        collector.take_guidance_scale(scale)
    if settings.get("scheduler") is not None:
        _take_scheduler(settings["scheduler"], collector)
    collector.take_model(_name(settings.get("model")))
    loras = settings.get("loras")
    for lora in loras[:100] if isinstance(loras, list) else []:
        if isinstance(lora, dict):
            collector.take_lora(_name(lora.get("model", lora.get("lora"))), lora.get("weight", 1.0))
    known_names = {
        "positive_prompt",
        "negative_prompt",
        "guidance",
        "cfg_scale",
        "scheduler",
        "model",
        "loras",
        "clip_skip",
        *_NUMBERS,
    }
    collector.note_ignored(
        name for name, value in settings.items() if value not in _NOTHING and name not in known_names | _UNREMARKED
    )
    skipped = settings.get("clip_skip")
    takes_skipped = type(skipped) is int and 0 <= skipped <= 11 and "sampler" in collector.values
    collector.note_ignored([] if takes_skipped or skipped in _NOTHING else ["clip_skip"])
    on_gpu = settings.get("rand_device") not in (None, "cpu")
    _take_rules(
        collector,
        {"skipped_layers": skipped} if takes_skipped and skipped else {},
        ["its first noise was drawn on a GPU, and the CPU's is drawn here"] if on_gpu else [],
    )
    return collector.finish()


def read_old_invokeai(text: str) -> Restored | None:
    """Read the settings in `sd-metadata`, or None when the text is something else."""
    settings = parse_object(text) or {}
    image = settings.get("image")
    if not isinstance(image, dict):
        return None
    collector = Collector("invokeai", "invokeai")
    prompt, negative = _split_old_prompts(image.get("prompt"))
    collector.take_text("prompt", prompt)
    collector.take_text("negative_prompt", negative)
    _take_numbers(image, collector)
    if image.get("cfg_scale") is not None:
        collector.take_guidance_scale(image["cfg_scale"])
    if image.get("sampler") is not None:
        collector.take_sampler(image["sampler"])
    collector.take_model(settings.get("model_weights"))
    known_names = {"prompt", "cfg_scale", "sampler", *_NUMBERS}
    collector.note_ignored(
        name for name, value in image.items() if value not in _NOTHING and name not in known_names | _UNREMARKED_OLD
    )
    _take_rules(collector)
    return collector.finish()


def read_dream(text: str) -> Restored | None:
    """Read the settings in `Dream`, the command line of versions 1 and 2, or None when the text is something else."""
    match = _DREAM.match(text[:MAX_TEXT])
    if match is None:
        return None
    options = dict(re.findall(r"-([sSWHCA])[ =]?(\S+)", match[2]))
    collector = Collector("invokeai", "invokeai")
    prompt, negative = _split_old_prompts(match[1])
    collector.take_text("prompt", prompt)
    collector.take_text("negative_prompt", negative)
    for letter, field in (("s", "num_inference_steps"), ("S", "seed"), ("W", "width"), ("H", "height")):
        if letter in options:
            collector.take_number(field, options[letter])
    if "C" in options:
        collector.take_guidance_scale(options["C"])
    if "A" in options:
        collector.take_sampler(options["A"])
    _take_rules(collector)
    return collector.finish()


def _take_rules(collector: Collector, rules: Mapping[str, object] | None = None, reasons: Sequence[str] = ()) -> None:
    """Set InvokeAI's rules, by which its weights are read; without a sampler there are none, and that is said."""
    set_program(collector, "invokeai", rules, reasons)
    prompts = [str(collector.values.get(name, "")) for name in ("prompt", "negative_prompt")]
    if "made_like" not in collector.values and any(has_plus_and_minus(text) for text in prompts):
        collector.note(
            "The prompts have InvokeAI's weights, as in word++, which are text here: choose Made like InvokeAI, or "
            "write (word:1.2)."
        )
    for name in {one[1] for text in prompts for one in UNREAD.finditer(text)}:
        collector.note(f"InvokeAI's .{name}() in the prompt is not followed here: write the prompt without it.")


def _take_numbers(values: dict[str, Any], collector: Collector) -> None:
    for name, field in _NUMBERS.items():
        if values.get(name) is not None:
            collector.take_number(field, values[name])


def _take_scheduler(name: object, collector: Collector) -> None:
    # "dpmpp_2m_k" is the sampler dpmpp_2m over Karras' schedule.
    if isinstance(name, str) and name.endswith("_k"):
        collector.values["schedule"] = {"key": "karras"}
        name = name.removesuffix("_k")
    collector.take_sampler(name)


def _name(model: object) -> Any:
    return model.get("name", model.get("model_name", "")) if isinstance(model, dict) else ""


def _split_old_prompts(prompt: object) -> tuple[Any, str]:
    # A list of {"prompt", "weight"}, of which version 2 only ever wrote one; [negative words] stand inside it.
    if isinstance(prompt, list):
        first = prompt[0] if prompt else {}
        prompt = first.get("prompt", "") if isinstance(first, dict) else ""
    if not isinstance(prompt, str):
        return prompt, ""
    negative = ", ".join(words.strip() for words in _BRACKETS.findall(prompt))
    return re.sub(r" {2,}", " ", _BRACKETS.sub("", prompt)).strip(), negative
