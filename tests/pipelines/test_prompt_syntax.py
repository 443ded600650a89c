"""Switches by step, composition and LoRAs in a prompt, as text."""

from __future__ import annotations

import random
import time

import pytest

from pipelines.core.errors import MethodFitError, PromptError
from pipelines.core.types import MAX_PROMPT, LoraChoice, Request, Traits
from pipelines.prompts.brackets import find_pairs
from pipelines.prompts.composition import split_composition
from pipelines.prompts.loras import take_loras
from pipelines.prompts.switches import texts_by_step
from pipelines.requests.prompts import branch_count, check_prompts, read_prompts, require_one_text


# The first ten are the cases of the web UI's own `modules/prompt_parser.py`, told for each of ten steps.
@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("test", [(10, "test")]),
        ("a [b:3]", [(3, "a "), (10, "a b")]),
        ("a [b: 3]", [(3, "a "), (10, "a b")]),
        ("a [[[b]]:2]", [(2, "a "), (10, "a [[b]]")]),
        ("[(a:2):3]", [(3, ""), (10, "(a:2)")]),
        ("a [b : c : 1] d", [(1, "a b  d"), (10, "a  c  d")]),
        ("a[b:[c:d:2]:1]e", [(1, "abe"), (2, "ace"), (10, "ade")]),
        ("a [unbalanced", [(10, "a [unbalanced")]),
        ("a [b:.5] c", [(5, "a  c"), (10, "a b c")]),
        ("((a][:b:c [d:3]", [(3, "((a][:b:c "), (10, "((a][:b:c d")]),
        ("[a::0.3] b", [(3, "a b"), (10, " b")]),
        ("[:a:0.3] b", [(3, " b"), (10, "a b")]),
        ("[a:b:0]", [(10, "b")]),
        ("[a:b:0.0]", [(10, "b")]),
        ("[a:b:1.0]", [(10, "a")]),
        ("[a:b:1]", [(1, "a"), (10, "b")]),
        ("[a:b:99]", [(10, "a")]),
        ("[a:b:-1]", [(10, "b")]),
        ("[a:a:0.5]", [(10, "a")]),
        ("([a:b:0.5]:1.2)", [(5, "(a:1.2)"), (10, "(b:1.2)")]),
        ("[day 12:30:night:0.5]", [(5, "day 12:30"), (10, "night")]),
        ("[embedding:one:embedding:two:0.5]", [(5, "embedding:one"), (10, "embedding:two")]),
        (r"\[a:b:0.5\]", [(10, r"\[a:b:0.5\]")]),
        (r"[a\:b:c:0.5]", [(5, r"a\:b"), (10, "c")]),
        ("[note: this]", [(10, "[note: this]")]),
    ],
)
def test_each_step_says_what_the_web_ui_lets_it_say(text, told):
    expected = []
    for end, said in told:
        expected += [said] * (end - len(expected))
    assert list(texts_by_step(text, 10)) == expected


def test_an_alternation_takes_turns_and_nests():
    assert texts_by_step("a [b|c] d", 4) == ("a b d", "a c d", "a b d", "a c d")
    assert texts_by_step("[b|c|]", 4) == ("b", "c", "", "b")
    assert texts_by_step("[fe|]male [a|(b:1.1)]", 2) == ("female a", "male (b:1.1)")
    assert texts_by_step("[[a|b]|c]", 6) == ("a", "c", "a", "c", "a", "c")  # a's turn comes at odd steps only
    assert texts_by_step("[[a|b]:c:0.5]", 4) == ("a", "b", "c", "c")


def test_a_share_means_the_step_that_it_says_for_every_number_of_steps():
    for steps in (4, 10, 20, 25, 50, 100):
        for last in range(steps + 1):
            assert texts_by_step(f"[a:b:{last / steps:.2f}]", steps).count("a") == last


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[a:b:0.5.5]", "not a number"),
        ("[a:b:50%]", "not a number"),
        ("[a:b:0,5]", "not a number"),
        ("[" * 60 + "a" + "|b]" * 60, "nest more than"),
        ("[a|b|c|d|e] [a|b|c|d] [a|b|c]" + "[a|b|c|d|e|f|g]", "different texts"),
    ],
)
def test_what_cannot_be_switched_is_refused_in_a_sentence(text, words):
    with pytest.raises(PromptError, match=words):
        texts_by_step(text, 200)


def test_brackets_pair_as_reading_on_from_each_would_pair_them():
    draw = random.Random(0)
    for _ in range(500):
        text = "".join(draw.choices("()[]ab", k=14))
        pairs = {(pair.start, pair.end) for pair in find_pairs(text)}
        for start, end in pairs:
            assert text[start] + text[end] in ("()", "[]")
            assert not any(start < one < end < other or one < start < other < end for one, other in pairs)


@pytest.mark.parametrize("text", ["[" * MAX_PROMPT, "[(" * (MAX_PROMPT // 2), "[:" * (MAX_PROMPT // 2), "[a|b] " * 600])
def test_long_prompts_of_brackets_take_little_time(text):
    began = time.thread_time()
    texts_by_step(text, 2)
    split_composition(text)
    assert time.thread_time() - began < 0.5  # quadratic work over 4000 brackets takes seconds


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a cat", [("a cat", 1.0)]),
        ("a cat :1.2", [("a cat :1.2", 1.0)]),
        ("a AND b", [("a", 1.0), ("b", 1.0)]),
        ("a :1.2 AND b:-0.5", [("a", 1.2), ("b", -0.5)]),
        ("a :1.2 AND ", [("a", 1.2)]),
        ("(a:1.3) AND b", [("(a:1.3)", 1.0), ("b", 1.0)]),
        ("open at 12:30 AND b", [("open at 12:30", 1.0), ("b", 1.0)]),
        ("SAND AND LAND", [("SAND", 1.0), ("LAND", 1.0)]),
        ("(a AND b:1.2)", [("(a AND b:1.2)", 1.0)]),
        ('a sign "ROCK AND ROLL" AND b', [('a sign "ROCK AND ROLL"', 1.0), ("b", 1.0)]),
        ("a\nAND\nb", [("a", 1.0), ("b", 1.0)]),
        ("a and b", [("a and b", 1.0)]),
    ],
)
def test_and_splits_a_prompt_into_weighted_parts(text, expected):
    assert split_composition(text) == expected


@pytest.mark.parametrize(
    ("text", "words"), [("AND", "no words"), (" AND ".join("abcdefghi"), "At most 8"), ("a :99 AND b", "between")]
)
def test_a_composition_that_cannot_be_is_refused(text, words):
    with pytest.raises(PromptError, match=words):
        split_composition(text)


@pytest.mark.parametrize(
    ("text", "prompt", "loras"),
    [
        ("a fox <lora:ink:0.8>", "a fox", [("ink", 0.8)]),
        ("<lora:ink>a fox", "a fox", [("ink", 1.0)]),
        ("a <lora:my ink v1.5:-1> fox <lora:b:.5>", "a fox", [("my ink v1.5", -1.0), ("b", 0.5)]),
        ("a <lyco:ink:0.5:0.5> fox", "a fox", [("ink", 0.5)]),
        ("a <lora:ink:te=0.5:unet=0.5> fox", "a fox", [("ink", 0.5)]),
        (r"a \<lora:ink:1> fox", r"a \<lora:ink:1> fox", []),
        ("a <b> fox", "a <b> fox", []),
    ],
)
def test_loras_are_taken_out_of_a_prompt(text, prompt, loras):
    assert take_loras(text) == (prompt, tuple(LoraChoice(*one) for one in loras))


@pytest.mark.parametrize(
    ("text", "words"),
    [("<lora:ink:strong>", "cannot be read"), ("<lora:ink:9>", "-4 to 4"), ("<lora:ink:1:0.5>", "different weights")],
)
def test_a_lora_that_cannot_be_read_is_refused(text, words):
    with pytest.raises(PromptError, match=words):
        take_loras(text)


def test_every_distinct_text_is_named_once():
    prompts = read_prompts("[a:b:0.5] AND [a|c]", "[x:y:0.25]", 4)
    assert prompts.texts == {"positive": "a", "positive 2": "c", "positive 3": "b", "negative": "x", "negative 2": "y"}
    # At the first step both parts say a: one evaluation of twice the weight.
    assert prompts.plan.terms(0, "positive") == (("positive", 2.0), ("negative", -1.0))
    assert prompts.plan.terms(3, "positive") == (("positive 3", 1.0), ("positive 2", 1.0), ("negative 2", -1.0))
    assert prompts.plan.terms(3, "negative") == (("negative 2", 1.0),)


@pytest.mark.parametrize("text", ["a fox", "[a:a:0.5]", "[b:a:0]", "[a:b:1.0]", "a :1 AND ", "a AND"])
def test_what_says_one_thing_throughout_has_no_plan(text):
    assert read_prompts(text, "", 5).plan.steps == ()


def test_the_factors_of_every_branch_sum_to_one():
    for text in ("a AND b", "a :0.3 AND b :0.7", "a :-1 AND b :2.5", "[a|b] :0.2 AND c :0"):
        plan = read_prompts(text, "", 4).plan
        for step in range(4):
            assert sum(factor for _, factor in plan.terms(step, "positive")) == pytest.approx(1)


def test_evaluations_are_counted_by_what_is_evaluated():
    def count(prompt, *branches):
        return branch_count(Request(prompt=prompt, num_inference_steps=4), branches)

    assert count("a", "negative", "positive") == 2
    assert count("[a:b:0.5]", "negative", "positive") == 2
    assert count("a AND b", "negative", "positive") == 3
    assert count("a AND b", "positive") == 3  # weights that do not sum to 1 need the base
    assert count("a :0.5 AND b :0.5", "positive") == 2


STOCK = Traits("stock", "epsilon", "pipeline")


@pytest.mark.parametrize("text", ["[a:b:0.5]", "[a|b]", "embedding:one"])
def test_a_model_with_its_own_pipeline_refuses_before_the_run_what_it_cannot_do(text):
    with pytest.raises(MethodFitError, match="own pipeline"):
        check_prompts(Request(prompt=text), STOCK)
    check_prompts(Request(prompt=text), None)


@pytest.mark.parametrize("text", ["a (b:1.2)", "ROCK AND ROLL", "BREAK it", "[a:b:50%]", r"\[a|b\]", "(a:1.2.3)"])
def test_a_model_with_its_own_pipeline_reads_everything_else_as_words(text):
    check_prompts(Request(prompt=text), STOCK)


def test_a_prompt_that_must_be_one_text_is_asked_to_be():
    for prompt, negative in (("[a:b:0.5]", ""), ("a AND b", ""), ("a", "[a|b]")):
        with pytest.raises(MethodFitError, match="Clips take a prompt that says the same at every step"):
            require_one_text(prompt, negative, "Clips")
    require_one_text("a (b:1.2) [c] BREAK d", "A AND B", "Clips")
