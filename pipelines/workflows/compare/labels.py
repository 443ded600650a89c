"""What tells the cells of a comparison apart, in a few words each."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from pipelines.core.registry import parse_settings
from pipelines.core.types import Choice, Request
from pipelines.families.prompt_weighting import WEIGHTINGS
from pipelines.workflows.compare.axis_values import TABLES
from pipelines.workflows.compare.replacements import FIELD, show_replacement

__all__ = ["axis_value", "clipped", "labels"]

_LONGEST = 48

_WORDS: dict[str, Callable[[Any], str]] = {
    "model": str,
    "loras": lambda loras: " + ".join(f"{lora.name} {lora.weight:g}" for lora in loras) or "no LoRA",
    "prompt": lambda text: f"“{clipped(text)}”",
    "prompt_weighting": lambda key: (
        f"weights {WEIGHTINGS[key].label.lower()}" if key in WEIGHTINGS else f"weights {key}"
    ),
    "negative_prompt": lambda text: f"without “{clipped(text)}”" if text else "no negative prompt",
    "seed": lambda seed: f"seed {seed}",
    "variation_seed": lambda seed: f"variation {seed}",
    "variation_strength": lambda strength: f"variation strength {strength:g}",
}


def clipped(text: str) -> str:
    """Return at most 48 characters of a text, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1].rstrip() + "…"


def labels(requests: Sequence[Request]) -> list[str]:
    """Return a label for each request, of those settings in which the requests differ; no two are the same."""
    parts = [
        *(_describe_field(requests, name) for name in ("model", "loras")),
        _blank_if_equal([f"{one.width} × {one.height}" if one.width else "the model's size" for one in requests]),
        *(_describe_field(requests, name) for name in ("prompt", "negative_prompt", "prompt_weighting")),
        *(_describe_method(requests, name) for name in TABLES),
        _blank_if_equal([_describe_steps(one.num_inference_steps) for one in requests]),
        *(_describe_field(requests, name) for name in ("seed", "variation_seed", "variation_strength")),
    ]
    texts = [" · ".join(filter(None, words)) or "Cell" for words in zip(*parts, strict=True)]
    total = Counter(texts)
    uses: Counter[str] = Counter()
    for index, text in enumerate(texts):
        uses[text] += 1
        if total[text] > 1:
            texts[index] = f"{text} ({uses[text]})"
    return texts


def axis_value(name: str, value: object) -> str:
    """Return one value of an axis, as the grid's header shows it beside the axis's label."""
    if name in TABLES:
        choice = Choice.parse(value)
        settings = ", ".join(f"{one} {_describe_value(given)}" for one, given in choice.settings.items())
        return TABLES[name][choice.key].label + (f" ({settings})" if settings else "")
    if name == FIELD:
        return f"“{clipped(show_replacement(value))}”"
    if name in {"prompt", "negative_prompt"}:
        return f"“{clipped(str(value))}”" if value else "none"
    return _describe_value(value)


def _describe_steps(count: object) -> str:
    return f"{count} step{'' if count == 1 else 's'}"


def _describe_value(value: object) -> str:
    return (
        {True: "yes", False: "no"}[value]
        if isinstance(value, bool)
        else f"{value:g}"
        if isinstance(value, float)
        else clipped(str(value))
    )


def _describe_field(requests: Sequence[Request], name: str) -> list[str]:
    values = [getattr(request, name) for request in requests]
    if all(value == values[0] for value in values):
        return [""] * len(values)
    return [_WORDS[name](value) for value in values]


def _blank_if_equal(texts: list[str]) -> list[str]:
    return texts if len(set(texts)) > 1 else [""] * len(texts)


def _describe_method(requests: Sequence[Request], field: str) -> list[str]:
    """The method's label where methods differ, and those of its settings that differ among its own cells."""
    table, choices = TABLES[field], [getattr(request, field) for request in requests]
    methods_differ = len({choice.key for choice in choices}) > 1
    settings = [dataclasses.asdict(parse_settings(table[one.key].settings, one.settings)) for one in choices]
    texts = []
    for choice, cell_settings in zip(choices, settings, strict=True):
        peers = [other for one, other in zip(choices, settings, strict=True) if one.key == choice.key]
        words = [
            f"{name.replace('_', ' ')} {_describe_value(value)}"
            for name, value in cell_settings.items()
            if any(peer[name] != value for peer in peers)
        ]
        texts.append(", ".join([table[choice.key].label] * methods_differ + words))
    return texts
