"""Wildcards: {a|b|c} choices and __name__ lists, drawn by a seed before a prompt is read."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

from pipelines.core.errors import PromptError
from pipelines.core.types import MAX_PROMPT

__all__ = ["expand_wildcards"]

MAX_DRAWS = 500
"""Choices drawn for one prompt."""

MAX_DEPTH = 20
"""Choices within choices, and lists whose lines name lists."""

_LIST = re.compile(r"__([\w/-]*[^\W_][\w/-]*?)__")


def expand_wildcards(prompt: str, seed: int, lists: Mapping[str, Sequence[str]] | None = None) -> str:
    r"""The prompt with every choice made.

    {a|b|c} becomes one of its parts, __name__ one line of a list; both nest, and only what was chosen is
    drawn further. \{ \} \| are literal, and so is a brace without its partner.

    Args:
        prompt: as typed.
        seed: of the draws; the same seed draws the same text.
        lists: name to lines.

    Raises:
        PromptError: an unknown or empty list, more than `MAX_DRAWS` draws, nesting deeper than `MAX_DEPTH`
            (as when a list names itself), or a text longer than `MAX_PROMPT` characters.
    """
    if len(prompt) > MAX_PROMPT:
        raise PromptError(f"The prompt has {len(prompt)} characters. Shorten it to {MAX_PROMPT}.")
    text = _Drawing(random.Random(seed), lists or {}).expand(prompt, 0)
    if len(text) > MAX_PROMPT:
        raise PromptError(
            f"The prompt with its wildcards drawn has {len(text)} characters. Shorten it to {MAX_PROMPT}."
        )
    return text


class _Drawing:
    """The draws of one prompt, counted."""

    def __init__(self, generator: random.Random, lists: Mapping[str, Sequence[str]]):
        self.generator, self.lists, self.draws = generator, lists, 0

    def expand(self, text: str, depth: int) -> str:
        if depth > MAX_DEPTH:
            raise PromptError(f"The wildcards nest more than {MAX_DEPTH} deep. Does a list name itself?")
        done, position, choices = [], 0, _choices(text)
        while position < len(text):
            taken, end = self._next(text, position, depth, choices)
            done.append(taken)
            position = end
        return "".join(done)

    def _next(self, text: str, position: int, depth: int, choices: Mapping[int, Sequence[int]]) -> tuple[str, int]:
        """What stands at a position, and where the rest begins."""
        if text[position] == "\\" and text[position + 1 : position + 2] in ("{", "}", "|"):
            return text[position + 1], position + 2
        if bounds := choices.get(position):
            options = [text[before + 1 : after] for before, after in pairwise(bounds)]
            return self.expand(self._draw(options), depth + 1), bounds[-1] + 1
        if text[position] == "_" and (match := _LIST.match(text, position)):
            return self.expand(self._draw(self._lines(match[1])), depth + 1), match.end()
        return text[position], position + 1

    def _draw(self, options: Sequence[str]) -> str:
        self.draws += 1
        if self.draws > MAX_DRAWS:
            raise PromptError(f"The prompt has more than {MAX_DRAWS} wildcards. Use fewer.")
        return options[self.generator.randrange(len(options))] if len(options) > 1 else options[0]

    def _lines(self, name: str) -> Sequence[str]:
        lines = self.lists.get(name)
        if not lines:
            known = ", ".join(sorted(self.lists)) or "none"
            state = "is unknown" if lines is None else "has no lines"
            raise PromptError(f"The wildcard list {name[:80]!r} {state}. The lists here: {known}.")
        return lines


def _choices(text: str) -> dict[int, list[int]]:
    """Where each choice opens, to the places of its brace, its bars and its closing brace.

    One pass for all of them: a prompt of braces without partners would otherwise be read once for each.
    """
    found, opened, position = {}, [], 0
    while position < len(text):
        letter = text[position]
        if letter == "\\":
            position += 1
        elif letter == "{":
            opened.append([position])
        elif letter == "|" and opened:
            opened[-1].append(position)
        elif letter == "}" and opened:
            bounds = opened.pop()
            found[bounds[0]] = [*bounds, position]
        position += 1
    return found
