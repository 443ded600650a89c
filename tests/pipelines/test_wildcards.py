"""Wildcards: nested choices and lists, deterministic by seed, bounded."""

from __future__ import annotations

import random
import time

import pytest

from pipelines.core.errors import PromptError
from pipelines.core.types import MAX_PROMPT
from pipelines.requests.wildcards import _choices, expand_wildcards

LISTS = {
    "animal": ["red fox", "{black|white} cat"],
    "scene": ["__animal__ at sea"],
    "loop": ["a __loop__"],
    "empty": [],
}


def test_a_text_without_wildcards_stays_as_it_is():
    text = r"a (fox:1.2), __ {open, back\slash _x_"
    assert expand_wildcards(text, 0, LISTS) == text


def test_every_choice_is_drawn_and_the_seed_decides():
    drawn = {expand_wildcards("{a|b|c} d", seed) for seed in range(40)}
    assert drawn == {"a d", "b d", "c d"}
    assert all(expand_wildcards("{a|b|c} {d|e}", seed) == expand_wildcards("{a|b|c} {d|e}", seed) for seed in range(5))


def test_choices_and_lists_nest():
    assert {expand_wildcards("{a|{b|c}}!", seed) for seed in range(40)} == {"a!", "b!", "c!"}
    drawn = {expand_wildcards("__scene__", seed, LISTS) for seed in range(40)}
    assert drawn == {"red fox at sea", "black cat at sea", "white cat at sea"}


def test_only_what_was_chosen_is_drawn_further():
    assert expand_wildcards("{a}", 0, {}) == "a"
    outcomes = set()
    for seed in range(20):
        try:
            outcomes.add(expand_wildcards("{x|__unknown__}", seed, {}))
        except PromptError:
            outcomes.add("refused")
    assert outcomes == {"x", "refused"}


def test_escaped_signs_are_literal():
    assert expand_wildcards(r"\{a\|b\}", 0) == "{a|b}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("__nothing__", "is unknown.*animal"),
        ("__empty__", "no lines"),
        ("__loop__", "names itself|nest"),
        ("{a|b}" * 600, "more than 500"),
        ("{" * 30 + "a" + "}" * 30, "nest"),
        ("x" * (MAX_PROMPT + 1), "Shorten"),
    ],
)
def test_what_cannot_be_drawn_is_refused(text, words):
    with pytest.raises(PromptError, match=words):
        expand_wildcards(text, 0, LISTS)


def test_an_explosion_is_refused():
    lists = {"a": ["__b__ __b__ __b__ __b__"], "b": ["__c__ __c__ __c__ __c__"], "c": ["word " * 100]}
    with pytest.raises(PromptError, match="Shorten|more than"):
        expand_wildcards("__a__ __a__ __a__", 0, lists)


def test_many_open_braces_are_read_in_reasonable_time():
    assert expand_wildcards("{" * 2000, 0) == "{" * 2000


@pytest.mark.parametrize("text", ["{" * MAX_PROMPT, "{" * (MAX_PROMPT // 2) + "|" * (MAX_PROMPT // 2)])
def test_braces_without_partners_take_one_pass(text):
    began = time.thread_time()
    assert expand_wildcards(text, 0) == text
    assert time.thread_time() - began < 0.05  # reading on from each brace takes 0.6 s, one pass 0.003 s


def slow_options(text, start):
    """The parts of the choice that opens at `start` and where it ends, found by reading on from there alone."""
    depth, options, begin, position = 0, [], start + 1, start
    while position < len(text):
        letter = text[position]
        if letter == "\\":
            position += 2
            continue
        depth += (letter == "{") - (letter == "}")
        if letter == "}" and depth == 0:
            return [*options, text[begin:position]], position
        if letter == "|" and depth == 1:
            options.append(text[begin:position])
            begin = position + 1
        position += 1
    return None


def test_choices_pair_as_each_brace_alone_would_find_them():
    draw, checked = random.Random(0), 0
    for _ in range(300):
        text = "".join(draw.choices("{}|\\ab", k=30))
        choices = _choices(text)
        for start in [place for place in range(30) if _is_brace(text, place)]:
            bounds = choices.get(start)
            found = bounds and ([text[i + 1 : j] for i, j in zip(bounds, bounds[1:], strict=False)], bounds[-1])
            assert found == slow_options(text, start)
            checked += found is not None
    assert checked > 200


def _is_brace(text, place):
    before = len(text[:place]) - len(text[:place].rstrip("\\"))
    return text[place] == "{" and before % 2 == 0
