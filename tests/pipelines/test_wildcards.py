"""Wildcards: nested choices and lists, deterministic by seed, bounded."""

from __future__ import annotations

import itertools
import random
import sys
from collections import Counter

import pytest

from pipelines.core.errors import PromptError
from pipelines.core.types import MAX_PROMPT
from pipelines.prompts.weights import parse_weights
from pipelines.requests.wildcard_files import read_lists
from pipelines.requests.wildcards import _find_choices, expand_wildcards

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


def test_an_article_agrees_with_what_was_drawn_behind_it():
    def draw(text, lists=None):
        return {expand_wildcards(text, seed, lists) for seed in range(40)}

    assert draw("a {owl|fox}") == draw("an {owl|fox}") == {"an owl", "a fox"}
    assert draw("A (__animal__:1.2)", {"animal": ["owl", "{old|red} fox"]}) == {
        "An (owl:1.2)",
        "An (old fox:1.2)",
        "A (red fox:1.2)",
    }
    assert draw("a {|orange }fox") == {"a fox", "an orange fox"}
    assert draw("a {|old} owl and a {hour|unicorn}") == {
        f"an {size} owl and {last}".replace("  ", " ") if size else f"an  owl and {last}"
        for size in ("", "old")
        for last in ("an hour", "a unicorn")
    }
    assert draw("a {an owl|a fox}") == {"an owl", "a fox"}
    assert draw("a {2$$ and $$owl|ape}") == {"an owl and ape", "an ape and owl"}
    # What was not drawn is the person's.
    assert draw("a owl, an fox, vitamin a, {3|7} of a _x_ {5|8}") >= {"a owl, an fox, vitamin a, 3 of a _x_ 5"}


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


def test_escaped_signs_are_literal_and_stay_escaped_for_the_reader():
    for text in (r"\{a\|b\}", r"\__animal__", r"a \_\_animal__", r"\{a|b\}"):
        assert expand_wildcards(text, 0, LISTS) == text
    assert parse_weights(r"\{a\|b\} \__animal__") == [("{a|b} __animal__", 1.0)]


def test_what_was_drawn_draws_to_itself():
    draw = random.Random(1)
    lists = {**LISTS, "open": ["a {", "{ b", r"\{c|d\}"], "shut": ["} b", "a | b }", "e __animal"], "end": ["__", "f"]}
    parts = ["{a|b}", "{", "}", "|", r"\{", r"\}", "__open__", "__shut__", "__end__", " c ", "{2$$a|b|c}", "__animal__"]
    for seed in range(400):
        text = "".join(draw.choices(parts, k=6))
        drawn = expand_wildcards(text, seed, lists)
        for again in (seed, seed + 1):
            assert expand_wildcards(drawn, again, lists) == drawn, text


def test_prompt_and_negative_prompt_draw_apart():
    text = "{a|b|c|d}"
    pairs = [
        (expand_wildcards(text, seed), expand_wildcards(text, seed, stream="negative prompt")) for seed in range(400)
    ]
    equal = sum(one == other for one, other in pairs)
    assert 60 < equal < 140  # a quarter; 400 when both come from one stream
    assert len(set(pairs)) == 16


def test_a_weight_decides_how_often_a_part_is_drawn():
    counts = Counter(expand_wildcards("{3::a|b|0::c}", seed) for seed in range(1000))
    assert counts.keys() == {"a", "b"} and 700 < counts["a"] < 800
    lists = {"color": ["3::red", "blue"]}
    counts = Counter(expand_wildcards("__color__", seed, lists) for seed in range(1000))
    assert counts.keys() == {"red", "blue"} and 700 < counts["red"] < 800
    assert expand_wildcards("{a:1|b:1}", 0)[1:] == ":1"  # one colon is none


@pytest.mark.parametrize(
    ("text", "separator", "counts"),
    [
        ("{2$$a|b|c}", ", ", {2}),
        ("{2$$ and $$a|b|c}", " and ", {2}),
        ("{1-3$$a|b|c}", ", ", {1, 2, 3}),
        ("{1-2$$ + $$a|b|c}", " + ", {1, 2}),
        ("{2-$$a|b|c}", ", ", {2, 3}),
        ("{-2$$a|b|c}", ", ", {1, 2}),
        ("{0-1$$a|b|c}", ", ", {0, 1}),
        ("{2$$5::a|b|c}", ", ", {2}),
    ],
)
def test_a_count_takes_different_parts(text, separator, counts):
    seen = set()
    for seed in range(60):
        drawn = expand_wildcards(text, seed)
        parts = drawn.split(separator) if drawn else []
        assert len(set(parts)) == len(parts) and set(parts) <= {"a", "b", "c"}
        seen.add(len(parts))
    assert seen == counts


def test_a_count_of_a_list_takes_different_lines():
    lists = {"color": ["red", "blue", "green"]}
    for seed in range(30):
        assert len(set(expand_wildcards("{2$$__color__}", seed, lists).split(", "))) == 2


def test_a_bar_inside_of_square_brackets_is_no_choices():
    assert {expand_wildcards("{[a|b]|c}", seed) for seed in range(30)} == {"[a|b]", "c"}
    assert {expand_wildcards("{[a|b}", seed) for seed in range(30)} == {"[a", "b"}
    assert expand_wildcards("[a|b]", 0) == "[a|b]"


def test_names_may_have_folders_blanks_points_and_stars():
    lists = {"colors/dark red": ["x"], "v1.5": ["y"], "colors/blue": ["z"]}
    assert expand_wildcards("__colors/dark red__ __v1.5__ __Colors/Blue__", 0, lists) == "x y z"
    assert {expand_wildcards("__colors/*__", seed, lists) for seed in range(30)} == {"x", "z"}
    assert expand_wildcards("snake__case and other__thing", 0, lists) == "snake__case and other__thing"


def test_list_files_are_read_as_editors_write_them(tmp_path):
    (tmp_path / "colors").mkdir()
    (tmp_path / "mark.txt").write_bytes(b"\xef\xbb\xbfred\r\n\r\n# a comment\r\n  blue \r\n\\#1\r\n")
    (tmp_path / "ansi.txt").write_bytes("grün\n".encode("cp1252"))
    (tmp_path / "wide.txt").write_bytes("grün\n".encode("utf-16"))
    (tmp_path / "colors" / "dark red.v2.txt").write_text("crimson\n")
    (tmp_path / "notes.md").write_text("no list\n")
    (tmp_path / "out.txt").symlink_to("/etc/hostname")
    lists = read_lists(tmp_path)
    assert {name: lists[name] for name in lists} == {
        "mark": ["red", "blue", "#1"],
        "ansi": ["grün"],
        "wide": ["grün"],
        "colors/dark red.v2": ["crimson"],
    }
    assert dict(read_lists(tmp_path / "nothing")) == {}


def test_a_huge_list_is_refused_before_it_is_read(tmp_path):
    with (tmp_path / "big.txt").open("wb") as file:
        file.truncate(2**31)
    with pytest.raises(PromptError, match=r"big\.txt.*split"):
        expand_wildcards("__big__", 0, read_lists(tmp_path))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("__nothing__", "is unknown.*animal"),
        ("__empty__", "no lines"),
        ("__loop__", "names itself|nest"),
        ("{a|b}" * 600, "more than 500"),
        ("{" * 30 + "a" + "}" * 30, "nest"),
        ("x" * (MAX_PROMPT + 1), "Shorten"),
        ("{4$$a|b}", "4 of 2 parts"),
        ("{3-2$$a|b|c}", "3 to 2"),
        ("{0::a|0::b}", "weight 0"),
    ],
)
def test_what_cannot_be_drawn_is_refused(text, words):
    with pytest.raises(PromptError, match=words):
        expand_wildcards(text, 0, LISTS)


def test_an_explosion_is_refused():
    lists = {"a": ["__b__ __b__ __b__ __b__"], "b": ["__c__ __c__ __c__ __c__"], "c": ["word " * 100]}
    with pytest.raises(PromptError, match=r"Shorten|more than"):
        expand_wildcards("__a__ __a__ __a__", 0, lists)


def test_many_open_braces_are_read_in_reasonable_time():
    assert expand_wildcards("{" * 2000, 0) == "{" * 2000


def count_lines(text):
    """Lines of Python that run while a text without choices is expanded."""
    count = 0

    def trace(frame, event, argument):
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        assert expand_wildcards(text, 0) == text
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("half", ["{{", "{|"])
def test_braces_without_partners_take_one_pass(half):
    """Twice the text takes twice the lines; reading on from each brace takes four times as many."""
    short, long = (count_lines(half[0] * length + half[1] * length) for length in (250, 500))
    assert short > 250 and long < 2.2 * short
    text = half[0] * (MAX_PROMPT // 2) + half[1] * (MAX_PROMPT // 2)
    assert expand_wildcards(text, 0) == text


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
        choices = _find_choices(text)
        for start in [place for place in range(30) if _is_brace(text, place)]:
            bounds = choices.get(start)
            found = bounds and ([text[i + 1 : j] for i, j in itertools.pairwise(bounds)], bounds[-1])
            assert found == slow_options(text, start)
            checked += found is not None
    assert checked > 200


def _is_brace(text, place):
    before = len(text[:place]) - len(text[:place].rstrip("\\"))
    return text[place] == "{" and before % 2 == 0
