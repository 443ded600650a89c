"""Samplers and schedules as people write them: "DPM++ 2M Karras", "euler_ancestral"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.core.types import Choice
from pipelines.samplers import SAMPLERS
from pipelines.schedules import SCHEDULES
from studio.infotext.names import sampler_choice, schedule_choice, split_sampler

__all__ = ["read_method_names"]

_PROGRAMS = ("a1111", "comfyui", "invokeai")


def read_method_names(values: Mapping[str, object]) -> Mapping[str, Any]:
    """Return a request's untrusted values with our keys for other programs' names.

    A sampler's name that ends in a schedule sets that, too, unless the values name one. What no table has stays as it
    is, and is refused by name.
    """
    if not isinstance(values, Mapping):
        return values
    read = dict(values)
    name, settings = _split_choice(read.get("sampler"))
    if name and name not in SAMPLERS:
        sampler, schedule = split_sampler(name)
        choice = sampler_choice(sampler, _PROGRAMS)
        if choice is not None:
            read["sampler"] = {**choice, **settings}
            levels = schedule_choice(schedule, _PROGRAMS) if schedule else None
            if levels and "schedule" not in values:
                read["schedule"] = levels
    name, settings = _split_choice(read.get("schedule"))
    levels = schedule_choice(name, _PROGRAMS) if name and name not in SCHEDULES else None
    if levels:
        read["schedule"] = {**levels, **settings}
    return read


def _split_choice(choice: object) -> tuple[str, Mapping[str, Any]]:
    """The key of an untrusted choice and its settings; "" for what is no choice."""
    if isinstance(choice, Choice):
        return choice.key, choice.settings
    if isinstance(choice, Mapping) and isinstance(choice.get("key"), str):
        return choice["key"], {name: value for name, value in choice.items() if name != "key"}
    return (choice, {}) if isinstance(choice, str) else ("", {})
