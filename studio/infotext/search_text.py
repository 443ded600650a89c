"""The search of a picture in a `parameters` text, under names of our own: no other program writes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.core.choice_text import parse_choice
from pipelines.core.errors import SettingsError
from studio.infotext.fields import Collector

__all__ = ["take_search", "write_search"]

_NAMES = {"search": "Search", "reward": "Reward"}


def write_search(request: Mapping[str, Any]) -> dict[str, Any]:
    """Write the pairs of a search and of its reward, as a command line takes them; none for no search."""
    choices = {field: request.get(field, {}) for field in _NAMES}
    if choices["search"].get("key", "none") == "none":
        return {}
    return {name: _format(choices[field]) for field, name in _NAMES.items() if choices[field].get("key")}


def _format(choice: Mapping[str, Any]) -> str:
    settings = [f"{name}={value}" for name, value in choice.items() if name != "key"]
    return ",".join([choice["key"], *settings])


def take_search(pairs: dict[str, str], collector: Collector) -> None:
    """Take search and reward of a text that we wrote; what is taken leaves the pairs."""
    for field, name in _NAMES.items():
        if name not in pairs:
            continue
        try:
            choice = parse_choice(pairs[name])
        except SettingsError:
            continue
        del pairs[name]
        collector.take_choice(field, choice)
