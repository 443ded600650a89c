"""The cache of a run in a `parameters` text, under a name of our own: no other program writes one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.core.choice_text import parse_choice
from pipelines.core.errors import SettingsError
from studio.infotext.fields import Collector

__all__ = ["take_cache", "write_cache"]

_NAME = "Cache"


def write_cache(choice: Mapping[str, Any]) -> dict[str, Any]:
    """Write the pair of a cache with its settings, as a command line takes it; none for no cache."""
    if choice.get("key", "none") == "none":
        return {}
    settings = [f"{name}={value}" for name, value in choice.items() if name != "key"]
    return {_NAME: ",".join([choice["key"], *settings])}


def take_cache(pairs: dict[str, str], collector: Collector) -> None:
    """Take the cache of a text that we wrote; what is taken leaves the pairs."""
    if _NAME not in pairs:
        return
    try:
        choice = parse_choice(pairs[_NAME])
    except SettingsError:
        return
    del pairs[_NAME]
    collector.take_choice("cache", choice)
