"""[from:to:when] and [a|b]: prompts that say something else from step to step."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from itertools import pairwise

from pipelines.core.errors import PromptError
from pipelines.core.types import MAX_PROMPT
from pipelines.prompts.brackets import TIME, Pair, find_pairs, is_outside

__all__ = ["has_switches", "texts_by_step"]

MAX_DEPTH = 50
"""Switches within switches."""

MAX_TEXTS = 64
"""Different texts of one prompt: each is encoded once, and alternations multiply."""

_NUMBER = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*\Z")
_LIKE_A_NUMBER = re.compile(r"\s*[\d.,%+-]*\d[\d.,%+-]*\s*\Z")


@dataclasses.dataclass(frozen=True)
class _Switch:
    """`before` up to a step, `after` behind it."""

    before: Sequence[_Part]
    after: Sequence[_Part]
    when: str

    def choose(self, step: int, num_steps: int) -> Sequence[_Part]:
        # 0.29 * 100 is 28.999999999999996, and means 29.
        last = min(float(self.when), 1e6) * num_steps + 1e-9 if "." in self.when else int(self.when)
        return self.before if step <= int(last) else self.after


@dataclasses.dataclass(frozen=True)
class _Alternation:
    """One option a step, in turn."""

    options: Sequence[Sequence[_Part]]

    def choose(self, step: int, num_steps: int) -> Sequence[_Part]:
        return self.options[(step - 1) % len(self.options)]


_Part = str | _Switch | _Alternation


def has_switches(text: str) -> bool:
    """Say whether the prompt says something else at some step of some run.

    Raises:
        PromptError: as `texts_by_step`.
    """
    return any(not isinstance(part, str) for part in _split_switches(text, 0))


def texts_by_step(text: str, num_steps: int) -> tuple[str, ...]:
    """Return the prompt of each step, with all that is no switch as it stood.

    [from:to:when] says `from` up to a step and `to` behind it; [to:when] begins with nothing, [from::when] ends
    with nothing. A number with a point is a share of the steps (0.5 half, 1.0 all), one without counts steps.
    [a|b|c] takes its options in turn, one a step. Both nest. [word] without them is left for the weights.

    Args:
        text: of one part of a prompt.
        num_steps: of the run, at least 1.

    Returns:
        `num_steps` texts.

    Raises:
        PromptError: a step that is no number, switches that nest too deep, or too many different texts.

    Source: AUTOMATIC1111, stable-diffusion-webui, `modules/prompt_parser.py`,
    `get_learned_conditioning_prompt_schedules`.
    Differs: a share is not rounded down below the step that it means; a mistyped step is an error, where theirs
    reads the whole prompt without any syntax; the colons of times and ratios are text.
    """
    parts = _split_switches(text, 0)
    texts = tuple(_render(parts, step, num_steps) for step in range(1, num_steps + 1))
    if len(set(texts)) > MAX_TEXTS:
        raise PromptError(
            f"The prompt switches between {len(set(texts))} different texts. Use fewer options: at most {MAX_TEXTS}."
        )
    return texts


def _render(parts: Sequence[_Part], step: int, num_steps: int) -> str:
    texts = (
        part if isinstance(part, str) else _render(part.choose(step, num_steps), step, num_steps) for part in parts
    )
    return "".join(texts)


def _split_switches(text: str, depth: int) -> list[_Part]:
    """The text cut at its outermost switches."""
    if len(text) > MAX_PROMPT:
        raise PromptError(f"The prompt has {len(text)} characters. Shorten it to {MAX_PROMPT}.")
    if depth > MAX_DEPTH:
        raise PromptError(f"The switches of the prompt nest more than {MAX_DEPTH} deep. Use fewer brackets.")
    times = [match.span() for match in TIME.finditer(text)]
    parts: list[_Part] = []
    start = 0
    for pair in sorted(find_pairs(text), key=lambda pair: pair.start):
        if pair.start < start or text[pair.start] != "[":
            continue
        switch = _parse_switch(text, pair, times, depth)
        if switch is not None:
            parts += [text[start : pair.start], switch]
            start = pair.end + 1
    return [*parts, text[start:]]


def _parse_switch(text: str, pair: Pair, times: Sequence[tuple[int, int]], depth: int) -> _Part | None:
    """What a pair of square brackets switches between; None where it only weighs."""
    if pair.bars:
        return _Alternation([_split_switches(option, depth + 1) for option in _cut_at(text, pair, pair.bars)])
    colons = pair.colons
    if len(colons) > 2:
        colons = tuple(place for place in colons if is_outside(place, times))
    if not 1 <= len(colons) <= 2:
        return None
    *options, when = _cut_at(text, pair, colons)
    number = _NUMBER.match(when)
    if number is None:
        if _LIKE_A_NUMBER.match(when):
            raise PromptError(
                f"The step in {text[pair.start : pair.end + 1][:60]!r} is not a number. Write a share such as 0.5, or "
                "a number of steps."
            )
        return None
    before, after = ("", *options) if len(options) == 1 else options
    return _Switch(_split_switches(before, depth + 1), _split_switches(after, depth + 1), number[1])


def _cut_at(text: str, pair: Pair, places: Sequence[int]) -> list[str]:
    bounds = (pair.start, *sorted(places), pair.end)
    return [text[before + 1 : after] for before, after in pairwise(bounds)]
