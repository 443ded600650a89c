"""In what results of one prompt differ, in the few words that fit under a small picture."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from studio.results.records import Record

__all__ = ["describe_differences"]

_WORDS = {
    "upscale": "upscaled {}",
    "model": "{}",
    "sampler": "{}",
    "schedule": "{}",
    "guidance": "guidance {}",
    "second_pass": "second pass {}",
    "cache": "cache {}",
    "search": "search {}",
    "num_inference_steps": "{} steps",
    "seed": "seed {}",
}
"""Fields of a request, those first that change a picture most, and how their values are said."""

_MOST = 2


def describe_differences(records: Sequence[Record]) -> dict[str, str]:
    """Map each result that shares its prompt with others to the settings in which they differ, at most two."""
    groups: defaultdict[str, list[Record]] = defaultdict(list)
    for record in records:
        if record.prompt:
            groups[record.prompt].append(record)
    return {id: words for group in groups.values() if len(group) > 1 for id, words in _describe_group(group).items()}


def _describe_group(group: Sequence[Record]) -> dict[str, str]:
    values = {record.id: _read_settings(record) for record in group}
    differing = [name for name in _WORDS if len({one[name] for one in values.values()}) > 1][:_MOST]
    return {
        id: ", ".join(_WORDS[name].format(one[name]) for name in differing if one[name]) for id, one in values.items()
    }


def _read_settings(record: Record) -> dict[str, str]:
    """Read the settings as words; "" for one that the result does not say."""
    request = record.metadata.get("request")
    request = request if isinstance(request, Mapping) else {}
    figures = record.metadata.get("figures")
    enlarged = figures.get("upscale") if isinstance(figures, Mapping) else None
    factor = enlarged.get("factor") if isinstance(enlarged, Mapping) else None
    return {
        **{name: _format_value(name, request.get(name)) for name in _WORDS},
        "upscale": f"{factor:g} times" if isinstance(factor, (int, float)) else "",
    }


def _format_value(name: str, value: object) -> str:
    if isinstance(value, Mapping):
        value = value.get("guidance_scale", value.get("key", "")) if name == "guidance" else value.get("key", "")
    is_default = value is None or (name in ("second_pass", "cache", "search") and value == "none")
    return "" if is_default else str(value)[:24]
