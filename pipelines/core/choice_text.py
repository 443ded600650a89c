"""Choices of methods and their settings as a person writes them in a line of text."""

from __future__ import annotations

import json
from collections.abc import Callable

from pipelines.core.errors import SettingsError
from pipelines.core.types import METHODS, Choice

__all__ = ["parse_axis", "parse_cell", "parse_choice", "plain"]

_TEXTS = frozenset({"prompt", "negative_prompt", "prompt_weighting", "model", "size"})
"""Fields of a request that are text, and the axis of sizes."""


def plain(text: str) -> object:
    """A number or a yes/no from its text, or the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def parse_choice(text: str) -> dict[str, object]:
    """{"key": "ddim", "eta": 0.5} from "ddim,eta=0.5".

    Raises:
        SettingsError: a setting without a value.
    """
    key, *pairs = text.split(",")
    settings = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise SettingsError(f"{pair!r} has no value. Write {key},{pair}=VALUE.")
        settings[name.strip()] = plain(value)
    return Choice(key.strip(), settings).to_json()


def parse_field_text(name: str, text: str) -> object:
    """A field's value from its text: text stays text, though it be 1984 or true."""
    if name in METHODS:
        return parse_choice(text)
    return text if name in _TEXTS else plain(text)


def parse_cell(text: str) -> dict[str, object]:
    """{"sampler": {"key": "ddim"}, "seed": 7} from "sampler=ddim;seed=7".

    Raises:
        SettingsError: a field without a value.
    """
    cell = {}
    for pair in filter(None, (one.strip() for one in text.split(";"))):
        name, equals, value = pair.partition("=")
        if not equals:
            raise SettingsError(f"The cell {pair!r} has no value. Write FIELD=VALUE;FIELD=VALUE.")
        cell[name.strip()] = parse_field_text(name.strip(), value)
    return cell


def parse_axis(text: str, split: Callable[[str], list[str]]) -> dict[str, object]:
    """{"field": "seed", "values": [7, 8]} from "seed=7|8".

    Args:
        text: a field's name, "=" and values with bars between them.
        split: cuts the values apart; a bar in a prompt's brackets may belong to the prompt.

    Raises:
        SettingsError: there are no values.
    """
    name, equals, values = text.partition("=")
    if not equals:
        raise SettingsError(f"The axis {text!r} has no values. Write FIELD=V1|V2|V3.")
    return {"field": name.strip(), "values": [parse_field_text(name.strip(), value) for value in split(values)]}
