"""Second passes: what they compute, that a batch changes nothing, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipelines.core.errors import SettingsError
from pipelines.core.loop import Run, denoise
from pipelines.core.types import Choice, Request
from pipelines.families import family_of
from pipelines.requests.encoding import decode
from pipelines.requests.limits import Limits, check_request
from pipelines.requests.passes import partial, resolve_passes
from pipelines.requests.text_to_image import build_run, one_of_batch, resolve
from pipelines.second_passes.base import round_size
from pipelines.upscaling.enlarge import resample
from tests.pipelines.tiny_models import tiny_sd, tiny_sd3

LATENT = Choice("latent", {"factor": 2, "strength": 0.5})
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


@pytest.mark.parametrize("sampler", ["euler", "euler_a"])
def test_a_picture_of_a_batch_is_the_picture_alone(family, sampler):
    request = request_of(family, num_inference_steps=3, batch_size=2, second_pass=LATENT, sampler=Choice(sampler))
    *_, both = resolve_passes(request, family).denoise(family, no_network)
    for index in range(2):
        *_, alone = resolve_passes(one_of_batch(request, index), family).denoise(family, no_network)
        # Batched convolutions round otherwise.
        assert np.allclose(both.latents[index], alone.latents[0], atol=1e-4)


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
