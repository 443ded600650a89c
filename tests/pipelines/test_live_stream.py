"""Live mode: the stream batch against one picture at a time in float64, the similarity filter, and what is refused."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools

import numpy as np
import pytest
import tiny_models
import torch
from network_state import assert_unchanged, state_of

from pipelines.core.cancelling import Cancelled
from pipelines.core.errors import SettingsError
from pipelines.core.loop import denoise
from pipelines.core.stream_batch import StreamBatch
from pipelines.core.types import Choice, Request
from pipelines.families import family_of
from pipelines.requests.text_to_image import resolve
from pipelines.workflows.live import autoencoder
from pipelines.workflows.live.request import LiveRequest, LiveSettings
from pipelines.workflows.live.similarity import SimilarityFilter, cosine, skip_probability
from pipelines.workflows.live.stream import LiveStream, fit_picture, levels_from

PICTURES = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def family():
    return family_of(tiny_models.tiny_sd().to(torch.float64).components)


def live(sampler: str = "ddim", guidance: Choice = Choice("cfg", {"guidance_scale": 1.0}), **settings) -> LiveRequest:
    base = Request(
        prompt="a red fox",
        num_inference_steps=4,
        width=32,
        height=32,
        seed=3,
        sampler=Choice(sampler),
        guidance=guidance,
    )
    return LiveRequest(base, LiveSettings(**settings))


def stream_of(family, request: LiveRequest, **more) -> LiveStream:
    return LiveStream(family, request, resolve(request.base, family), **more)


def in_float64(run):
    return dataclasses.replace(run, latents=run.latents.double())


@pytest.mark.parametrize(
    ("sampler", "guidance"), [("ddim", "none"), ("ddim", "cfg"), ("lcm", "none"), ("heun", "residual")]
)
def test_a_stream_batch_equals_one_picture_at_a_time_in_float64(family, sampler, guidance):
    scale = {"none": Choice("cfg", {"guidance_scale": 1.0})}.get(guidance, Choice(guidance, {"guidance_scale": 1.5}))
    stream = stream_of(family, live(sampler, scale, strength=0.8))
    runs = [in_float64(stream.build_run(picture)) for picture in (PICTURES[0], PICTURES[0], *PICTURES[1:4])]
    alone = [list(denoise(in_float64(stream.build_run(picture))))[-1] for picture in PICTURES[:4]]
    alone = [alone[0], *alone]  # the input stood still for a picture
    batch, ended = StreamBatch(), {}
    for number in range(12):
        if number < len(runs):
            batch.begin(number, runs[number])
        ended |= dict(batch.tick())
    assert list(ended) == list(range(len(runs)))
    assert not len(batch)
    for number, step in ended.items():
        assert step.latents.dtype == torch.float64
        # The convolutions of a batch and of a single row sum in another order.
        assert torch.allclose(
            step.latents, alone[number].latents, rtol=1e-9, atol=1e-9 * alone[number].latents.abs().max()
        )
        assert step.evaluations == alone[number].evaluations


def test_a_full_stream_batch_finishes_a_picture_a_tick_and_never_holds_more_than_the_steps(family):
    stream = stream_of(family, live(strength=1.0))
    shown = []
    for picture in PICTURES:
        stream.begin(picture)
        shown.append(stream.tick())
        assert stream.in_flight <= 3  # the fourth has just ended
    assert [one is not None for one in shown] == [False] * 3 + [True] * 3
    assert all(stream.tick() is not None for _ in range(3))
    assert stream.tick() is None


def test_a_still_input_gives_the_same_picture_as_image_to_image_alone(family):
    stream = stream_of(family, live())
    for _ in range(5):
        stream.begin(PICTURES[0])
        picture = stream.tick()
    assert np.array_equal(picture, stream.draw(PICTURES[0]))  # uint8: float32 noise of 1e-6 rounds away


def test_new_settings_count_for_the_next_picture_and_an_older_one_is_never_shown_after_it(family):
    request = live(strength=1.0)
    stream = stream_of(family, request)
    stream.begin(PICTURES[0])
    stream.tick()
    other = LiveRequest(request.base.replace(prompt="a dark moon", seed=9), LiveSettings(strength=0.2))
    stream.change(other)
    stream.begin(PICTURES[0])
    shown = stream.tick()
    assert np.array_equal(shown, stream_of(family, other).draw(PICTURES[0]))
    assert not np.array_equal(shown, stream_of(family, request).draw(PICTURES[0]))
    assert [stream.tick() for _ in range(4)] == [None] * 4
    assert stream.in_flight == 0


def test_residual_guidance_at_scale_one_is_no_guidance_bit_for_bit_and_at_others_spares_the_negative_prompt(family):
    plain = stream_of(family, live())
    neutral = stream_of(family, live(guidance=Choice("residual", {"guidance_scale": 1.0})))
    guided = stream_of(family, live(guidance=Choice("residual", {"guidance_scale": 2.0})))
    twice = stream_of(family, live(guidance=Choice("cfg", {"guidance_scale": 2.0})))
    steps = [list(denoise(one.build_run(PICTURES[0])))[-1] for one in (plain, neutral, guided, twice)]
    assert torch.equal(steps[0].latents, steps[1].latents)
    assert not torch.allclose(steps[0].latents, steps[2].latents, atol=1e-3)
    assert [step.evaluations for step in steps] == [3, 3, 3, 6]


def test_a_stop_ends_a_tick_and_the_network_is_as_it_was(family):
    before = state_of(family.network)
    stopped = []
    stream = stream_of(family, live(), cancelled=lambda: bool(stopped))
    stream.begin(PICTURES[0])
    stream.tick()
    stopped.append(True)
    with pytest.raises(Cancelled):
        stream.tick()
    assert_unchanged(family.network, before)


def test_the_vae_is_bit_for_bit_as_it_was_after_a_stream_in_bfloat16(monkeypatch):
    family = family_of(tiny_models.tiny_sd().components)
    monkeypatch.setattr(autoencoder, "computes_bfloat16", lambda: True)
    before = state_of(family.vae)
    with contextlib.suppress(Cancelled), autoencoder.quick_autoencoder(family) as is_quick:
        assert is_quick
        assert {one.dtype for one in family.vae.parameters()} == {torch.bfloat16}
        assert stream_of(family, live()).draw(PICTURES[0]).shape == (32, 32, 3)
        raise Cancelled
    assert_unchanged(family.vae, before)
    monkeypatch.setattr(autoencoder, "computes_bfloat16", lambda: False)
    with autoencoder.quick_autoencoder(family) as is_quick:
        assert not is_quick
        assert {one.dtype for one in family.vae.parameters()} == {torch.float32}


def test_the_levels_begin_at_the_strength_and_are_all_of_them_at_one(family):
    resolved = resolve(live().base, family)
    schedule = resolved.noise_schedule
    assert levels_from(resolved.levels, schedule, 1.0) == list(resolved.levels)
    for strength in (0.05, 0.3, 0.51, 0.75, 0.99):
        levels = levels_from(resolved.levels, schedule, strength)
        assert levels[0].timestep == pytest.approx(schedule.network_time(strength))
        assert levels[-1] == resolved.levels[-1]
        assert all(one.lam < other.lam for one, other in itertools.pairwise(levels))
    assert len(levels_from(resolved.levels, schedule, 0.75)) == 4  # not one of a thousandth of the way beside its own


def test_equal_pictures_are_skipped_and_others_are_not_at_the_extremes_of_the_threshold():
    assert [skip_probability(1.0, threshold) for threshold in (0.0, 0.5, 0.98)] == [1.0] * 3
    assert skip_probability(1.0, 1.0) == 0.0
    assert skip_probability(0.98, 0.98) == skip_probability(0.3, 0.98) == 0.0
    assert skip_probability(0.99, 0.98) == pytest.approx(0.5)
    assert cosine(PICTURES[0], PICTURES[0].copy()) == 1.0
    off = SimilarityFilter(1.0)
    assert all(off.passes(PICTURES[0]) for _ in range(20))
    assert off.skipped == 0
    on = SimilarityFilter(0.98, most_skipped=10)
    assert [on.passes(PICTURES[0]) for _ in range(23)] == ([True] + [False] * 10) * 2 + [True]
    assert on.skipped == 20
    assert on.passes(PICTURES[1])  # two of noise are at a cosine of 0.75
    assert on.passes(PICTURES[1][:16])


def test_the_filter_skips_at_the_rate_that_the_formula_says():
    base = np.full((8, 8, 3), 100, np.uint8)
    near = base.copy()
    near[0] += 55
    chance = skip_probability(cosine(base, near), 0.95)
    assert 0.3 < chance < 0.9
    skipped = 0
    for seed in range(2000):
        one = SimilarityFilter(0.95, seed=seed)
        one.passes(base)
        skipped += not one.passes(near)
    assert skipped / 2000 == pytest.approx(chance, abs=0.04)  # four standard deviations of the mean


def test_a_picture_is_scaled_and_cut_to_the_models_size():
    picture = PICTURES[0]
    assert fit_picture(picture, (32, 32)) is picture
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = 200
    assert fit_picture(wide, (32, 32)).min() > 150  # its middle
    assert fit_picture(wide[:1, :1], (32, 16)).shape == (16, 32, 3)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"strength": 0}, "strength is 0"),
        ({"strength": "much"}, "must be a number"),
        ({"similarity": 2}, "Similarity threshold is 2"),
        ({"pace": 1}, "Unknown setting of live mode"),
        ({"base": 3}, "base of live mode"),
        ({"base": {"batch_size": 2}}, "one picture at a time"),
        ({"base": {"start": "gaussian"}}, "choose noise"),
        ({"base": {"second_pass": "latent"}}, "Live mode"),
        ({"base": {"vae": {"key": "file", "name": "other"}}}, "own VAE"),
        ({"base": {"made_like": "comfyui"}}, "Live mode"),
    ],
)
def test_what_live_mode_cannot_do_is_refused_with_a_sentence(values, sentence):
    with pytest.raises(SettingsError, match=sentence):
        LiveRequest.parse(values, Request.parse)


def test_a_request_reads_back_what_it_writes():
    request = live(strength=0.3, similarity=0.9)
    assert LiveRequest.parse(request.to_json(), Request.parse) == request
