"""Draw Things' settings: JSON in the XMP packet's UserComment, with `c` for the prompt, `uc` for the negative one."""

from __future__ import annotations

import re
from typing import Any

from studio.infotext.fields import Collector, Restored, parse_object
from studio.infotext.names import split_sampler

__all__ = ["read_draw_things"]

_NUMBERS = {"steps": "num_inference_steps", "seed": "seed"}
_UNREMARKED = {"profile", "seed_mode", "v2", "mask_blur", "strength", "lora"}
_NOTHING: tuple[Any, ...] = (None, [], {}, "", 0, False)


def read_draw_things(text: str) -> Restored | None:
    """Read the settings in Draw Things' JSON, or None when the text is something else."""
    settings = parse_object(text)
    if settings is None or not {"c", "sampler", "steps"} <= settings.keys():
        return None
    collector = Collector("drawthings", "a1111")
    for name, field in (("c", "prompt"), ("uc", "negative_prompt")):
        if name in settings:
            collector.take_text(field, settings.pop(name))
    for name, field in _NUMBERS.items():
        if name in settings:
            collector.take_number(field, settings.pop(name))
    if size := re.match(r"(\d{1,6})x(\d{1,6})\Z", str(settings.pop("size", ""))):
        collector.take_number("width", size[1])
        collector.take_number("height", size[2])
    if "scale" in settings:
        collector.take_guidance_scale(settings.pop("scale"))
    _take_sampler(settings.pop("sampler"), collector)
    collector.take_model(settings.pop("model", ""))
    for lora in _list(settings.get("lora"))[:100]:
        if isinstance(lora, dict):
            collector.take_lora(lora.get("model", lora.get("file")), lora.get("weight", 1.0))
    if settings.get("strength", 1) != 1:
        collector.note("The picture was made from another one, which is not in it.")
    collector.note_ignored(
        name
        for name, value in settings.items()
        if value not in _NOTHING and name not in _UNREMARKED and (name, value) != ("clip_skip", 1)
    )
    return collector.finish()


def _take_sampler(name: object, collector: Collector) -> None:
    sampler, schedule = split_sampler(name) if isinstance(name, str) else (name, "")
    collector.take_sampler(sampler)
    if schedule:
        collector.take_schedule(schedule)


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
