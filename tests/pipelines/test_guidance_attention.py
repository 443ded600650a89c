"""Negative prompts within attention: exact where nothing is led, the formula by hand, and networks returned."""

from __future__ import annotations

import dataclasses

import pytest
import tiny_models
import torch
from network_state import assert_unchanged, broken_at, state_of

from pipelines.caches import CACHES
from pipelines.core.denoiser import Denoiser
from pipelines.core.errors import MethodFitError
from pipelines.core.loop import denoise, denoise_together
from pipelines.core.prediction import Query
from pipelines.core.types import Choice, Request, Traits
from pipelines.families import family_of
from pipelines.guidance import GUIDANCE
from pipelines.guidance.attention_pairs import AttentionPairs, bound_in_length, join_texts
from pipelines.requests.text_to_image import build_run, resolve


@pytest.fixture(scope="module", params=["sd", "sdxl", "sd3", "flux"])
def family(request):
    found = family_of(getattr(tiny_models, f"tiny_{request.param}")().components)
    if request.param in ("sd3", "flux"):
        found.max_sequence_length = 8
    return found


def draw(family, key: str, **changes):
    settings = changes.pop("settings", {})
    fields = {"prompt": "a red fox", "negative_prompt": "blurry", "num_inference_steps": 3, "seed": 3}
    request = Request(**{**fields, "width": 32, "height": 32, "guidance": Choice(key, settings), **changes})
    return list(denoise(build_run(resolve(request, family), family)))[-1]


def query_of(family):
    latents = torch.randn(2, *family.latent_shape(32, 32), generator=torch.Generator().manual_seed(0))
    level = family.noise_schedule.at(0.6 if family.traits.flow else 600.0)
    return Query(latents, level), family.encode_prompts("a red fox", "blurry", 2, (32, 32))


def predict(family, query, conditioning):
    with torch.no_grad():
        return family.predict_raw(query.latents, query.timesteps, conditioning)


def test_attention_that_is_not_led_is_that_of_the_prompt_alone(family):
    query, texts = query_of(family)
    both = join_texts(texts["positive"], texts["negative"])
    with AttentionPairs(0.0, 0.0).applied(family):
        silent = predict(family, query, both)
    plain = predict(family, query, texts["positive"])
    assert torch.allclose(silent, plain, atol=1e-5)
    with AttentionPairs(3.0, 3.0).applied(family):
        same = predict(family, query, join_texts(texts["positive"], texts["positive"]))
        led = predict(family, query, both)
    assert torch.allclose(same, plain, atol=1e-4)  # Z+ + 3 (Z+ - Z+), rounded
    assert not torch.allclose(led, plain, atol=1e-3)


def test_a_layer_computes_the_formula_of_both_attentions(family):
    pairs = AttentionPairs(2.0, 2.0, longest=1.2, blend=0.5)
    first, second = (torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(seed)).double() for seed in (1, 2))
    wanted = first + 2 * (first - second)
    ratio = wanted.abs().sum(-1, keepdim=True) / first.abs().sum(-1, keepdim=True)
    assert (ratio > 1.2).any()
    wanted = 0.5 * wanted * (1.2 / ratio).clamp(max=1) + 0.5 * first
    assert torch.allclose(pairs.combine(first, second), wanted, atol=1e-12)
    bounded = bound_in_length(second * 9, first, 1.5).abs().sum(-1) / first.abs().sum(-1)
    assert bounded.max() <= 1.5 + 1e-12
    if family.traits.backbone == "unet":
        layer = next(part for name, part in family.network.named_modules() if name.endswith("attn2"))
        width, text = layer.to_q.in_features, layer.to_k.in_features
        drawn = torch.Generator().manual_seed(4)
        hidden, both = torch.randn(1, 4, width, generator=drawn), torch.randn(1, 6, text, generator=drawn)
        weight, bias = layer.to_out[0].weight, layer.to_out[0].bias
        outputs = [layer(hidden, encoder_hidden_states=one) for one in both.split(3, dim=1)]
        before = [torch.linalg.solve(weight.double(), (one - bias).double().mT).mT for one in outputs]
        by_hand = torch.nn.functional.linear(pairs.combine(*before), weight.double(), bias.double())
        with AttentionPairs(2.0, 2.0, 1.2, 0.5).applied(family):
            assert torch.allclose(layer(hidden, encoder_hidden_states=both).double(), by_hand, atol=1e-4)


@pytest.mark.parametrize("key", ["nag", "nasa"])
def test_a_led_run_takes_one_evaluation_a_step_and_reads_the_negative_prompt(family, key):
    step = draw(family, key)
    assert step.evaluations == 3
    assert not torch.allclose(step.latents, draw(family, key, negative_prompt="the green sea").latents, atol=1e-4)
    plain = draw(family, "cfg", settings={"guidance_scale": 1.0})
    assert not torch.allclose(step.latents, plain.latents, atol=1e-4)
    neutral = {"negative_scale": 1.0 if key == "nag" else 0.0}
    assert torch.equal(draw(family, key, settings=neutral).latents, plain.latents)
    if family.traits.guidance == "cfg":
        guided = draw(family, key, settings={"guidance_scale": 3.0})
        assert guided.evaluations == 6 and not torch.allclose(guided.latents, step.latents, atol=1e-3)


def test_the_network_is_as_it_was_after_finish_cancel_and_error(family):
    before = state_of(family.network)
    request = Request(prompt="a", num_inference_steps=3, width=32, height=32, guidance=Choice("nag"))
    for _ in denoise(build_run(resolve(request, family), family)):
        break
    assert_unchanged(family.network, before)
    with broken_at(family.network, 2), pytest.raises(RuntimeError, match="broken"):
        draw(family, "nag")
    assert_unchanged(family.network, before)


def test_led_runs_share_a_batch_with_others_and_compose(family):
    requests = [
        Request(prompt="a red fox", num_inference_steps=3, width=32, height=32, seed=seed, guidance=Choice(key))
        for seed, key in ((1, "nag"), (2, "cfg"), (3, "nag"))
    ]
    last = {}
    for index, step in denoise_together([build_run(resolve(one, family), family) for one in requests]):
        last[index] = step
    for index, one in enumerate(requests):
        alone = list(denoise(build_run(resolve(one, family), family)))[-1]
        assert torch.allclose(last[index].latents, alone.latents, atol=1e-4)
        assert last[index].evaluations == alone.evaluations
    composed = draw(family, "nag", prompt="a red fox AND a blue moon", negative_prompt="")
    assert composed.latents.isfinite().all()


@pytest.mark.parametrize("cache", ["deepcache", "first_block"])
def test_a_cache_saves_evaluations_of_a_led_run(family, cache):
    if CACHES[cache].fit(family.traits):
        pytest.skip("it does not fit this model")
    settings = {"interval": 2} if cache == "deepcache" else {"threshold": 1.0, "warmup": 1}
    step = draw(family, "nag", cache=Choice(cache, settings), num_inference_steps=4)
    assert step.evaluations < 4 and step.latents.isfinite().all()


def test_a_query_for_single_branches_is_not_changed(family):
    query, texts = query_of(family)
    denoiser = Denoiser(family, GUIDANCE["nag"].build(), texts)
    with torch.no_grad():
        asked = denoiser.answer(dataclasses.replace(query, branches=("positive",)))
    assert torch.equal(asked.raw, predict(family, query, texts["positive"]))


def test_a_network_without_attention_to_a_prompt_is_refused():
    bare = torch.nn.Module()
    bare.network = torch.nn.Linear(2, 2)
    with pytest.raises(MethodFitError, match="no attention to the prompt"), AttentionPairs(1, 1).applied(bare):
        pass
    assert "frames" in GUIDANCE["nag"].fit(Traits("animatediff", "epsilon", "unet", "cfg"))
