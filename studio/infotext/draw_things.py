"""Draw Things' settings: JSON in the XMP packet's UserComment, with `c` for the prompt, `uc` for the negative one."""

from __future__ import annotations

import re
from typing import Any

from studio.infotext.fields import Collector, Restored, object_of
from studio.infotext.names import split_sampler

__all__ = ["read_draw_things"]

_NUMBERS = {"steps": "num_inference_steps", "seed": "seed"}
_UNREMARKED = {"profile", "seed_mode", "v2", "mask_blur", "strength", "lora", "clip_skip"}
_NOTHING: tuple[Any, ...] = (None, [], {}, "", 0, False)


def read_draw_things(text: str) -> Restored | None:
    """The settings in Draw Things' JSON, or None when the text is something else."""
    left = object_of(text)
    if left is None or not {"c", "sampler", "steps"} <= left.keys():
        return None
    collector = Collector("drawthings", "a1111")
    for name, field in (("c", "prompt"), ("uc", "negative_prompt")):
        if name in left:
            collector.text(field, left.pop(name))
    for name, field in _NUMBERS.items():
        if name in left:
            collector.number(field, left.pop(name))
    if size := re.match(r"(\d{1,6})x(\d{1,6})\Z", str(left.pop("size", ""))):
        collector.number("width", size[1])
        collector.number("height", size[2])
    if "scale" in left:
        collector.guidance_scale(left.pop("scale"))
    _take_sampler(left.pop("sampler"), collector)
    collector.named_model(left.pop("model", ""))
    for lora in _list(left.get("lora"))[:100]:
        if isinstance(lora, dict):
            collector.named_lora(lora.get("model", lora.get("file")), lora.get("weight", 1.0))
    if left.get("strength", 1) != 1:
        collector.note("The picture was made from another one, which is not in it.")
    collector.ignored(name for name, value in left.items() if value not in _NOTHING and name not in _UNREMARKED)
    return collector.restored()


def _take_sampler(name: Any, collector: Collector) -> None:
    sampler, schedule = split_sampler(name) if isinstance(name, str) else (name, "")
    collector.sampler(sampler)
    if schedule:
        collector.schedule(schedule)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
