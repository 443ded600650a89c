"""How other programs read a prompt, each rule by its formula."""

from __future__ import annotations

import pytest
import torch
from prompt_samples import sample_prompts
from tiny_models import clip_tokenizer, tiny_sd, tiny_sdxl
from transformers import CLIPTokenizer

from pipelines.compatibility import COMPATIBILITIES
from pipelines.core.errors import PromptError, SettingsError
from pipelines.core.types import Choice, Request
from pipelines.families import family_of
from pipelines.families.prompt_tokens import chunk_tokens, clip_chunks
from pipelines.learning.request import require_learnable
from pipelines.models.shipped_configurations import CONFIGURATIONS, load_light_part
from pipelines.prompts.rules import PromptRules, parse_comfyui
from pipelines.requests.encoding import encode_request
from pipelines.requests.prompts import check_prompts, read_prompts
from pipelines.workflows.video import walk

SIZE = (32, 32)


def rules_of(key, **settings):
    return COMPATIBILITIES.build(Choice(key, settings)).prompt_rules()


COMFYUI, A1111 = rules_of("comfyui"), rules_of("a1111_cpu")


@pytest.fixture(scope="module")
def family():
    family = family_of(tiny_sd().components)
    encoder = family.components["text_encoder"]
    # Without a bias the mean of each token is zero up to rounding, and there is none to restore.
    getattr(encoder, "text_model", encoder).final_layer_norm.bias.data += torch.linspace(0.1, 0.7, 16)
    return family


def encode(family, text, rules, weighting="interpolate"):
    return family.encode_texts({"positive": text}, 1, SIZE, weighting, rules)["positive"].tensors["prompt_embeds"]


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("a (red:1.3) fox", [("a ", 1.0), ("red", 1.3), (" fox", 1.0)]),
        ("(a (red:1.2) fox:1.5)", [("a ", 1.5), ("red", 1.2), (" fox", 1.5)]),  # the inner one in the outer's place
        ("((red))", [("red", 1.1 * 1.1)]),
        ("[a|b] [red] \\[x\\]", [("[a|b] [red] \\[x\\]", 1.0)]),
        (r"\(red\)", [("(red)", 1.0)]),
        ("(red:high)", [("red:high", 1.1)]),
        ("", [("", 1.0)]),
    ],
)
def test_comfyui_reads_round_brackets_alone(text, pairs):
    assert parse_comfyui(text) == pairs
    with pytest.raises(PromptError, match="Keep it between"):
        parse_comfyui("(red:21)")
    with pytest.raises(PromptError, match="nest"):
        parse_comfyui("(" * 60 + ")" * 60)


def test_and_break_and_switches_are_words_in_comfyui():
    prompts = read_prompts("a [fox:owl:0.5] AND a cat", "[x|y]", 4, COMFYUI)
    assert prompts.texts == {"positive": "a [fox:owl:0.5] AND a cat", "negative": "[x|y]"}
    assert not prompts.plan.steps
    assert len(clip_chunks(clip_tokenizer(), "a BREAK b", COMFYUI)) == 1
    here = Request(prompt="a [fox:owl:0.5.5] b", made_like=Choice("here"))
    with pytest.raises(PromptError):
        check_prompts(here, None)
    check_prompts(here.replace(made_like=Choice("comfyui")), None)


def test_comfyui_moves_each_token_from_the_empty_prompts_embedding(family):
    plain, empty = encode(family, "a red fox", COMFYUI), encode(family, "", COMFYUI)
    weighted = encode(family, "a (red:1.4) fox", COMFYUI, weighting="mean")  # the request's own rule does not count
    expected = plain.clone()
    expected[:, 2] = empty[:, 2] + 1.4 * (plain[:, 2] - empty[:, 2])
    torch.testing.assert_close(weighted, expected)


@pytest.mark.parametrize("emphasis", ["Original", "No norm", "Ignore", "None"])
def test_the_web_ui_multiplies_and_restores_the_mean_where_it_is_told(family, emphasis):
    rules = rules_of("a1111_gpu", emphasis=emphasis)
    plain = encode(family, "a red fox", A1111)
    weighted = encode(family, "a (red:1.4) fox", rules)
    expected = plain.clone()
    if emphasis in ("Original", "No norm"):
        expected[:, 2] *= 1.4
    if emphasis == "Original":
        expected *= plain.mean() / expected.mean()
    if emphasis == "None":
        assert len(clip_chunks(clip_tokenizer(), "a (red:1.4) fox", rules)[0]) > 3  # brackets are words
    else:
        torch.testing.assert_close(weighted, expected)


def test_a_clip_skip_reads_an_earlier_layer_under_the_final_norm(family):
    encoder, tokenizer = family.components["text_encoder"], family.components["tokenizer"]
    ids = tokenizer("a red fox", padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        output = encoder(ids, output_hidden_states=True)
        norm = getattr(encoder, "text_model", encoder).final_layer_norm
        last_but_one = norm(output.hidden_states[-2])
    for rules in (
        rules_of("comfyui", clip_skip=2),
        rules_of("a1111_cpu", clip_skip=2),
        rules_of("invokeai", skipped_layers=1),
        rules_of("here", clip_skip=2),
    ):
        torch.testing.assert_close(encode(family, "a red fox", rules), last_but_one)
    for rules in (COMFYUI, rules_of("comfyui", clip_skip=1), rules_of("a1111_cpu", clip_skip=1), rules_of("here")):
        assert torch.equal(encode(family, "a red fox", rules), output[0])
    with pytest.raises(SettingsError, match="clip skip"):
        encode(family, "a red fox", rules_of("comfyui", clip_skip=9))


def test_a_clip_skip_moves_both_encoders_of_sdxl_in_comfyui_and_none_in_the_web_ui():
    family = family_of(tiny_sdxl().components)
    own = encode(family, "a red fox", COMFYUI)
    assert torch.equal(own, encode(family, "a red fox", rules_of("a1111_cpu", clip_skip=1)))
    assert torch.equal(own, encode(family, "a red fox", rules_of("comfyui", clip_skip=2)))
    last = encode(family, "a red fox", rules_of("comfyui", clip_skip=1))
    assert last.shape == own.shape
    assert not torch.allclose(last[..., :16], own[..., :16]) and not torch.allclose(last[..., 16:], own[..., 16:])
    negatives = [family.encode_texts({"negative": ""}, 1, SIZE, rules=rules)["negative"] for rules in (A1111, COMFYUI)]
    zeros, encoded = (one.tensors["prompt_embeds"].abs().sum() for one in negatives)
    assert zeros == 0 and encoded > 0


def test_the_fewer_chunks_of_a_short_prompt_are_repeated(family):
    long = " ".join(["fox"] * 40)  # three chunks of 18
    request = Request(prompt=long, negative_prompt="blurry", width=32, height=32, made_like=Choice("comfyui"))
    conditionings, _ = encode_request(request, family, 1)
    positive, negative = (conditionings[name].tensors["prompt_embeds"] for name in ("positive", "negative"))
    assert positive.shape == negative.shape == (1, 60, 16)
    assert torch.equal(negative, encode(family, "blurry", COMFYUI).repeat(1, 3, 1))
    here, _ = encode_request(request.replace(made_like=Choice("here")), family, 1)
    assert not torch.equal(here["negative"].tensors["prompt_embeds"], negative)


def test_a_full_chunk_of_the_web_ui_ends_at_its_last_comma():
    tokenizer = load_light_part(CLIPTokenizer, CONFIGURATIONS / "sd1" / "tokenizer")
    near, far = " ".join(["fox"] * 60) + ", " + "owl " * 30, " ".join(["fox"] * 40) + ", " + "owl " * 60
    sizes = {text: [len(chunk) for chunk in clip_chunks(tokenizer, text, A1111)] for text in (near, far)}
    assert sizes == {near: [61, 30], far: [75, 26]}
    assert [len(chunk) for chunk in clip_chunks(tokenizer, near)] == [75, 16]


def test_a_short_weighted_text_is_not_parted_by_comfyui():
    tokenizer = load_light_part(CLIPTokenizer, CONFIGURATIONS / "sd1" / "tokenizer")
    text = "fox " * 72 + "(one two three four five:1.2) and " + "owl " * 8
    chunks = clip_chunks(tokenizer, text, COMFYUI)
    assert [len(chunk) for chunk in chunks] == [72, 14]
    rows = chunk_tokens(tokenizer, chunks, 2)
    assert rows[0][73][0] == tokenizer.eos_token_id
    assert [len(chunk) for chunk in clip_chunks(tokenizer, "fox " * 72 + "a " * 20, COMFYUI)] == [75, 17]


def test_no_rule_changes_what_a_plain_short_prompt_is(family):
    for text in ("a red fox", ""):
        expected = encode(family, text, PromptRules())
        assert all(torch.equal(encode(family, text, rules), expected) for rules in (COMFYUI, A1111))
    tokenizer = load_light_part(CLIPTokenizer, CONFIGURATIONS / "sd1" / "tokenizer")
    for prompt in sample_prompts(60):
        if not set("()[]\\,") & set(prompt) and "BREAK" not in prompt:
            assert clip_chunks(tokenizer, prompt, A1111) == clip_chunks(tokenizer, prompt)


def test_a_walks_keys_know_the_clip_skip_and_a_schedule_is_not_learned_with_it(family):
    key = Request(prompt="a red fox", width=32, height=32)
    skipping = key.replace(made_like=Choice("here", {"clip_skip": 2}))
    plain, skipped = (walk._encode([one], family)[0]["positive"].tensors for one in (key, skipping))
    name = next(iter(plain))
    assert not torch.equal(plain[name], skipped[name])
    require_learnable(key)
    with pytest.raises(SettingsError, match="clip skip"):
        require_learnable(skipping)
