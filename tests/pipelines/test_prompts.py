"""Prompt weights, long prompts, and that a plain prompt is encoded as the stock pipelines do."""

from __future__ import annotations

import pytest
import torch
from tiny_models import CLIP_LENGTH, tiny_flux, tiny_sd, tiny_sd3, tiny_sdxl

from pipelines.core.errors import PromptError
from pipelines.core.types import MAX_PROMPT
from pipelines.families import family_of
from pipelines.families.prompts import MAX_WEIGHT, clip_tokens, encode_clip, encode_t5, parse_weights

LONG = "a red fox blue sky photo of the cat with dark moon green sea " * 2
PLAIN = "a red fox, blue sky"


def rounded(text):
    return [(part, round(weight, 6)) for part, weight in parse_weights(text)]


# The values are those that the web UI's own documentation gives for these texts.
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("normal text", [("normal text", 1.0)]),
        ("an (important) word", [("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
        ("(unbalanced", [("unbalanced", 1.1)]),
        (r"\(literal\]", [("(literal]", 1.0)]),
        ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
        (
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
            [
                ("a ", 1.0),
                ("house", 1.573),
                (" ", 1.1),
                ("on", 1.0),
                (" a ", 1.1),
                ("hill", 0.55),
                (", sun, ", 1.1),
                ("sky", 1.4641),
                (".", 1.1),
            ],
        ),
        ("", [("", 1.0)]),
        ("a) b] c", [("a) b] c", 1.0)]),
        ("[a]", [("a", round(1 / 1.1, 6))]),
        ("[un (bal", [("un ", round(1 / 1.1, 6)), ("bal", 1.0)]),
        ("time 12:30) now", [("time 12:30) now", 1.0)]),
        (r"back\slash", [(r"back\slash", 1.0)]),
        (r"two \\ one", [("two \\ one", 1.0)]),
        ("(a:-1.5)(b: +2 )", [("a", -1.5), ("b", 2.0)]),
        ("(a (b:2) c:0.5)", [("a ", 0.5), ("b", 1.0), (" c", 0.5)]),
        ("(a:1.0) fox", [("a fox", 1.0)]),
    ],
)
def test_weights_are_read_as_the_web_ui_reads_them(text, expected):
    assert rounded(text) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("(a:1.2.3)", "not a number"),
        ("(a:99999999999)", "between"),
        ("(" * 40 + "a" + ")" * 40, "between"),
        ("x" * (MAX_PROMPT + 1), "Shorten"),
    ],
)
def test_a_prompt_that_cannot_be_read_is_refused(text, words):
    with pytest.raises(PromptError, match=words):
        parse_weights(text)


def test_every_text_of_brackets_is_read_without_a_crash():
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        picks = torch.randint(0, 10, (12,), generator=generator)
        text = "".join("()[]\\:1.a "[pick] for pick in picks)
        try:
            assert all(abs(weight) <= MAX_WEIGHT for _, weight in parse_weights(text))
        except PromptError:
            continue


def in_stock_order(ours):
    names, branches = ("prompt_embeds", "pooled_prompt_embeds"), ("positive", "negative")
    return [ours[branch].tensors[name] for name in names for branch in branches]


def test_a_plain_prompt_has_the_stock_embeddings_of_sd():
    pipe = tiny_sd()
    positive, negative = pipe.encode_prompt(PLAIN, "cpu", 2, True, negative_prompt="blurry")
    ours = family_of(pipe.components).encode_prompts(PLAIN, "blurry", 2, (32, 32))
    assert torch.equal(ours["positive"].tensors["prompt_embeds"], positive)
    assert torch.equal(ours["negative"].tensors["prompt_embeds"], negative)


def test_a_plain_prompt_has_the_stock_embeddings_of_sdxl():
    pipe = tiny_sdxl()
    stock = pipe.encode_prompt(PLAIN, num_images_per_prompt=2, negative_prompt="blurry")
    ours = family_of(pipe.components).encode_prompts(PLAIN, "blurry", 2, (32, 32))
    assert all(torch.equal(one, other) for one, other in zip(in_stock_order(ours), stock, strict=True))
    assert ours["positive"].tensors["time_ids"][0].tolist() == [32, 32, 0, 0, 32, 32]


def test_a_plain_prompt_has_the_stock_embeddings_of_sd3_and_flux():
    pipe = tiny_sd3()
    stock = pipe.encode_prompt(PLAIN, None, None, num_images_per_prompt=2, negative_prompt="blurry")
    ours = family_of(pipe.components).encode_prompts(PLAIN, "blurry", 2, (32, 32))
    assert all(torch.equal(one, other) for one, other in zip(in_stock_order(ours), stock, strict=True))
    pipe = tiny_flux()
    embeds, pooled, _ = pipe.encode_prompt(PLAIN)
    given = family_of(pipe.components).encode_prompts(PLAIN, "", 1, (32, 32))["positive"].tensors
    assert torch.equal(given["prompt_embeds"], embeds) and torch.equal(given["pooled_prompt_embeds"], pooled)


def test_a_weight_of_one_and_empty_brackets_change_nothing():
    pipe = tiny_sd()
    family = family_of(pipe.components)
    plain = family.encode_prompts("a red fox", "", 1, (32, 32))["positive"].tensors["prompt_embeds"]
    neutral = family.encode_prompts("(a:1.0) red (fox:1)", "", 1, (32, 32))["positive"].tensors["prompt_embeds"]
    assert torch.equal(plain, neutral)


def clip_parts():
    pipe = tiny_sd()
    return pipe.tokenizer, pipe.text_encoder


def read(output):
    return output[0], output.pooler_output


def test_a_weight_scales_its_token_and_keeps_the_mean():
    plain, _ = encode_clip(*clip_parts(), "a red fox", 1, read)
    heavy, _ = encode_clip(*clip_parts(), "a (red:1.5) fox", 1, read)
    ratio = (heavy / plain)[0].mean(dim=1)
    assert torch.allclose(ratio[2] / ratio[1], torch.tensor(1.5), rtol=1e-5)
    assert torch.allclose(ratio[[0, 1, 3, 4]], ratio[1].expand(4), rtol=1e-5)
    assert torch.allclose(heavy.mean(), plain.mean(), rtol=1e-5)


def test_t5_weights_scale_only_their_token():
    pipe = tiny_flux()
    plain = encode_t5(pipe.tokenizer_2, pipe.text_encoder_2, "a red fox", 8)
    heavy = encode_t5(pipe.tokenizer_2, pipe.text_encoder_2, "a (red:1.5) fox", 8)
    assert torch.equal(heavy[:, [0, 2, 3, 4]], plain[:, [0, 2, 3, 4]])
    assert torch.equal(heavy[:, 1], plain[:, 1] * 1.5)


def test_a_long_prompt_becomes_chunks_that_are_each_encoded_alone():
    tokenizer, encoder = clip_parts()
    tokens, chunks = clip_tokens(tokenizer, LONG)
    assert len(tokens) > CLIP_LENGTH and chunks == -(-len(tokens) // (CLIP_LENGTH - 2))
    embeds, pooled = encode_clip(tokenizer, encoder, LONG, chunks, read)
    assert embeds.shape[1] == chunks * CLIP_LENGTH
    second = tokenizer.decode([token for token, _ in tokens[CLIP_LENGTH - 2 : 2 * (CLIP_LENGTH - 2)]])
    alone, _ = encode_clip(tokenizer, encoder, second, 1, read)
    assert torch.allclose(embeds[:, CLIP_LENGTH : 2 * CLIP_LENGTH], alone, atol=1e-6)
    first = tokenizer.decode([token for token, _ in tokens[: CLIP_LENGTH - 2]])
    assert torch.allclose(pooled, encode_clip(tokenizer, encoder, first, 1, read)[1], atol=1e-6)


@pytest.mark.parametrize("make", [tiny_sd, tiny_sdxl, tiny_sd3])
def test_both_branches_have_the_same_length_and_share_a_batch(make):
    family = family_of(make().components)
    given = family.encode_prompts(LONG, "blurry", 1, (32, 32))
    assert given["positive"].signature == given["negative"].signature
    given = family.encode_prompts("a fox", LONG, 1, (32, 32))
    assert given["positive"].signature == given["negative"].signature


def test_a_text_encoder_that_wants_an_attention_mask_gets_the_stock_one():
    pipe = tiny_sd()
    pipe.text_encoder.config.use_attention_mask = True
    stock, _ = pipe.encode_prompt(PLAIN, "cpu", 1, False)
    ours = family_of(pipe.components).encode_prompts(PLAIN, "", 1, (32, 32))["positive"].tensors["prompt_embeds"]
    assert torch.equal(ours, stock)
