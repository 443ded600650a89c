"""Wildcards: {a|b|c} choices and __name__ lists, drawn by a seed before a prompt is read."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence

from pipelines.errors import PromptError
from pipelines.types import MAX_PROMPT

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
            f"The prompt with its wildcards drawn has {len(text)} characters. Shorten it to {MAX_PROMPT}.")
    return text


class _Drawing:
    """The draws of one prompt, counted."""

    def __init__(self, generator: random.Random, lists: Mapping[str, Sequence[str]]):
        self.generator, self.lists, self.draws = generator, lists, 0

    def expand(self, text: str, depth: int) -> str:
        if depth > MAX_DEPTH:
            raise PromptError(f"The wildcards nest more than {MAX_DEPTH} deep. Does a list name itself?")
        done, position = [], 0
        while position < len(text):
            taken, end = self._next(text, position, depth)
            done.append(taken)
            position = end
        return "".join(done)

    def _next(self, text: str, position: int, depth: int) -> tuple[str, int]:
        """What stands at a position, and where the rest begins."""
        if text[position] == "\\" and text[position + 1 : position + 2] in ("{", "}", "|"):
            return text[position + 1], position + 2
        if text[position] == "{":
            options, end = _options(text, position)
            if end:
                return self.expand(self._draw(options), depth + 1), end
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


def _options(text: str, start: int) -> tuple[list[str], int]:
    """The parts of the choice whose brace opens at `start` and the position after it; ([], 0) if it never closes."""
    depth, options, begin, position = 0, [], start + 1, start
    while position < len(text):
        letter = text[position]
        if letter == "\\":
            position += 2
            continue
        if letter == "{":
            depth += 1
        elif letter == "}":
            depth -= 1
            if depth == 0:
                return [*options, text[begin:position]], position + 1
        elif letter == "|" and depth == 1:
            options.append(text[begin:position])
            begin = position + 1
        position += 1
    return [], 0
