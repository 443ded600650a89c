"""Guidance that asks the network more than its branches: self-attention guidance as the stock pipeline has it."""

from __future__ import annotations

import pytest
import tiny_models
import torch
from diffusers import DDIMScheduler, StableDiffusionSAGPipeline
from diffusers.pipelines.deprecated.stable_diffusion_sag.pipeline_stable_diffusion_sag import gaussian_blur_2d
from network_state import assert_unchanged, broken_at, state_of

from pipelines.core.loop import denoise, denoise_together
from pipelines.core.types import Choice, Request
from pipelines.families import family_of
from pipelines.guidance.self_attention import blur_where_seen
from pipelines.requests.text_to_image import build_run, resolve
from pipelines.samplers import SAMPLERS
from pipelines.workflows.compare.request import evaluations


@pytest.fixture(scope="module")
def unet_pipe():
    return tiny_models.tiny_sd()


@pytest.fixture(scope="module")
def family(unet_pipe):
    return family_of(unet_pipe.components)


def request_of(key: str, settings: dict | None = None, **changes) -> Request:
    fields = {"prompt": "a red fox", "num_inference_steps": 4, "width": 32, "height": 32, "seed": 3}
    return Request(**{**fields, "guidance": Choice(key, settings or {}), **changes})


def run(family, request: Request):
    return list(denoise(build_run(resolve(request, family), family)))


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_self_attention_guidance_equals_the_stock_pipeline(unet_pipe, family, scale):
    names = ("vae", "text_encoder", "tokenizer", "unet")
    stock = StableDiffusionSAGPipeline(
        **{name: unet_pipe.components[name] for name in names},
        scheduler=DDIMScheduler.from_config(
            unet_pipe.scheduler.config, timestep_spacing="trailing", set_alpha_to_one=True
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    stock.set_progress_bar_config(disable=True)
    processors = dict(unet_pipe.unet.attn_processors)
    theirs = stock(
        "a red fox",
        height=32,
        width=32,
        num_inference_steps=4,
        guidance_scale=scale,
        sag_scale=2.0,
        generator=torch.Generator().manual_seed(3),
        output_type="latent",
    ).images
    unet_pipe.unet.set_attn_processor(processors)
    settings = {"guidance_scale": scale, "blur_scale": 2.0}
    step = run(family, request_of("sag", settings, sampler=Choice("ddim", {"eta": 0.0})))[-1]
    assert step.evaluations == (12 if scale > 1 else 8)
    assert torch.allclose(step.latents, theirs, atol=2e-4 * float(theirs.abs().max()))
    plain = run(family, request_of("cfg", {"guidance_scale": scale}, sampler=Choice("ddim", {"eta": 0.0})))[-1]
    assert not torch.allclose(step.latents, plain.latents, atol=1e-2)


def test_an_estimate_is_blurred_where_attention_falls_and_nowhere_else():
    clean = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    seen = torch.zeros(2, 1, 4, 4, dtype=torch.float64)
    seen[0, 0, :2] = 2.0
    result = blur_where_seen(clean, seen)
    assert torch.equal(result[1], clean[1]) and torch.equal(result[0, :, 4:], clean[0, :, 4:])
    assert torch.allclose(result[0, :, :4], gaussian_blur_2d(clean, 9, 1.0)[0, :, :4], atol=1e-6)


def test_the_network_is_as_it_was_after_finish_cancel_and_error(family):
    before = state_of(family.network)
    first = run(family, request_of("sag"))[-1].latents
    assert_unchanged(family.network, before)
    for _ in denoise(build_run(resolve(request_of("sag"), family), family)):
        break
    assert_unchanged(family.network, before)
    for call in (1, 2):  # the watched evaluation, the degraded one
        with broken_at(family.network, call), pytest.raises(RuntimeError, match="broken"):
            run(family, request_of("sag"))
        assert_unchanged(family.network, before)
    assert torch.equal(run(family, request_of("sag"))[-1].latents, first)


def test_runs_that_ask_more_advance_with_runs_that_do_not(family):
    requests = [request_of("sag", seed=1), request_of("cfg", seed=2, num_inference_steps=5), request_of("sag", seed=3)]
    last = {}
    for index, step in denoise_together([build_run(resolve(one, family), family) for one in requests]):
        last[index] = step
    for index, one in enumerate(requests):
        alone = run(family, one)[-1]
        assert torch.allclose(last[index].latents, alone.latents, atol=1e-4)
        assert last[index].evaluations == alone.evaluations == evaluations(one, family.traits)


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_every_sampler_runs_with_it(family, sampler):
    if SAMPLERS[sampler].fit(family.traits):
        pytest.skip("the sampler does not fit this model")
    request = request_of("sag", {"guidance_scale": 3.0}, sampler=Choice(sampler))
    step, plain = run(family, request)[-1], run(family, request.replace(guidance=Choice("cfg")))[-1]
    assert step.latents.isfinite().all()
    assert step.evaluations == 1.5 * plain.evaluations


def test_a_cache_remembers_what_is_degraded_apart(family):
    cached = run(family, request_of("sag", cache=Choice("deepcache", {"interval": 2})))
    assert cached[-1].evaluations < 12 and cached[-1].latents.isfinite().all()
    neutral = run(family, request_of("sag", cache=Choice("deepcache", {"interval": 1})))[-1]
    assert torch.equal(neutral.latents, run(family, request_of("sag"))[-1].latents)
