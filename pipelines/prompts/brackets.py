"""Where the brackets of a prompt pair, and which signs stand for themselves."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

__all__ = ["ESCAPED", "TIME", "Pair", "find_pairs", "is_outside", "quoted_spans", "unescape"]

ESCAPED = re.compile(r"\\([()\[\]{}|:<>_\\])")
"""A backslash before a sign of the syntax makes it literal; before any other it is a backslash."""

TIME = re.compile(r"(?<![\w.])\d{1,2}:\d{1,2}(?![\w.])")
"""A time of day or a ratio, such as 12:30 and 16:9: its colon gives no weight and no step."""

_SIGN = re.compile(r"""\\. | (?<![\w-])embedding: | [()\[\]|:]""", re.VERBOSE | re.DOTALL)
_QUOTED = re.compile(r'"[^"\n]*"')


@dataclasses.dataclass(frozen=True)
class Pair:
    """Describes two brackets that belong together.

    Attributes:
        start, end: places of the opening and of the closing one.
        bars, colons: places of those between them that stand in no further bracket.
    """

    start: int
    end: int
    bars: tuple[int, ...] = ()
    colons: tuple[int, ...] = ()


@dataclasses.dataclass
class _OpenBracket:
    letter: str
    start: int
    signs: dict[str, list[int]] = dataclasses.field(default_factory=lambda: {"|": [], ":": []})


def find_pairs(text: str) -> list[Pair]:
    """Find the pairs of round and square brackets in the order of their closing ones.

    One pass: a bracket that crosses another's end, or has no partner, is literal.
    """
    pairs: list[Pair] = []
    open_brackets: list[_OpenBracket] = []
    waiting = {"(": 0, "[": 0}
    for match in _SIGN.finditer(text):
        letter, place = match.group(), match.start()
        if letter in waiting:
            open_brackets.append(_OpenBracket(letter, place))
            waiting[letter] += 1
        elif letter in ("|", ":") and open_brackets:
            open_brackets[-1].signs[letter].append(place)
        elif letter in (")", "]") and waiting[partner := "(" if letter == ")" else "["]:
            if partner == "(" and open_brackets[-1].letter == "[":
                continue  # a closing round bracket ends no square one
            while open_brackets[-1].letter != partner:
                unclosed = open_brackets.pop()
                waiting[unclosed.letter] -= 1
                if open_brackets:  # its signs belong to the bracket around it
                    for sign, places in unclosed.signs.items():
                        open_brackets[-1].signs[sign] += places
            last = open_brackets.pop()
            waiting[partner] -= 1
            pairs.append(Pair(last.start, place, tuple(last.signs["|"]), tuple(last.signs[":"])))
    return pairs


def quoted_spans(text: str) -> list[tuple[int, int]]:
    """Find where text stands between straight double quotes on one line, as (start, end)."""
    return [match.span() for match in _QUOTED.finditer(text)]


def is_outside(place: int, spans: Sequence[tuple[int, int]]) -> bool:
    """Say whether a place is in none of the spans."""
    return not any(start <= place < end for start, end in spans)


def unescape(text: str) -> str:
    r"""Return the text with \( and its like as plain signs, for a model that reads none of the syntax."""
    return ESCAPED.sub(r"\1", text)
