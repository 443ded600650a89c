"""Prompt weights, long prompts, and that a plain prompt is encoded as the stock pipelines do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lora_files import family
from tiny_models import CLIP_LENGTH, tiny_flux, tiny_sd, tiny_sd3, tiny_sdxl
from transformers import CLIPTextModel, CLIPTokenizer

from pipelines.core.errors import PromptError, UnknownMethodError
from pipelines.core.types import MAX_PROMPT
from pipelines.families import family_of
from pipelines.families.prompt_tokens import clip_chunks, clip_tokens
from pipelines.families.prompt_weighting import WEIGHTINGS
from pipelines.families.prompts import encode_clip, encode_t5
from pipelines.prompts.weights import MAX_WEIGHT, parse_weights

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
        ("(time 12:30)", [("time 12:30", 1.1)]),
        ("(at 16:9:1.3)", [("at 16:9", 1.3)]),
        ("(:3)", [(":3", 1.1)]),
        ("((:3):1.2)", [(":3", 1.32)]),
        ("(smile, :3)", [("smile, :3", 1.1)]),
        ("(2cats:2)", [("2cats", 2.0)]),
        (r"(a\:1.2)", [("a:1.2", 1.1)]),
        (r"a \{b\|c\} \_\_d\_\_ \<e\>", [("a {b|c} __d__ <e>", 1.0)]),
        ("[[a]]", [("a", round(1 / 1.21, 6))]),
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


def clip_with_a_mean():
    """A tiny CLIP whose last layer norm has a bias, as every trained one has: without it all means are zero."""
    pipe = tiny_sd()
    torch.nn.init.normal_(pipe.text_encoder.final_layer_norm.bias, std=0.5, generator=torch.Generator().manual_seed(1))
    return pipe


def plain_and_empty(pipe, text):
    """The encoder's own output for a text and for an empty one, (L, D) each, without any of our code."""
    length, end = CLIP_LENGTH, pipe.tokenizer.eos_token_id

    def encoded(words):
        ids = [pipe.tokenizer.bos_token_id, *pipe.tokenizer(words, add_special_tokens=False).input_ids, end]
        return pipe.text_encoder(torch.tensor([ids + [pipe.tokenizer.pad_token_id] * (length - len(ids))]))[0][0]

    return encoded(text), encoded("")


@pytest.mark.parametrize("weight", [0.5, 1.5, 3.0, -1.0])
@pytest.mark.parametrize("rule", WEIGHTINGS)
def test_each_rule_is_its_formula(rule, weight):
    pipe = clip_with_a_mean()
    plain, empty = plain_and_empty(pipe, "a red fox")
    weights = torch.ones(CLIP_LENGTH, 1)
    weights[2] = weight
    expected = {
        "interpolate": empty + weights * (plain - empty),
        "multiply": weights * plain,
        "norm": weights * plain * plain.norm() / (weights * plain).norm(),
        "mean": weights * plain * plain.mean() / (weights * plain).mean(),
    }[rule]
    found, _ = encode_clip(pipe.tokenizer, pipe.text_encoder, f"a (red:{weight}) fox", 1, read, rule)
    assert torch.allclose(found[0], expected, atol=1e-5)


def test_the_usual_rule_leaves_every_other_word_bit_for_bit_whatever_the_weight():
    plain, _ = encode_clip(*clip_parts(), "a red fox", 1, read)
    for weight in (-2, 0, 0.5, 1.2, 20):
        heavy, _ = encode_clip(*clip_parts(), f"a (red:{weight}) fox", 1, read)
        others = [place for place in range(CLIP_LENGTH) if place != 2]
        assert torch.equal(heavy[:, others], plain[:, others])


def test_a_weight_in_the_encoder_of_the_shipped_model_turns_no_sign_where_the_kept_mean_does():
    folder = Path(__file__).resolve().parents[2] / "assets" / "models" / "emoji"
    parts = (
        CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        CLIPTextModel.from_pretrained(folder / "text_encoder").eval(),
    )
    text = "a rose on a blue background"

    def encoded(prompt, rule):
        return encode_clip(*parts, prompt, 1, lambda output: (output[0], None), rule)[0]

    plain = encoded(text, "interpolate")
    # The mark of begin has no weight: what happens to it happens to all the rest.
    by_mean = encoded(f"({text}:1.2)", "mean")[0, 0] / plain[0, 0]
    assert (by_mean < 0).all()
    assert torch.equal(encoded(f"({text}:1.2)", "interpolate")[0, 0], plain[0, 0])


@pytest.mark.parametrize("rule", WEIGHTINGS)
def test_a_weight_of_one_is_no_weight_under_every_rule(rule):
    plain, _ = encode_clip(*clip_parts(), "a red fox", 1, read)
    assert torch.equal(encode_clip(*clip_parts(), "a (red:1.0) (fox:1)", 1, read, rule)[0], plain)


def test_an_unknown_rule_is_refused_with_those_that_there_are():
    with pytest.raises(UnknownMethodError, match="interpolate"):
        encode_clip(*clip_parts(), "a (red:1.5) fox", 1, read, "loud")


def test_t5_weights_move_only_their_token_away_from_the_empty_prompt():
    pipe = tiny_flux()
    plain = encode_t5(pipe.tokenizer_2, pipe.text_encoder_2, "a red fox", 8)
    empty = encode_t5(pipe.tokenizer_2, pipe.text_encoder_2, "", 8)
    heavy = encode_t5(pipe.tokenizer_2, pipe.text_encoder_2, "a (red:1.5) fox", 8)
    others = [0, 2, 3, 4, 5, 6, 7]
    assert torch.equal(heavy[:, others], plain[:, others])
    assert torch.allclose(heavy[:, 1], empty[:, 1] + 1.5 * (plain[:, 1] - empty[:, 1]), atol=1e-6)


def test_break_begins_a_chunk_that_is_encoded_alone():
    embeds, _ = encode_clip(*clip_parts(), "a red fox BREAK blue sky", 2, read)
    for place, text in enumerate(("a red fox", "blue sky")):
        alone, _ = encode_clip(*clip_parts(), text, 1, read)
        assert torch.allclose(embeds[:, place * CLIP_LENGTH : (place + 1) * CLIP_LENGTH], alone, atol=1e-6)
    assert [len(chunk) for chunk in clip_chunks(clip_parts()[0], "a red fox BREAK blue sky BREAK")] == [3, 2]


def test_break_keeps_the_weight_of_the_bracket_around_it():
    chunks = clip_chunks(clip_parts()[0], "(a BREAK red:1.5) fox")
    assert [[weight for _, weight in chunk] for chunk in chunks] == [[1.5], [1.5, 1.0]]


def test_t5_reads_break_as_a_space_and_quotes_keep_it():
    pipe = tiny_flux()
    parts = pipe.tokenizer_2, pipe.text_encoder_2
    assert torch.equal(encode_t5(*parts, "a red BREAK fox", 8), encode_t5(*parts, "a red fox", 8))
    assert len(clip_chunks(clip_parts()[0], 'a "BREAK" fox')) == 1


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


@pytest.mark.parametrize("key", ["sdxl", "sd3", "flux"])
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_a_weight_leaves_the_pooled_embedding_alone(key, weighting):
    """As A1111 and ComfyUI do: it is the output at the end mark, at which no weight is written."""
    one = family(key)
    plain, weighted = (
        one.encode_prompts(prompt, "", 1, (32, 32), weighting)["positive"].tensors
        for prompt in ("a red fox", "a (red:1.6) fox")
    )
    assert torch.equal(plain["pooled_prompt_embeds"], weighted["pooled_prompt_embeds"])
    assert not torch.equal(plain["prompt_embeds"], weighted["prompt_embeds"])
