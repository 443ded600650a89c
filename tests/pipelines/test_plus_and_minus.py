"""InvokeAI's weights: what Compel 2.5 reads of a prompt, and what its encoder makes of it, by formula."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_models import tiny_sd

from pipelines.compatibility import COMPATIBILITIES
from pipelines.core.errors import PromptError
from pipelines.core.types import Choice, Request
from pipelines.families import family_of
from pipelines.prompts.plus_and_minus import has_plus_and_minus, parse_plus_and_minus
from pipelines.requests.prompts import check_prompts, read_prompts
from studio.infotext.invokeai import read_invokeai

RULES = COMPATIBILITIES.build(Choice("invokeai")).prompt_rules()
PARSED = {
    "a fox++ in snow": [("a", 1), ("fox", 1.21), ("in snow", 1)],
    "(a red fox)1.3, blue": [("a red fox", 1.3), (", blue", 1)],
    '"a red fox"-- x': [("a red fox", 0.81), ("x", 1)],
    "a (big (red)+ fox)++": [("a", 1), ("big", 1.21), ("red", 1.331), ("fox", 1.21)],
    "sci-fi++ well-known": [("sci-fi", 1.21), ("well-known", 1)],
    r"a \(b\) c": [("a (b) c", 1)],
    "fox, (cat)+, dog-": [("fox,", 1), ("cat", 1.1), (",", 1), ("dog", 0.9)],
    "3.5 foxes and a+b": [("3.5 foxes and a+b", 1)],
    "f(x)++ (plain) a:b": [("f(x)++ plain a:b", 1)],
    "(fox and [owl] AND BREAK": [("( fox and [owl] AND BREAK", 1)],
    "fox)": [("fox)", 1)],
    "(a, b)0.5": [("a , b", 0.5)],
    "": [("", 1)],
}
"""Compel's own fragments, but for blanks, which no tokenizer of CLIP sees."""


@pytest.mark.parametrize("text", PARSED)
def test_a_prompt_is_read_as_compel_reads_it(text):
    (chunk,) = parse_plus_and_minus(text)
    assert [part for part, _ in chunk] == [part for part, _ in PARSED[text]]
    assert [weight for _, weight in chunk] == pytest.approx([weight for _, weight in PARSED[text]])


def test_and_makes_chunks():
    assert parse_plus_and_minus('("a cat, red", (a dog+)).and()') == [
        [("a cat, red", 1.0)],
        [("a", 1.0), ("dog", 1.1)],
    ]
    assert parse_plus_and_minus('("a cat", "a dog").and(1, 0.5)')[1] == [("a dog", 0.5)]
    for text, words in (
        ('("a", "b").and(1)', "as many numbers"),
        ('("a", "b").blend(0.5, 0.5)', "blend"),
        ("a fox.swap(cat)", "swap"),
        ("(fox)30", "Keep it below"),
        ("(" * 60 + "x" + ")" * 60, "deep"),
    ):
        with pytest.raises(PromptError, match=words):
            parse_plus_and_minus(text)


@pytest.fixture(scope="module")
def family():
    return family_of(tiny_sd().components)


def encode(family, text):
    return family.encode_texts({"positive": text}, 1, (32, 32), "mean", RULES)["positive"].tensors["prompt_embeds"]


def masked(family, text, places):
    tokenizer, encoder = family.components["tokenizer"], family.components["text_encoder"]
    ids = tokenizer(text, padding="max_length", return_tensors="pt").input_ids
    mask = torch.ones_like(ids)
    mask[:, places] = 0
    with torch.no_grad():
        return encoder(ids, attention_mask=mask)[0]


@pytest.mark.parametrize("weight", [0.25, 0.5, 0.9])
def test_a_weight_below_one_is_blended_with_the_prompt_without_the_text(family, weight):
    empty = encode(family, "")

    def weigh(embeds):
        moved = embeds.clone()
        moved[:, 2:4] = empty[:, 2:4] + weight * (embeds[:, 2:4] - empty[:, 2:4])
        return moved

    whole, without = (weigh(masked(family, "a red fox sky", places)) for places in ([], [2, 3]))
    share = math.tan((1 - weight) * math.pi / 2)
    expected = (whole + share * without) / (1 + share)
    torch.testing.assert_close(encode(family, f"a (red fox){weight} sky"), expected, rtol=1e-5, atol=1e-5)


def test_a_weight_above_one_moves_the_word_alone_and_none_changes_nothing(family):
    plain, empty = encode(family, "a red fox"), encode(family, "")
    weighted = encode(family, "a red++ fox")
    torch.testing.assert_close(weighted[:, 2], empty[:, 2] + 1.21 * (plain[:, 2] - empty[:, 2]))
    assert torch.equal(weighted[:, [0, 1, 3, 4]], plain[:, [0, 1, 3, 4]])
    assert torch.equal(encode(family, "a (red) fox"), plain)
    assert encode(family, '("a cat", "a dog").and()').shape[1] == 2 * plain.shape[1]


def test_a_run_made_like_invokeai_reads_them_and_nothing_of_a1111():
    prompts = read_prompts("a [fox:owl:0.5] AND (cat)1.2", "", 4, RULES)
    assert prompts.texts["positive"] == "a [fox:owl:0.5] AND (cat)1.2" and not prompts.plan.steps
    request = Request(prompt='("a", "b").blend(1, 1)', made_like=Choice("invokeai"))
    with pytest.raises(PromptError, match="blend"):
        check_prompts(request, None)
    check_prompts(request.replace(made_like=Choice("here")), None)


@pytest.mark.parametrize(("text", "expected"), [("fox++", True), ("(a b)1.2", True), ("C++ code", True)])
def test_weights_are_seen(text, expected):
    assert has_plus_and_minus(text) == expected


@pytest.mark.parametrize("text", ["well-known sci-fi", "a 1+1 b", "(word:1.2)", "a fox - red", "(plain), text"])
def test_what_is_no_weight_is_not_taken_for_one(text):
    assert not has_plus_and_minus(text)


def test_a_dropped_picture_sets_the_rules_or_says_that_its_weights_are_text():
    settings = '{"positive_prompt": "a fox++", "negative_prompt": "", "steps": 20, "seed": 1, "scheduler": "%s"}'
    restored = read_invokeai(settings % "euler")
    assert restored.values["made_like"] == {"key": "invokeai"} and restored.values["prompt"] == "a fox++"
    assert not any("word++" in note for note in restored.notes)
    unknown = read_invokeai(settings % "never heard of")
    assert any("word++" in note for note in unknown.notes)
    blended = read_invokeai(settings.replace("a fox++", "(a fox).blend(1)") % "euler")
    assert any(".blend()" in note for note in blended.notes)
