"""How a program reads a prompt: its syntax, its chunks of 75 tokens, and how deep its text encoder is read."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence

from pipelines.core.errors import PromptError, SettingsError
from pipelines.core.types import MAX_PROMPT
from pipelines.prompts.plus_and_minus import parse_plus_and_minus
from pipelines.prompts.weights import MAX_WEIGHT, parse_chunks

__all__ = ["HERE", "PromptRules", "parse_by_rules", "parse_comfyui", "require_layer"]

_ESCAPES = {r"\)": "\0\1", r"\(": "\0\2"}
_LITERAL = re.compile(r"\\([{}|_])")
"""Signs that are escaped from being drawn as wildcards, which is this studio's own escape and no other program's."""


@dataclasses.dataclass(frozen=True)
class PromptRules:
    """Says how a prompt is read.

    Attributes:
        syntax: "here", which is A1111's; "plain", where nothing is syntax; or "comfyui": round brackets alone, a weight
            of an inner bracket in the place of the outer one's, and neither [word] nor switches, AND or BREAK; or
            "invokeai": word++, (two words)1.2 and .and(), and likewise none of these.
        chunks: what happens at the end of a chunk: "filled", "commas" (what follows a comma among its last 20 tokens
            goes on to the next), or "words" (a weighted text of fewer than eight tokens is not parted).
        clip_skip: which layer of a CLIP is read, 1 the last, 2 the last but one; 0 the model's own.
        skipping: "sd", "sd2", "sdxl": whose CLIPs the program reads at another layer; elsewhere it does nothing.
        weighting: what weights do, a key of `families.prompt_weighting.WEIGHTINGS`, or "ignore"; "" as requested.
        repeats: whether the fewer chunks of a shorter text are repeated, which changes nothing for the attention that
            reads them; else empty chunks follow.
        masks: whether a text of a weight below 1 is also blended away: towards the prompt with the text masked.
        zeros: whether an empty negative prompt is all zeros where the model's configuration says so.
    """

    syntax: str = "here"
    chunks: str = "filled"
    clip_skip: int = 0
    skipping: frozenset[str] = frozenset()
    weighting: str = ""
    repeats: bool = False
    masks: bool = False
    zeros: bool = True

    def find_layer(self, family: str) -> int:
        """Find the layer that a family's CLIPs are read at, counted from the end; 0 for the model's own."""
        return self.clip_skip if family in self.skipping else 0

    def count_chunks(self, counts: Sequence[int]) -> int:
        """Find how many chunks all texts of a run fill, of the chunks that each has."""
        return math.lcm(*counts) if self.repeats else max(counts)


HERE = PromptRules()


def require_layer(layer: int, layers: int) -> None:
    """Refuse a clip skip that asks for more layers than a text encoder has.

    Args:
        layer: counted from the end; 0 for the model's own.
        layers: of the text encoder.

    Raises:
        SettingsError: there is no such layer.
    """
    if layer > layers:
        raise SettingsError(
            f"The clip skip asks for layer {layer} from the end; this model has {layers} of them. Set it to 0."
        )


def parse_by_rules(text: str, rules: PromptRules) -> list[list[tuple[str, float]]]:
    """Split a prompt as `parse_chunks` does, by the syntax of the rules.

    Raises:
        PromptError: as `parse_chunks`.
    """
    if rules.syntax == "here":
        return parse_chunks(text)
    text = _LITERAL.sub(r"\1", text)
    if rules.syntax == "plain":
        return [[(text, 1.0)]]
    return parse_plus_and_minus(text) if rules.syntax == "invokeai" else [parse_comfyui(text)]


def parse_comfyui(text: str) -> list[tuple[str, float]]:
    r"""Split a prompt into texts and weights as ComfyUI does.

    (word) weighs 1.1 times what is around it, (word:1.2) weighs 1.2 whatever is around it; \( and \) are brackets. A
    closing bracket without an opening one ends the weights of what follows, as there.

    Raises:
        PromptError: the text is too long, brackets nest too deep, or a weight is too large.

    Source: ComfyUI 0.3.64, `comfy/sd1_clip.py`, `token_weights`.
    """
    if len(text) > MAX_PROMPT:
        raise PromptError(f"The prompt has {len(text)} characters. Shorten it to {MAX_PROMPT}.")
    for sign, mark in _ESCAPES.items():
        text = text.replace(sign, mark)
    pairs = _weigh(text, 1.0, 0)
    for sign, mark in _ESCAPES.items():
        pairs = [(part.replace(mark, sign[1]), weight) for part, weight in pairs]
    for part, weight in pairs:
        if not abs(weight) <= MAX_WEIGHT:
            raise PromptError(
                f"The weight of {part[:40]!r} is {weight:.4g}. Keep it between -{MAX_WEIGHT:g} and {MAX_WEIGHT:g}."
            )
    return pairs or [("", 1.0)]


def _weigh(text: str, weight: float, depth: int) -> list[tuple[str, float]]:
    if depth > 50:
        raise PromptError("The brackets of the prompt nest more than 50 deep. Use fewer.")
    pairs: list[tuple[str, float]] = []
    for part in _split_brackets(text):
        if len(part) < 2 or part[0] != "(" or part[-1] != ")":
            pairs.append((part, weight))
            continue
        inner, inner_weight = part[1:-1], weight * 1.1
        words, colon, number = inner.rpartition(":")
        if colon and words:
            try:
                inner, inner_weight = words, float(number)
            except ValueError:
                inner = part[1:-1]
        pairs += _weigh(inner, inner_weight, depth + 1)
    return pairs


def _split_brackets(text: str) -> list[str]:
    """The text cut around its outermost brackets, which stay on."""
    parts, current, depth = [], "", 0
    for letter in text:
        if letter == "(" and depth == 0:
            parts += [current] if current else []
            current = ""
        current += letter
        depth += (letter == "(") - (letter == ")")
        if letter == ")" and depth == 0:
            parts.append(current)
            current = ""
    return [*parts, current] if current else parts
