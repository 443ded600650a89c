"""What tells the cells of a comparison apart, in a few words each."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from pipelines.core.registry import parse_settings
from pipelines.core.types import Choice, Request
from pipelines.workflows.compare.axes import TABLES

__all__ = ["axis_value", "clipped", "labels"]

_LONGEST = 48

_WORDS: dict[str, Callable[[Any], str]] = {
    "model": str,
    "loras": lambda loras: " + ".join(f"{lora.name} {lora.weight:g}" for lora in loras) or "no LoRA",
    "prompt": lambda text: f"“{clipped(text)}”",
    "negative_prompt": lambda text: f"without “{clipped(text)}”" if text else "no negative prompt",
    "seed": lambda seed: f"seed {seed}",
    "variation_seed": lambda seed: f"variation {seed}",
    "variation_strength": lambda strength: f"variation strength {strength:g}",
}


def clipped(text: str) -> str:
    """At most 48 characters of a text, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1].rstrip() + "…"


def labels(requests: Sequence[Request]) -> list[str]:
    """A label for each request, of those settings in which the requests differ; no two are the same."""
    parts = [
        *(_field(requests, name) for name in ("model", "loras")),
        _where_different([f"{one.width} × {one.height}" if one.width else "the model's size" for one in requests]),
        *(_field(requests, name) for name in ("prompt", "negative_prompt")),
        *(_method(requests, name) for name in TABLES),
        _where_different([_steps(one.num_inference_steps) for one in requests]),
        *(_field(requests, name) for name in ("seed", "variation_seed", "variation_strength")),
    ]
    texts = [" · ".join(filter(None, words)) or "Cell" for words in zip(*parts, strict=True)]
    total, seen = Counter(texts), Counter()
    for index, text in enumerate(texts):
        seen[text] += 1
        if total[text] > 1:
            texts[index] = f"{text} ({seen[text]})"
    return texts


def axis_value(name: str, value: Any) -> str:
    """One value of an axis, as the grid's header shows it beside the axis's label."""
    if name in TABLES:
        choice = Choice.parse(value)
        settings = ", ".join(f"{one} {_plain(given)}" for one, given in choice.settings.items())
        return TABLES[name][choice.key].label + (f" ({settings})" if settings else "")
    if name in {"prompt", "negative_prompt"}:
        return f"“{clipped(value)}”" if value else "none"
    return _plain(value)


def _steps(count: Any) -> str:
    return f"{count} step{'' if count == 1 else 's'}"


def _plain(value: Any) -> str:
    return (
        {True: "yes", False: "no"}[value]
        if isinstance(value, bool)
        else f"{value:g}"
        if isinstance(value, float)
        else clipped(str(value))
    )


def _field(requests: Sequence[Request], name: str) -> list[str]:
    values = [getattr(request, name) for request in requests]
    if all(value == values[0] for value in values):
        return [""] * len(values)
    return [_WORDS[name](value) for value in values]


def _where_different(texts: list[str]) -> list[str]:
    return texts if len(set(texts)) > 1 else [""] * len(texts)


def _method(requests: Sequence[Request], field: str) -> list[str]:
    """The method's label where methods differ, and those of its settings that differ among its own cells."""
    table, choices = TABLES[field], [getattr(request, field) for request in requests]
    named = len({choice.key for choice in choices}) > 1
    settings = [dataclasses.asdict(parse_settings(table[one.key].settings, one.settings)) for one in choices]
    texts = []
    for choice, own in zip(choices, settings, strict=True):
        peers = [other for one, other in zip(choices, settings, strict=True) if one.key == choice.key]
        words = [
            f"{name.replace('_', ' ')} {_plain(value)}"
            for name, value in own.items()
            if any(peer[name] != value for peer in peers)
        ]
        texts.append(", ".join([table[choice.key].label] * named + words))
    return texts
