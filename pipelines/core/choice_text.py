"""Choices of methods and their settings as a person writes them in a line of text."""

from __future__ import annotations

import json
from typing import Any

from pipelines.core.errors import SettingsError
from pipelines.core.types import Choice

__all__ = ["parse_choice", "plain"]


def plain(text: str) -> Any:
    """A number or a yes/no from its text, or the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def parse_choice(text: str) -> dict[str, Any]:
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
