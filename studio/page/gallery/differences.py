"""In what results of one prompt differ, in the few words that fit under a small picture."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from pipelines.requests.limits import TABLES
from studio.results.records import Record

__all__ = ["describe_differences"]

_WORDS = {
    "upscale": "upscaled {}",
    "model": "{}",
    "sampler": "{}",
    "schedule": "{}",
    "guidance": "guidance {}",
    "second_pass": "{}",
    "cache": "{}",
    "search": "{}",
    "num_inference_steps": "{} steps",
    "seed": "seed {}",
}
"""Fields of a request, those first that change a picture most, and how their values are said."""

_MOST = 2


def describe_differences(records: Sequence[Record], models: Mapping[str, str] = {}) -> dict[str, str]:
    """Map each result that shares its prompt with others to the settings in which they differ, at most two.

    Args:
        records: of the list.
        models: key to label of those that are here; another is said by its key.
    """
    groups: defaultdict[str, list[Record]] = defaultdict(list)
    for record in records:
        if record.prompt:
            groups[record.prompt].append(record)
    return {
        id: words for group in groups.values() if len(group) > 1 for id, words in _describe_group(group, models).items()
    }


def _describe_group(group: Sequence[Record], models: Mapping[str, str]) -> dict[str, str]:
    values = {record.id: _read_settings(record, models) for record in group}
    differing = [name for name in _WORDS if len({one[name] for one in values.values()}) > 1][:_MOST]
    return {
        id: ", ".join(_WORDS[name].format(one[name]) for name in differing if one[name]) for id, one in values.items()
    }


def _read_settings(record: Record, models: Mapping[str, str]) -> dict[str, str]:
    """Read the settings as words; "" for one that the result does not say."""
    request = record.metadata.get("request")
    request = request if isinstance(request, Mapping) else {}
    figures = record.metadata.get("figures")
    enlarged = figures.get("upscale") if isinstance(figures, Mapping) else None
    factor = enlarged.get("factor") if isinstance(enlarged, Mapping) else None
    return {
        **{name: _format_value(name, request.get(name), models) for name in _WORDS},
        "upscale": f"{factor:g} times" if isinstance(factor, (int, float)) else "",
    }


def _format_value(name: str, value: object, models: Mapping[str, str]) -> str:
    key = value.get("key", "") if isinstance(value, Mapping) else value
    if key is None or (name in ("second_pass", "cache", "search") and key == "none"):
        return ""
    if name == "guidance" and isinstance(value, Mapping) and "guidance_scale" in value:
        return str(value["guidance_scale"])[:24]
    if name == "model":
        return models.get(str(key), str(key))[:24]
    method = TABLES[name].get(str(key)) if name in TABLES else None
    return method.label[:24] if method else str(key)[:24]
