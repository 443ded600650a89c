"""Wildcards: {a|b|c} choices and __name__ lists, drawn by a seed before a prompt is read."""

from __future__ import annotations

import dataclasses
import fnmatch
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from pipelines.core.errors import PromptError
from pipelines.core.types import MAX_PROMPT
from pipelines.prompts.articles import agree_with

__all__ = ["choice_spans", "escape_wildcards", "expand_wildcards"]

MAX_DRAWS = 500
"""Choices drawn for one prompt."""

MAX_DEPTH = 20
"""Choices within choices, and lists whose lines name lists."""

_ARTICLE_REACH = 64
"""Letters around the beginning of what was drawn in which an article and its word are looked for."""

_LIST = re.compile(r"__(?![\s_])((?:(?!__)[^{}|\\\n]){1,120}?)(?<!\s)__")
_COUNT = re.compile(r"\s*(?P<low>\d{1,3})?(?P<to>-)?(?P<high>\d{1,3})?\$\$(?:(?P<separator>[^$|]*)\$\$)?")
_WEIGHT = re.compile(r"\s*(\d+\.?\d*|\.\d+)::")
_ESCAPABLE = frozenset("{}|_\\")


def expand_wildcards(prompt: str, seed: int, lists: Mapping[str, Sequence[str]] | None = None, stream: str = "") -> str:
    r"""Return the prompt with every choice made; drawn again, the result stays as it is.

    {a|b|c} becomes one of its parts, {2::a|b} takes `a` twice as often, {2$$a|b|c} takes two different parts joined by
    ", ", {1-3$$ and $$a|b|c} one to three joined by " and ". __name__ becomes one line of a list, __name*__ one of all
    lists whose names fit. They nest, and only what was chosen is drawn further. The signs after a backslash are literal
    and keep it, for whoever reads the prompt next; so is a brace without its partner. A bar inside of [a|b] is no
    choice's. An "a" or "an" right before what was drawn agrees with it: a {fox|owl} becomes "a fox" or "an owl".

    Args:
        prompt: as typed.
        seed: of the draws; the same seed draws the same text.
        lists: name to lines; a line may begin with its weight, as in 2::red.
        stream: draws of another name are independent of these.

    Raises:
        PromptError: an unknown or empty list, a count that there are too few parts for, more than `MAX_DRAWS` draws,
            nesting deeper than `MAX_DEPTH` (as when a list names itself), or a text longer than `MAX_PROMPT`
            characters.

    Source: the syntax is that of adieyal's dynamicprompts.
    """
    if len(prompt) > MAX_PROMPT:
        raise PromptError(f"The prompt has {len(prompt)} characters. Shorten it to {MAX_PROMPT}.")
    generator = random.Random(f"{stream} {seed}" if stream else seed)
    drawing = _Drawing(generator, lists or {})
    text = drawing.literal(drawing.expand(prompt, 0))
    if len(text) > MAX_PROMPT:
        raise PromptError(
            f"The prompt with its wildcards drawn has {len(text)} characters. Shorten it to {MAX_PROMPT}."
        )
    return text


def escape_wildcards(text: str) -> str:
    r"""Return the text with a backslash before everything that could be drawn: `expand_wildcards` leaves it as it is.

    What was drawn, or has its backslashes already, stays the same.
    """
    return _Drawing(random.Random(0), {}).literal(text)


def choice_spans(text: str) -> list[tuple[int, int]]:
    """Find where the choices in braces stand, each from its opening to its closing brace."""
    return [(bounds[0], bounds[-1]) for bounds in _find_choices(text).values()]


@dataclasses.dataclass(frozen=True)
class _Options:
    """The parts of a choice, how often each is taken, and how many at once."""

    texts: Sequence[str]
    weights: Sequence[float]
    low: int = 1
    high: int = 1
    separator: str = ", "


class _Drawing:
    """The draws of one prompt, counted."""

    def __init__(self, generator: random.Random, lists: Mapping[str, Sequence[str]]):
        self.generator, self.lists, self.draws = generator, lists, 0

    def expand(self, text: str, depth: int) -> str:
        if depth > MAX_DEPTH:
            raise PromptError(f"The wildcards nest more than {MAX_DEPTH} deep. Does a list name itself?")
        expanded, starts, position, choices = "", list[int](), 0, _find_choices(text)
        while position < len(text):
            piece, end = self._expand_at(text, position, depth, choices)
            if position in choices or (text[position] == "_" and end > position + 1):
                starts.append(len(expanded))
            expanded += piece
            position = end
        for start in reversed(starts):
            near = max(start - _ARTICLE_REACH, 0)
            word = expanded[start : start + _ARTICLE_REACH].lstrip()
            expanded = expanded[:near] + agree_with(expanded[near:start], word) + expanded[start:]
        return expanded

    def literal(self, text: str) -> str:
        """A drawn text with a backslash before whatever would be drawn again."""
        # Both ends: a closing one left alone would pair with an earlier sign that had no partner.
        while places := {place for bounds in _find_choices(text).values() for place in (bounds[0], bounds[-1])} | {
            place for match in self._list_places(text) for place in (match.start(), match.end() - 2)
        }:
            text = "".join(f"\\{letter}" if place in places else letter for place, letter in enumerate(text))
        return text

    def _list_places(self, text: str) -> Iterator[re.Match[str]]:
        position = 0
        while position < len(text):
            if text[position] == "\\":
                position += 2
                continue
            match = _LIST.match(text, position) if text[position] == "_" else None
            if match and self._is_list(match[1]):
                yield match
                position = match.end()
            else:
                position += 1

    def _expand_at(self, text: str, position: int, depth: int, choices: Mapping[int, Sequence[int]]) -> tuple[str, int]:
        """What stands at a position, and where the rest begins."""
        if text[position] == "\\" and text[position + 1 : position + 2] in _ESCAPABLE:
            return text[position : position + 2], position + 2
        if bounds := choices.get(position):
            parts = [text[before + 1 : after] for before, after in pairwise(bounds)]
            return self._draw_parts(self._parse_options(parts), depth), bounds[-1] + 1
        if text[position] == "_" and (match := _LIST.match(text, position)) and self._is_list(match[1]):
            return self._draw_parts(_parse_weights(self._read_lines(match[1])), depth), match.end()
        return text[position], position + 1

    def _draw_parts(self, options: _Options, depth: int) -> str:
        """Different parts of a choice, each drawn further."""
        count, remaining = options.low, list(range(len(options.texts)))
        if options.high > options.low:
            count = self.generator.randint(options.low, options.high)
        texts = []
        for _ in range(count):
            index = self._draw_index(remaining, options.weights)
            remaining.remove(index)
            texts.append(self.expand(options.texts[index], depth + 1))
        return options.separator.join(texts)

    def _draw_index(self, remaining: Sequence[int], weights: Sequence[float]) -> int:
        self.draws += 1
        if self.draws > MAX_DRAWS:
            raise PromptError(f"The prompt has more than {MAX_DRAWS} wildcards. Use fewer.")
        if len(remaining) == 1:
            return remaining[0]
        if len({weights[index] for index in remaining}) == 1:
            return remaining[self.generator.randrange(len(remaining))]
        return self.generator.choices(remaining, [weights[index] for index in remaining])[0]

    def _parse_options(self, parts: list[str]) -> _Options:
        count = _COUNT.match(parts[0])
        if count is None or not (count["low"] or count["high"]):
            return _parse_weights(parts)
        parts = [parts[0][count.end() :], *parts[1:]]
        # {2$$__animal__} takes two lines of the list, and not the list twice.
        only = _LIST.fullmatch(parts[0].strip()) if len(parts) == 1 else None
        options = _parse_weights(self._read_lines(only[1]) if only and self._is_list(only[1]) else parts)
        # Without a first number at least one is taken, as dynamicprompts does.
        low = int(count["low"] or min(1, int(count["high"] or 0)))
        high = int(count["high"] or len(options.texts)) if count["to"] else low
        if not low <= high or low > len(options.texts):
            raise PromptError(
                f"{{{count[0].strip()}...}} takes {low if low == high else f'{low} to {high}'} of "
                f"{len(options.texts)} parts. Choose a count up to {len(options.texts)}."
            )
        separator = options.separator if count["separator"] is None else count["separator"]
        return dataclasses.replace(options, low=low, high=min(high, len(options.texts)), separator=separator)

    def _is_list(self, name: str) -> bool:
        """Whether a name is meant as a list's: words with blanks between are only where there is such a list."""
        return bool(self._find_names(name)) or not re.search(r"\s", name)

    def _find_names(self, name: str) -> list[str]:
        if name in self.lists:
            return [name]
        if "*" in name:
            return fnmatch.filter(sorted(self.lists), name)
        return [one for one in self.lists if one.lower() == name.lower()]

    def _read_lines(self, name: str) -> list[str]:
        names = self._find_names(name)
        lines = [line for list_name in names for line in self.lists[list_name]]
        if not lines:
            choices = ", ".join(sorted(self.lists)[:30]) or "none"
            state = "has no lines" if names else "is unknown"
            raise PromptError(f"The wildcard list {name[:80]!r} {state}. The lists here: {choices}.")
        return lines


def _parse_weights(parts: Sequence[str]) -> _Options:
    """The parts without their weights.

    Raises:
        PromptError: all weights are 0.
    """
    matches = [_WEIGHT.match(part) for part in parts]
    weights = [float(match[1]) if match else 1.0 for match in matches]
    texts = [part[match.end() :] if match else part for part, match in zip(parts, matches, strict=True)]
    if not any(weights):
        raise PromptError(f"All parts of {{{'|'.join(parts)[:60]}}} have weight 0. Give one of them more.")
    kept_indices = [index for index, weight in enumerate(weights) if weight]
    return _Options([texts[index] for index in kept_indices], [weights[index] for index in kept_indices])


def _find_choices(text: str) -> dict[int, list[int]]:
    """Where each choice opens, to the places of its brace, its bars and its closing brace.

    One pass for all of them: a prompt of braces without partners would otherwise be read once for each.
    """
    bounds_by_start: dict[int, list[int]] = {}
    open_braces: list[list[int]] = []
    square: list[list[int]] = []  # brackets opened within the innermost brace, with their bars
    squares: list[list[list[int]]] = []  # the same of the braces around it
    position = 0
    while position < len(text):
        letter = text[position]
        if letter == "\\":
            position += 1
        elif letter == "{":
            open_braces.append([position])
            squares.append(square)
            square = []
        elif letter == "[" and open_braces:
            square.append([])
        elif letter == "]" and square:
            square.pop()
        elif letter == "|" and open_braces:
            (square[-1] if square else open_braces[-1]).append(position)
        elif letter == "}" and open_braces:
            bounds = open_braces.pop()
            # A square bracket that the brace cuts is none: its bars are the choice's.
            bounds_by_start[bounds[0]] = [
                bounds[0],
                *sorted([*bounds[1:], *(bar for bars in square for bar in bars)]),
                position,
            ]
            square = squares.pop()
        position += 1
    return bounds_by_start
