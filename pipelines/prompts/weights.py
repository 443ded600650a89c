r"""(word:1.2), (word) and [word]: a prompt as texts with weights, in the chunks that BREAK makes."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pipelines.core.errors import PromptError
from pipelines.core.types import MAX_PROMPT
from pipelines.prompts.brackets import ESCAPED, TIME, is_outside, quoted_spans

__all__ = ["MAX_WEIGHT", "parse_chunks", "parse_weights"]

MAX_WEIGHT = 20.0
"""Largest weight of a word, nesting included; beyond it embeddings are noise, and soon not numbers."""

_PIECES = re.compile(
    rf"""
    {ESCAPED.pattern} | \\ | [(\[)\]] | (?P<time>{TIME.pattern})
    | :\s*(?P<weight>[+-]?[.\d]+)\s*\) | (?P<break>\bBREAK\b) | \w+ | [^\\()\[\]:\w]+ | :
""",
    re.VERBOSE,
)

_BREAK = object()


def parse_weights(text: str) -> list[tuple[str, float]]:
    r"""Split a prompt into texts and their weights.

    (word:1.2) multiplies by 1.2, (word) by 1.1, [word] by 1/1.1, nested ones multiply; a backslash before one of
    ( ) [ ] { } | : < > _ \ makes it literal. A closing bracket without an opening one is literal, an opening one
    without a closing one acts to the end. A colon with nothing before it, as in (:3), and that of a time or a
    ratio, as in (at 12:30), are text.

    Args:
        text: as typed, at most `MAX_PROMPT` characters, its switches by step already made.

    Returns:
        At least one pair; neighbors of equal weight are joined. BREAK is a space.

    Raises:
        PromptError: the text is too long, a weight is no number, or it is larger than `MAX_WEIGHT`.

    Source: AUTOMATIC1111, stable-diffusion-webui wiki, "Attention/emphasis".
    Differs: a weight that is no number is an error here, and (:3) and (at 12:30) are weights there.
    """
    first, *others = parse_chunks(text)
    pairs = list(first)
    for chunk in others:
        pairs += [(" ", pairs[-1][1]), *chunk]
    return _merge_equal_weights(pairs)


def parse_chunks(text: str) -> list[list[tuple[str, float]]]:
    """Return the texts and weights of `parse_weights`, apart wherever the word BREAK stands outside of double quotes.

    Returns:
        At least one chunk, and in each at least one pair; nothing behind a last BREAK makes no chunk.

    Raises:
        PromptError: as `parse_weights`.

    Source: AUTOMATIC1111, stable-diffusion-webui, `modules/prompt_parser.py`.
    """
    if len(text) > MAX_PROMPT:
        raise PromptError(f"The prompt has {len(text)} characters. Shorten it to {MAX_PROMPT}.")
    chunks: list[list[list]] = [[]]
    for part in _weigh_pieces(text):
        if part[0] is _BREAK:
            chunks.append([])
        else:
            chunks[-1].append(part)
    merged = [_merge_equal_weights(chunk) for chunk in chunks]
    if len(merged) > 1 and not "".join(part for part, _ in merged[-1]).strip():
        merged.pop()
    return merged


def _weigh_pieces(text: str) -> list[list]:
    """The pieces of a prompt as [text or _BREAK, weight]."""
    parts: list[list] = []
    open_brackets: dict[str, list[int]] = {"(": [], "[": []}
    quoted = quoted_spans(text)

    def multiply(start: int, factor: float) -> None:
        for part in parts[start:]:
            part[1] *= factor

    for match in _PIECES.finditer(text):
        piece = match.group()
        if piece in open_brackets:
            open_brackets[piece].append(len(parts))
        elif match["weight"] is not None and open_brackets["("]:
            if _is_text(parts, open_brackets["("][-1]):
                parts.append([piece[:-1], 1.0])
                multiply(open_brackets["("].pop(), 1.1)
            else:
                multiply(open_brackets["("].pop(), _parse_weight(match["weight"], piece))
        elif piece == ")" and open_brackets["("]:
            multiply(open_brackets["("].pop(), 1.1)
        elif piece == "]" and open_brackets["["]:
            multiply(open_brackets["["].pop(), 1 / 1.1)
        elif match["break"] and is_outside(match.start(), quoted):
            parts.append([_BREAK, 1.0])
        else:
            parts.append([piece[1:] if len(piece) == 2 and piece[0] == "\\" else piece, 1.0])
    for start in open_brackets["("]:
        multiply(start, 1.1)
    for start in open_brackets["["]:
        multiply(start, 1 / 1.1)
    return parts


def _is_text(parts: Sequence[Sequence], start: int) -> bool:
    """Whether a colon behind these parts is text: nothing that it could weigh stands before it in its bracket."""
    before = "".join(part for part, _ in parts[start:] if part is not _BREAK).rstrip()
    return not before or before.endswith(",")


def _parse_weight(number: str, piece: str) -> float:
    try:
        return float(number)
    except ValueError:
        raise PromptError(f"The weight in {piece[:40]!r} is not a number. Write it like (word:1.2).") from None


def _merge_equal_weights(parts: Sequence[Sequence]) -> list[tuple[str, float]]:
    merged: list[tuple[str, float]] = []
    for text, weight in parts:
        if not abs(weight) <= MAX_WEIGHT:
            raise PromptError(
                f"The weight of {text[:40]!r} is {weight:.4g}. Keep it between -{MAX_WEIGHT:g} and {MAX_WEIGHT:g}."
            )
        if merged and merged[-1][1] == weight:
            merged[-1] = (merged[-1][0] + text, weight)
        else:
            merged.append((text, weight))
    return merged or [("", 1.0)]
