"""Second passes: what they compute, that a batch changes nothing, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipelines.core.cancelling import Cancelled
from pipelines.core.errors import MethodFitError, SettingsError
from pipelines.core.loop import Run, denoise
from pipelines.core.prediction import Conditioning
from pipelines.core.types import Choice, Request
from pipelines.families import family_of
from pipelines.requests.encoding import decode
from pipelines.requests.limits import Limits, check_request, check_second_pass
from pipelines.requests.passes import partial, resolve_passes
from pipelines.requests.text_to_image import build_run, one_of_batch, resolve
from pipelines.second_passes.base import round_size
from pipelines.second_passes.frequency import exchange_low_frequencies
from pipelines.second_passes.views import ViewedNetwork, blur, list_windows
from pipelines.upscaling.enlarge import resample
from tests.pipelines.tiny_models import tiny_sd, tiny_sd3

LATENT = Choice("latent", {"factor": 2, "strength": 0.5})
DEMOFUSION, FREQUENCY = (Choice(key, {"factor": 2, "strength": 0.7}) for key in ("demofusion", "frequency"))
MAKERS = {"sd": tiny_sd, "sd3": tiny_sd3}


@pytest.fixture(params=MAKERS, scope="module")
def family(request):
    return family_of(MAKERS[request.param]().components)


def request_of(family, **values):
    flow = {"sampler": Choice("flow_euler"), "schedule": Choice("shift")} if family.traits.flow else {}
    shared = {"prompt": "a fox", "num_inference_steps": 4, "seed": 3, "sampler": Choice("euler"), "width": 32}
    return Request(**{**shared, "height": 32, **values, **flow})


def no_network(key):
    assert key in ("", "lanczos")


def passes_of(family, **values):
    passes = resolve_passes(request_of(family, **values), family)
    return passes, list(passes.denoise(family, no_network))


def test_no_second_pass_is_the_run_itself(family):
    passes, steps = passes_of(family)
    alone = list(denoise(build_run(resolve(passes.request, family), family)))
    assert len(steps) == 4 and torch.equal(steps[-1].latents, alone[-1].latents)


def test_a_latent_pass_is_image_to_image_on_interpolated_latents(family):
    """Against the equation written out here: x = alpha * up(x0) + sigma * noise, then Euler from that level."""
    passes, steps = passes_of(family, second_pass=LATENT)
    first = build_run(passes.first, family)
    *_, finished = denoise(first)
    up = torch.nn.functional.interpolate(finished.latents, scale_factor=2, mode="bicubic")
    level, *_ = levels = partial(passes.second.levels, 0.5)
    template = build_run(passes.second, family)
    latents = level.alpha * up + level.sigma * first.noise(up)
    run = Run(template.denoiser, template.sampler, levels, latents, first.noise, template.noise_schedule)
    *_, expected = denoise(run)
    assert torch.equal(steps[-1].latents, expected.latents)
    assert [step.index for step in steps] == list(range(6)) and {step.num_steps for step in steps} == {6}
    assert steps[-1].evaluations == finished.evaluations + expected.evaluations
    assert steps[-1].seconds >= steps[3].seconds > 0


def test_a_pixel_pass_enlarges_the_decoded_picture(family):
    choice = Choice("pixel", {"factor": 2, "strength": 0.05, "upscaler": "lanczos"})
    passes, steps = passes_of(family, second_pass=choice)
    assert len(steps) == 5  # at least one step
    (first,) = decode(family, steps[3].latents)
    width, height = passes.second.request.width, passes.second.request.height
    enlarged = resample(first, (width, height))
    latents = family.encode_images(torch.from_numpy(enlarged.copy()).permute(2, 0, 1)[None].float() / 255)
    level = passes.second.levels[-2]
    noise = build_run(passes.first, family).noise(latents)  # after the first pass's own draw
    noised = level.alpha * latents + level.sigma * noise
    template = build_run(passes.second, family)
    run = Run(template.denoiser, template.sampler, passes.levels, noised, template.noise, template.noise_schedule)
    *_, expected = denoise(run)
    # The loop runs without gradients, where convolutions round otherwise.
    assert torch.allclose(steps[-1].latents, expected.latents, atol=1e-4)


@pytest.mark.parametrize(
    ("sampler", "method"), [("euler", LATENT), ("euler_a", LATENT), ("euler", DEMOFUSION), ("euler", FREQUENCY)]
)
def test_a_picture_of_a_batch_is_the_picture_alone(family, sampler, method):
    request = request_of(family, num_inference_steps=3, batch_size=2, second_pass=method, sampler=Choice(sampler))
    *_, both = resolve_passes(request, family).denoise(family, no_network)
    for index in range(2):
        *_, alone = resolve_passes(one_of_batch(request, index), family).denoise(family, no_network)
        # Batched convolutions round otherwise.
        assert np.allclose(both.latents[index], alone.latents[0], atol=1e-4)


NEUTRAL = {"demofusion": {"factor": 1, "residual": 0}, "frequency": {"factor": 2, "cutoff": 0}}


@pytest.mark.parametrize("key", NEUTRAL)
def test_a_steered_pass_that_does_nothing_is_a_latent_upscale_bit_for_bit(family, key):
    settings = NEUTRAL[key]
    neutral = passes_of(family, second_pass=Choice(key, {**settings, "strength": 0.7}))[1][-1]
    latent = Choice("latent", {"factor": settings["factor"], "strength": 0.7})
    assert torch.equal(neutral.latents, passes_of(family, second_pass=latent)[1][-1].latents)
    steered = passes_of(family, second_pass=Choice(key, {"factor": 2, "strength": 0.7}))[1]
    assert not torch.allclose(steered[-1].latents, neutral.latents) if settings["factor"] == 2 else True


def test_every_part_of_a_picture_counts_as_an_evaluation_and_the_network_stays_the_models(family):
    _, steps = passes_of(family, second_pass=DEMOFUSION)
    parts = 3 * 3 + 2 * 2  # windows, and grids but where the run is at its end
    assert steps[4].evaluations - steps[3].evaluations == 2 * parts
    with pytest.raises(MethodFitError, match="in parts"):
        passes_of(family, second_pass=DEMOFUSION, cache=Choice("taylorseer"))
    for other in ({"cache": Choice("deepcache")}, {"control": Choice("controlnet", {"model": "edges"})}):
        with pytest.raises(MethodFitError, match="in parts"):
            check_second_pass(Request(prompt="a fox", width=64, height=64, second_pass=DEMOFUSION, **other), Limits())
    with pytest.raises(SettingsError, match="whole number"):
        passes_of(family, second_pass=Choice("demofusion", {"factor": 1.5}))


@pytest.mark.parametrize(("length", "window"), [(8, 8), (16, 8), (24, 8), (17, 6), (9, 8), (5, 8)])
@pytest.mark.parametrize("jitter", [-1.0, 0.0, 0.7])
def test_windows_cover_a_side_and_stay_inside(length, window, jitter):
    starts = list_windows(length, window, jitter)
    seen = {place for start in starts for place in range(start, min(start + window, length))}
    assert seen == set(range(length)) and all(start + min(window, length) <= length for start in starts)


def test_a_network_that_sees_each_place_alone_says_the_same_in_parts():
    family = SimpleNamespace(predict_raw=lambda latents, times, _: latents * (1 + times.view(-1, 1, 1, 1)))
    network = ViewedNetwork(
        family, (4, 6), 2, lambda time: 0.4, lambda time: 0.0, lambda time: (0.3, -1.0), lambda: False
    )
    latents, times = torch.randn(2, 3, 8, 12, dtype=torch.float64), torch.tensor([0.5, 0.7], dtype=torch.float64)
    raw = network.predict_raw(latents, times, Conditioning())
    assert torch.allclose(raw, latents * (1 + times.view(-1, 1, 1, 1)), atol=1e-12)
    network._cancelled = lambda: True
    with pytest.raises(Cancelled):
        network.predict_raw(latents, times, Conditioning())


def test_low_frequencies_are_exchanged_and_the_others_stay():
    first, second = torch.randn(2, 1, 2, 8, 12, dtype=torch.float32).unbind(0)
    mixed = exchange_low_frequencies(first, second, 0.5)
    assert torch.allclose(exchange_low_frequencies(first, first, 0.5), first, atol=1e-6)
    assert torch.allclose(mixed.mean((-2, -1)), second.mean((-2, -1)), atol=1e-6)
    assert torch.allclose(exchange_low_frequencies(mixed, first, 0.5), first, atol=1e-5)
    assert torch.allclose(exchange_low_frequencies(first, second, 1.0), second, atol=1e-6)


def test_a_blur_keeps_mean_and_deviation_and_none_changes_nothing():
    latents = torch.randn(2, 3, 9, 7, dtype=torch.float64)
    smooth = blur(latents, 1.2, 2)
    for measure in (torch.mean, torch.std):
        assert torch.allclose(measure(smooth, (1, 2, 3)), measure(latents, (1, 2, 3)), atol=1e-9)
    assert blur(latents, 0.0, 2) is latents and blur(latents, 1.0, 0) is latents


def test_sides_are_rounded_to_what_the_model_takes():
    assert round_size((64, 96), 1.5, 64) == (128, 128)
    assert round_size((64, 64), 1.25, 8) == (80, 80)


def test_what_cannot_be_is_refused_with_its_reason(family):
    too_large = Request(prompt="a fox", width=1024, height=1024, second_pass=Choice("latent", {"factor": 4}))
    with pytest.raises(SettingsError, match="4096 × 4096"):
        check_request(too_large, Limits())
    with pytest.raises(SettingsError, match="own rules only"):
        check_request(Request(prompt="a fox", second_pass=LATENT, made_like=Choice("comfyui")), Limits())
    with pytest.raises(SettingsError, match="no second pass"):
        resolve(request_of(family, second_pass=LATENT), family)
