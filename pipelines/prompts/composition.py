"""AND: a prompt of several parts, each with its own weight, whose predictions are put together."""

from __future__ import annotations

import re

from pipelines.core.errors import PromptError
from pipelines.prompts.brackets import TIME, find_pairs, is_outside, quoted_spans
from pipelines.prompts.weights import MAX_WEIGHT

__all__ = ["MAX_PARTS", "split_composition"]

MAX_PARTS = 8
"""Parts of one prompt: each costs a network evaluation at every step."""

_AND = re.compile(r"\bAND\b")
_WEIGHT = re.compile(r"(?P<text>.*?)\s*(?<!\\):\s*(?P<weight>[+-]?(?:\d+\.?\d*|\.\d+))\s*\Z", re.DOTALL)


def split_composition(text: str) -> list[tuple[str, float]]:
    """Split a prompt into its parts with their weights; without AND it is one part of weight 1, as it stands.

    AND stands in capitals, outside of brackets and of double quotes. A part may end in its weight, as in
    "a cat :1.2 AND a dog :0.8". Parts without words are left out.

    Raises:
        PromptError: there are too many parts, a weight is too large, or no part has words.

    Source: Liu et al., Compositional visual generation with composable diffusion models, arXiv:2206.01714; the
    syntax is AUTOMATIC1111's, `modules/prompt_parser.py`, `get_multicond_prompt_list`.
    Differs: a trailing number is a weight only where there is an AND; theirs also splits inside brackets and quotes.
    """
    inside = [(pair.start, pair.end + 1) for pair in find_pairs(text)] + quoted_spans(text)
    cuts = [match.span() for match in _AND.finditer(text) if is_outside(match.start(), inside)]
    if not cuts:
        return [(text, 1.0)]
    starts, ends = [0, *(end for _, end in cuts)], [*(start for start, _ in cuts), len(text)]
    parts = [_split_weight(text[start:end]) for start, end in zip(starts, ends, strict=True)]
    parts = [(part, weight) for part, weight in parts if part]
    if not parts:
        raise PromptError("The prompt has AND and no words to join. Write what stands on both sides of it.")
    if len(parts) > MAX_PARTS:
        raise PromptError(f"The prompt joins {len(parts)} parts with AND. At most {MAX_PARTS} can be joined.")
    return parts


def _split_weight(part: str) -> tuple[str, float]:
    match = _WEIGHT.match(part)
    if match is None or any(end == len(part.rstrip()) for _, end in (time.span() for time in TIME.finditer(part))):
        return part.strip(), 1.0
    weight = float(match["weight"])
    if abs(weight) > MAX_WEIGHT:
        raise PromptError(
            f"The weight of {match['text'].strip()[:40]!r} is {weight:.4g}. Keep it between -{MAX_WEIGHT:g} and "
            f"{MAX_WEIGHT:g}."
        )
    return match["text"].strip(), weight
