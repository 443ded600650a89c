"""Prompt search and replace ("S/R"): an axis whose first word is looked for in the prompt, the others replace it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.core.errors import SettingsError
from pipelines.prompts.articles import match_articles

__all__ = ["FIELD", "parse_replacements", "replace_in_prompts", "show_replacement"]

FIELD = "prompt_sr"
_ARROW = " → "
_PROMPTS = ("prompt", "negative_prompt")


def parse_replacements(values: Sequence[object]) -> list[str]:
    """Return "search → replacement" for each value, of which the first is what is looked for.

    Args:
        values: texts; those that are such pairs already stay as they are.

    Raises:
        SettingsError: one is no text, or there is nothing to look for.
    """
    if not all(isinstance(value, str) for value in values):
        raise SettingsError("Search and replace takes texts: what is looked for, then what replaces it.")
    texts = [str(value) for value in values]
    if texts and all(_ARROW in text for text in texts):
        return texts
    if not texts or not texts[0]:
        raise SettingsError("Search and replace has nothing to look for. Write, for example: fox, cat, owl.")
    return [f"{texts[0]}{_ARROW}{text}" for text in texts]


def replace_in_prompts(plain: Mapping[str, object], value: object) -> dict[str, Any]:
    """Return a request's plain values with a pair of `parse_replacements` applied to both prompts.

    An "a" or "an" before what is replaced is made to agree with what stands there then: "a fox" becomes "an owl".

    Raises:
        SettingsError: neither prompt has what is looked for.
    """
    search, arrow, replacement = str(value).partition(_ARROW)
    if not arrow or not any(search in str(plain.get(name, "")) for name in _PROMPTS):
        raise SettingsError(f"The prompt does not contain {search[:80]!r}, which is to be replaced.")
    replaced = {name: match_articles(str(plain[name]), search, replacement) for name in _PROMPTS if plain.get(name)}
    return {**plain, **replaced}


def show_replacement(value: object) -> str:
    """Return what stands in the search's place."""
    return str(value).partition(_ARROW)[2] or "nothing"
