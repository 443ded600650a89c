"""The `parameters` text: the prompt, the negative prompt, and one line of settings.

Written first by A1111's web UI and read by Forge, by picture sites and by most other programs.

Source: AUTOMATIC1111 and contributors, stable-diffusion-webui, `modules/infotext_utils.py` (quote, unquote,
    parse_generation_parameters) and `modules/processing.py` (create_infotext), for the syntax.
Differs: blanks at the ends of a line are kept, so that a prompt comes back as it was; names and lengths are
    bounded, so that no text is slow to read.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any

from studio.infotext.fields import MAX_TEXT, Collector, Restored
from studio.infotext.names import sampler_name, schedule_name

__all__ = ["Labels", "read_parameters", "write"]

_NEGATIVE = "Negative prompt:"
_PAIR = re.compile(r'(\w[\w \-/]{1,63}):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
_LORA = re.compile(r" ?<lora:([^:<>\n]{1,200})(?::([^:<>\n]{1,20}))?(?::[^<>\n]{0,60})?>")
_SIZE = re.compile(r"(\d{1,6})x(\d{1,6})\Z")
_UNREMARKED = {"Version", "Model hash", "Lora hashes", "TI hashes", "Batch size", "Batch pos", "RNG", "User", "Hashes"}
"""Settings without a counterpart here that change nothing a person would look for."""


@dataclasses.dataclass(frozen=True)
class Labels:
    """What the text says beside the request itself.

    Attributes:
        model: the model's name for people; empty for its key.
        model_hash: the first ten hexadecimal digits of the weights' SHA-256, where known.
        width, height: pixels of the finished picture; 0 takes the request's.
        lora_hashes: LoRA name to hash, where known.
        version: of this studio.
    """

    model: str = ""
    model_hash: str = ""
    width: int = 0
    height: int = 0
    lora_hashes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    version: str = ""


def write(request: Mapping[str, Any], labels: Labels = Labels()) -> str:
    """The parameters text of one picture.

    Args:
        request: `Request.to_json()` for this one picture: of a batch, with the picture's own seed. Method
            settings that are left out of it are left out of the text: fill in the methods' defaults first.
        labels: what the request does not say.
    """
    prompt = request.get("prompt", "") + "".join(_lora_tag(lora) for lora in request.get("loras", ()))
    negative = request.get("negative_prompt", "")
    lines = [prompt, f"{_NEGATIVE} {negative}"] if negative else [prompt]
    pairs = [f"{name}: {_quoted(value)}" for name, value in _pairs(request, labels).items() if value not in (None, "")]
    return "\n".join([*lines, ", ".join(pairs)]).strip()


def _pairs(request: Mapping[str, Any], labels: Labels) -> dict[str, Any]:
    sampler, schedule, guidance = (request.get(name, {"key": ""}) for name in ("sampler", "schedule", "guidance"))
    width, height = labels.width or request.get("width", 0), labels.height or request.get("height", 0)
    strength = request.get("variation_strength", 0.0)
    return {
        "Steps": request.get("num_inference_steps"),
        "Sampler": sampler_name(sampler["key"]),
        "Schedule type": schedule_name(schedule),
        "Shift": schedule.get("shift") or None,
        "CFG scale": guidance.get("guidance_scale"),
        "Seed": request.get("seed", 0),
        "Size": f"{width}x{height}" if width and height else None,
        "Model hash": labels.model_hash,
        "Model": labels.model or request.get("model"),
        "Variation seed": request.get("variation_seed") if strength else None,
        "Variation seed strength": strength or None,
        "Lora hashes": ", ".join(f"{name}: {digest}" for name, digest in labels.lora_hashes.items()),
        "Version": labels.version,
    }


def _lora_tag(lora: Mapping[str, Any]) -> str:
    name = lora["name"]
    return f" <lora:{name}:{lora.get('weight', 1.0):g}>" if not set(name) & set(":<>\n") else ""


def _quoted(value: Any) -> str:
    text = f"{value:.10g}" if isinstance(value, float) else str(value)
    return json.dumps(text, ensure_ascii=False) if any(mark in text for mark in ",\n:") else text


def _unquoted(text: str) -> str:
    if len(text) < 2 or text[0] != '"' or text[-1] != '"':
        return text
    try:
        return str(json.loads(text))
    except ValueError:
        return text


def read_parameters(text: str) -> Restored | None:
    """The settings in a parameters text, or None when it is none."""
    if len(text) > MAX_TEXT:
        collector = Collector("a1111")
        collector.note(f"The picture's settings have {len(text)} characters: they are too long to be read.")
        return collector.restored()
    prompt, negative, pairs = _split(text)
    if not pairs and not negative:
        return None
    forge = re.match(r"f\d", pairs.get("Version", "")) is not None
    collector = Collector("forge" if forge else "a1111", "a1111")
    collector.text("prompt", _without_loras(prompt, collector))
    collector.text("negative_prompt", negative)
    _take(pairs, collector)
    return collector.restored()


def _split(text: str) -> tuple[str, str, dict[str, str]]:
    lines = [line.rstrip("\r") for line in text.strip().split("\n")]
    found = _PAIR.findall(lines[-1])
    pairs = {name: _unquoted(value.strip()) for name, value in found} if len(found) >= 3 else {}
    if pairs:
        lines.pop()
    start = next((number for number, line in enumerate(lines) if line.strip().startswith(_NEGATIVE)), len(lines))
    negative = "\n".join(lines[start:]).lstrip()[len(_NEGATIVE) :]
    return "\n".join(lines[:start]), negative.removeprefix(" "), pairs


def _without_loras(prompt: str, collector: Collector) -> str:
    for name, weight in _LORA.findall(prompt):
        collector.named_lora(name, weight or 1.0)
    return _LORA.sub("", prompt)


def _take(pairs: dict[str, str], collector: Collector) -> None:
    plain = {
        "Steps": "num_inference_steps",
        "Seed": "seed",
        "Variation seed": "variation_seed",
        "Variation seed strength": "variation_strength",
    }
    for name, field in plain.items():
        if name in pairs:
            collector.number(field, pairs.pop(name))
    size = _SIZE.match(pairs.pop("Size", ""))
    if size:
        collector.number("width", size[1])
        collector.number("height", size[2])
    _take_methods(pairs, collector)
    collector.named_model(pairs.pop("Model", ""))
    collector.ignored(pairs.keys() - _UNREMARKED)


def _take_methods(pairs: dict[str, str], collector: Collector) -> None:
    sampler, schedule = pairs.pop("Sampler", ""), pairs.pop("Schedule type", "")
    if sampler.endswith(" Karras"):  # the name of both in one, before A1111 1.9
        sampler, schedule = sampler.removesuffix(" Karras"), "Karras"
    if sampler:
        collector.sampler(sampler)
    collector.schedule(schedule)
    if collector.values.get("schedule") == {"key": "shift"} and "Shift" in pairs:
        collector.setting("schedule", "shift", pairs.pop("Shift"))
    scale, distilled = pairs.pop("CFG scale", None), pairs.pop("Distilled CFG Scale", None)
    if distilled is not None and scale in ("1", "1.0"):
        scale = distilled  # Forge's name for the scale that Flux takes as an input
    if scale is not None:
        collector.guidance_scale(scale)
