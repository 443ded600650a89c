"""Guidance with further texts and a judge: two prompts blended, what the judge misses, and what is rarely drawn."""

from __future__ import annotations

import math
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from pipelines.core.errors import SettingsError
from pipelines.core.loop import denoise
from pipelines.core.prediction import Conditioning, Prediction, Query
from pipelines.core.schedule import Level
from pipelines.core.types import Choice, Request
from pipelines.families import family_of
from pipelines.guidance import GUIDANCE
from pipelines.guidance.blended import BLENDS, call_price, mix_conditionings, volatility
from pipelines.guidance.minority import unit_direction
from pipelines.requests.prompts import check_prompts
from pipelines.requests.text_to_image import build_run, resolve
from tests.pipelines import tiny_models

LEVELS = tuple(Level(math.cos(angle), math.sin(angle), 1000 * angle) for angle in (1.5, 1.2, 0.8, 0.4, 0.0))


@pytest.fixture(scope="module")
def family():
    return family_of(tiny_models.tiny_sd().components)


def draw(family, prompt="a fox", **guidance):
    choice = Choice(guidance.pop("key", "cfg"), {"guidance_scale": 3.0, **guidance})
    request = Request(prompt=prompt, num_inference_steps=4, width=32, height=32, seed=3, guidance=choice)
    *_, step = denoise(build_run(resolve(request, family), family))
    return step


@pytest.mark.parametrize("rule", BLENDS)
def test_equal_prompts_give_the_baseline_bit_for_bit(family, rule):
    blended = draw(family, key="blended", second="a fox", rule=rule)
    assert torch.equal(blended.latents, draw(family).latents) and blended.evaluations == 8


def test_the_ends_of_a_blend_are_the_prompts_and_alternating_is_the_prompts_own_syntax(family):
    second = draw(family, prompt="a cat face").latents
    for rule in ("linear", "switching"):
        for share, latents in ((1.0, draw(family).latents), (0.0, second)):
            share = 1 - share if rule == "linear" else share
            assert torch.equal(
                draw(family, key="blended", second="a cat face", rule=rule, share=share).latents, latents
            )
    syntax = draw(family, prompt="[a fox|a cat face]").latents
    assert torch.equal(draw(family, key="blended", second="a cat face", rule="alternating").latents, syntax)


def test_a_conditioning_in_the_middle_is_the_mean_and_rows_have_their_own_share():
    first, second = (Conditioning({"prompt_embeds": torch.randn(3, 5, 4)}) for _ in range(2))
    mixed = mix_conditionings(first, second, [0.0, 0.5, 1.0]).tensors["prompt_embeds"]
    ends = first.tensors["prompt_embeds"], second.tensors["prompt_embeds"]
    assert torch.equal(mixed[0], ends[0][0]) and torch.equal(mixed[2], ends[1][2])
    assert torch.allclose(mixed[1], (ends[0][1] + ends[1][1]) / 2)


def test_an_options_price_is_the_discounted_expectation_of_what_it_pays():
    spot, strike, rate, spread, time = 80.0, 100.0, 0.04, 0.3, 2.0
    normal = torch.linspace(-9, 9, 200_001, dtype=torch.float64)
    final = spot * torch.exp((rate - spread**2 / 2) * time + spread * math.sqrt(time) * normal)
    density = torch.exp(-(normal**2) / 2) / math.sqrt(2 * math.pi)
    mean = torch.trapezoid((final - strike).clamp(min=0) * density, normal).item()
    assert call_price(spot, strike, rate, spread, time) == pytest.approx(math.exp(-rate * time) * mean, rel=1e-7)
    prices = [call_price(one, strike, rate, spread, time) for one in (1e-4, 20, 60, 100, 140)]
    assert prices == sorted(prices)


def test_the_volatility_is_that_of_ddpm():
    for level, after in pairwise(LEVELS[:-1]):
        beta = 1 - (level.alpha / after.alpha) ** 2
        assert volatility(level, after) == pytest.approx(math.sqrt(after.sigma**2 / level.sigma**2 * beta))
    assert volatility(*LEVELS[-2:]) == 0


def test_each_sample_follows_the_prompt_of_which_less_is_seen():
    seen = {"a": torch.tensor([0.9, 0.1]), "b": torch.tensor([0.2, 0.7])}
    judge = SimpleNamespace(adherence=lambda _, prompt: seen[prompt])
    guidance = (
        GUIDANCE["blended"].build({"second": "b", "rule": "black-scholes"}).with_levels(LEVELS).with_judge(judge, "a")
    )
    query = Query(torch.randn(2, 4, 4, 4), LEVELS[0])
    prediction = Prediction(torch.zeros_like(query.latents), query.latents, query.level, "epsilon")
    texts = {
        name: Conditioning({"prompt_embeds": torch.full((2, 1), value)})
        for name, value in (("positive", 0.0), ("second", 1.0))
    }
    followed = []
    for _ in range(2):
        asking = guidance.ask(query)
        followed.append(next(asking).conditioning("positive", texts).tensors["prompt_embeds"].flatten().tolist())
        with pytest.raises(StopIteration):
            asking.send(prediction)
    assert followed == [[0.0, 0.0], [1.0, 0.0]]  # at first nothing has been seen


def test_what_is_missing_is_added_by_its_share_and_what_is_seen_costs_nothing():
    judge = SimpleNamespace(presence=lambda *_: torch.tensor([[0.25, 0.9], [0.6, 0.7]], dtype=torch.float64))
    settings = {"strength": 2.0, "first": 0.0, "every": 1}
    guidance = GUIDANCE["judged"].build(settings).with_levels(LEVELS).with_judge(judge, "a left of b")
    latents, low, high, alone = torch.randn(4, 2, 4, 4, 4, dtype=torch.float64).unbind(0)
    query = Query(latents, LEVELS[0])
    made = {
        name: Prediction(raw, latents, query.level, "epsilon") for name, raw in (("negative", low), ("positive", high))
    }
    asking = guidance.ask(query)
    assert next(asking) is query
    whole = Prediction(guidance.combine(made).raw, latents, query.level, "epsilon", made)
    assert asking.send(whole).branches == ("object 0",)  # the second object is seen in both pictures
    with pytest.raises(StopIteration) as end:
        asking.send(Prediction(alone, latents, query.level, "epsilon"))
    added = end.value.value.raw - whole.raw
    assert torch.allclose(added[0], 2 * 0.75 * (alone - low)[0], atol=1e-12) and not added[1].any()


def test_a_prompt_that_the_judge_cannot_read_is_refused_before_anything_is_loaded():
    for key, settings in (("judged", {}), ("blended", {"second": "hope", "rule": "black-scholes"})):
        with pytest.raises(SettingsError, match="led by the shipped detector"):
            check_prompts(Request(prompt="hope and despair", guidance=Choice(key, settings)), None)
    second = Choice("blended", {"second": "an owl <lora:ink:1>"})
    with pytest.raises(SettingsError, match="second prompt asks for the LoRA 'ink'"):
        check_prompts(Request(prompt="a fox", guidance=second), None)


def test_a_rare_pictures_direction_is_the_gradient_of_its_distance_from_what_noise_makes_of_it():
    """A linear network, whose gradient is a formula: x0_hat = M x."""
    generator = torch.Generator().manual_seed(4)
    matrix = torch.randn(16, 16, generator=generator, dtype=torch.float64)
    latents = torch.randn(2, 1, 4, 4, generator=generator, dtype=torch.float64)

    def answer(query):
        raw = (query.latents.flatten(1) @ matrix.T).view_as(query.latents)
        return Prediction(raw, query.latents, query.level, "sample")

    guidance = GUIDANCE["minority"].build({"strength": 0.4, "every": 2}).with_levels(LEVELS)
    moving = guidance.shift(latents, LEVELS[1], 0, 8)
    with torch.enable_grad():
        first = answer(next(moving))
    second = moving.send(first)
    assert second.level == LEVELS[1] and first.latents.requires_grad and not second.latents.requires_grad
    with pytest.raises(StopIteration) as end:
        moving.send(answer(second))
    difference = (first.denoised - answer(second).denoised).detach().flatten(1)
    wanted = unit_direction((2 * difference @ matrix).view_as(latents))
    assert torch.allclose(end.value.value, latents + 0.4 * LEVELS[1].sigma * 2 / 8 * wanted, atol=1e-10)
    assert torch.allclose(wanted.flatten(1).square().mean(1), torch.ones(2, dtype=torch.float64))
    assert not unit_direction(torch.zeros(1, 3)).any()
