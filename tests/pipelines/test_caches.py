"""Caches: neutral settings bit for bit, whole runs on tiny models, and networks returned as they were."""

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
from pipelines.core.types import Choice, Request, Traits
from pipelines.families import family_of
from pipelines.requests.text_to_image import build_run, resolve
from pipelines.samplers import SAMPLERS

NEUTRAL = {
    "none": {},
    "deepcache": {"interval": 1},
    "cachequant": {"fit": "typed", "starts": ""},
    "taylorseer": {"interval": 1},
    "encoder_propagation": {"spacing": "uniform", "interval": 1},
    "feature_inheritance": {"interval": 1},
    "first_block": {"threshold": 0.0},
    "teacache": {"threshold": 0.0},
    "magcache": {"threshold": 0.0},
    "temporal_delta": {"threshold": 0.0},
    "token_merging": {"ratio": 0.0},
    "pab": {"self_interval": 1, "cross_interval": 1},
}
"""Settings at which a cache leaves nothing out."""
FAST = {
    "none": {},
    "deepcache": {"interval": 3},
    "cachequant": {"fit": "typed", "starts": "0, 3"},
    "taylorseer": {"interval": 3, "warmup": 2},
    "encoder_propagation": {"spacing": "uniform", "interval": 3},
    "feature_inheritance": {"interval": 3},
    "first_block": {"threshold": 1.0, "warmup": 1},
    "teacache": {"threshold": 1.0, "warmup": 1},
    "magcache": {"threshold": 2.0, "retention": 0.0},
    "temporal_delta": {"threshold": 1.0, "warmup": 2},
    "token_merging": {"ratio": 0.75},
    "pab": {"self_interval": 2, "cross_interval": 3, "low": 0, "high": 1000},
}
"""Settings at which it leaves much out of a run of six steps on networks of two blocks."""
KEYS = [key for key in CACHES if key != "none"]


def open_family(name: str):
    found = family_of(getattr(tiny_models, f"tiny_{name}")().components)
    if name in ("sd3", "flux"):
        found.max_sequence_length = 8
    return found


@pytest.fixture(scope="module", params=["sd", "sdxl", "sd3", "flux"])
def any_family(request):
    return open_family(request.param)


@pytest.fixture(scope="module", params=["sd", "sd3"])
def family(request):
    return open_family(request.param)


def request_of(family, key: str, settings: dict | None = None, **changes) -> Request:
    fields = {"prompt": "a red fox", "num_inference_steps": 6, "width": 32, "height": 32, "seed": 3}
    return Request(**{**fields, "cache": Choice(key, settings or {}), **changes})


def run(family, request: Request):
    return list(denoise(build_run(resolve(request, family), family)))


def skip_unfit(family, key: str) -> None:
    if CACHES[key].fit(family.traits):
        pytest.skip("it does not fit this model")


@pytest.mark.parametrize("key", list(CACHES))
def test_a_run_at_the_neutral_settings_is_the_uncached_one_bit_for_bit(any_family, key):
    assert set(NEUTRAL) == set(FAST) == set(CACHES)
    if CACHES[key].fit(any_family.traits):
        with pytest.raises(MethodFitError):
            run(any_family, request_of(any_family, key))
        return
    plain, neutral = (
        run(any_family, request_of(any_family, "none"))[-1],
        run(any_family, request_of(any_family, key, NEUTRAL[key])),
    )
    assert torch.equal(neutral[-1].latents, plain.latents)
    assert neutral[-1].evaluations == plain.evaluations
    assert not any(step.skipped for step in neutral)


@pytest.mark.parametrize("key", KEYS)
def test_a_cached_run_counts_what_it_ran_and_comes_out_otherwise(any_family, key):
    skip_unfit(any_family, key)
    plain, cached = (
        run(any_family, request_of(any_family, "none"))[-1],
        run(any_family, request_of(any_family, key, FAST[key])),
    )
    assert not torch.equal(cached[-1].latents, plain.latents)
    assert cached[-1].latents.isfinite().all()
    assert 0 < cached[-1].evaluations < plain.evaluations
    assert cached[0].skipped == 0 < max(step.skipped for step in cached) < 1
    branches = 2 if any_family.traits.guidance == "cfg" else 1
    ran = sum(branches * (1 - step.skipped) for step in cached)
    assert cached[-1].evaluations == pytest.approx(ran)


@pytest.mark.parametrize("key", KEYS)
def test_a_picture_depends_neither_on_its_batch_nor_on_runs_beside_it(family, key):
    skip_unfit(family, key)
    alone = run(family, request_of(family, key, FAST[key], seed=5))[-1].latents
    batch = run(family, request_of(family, key, FAST[key], seed=3, batch_size=3))[-1].latents
    assert torch.allclose(batch[2:], alone, atol=1e-4)
    others = [
        request_of(family, key, FAST[key], seed=5),
        request_of(family, "none", seed=9, num_inference_steps=4),
        request_of(family, key, FAST[key], seed=8, num_inference_steps=7),
        request_of(family, key, NEUTRAL[key], seed=5),
    ]
    runs = [build_run(resolve(request, family), family) for request in others]
    last = {}
    for index, step in denoise_together(runs):
        last[index] = step
    assert torch.allclose(last[0].latents, alone, atol=1e-4)
    assert torch.allclose(last[1].latents, run(family, others[1])[-1].latents, atol=1e-4)
    assert last[1].evaluations == run(family, others[1])[-1].evaluations


@pytest.mark.parametrize("key", KEYS)
def test_the_network_is_as_it_was_after_finish_cancel_and_error(family, key):
    skip_unfit(family, key)
    before = state_of(family.network)
    request = request_of(family, key, FAST[key])
    first = run(family, request)[-1].latents
    assert_unchanged(family.network, before)
    for step in denoise(build_run(resolve(request, family), family)):
        if step.index == 2:
            break
    assert_unchanged(family.network, before)
    for call in (1, 2):  # a whole evaluation, one in part
        with broken_at(family.network, call), pytest.raises(RuntimeError, match="broken"):
            run(family, request)
    assert_unchanged(family.network, before)
    assert torch.equal(run(family, request)[-1].latents, first)


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_every_sampler_runs_with_a_cache(family, sampler):
    if SAMPLERS[sampler].fit(family.traits):
        pytest.skip("the sampler does not fit this model")
    key = "feature_inheritance" if family.traits.backbone == "unet" else "first_block"
    request = request_of(family, "none", sampler=Choice(sampler))
    plain = run(family, request)[-1]
    for cached in ("taylorseer", key):
        step = run(family, request.replace(cache=Choice(cached, FAST[cached])))[-1]
        assert step.latents.isfinite().all()
        assert step.evaluations < plain.evaluations
        neutral = run(family, request.replace(cache=Choice(cached, NEUTRAL[cached])))[-1]
        assert torch.equal(neutral.latents, plain.latents)


@pytest.mark.parametrize("key", KEYS)
def test_a_cache_rests_where_gradients_are_wanted(family, key):
    skip_unfit(family, key)
    denoiser = build_run(resolve(request_of(family, key, FAST[key]), family), family).denoiser
    plain = build_run(resolve(request_of(family, "none"), family), family).denoiser
    latents = torch.randn(1, *family.latent_shape(32, 32), generator=torch.Generator().manual_seed(0))
    level = family.noise_schedule.at(600.0 if not family.traits.flow else 0.6)
    with torch.no_grad():
        denoiser.predict(latents, level)
        denoiser.predict(latents, level)
    latents.requires_grad_(True)
    with torch.enable_grad():
        ours, theirs = (one.predict(latents, level).raw for one in (denoiser, plain))
        assert torch.equal(ours, theirs) and ours.requires_grad


@pytest.mark.parametrize("key", KEYS)
def test_a_compiled_network_and_one_without_layers_are_refused(family, key):
    skip_unfit(family, key)
    cache = CACHES.build(Choice(key, FAST[key]))
    with pytest.raises(MethodFitError, match="no network of its own"):
        cache.require_fit(object())
    family.network._compiled_call_impl = family.network._call_impl
    try:
        with pytest.raises(MethodFitError, match="compiled"):
            resolve(request_of(family, key, FAST[key]), family)
    finally:
        family.network._compiled_call_impl = None


@pytest.mark.parametrize("key", KEYS)
def test_models_that_a_cache_does_not_know_are_refused_with_the_reason(key):
    assert "pipeline" in CACHES[key].fit(Traits("stock", "epsilon", "pipeline", "cfg"))
    assert "frames" in CACHES[key].fit(Traits("animatediff", "epsilon", "unet", "cfg"))


@pytest.mark.parametrize("key", KEYS)
def test_settings_make_equal_caches_equal(key):
    first, second = (CACHES.build(Choice(key, FAST[key])) for _ in range(2))
    assert first == second and hash(first) == hash(second)
    assert first != CACHES.build(Choice(key, NEUTRAL[key]))
    assert dataclasses.is_dataclass(first)


def test_a_run_without_a_cache_remembers_nothing(family):
    denoiser = build_run(resolve(request_of(family, "none"), family), family).denoiser
    assert isinstance(denoiser, Denoiser) and denoiser.cache is None
