r"""InvokeAI's weights: word++, (two words)1.2, "two words"-, and ("one", "two").and(): a prompt as weighted texts.

Source: Compel 2.5 by Damian Stewart, which InvokeAI reads its prompts with, `prompt_parser.py`: each + weighs 1.1
times, each - 0.9 times, a number behind a closing bracket or quote is a weight, nested weights multiply, and a
backslash before one of ( ) " makes it literal. Brackets without a weight mean nothing.
Differs: what does not parse inside brackets stays as text where theirs reads the whole bracket as words; .blend(),
.swap() and .attend() are refused; numbers in .and() weigh the words of a text and not the marks around them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pipelines.core.errors import PromptError
from pipelines.core.types import MAX_PROMPT
from pipelines.prompts.weights import MAX_WEIGHT

__all__ = ["UNREAD", "has_plus_and_minus", "parse_plus_and_minus"]

PLUS, MINUS = 1.1, 0.9
_MOST_DEPTH = 50

_OPERATOR = re.compile(r"\++|-+|\d*\.\d+|\d+")
_SIGN = re.compile(r'\\[()"]')
# A sign of plus or minus belongs to a word where more of the word follows.
_WORD = re.compile(r'(?:\\[()"+\-.,=]|[+\-](?![\s()",.+\-=]|\Z)|[^\s()",.+\-=])+')
_TO_BLANK = re.compile(r"\S*")
_STEPS = re.compile(r"\++|-+")
_AND = re.compile(r"\)\s*\.(?:and|add)\s*\(([^()]*)\)")
UNREAD = re.compile(r'[)"\w]\.(blend|swap|attend)\(')
"""Operators that are refused."""

_WEIGHED = re.compile(r'[\w)"][+\-]+(?:[\s,.)"]|\Z)|[)"](?:\d*\.\d+|\d)|\)\.(?:and|add)\(')

Weighted = list[tuple[str, float]]


def has_plus_and_minus(text: str) -> bool:
    """Say whether a text has weights or a conjunction of this syntax."""
    return _WEIGHED.search(text) is not None


def parse_plus_and_minus(text: str) -> list[Weighted]:
    """Split a prompt into the chunks that .and() makes, each a list of texts and weights.

    Raises:
        PromptError: the text is too long, brackets nest too deep, a weight is too large, or .and() has another count of
            numbers than of texts.
    """
    if len(text) > MAX_PROMPT:
        raise PromptError(f"The prompt has {len(text)} characters. Shorten it to {MAX_PROMPT}.")
    if unread := UNREAD.search(text):
        raise PromptError(
            f"InvokeAI's .{unread[1]}() is not followed here. Leave it out, or write the prompt without it."
        )
    parts = _split_conjunction(text)
    chunks = [_merge([(one, own * weight) for one, own in _Reader(part).read()]) for part, weight in parts]
    for chunk in chunks:
        for part, weight in chunk:
            if not abs(weight) <= MAX_WEIGHT:
                raise PromptError(f"The weight of {part[:40]!r} is {weight:.4g}. Keep it below {MAX_WEIGHT:g}.")
    return chunks


def _split_conjunction(text: str) -> list[tuple[str, float]]:
    """The prompts of ("one", "two").and(1, 0.5) with their weights; the text itself where it is none."""
    stripped = text.lstrip()
    end = _find_end(stripped, 0) if stripped.startswith("(") else -1
    match = _AND.match(stripped, end) if end > 0 else None
    if match is None:
        return [(text, 1.0)]
    targets = _split_targets(stripped[1:end])
    numbers = [number.strip() for number in match[1].split(",") if number.strip()]
    try:
        weights = [float(number) for number in numbers] or [1.0] * len(targets)
    except ValueError:
        weights = []
    if len(weights) != len(targets):
        raise PromptError(f".and() joins {len(targets)} texts: give it as many numbers, or none.")
    return list(zip(targets, weights, strict=True))


def _split_targets(text: str) -> list[str]:
    """Texts between commas that stand in no brackets or quotes, without the ones around them."""
    targets, start, place = [], 0, 0
    while place < len(text):
        if text[place] == "\\":
            place += 1
        elif text[place] in '("':
            place = max(place, _find_end(text, place))
        elif text[place] == ",":
            targets.append(text[start:place])
            start = place + 1
        place += 1
    whole = [target.strip() for target in (*targets, text[start:])]
    return [
        one[1:-1] if one[:1] in ('"', "(") and one and _find_end(one, 0) == len(one) - 1 else one
        for one in whole
        if one
    ]


def _find_end(text: str, start: int) -> int:
    """The place of the bracket or quote that closes the one at `start`; -1 where none does."""
    quoted, depth, place = text[start] == '"', 0, start
    while place < len(text):
        letter = text[place]
        if letter == "\\":
            place += 1
        elif quoted and letter == '"' and place > start:
            return place
        elif not quoted and letter in "()":
            depth += 1 if letter == "(" else -1
            if depth == 0:
                return place
        place += 1
    return -1


class _Reader:
    """Reads one prompt from left to right."""

    def __init__(self, text: str, depth: int = 0):
        if depth > _MOST_DEPTH:
            raise PromptError(f"The brackets of the prompt nest more than {_MOST_DEPTH} deep. Use fewer.")
        self.text, self.depth, self.place = text, depth, 0

    def read(self) -> Weighted:
        """All texts with their weights."""
        parts: Weighted = []
        while self.place < len(self.text):
            if self.text[self.place].isspace():
                self.place += 1
            else:
                parts += self._read_one()
        return parts

    def _read_one(self) -> Weighted:
        letter = self.text[self.place]
        end = _find_end(self.text, self.place) if letter in '("' else -1
        if end > 0:
            inner = _Reader(self.text[self.place + 1 : end], self.depth + 1).read()
            self.place = end + 1
            weight = self._read_operator(_OPERATOR)
            return [(part, own * weight) for part, own in inner]
        word = _WORD.match(self.text, self.place)
        if word is None:
            self.place += 1
            return [(letter, 1.0)]
        self.place = word.end()
        if self.depth == 0 and _STEPS.match(self.text, self.place) is None:
            # Outside of brackets a word without a weight ends at a blank, whatever stands in it.
            rest = _TO_BLANK.match(self.text, self.place)
            self.place = rest.end() if rest else self.place
            return [(_unescape(word[0] + (rest[0] if rest else "")), 1.0)]
        return [(_unescape(word[0]), self._read_operator(_STEPS))]

    def _read_operator(self, pattern: re.Pattern[str]) -> float:
        match = pattern.match(self.text, self.place)
        if match is None:
            return 1.0
        self.place = match.end()
        if match[0][0] in "+-":
            return (PLUS if match[0][0] == "+" else MINUS) ** len(match[0])
        return float(match[0])


def _unescape(word: str) -> str:
    return _SIGN.sub(lambda match: match[0][1], word)


def _merge(parts: Sequence[tuple[str, float]]) -> Weighted:
    """Neighbors of equal weight in one text, a blank between them."""
    merged: Weighted = []
    for text, weight in parts:
        if merged and merged[-1][1] == weight:
            merged[-1] = (f"{merged[-1][0]} {text}", weight)
        else:
            merged.append((text, weight))
    return merged or [("", 1.0)]
