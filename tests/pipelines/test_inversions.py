"""Inversions against their equations, stock diffusers, and the round trips that must and must not close."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from diffusers import DDIMInverseScheduler, StableDiffusionPipeline

from pipelines.core.denoiser import Denoiser
from pipelines.core.loop import Run, denoise
from pipelines.core.noise import NoiseSource
from pipelines.core.prediction import Conditioning
from pipelines.core.sampler import State, StepContext
from pipelines.core.types import Choice, Traits, Trajectory
from pipelines.families import family_of
from pipelines.guidance.cfg import Cfg, CfgSettings, Unguided
from pipelines.inversions import INVERSIONS
from pipelines.inversions.base import SOURCE, TARGET, pivots
from pipelines.inversions.edict import Coupled, Uncoupled
from pipelines.models.catalog import SHIPPED
from pipelines.samplers.ddim import Ddim, DdimSettings, fresh_noise
from pipelines.schedules import SCHEDULES
from pipelines.workflows.edit.request import Picture
from tests.pipelines.edit_requests import edited, request_of
from tests.pipelines.gaussian import SCHEDULES_OF, CosineSchedule, GaussianNetwork, exact, grid
from tests.pipelines.tiny_models import tiny_sd

# so that the way up has the guidance of the way down in these tests
SETTINGS = {key: {"source_guidance_scale": 1.0} for key in ("ddpm", "cycle", "ledits")}
SOURCE_PROMPT, TARGET_PROMPT = "a fox on a blue background", "a cat face on a red background"


@pytest.fixture(scope="module")
def family():
    """The shipped model with its UNet in float64."""
    pipe = StableDiffusionPipeline.from_pretrained(SHIPPED)
    pipe.unet.double()
    return family_of(pipe.components)


@pytest.fixture(scope="module")
def picture(family):
    """Latents of 32 x 32 pixels: a quarter of the work of the own size of the model."""
    return 0.8 * torch.randn(1, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


def denoiser_of(family, prompts, scale):
    encoded = [family.encode_prompts(prompt, "", 1, (64, 64)) for prompt in prompts]
    conditionings = {name: Conditioning.cat([one[name] for one in encoded]) for name in encoded[0]}
    return Denoiser(family, Cfg(CfgSettings(guidance_scale=scale)), conditionings)


def levels_of(family, steps):
    return SCHEDULES["uniform"].build().levels(family.noise_schedule, steps)


def run(family, sampler, levels, latents, prompts, scale):
    return list(
        denoise(
            Run(denoiser_of(family, prompts, scale), sampler, levels, latents, NoiseSource([0]), family.noise_schedule)
        )
    )


def round_trip(family, picture, key, scale, steps, up_scale=None, targets=(SOURCE_PROMPT, TARGET_PROMPT)):
    """Largest error of the source row after the way up and down, and the rows at the end."""
    inversion, levels = INVERSIONS[key].build(SETTINGS.get(key, {})), levels_of(family, steps)
    up = inversion.guidance_scale(scale) if up_scale is None else up_scale
    start = inversion.start(picture)
    trajectory = Trajectory(start, tuple(run(family, inversion.noising(), levels[::-1], start, [SOURCE_PROMPT], up)))
    latents = trajectory.steps[-1].latents if len(targets) == 1 else inversion.forked(trajectory.steps[-1].latents)
    steps_down = run(family, inversion.denoising(trajectory, scale), levels, latents, targets, scale)
    rows = inversion.visible(steps_down[-1].latents)
    return (rows[SOURCE] - picture[0]).abs().max().item(), rows, trajectory


# Right, not only invertible.


def test_ddim_inversion_is_diffusers_ddim_inverse(family, picture):
    levels = SCHEDULES["uniform"].build({"spacing": "leading", "final": "first"}).levels(family.noise_schedule, 10)
    pipe_config = family.components["scheduler"].config
    scheduler = DDIMInverseScheduler.from_config(pipe_config, set_alpha_to_one=True)
    scheduler.set_timesteps(10)
    ours = run(
        family,
        INVERSIONS["ddim"].build().noising(),
        [dataclasses.replace(levels[-1], alpha=1.0, sigma=0.0), *levels[-2::-1]],
        picture,
        [SOURCE_PROMPT],
        1.0,
    )
    prompt, theirs = family.encode_prompts(SOURCE_PROMPT, "", 1, (64, 64))["positive"], picture
    for time in scheduler.timesteps:
        with torch.no_grad():
            noise = family.predict_raw(theirs, time[None].double(), prompt)
        theirs = scheduler.step(noise, time, theirs).prev_sample
    assert [step.next_level.timestep for step in ours] == [float(time) for time in scheduler.timesteps]
    torch.testing.assert_close(ours[-1].latents, theirs, rtol=0, atol=2e-6)


def test_a_label_one_step_off_is_far_outside_that_tolerance(family, picture):
    levels = SCHEDULES["uniform"].build({"spacing": "leading"}).levels(family.noise_schedule, 10)
    sampler = INVERSIONS["ddim"].build().noising()
    right = run(family, sampler, levels[::-1], picture, [SOURCE_PROMPT], 1.0)[-1].latents
    slipped = [dataclasses.replace(level, timestep=level.timestep + (level.sigma > 0)) for level in levels]
    wrong = run(family, sampler, slipped[::-1], picture, [SOURCE_PROMPT], 1.0)[-1].latents
    assert (right - wrong).abs().max() > 2e-4


@pytest.mark.parametrize("kind", ["diffusion", "flow"])
def test_ddim_inversion_converges_to_the_exact_flow_with_order_one(kind):
    errors, schedule = [], SCHEDULES_OF[kind]
    for count in (50, 100, 200):
        levels = grid(schedule, count)[::-1]
        latents = torch.linspace(-1, 2, 4, dtype=torch.float64).reshape(1, 1, 2, 2)
        network = GaussianNetwork(schedule, "flow" if kind == "flow" else "epsilon")
        denoiser = Denoiser(network, Unguided(), {"positive": Conditioning()})
        *_, step = denoise(
            Run(denoiser, INVERSIONS["ddim"].build().noising(), levels, latents, NoiseSource([0]), schedule)
        )
        errors.append((step.latents - exact(latents, levels[0], levels[-1])).abs().max().item())
    for coarse, fine in itertools.pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(1, abs=0.17)


def driven(sampler, state, levels, context, noise_of):
    """One step of a sampler by hand, its questions answered by a formula of latents and time."""
    stepping = sampler.step(state, *levels, context)
    try:
        query = next(stepping)
        while True:
            noise = noise_of(query.latents, query.level.timestep)
            denoised = (query.latents - query.level.sigma * noise) / query.level.alpha
            query = stepping.send(type("Answer", (), {"noise": noise, "denoised": denoised}))
    except StopIteration as done:
        return done.value.latents


@pytest.mark.parametrize("index", [0, 1])
def test_edict_is_the_papers_equations(index):
    """A slow reference, written with the paper's own symbols: abar, x_inter, y_inter."""
    schedule, p, total = CosineSchedule(), 0.93, 2
    level, next_level = schedule.at(600.0), schedule.at(400.0)
    abar, abar_prev = level.alpha**2, next_level.alpha**2
    a = math.sqrt(abar_prev / abar)
    b = math.sqrt(1 - abar_prev) - math.sqrt(abar_prev * (1 - abar) / abar)
    x, y = torch.randn(2, 1, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def noise_of(latents, time):
        return torch.sin(latents) + time / 1000

    pair = (x, y) if index == 0 else (y, x)
    first_inter = a * pair[0] + b * noise_of(pair[1], 600.0)
    second_inter = a * pair[1] + b * noise_of(first_inter, 600.0)
    first = p * first_inter + (1 - p) * second_inter
    second = p * second_inter + (1 - p) * first
    expected = torch.cat([first, second] if index == 0 else [second, first])
    noise = NoiseSource([0])
    ours = driven(
        Coupled(p), State(torch.cat([x, y])), (level, next_level), StepContext(index, total, noise, schedule), noise_of
    )
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-14)
    back = driven(
        Uncoupled(p), State(ours), (next_level, level), StepContext(total - 1 - index, total, noise, schedule), noise_of
    )
    torch.testing.assert_close(back, torch.cat([x, y]), rtol=0, atol=1e-13)


def edict_error(count, slip=0.0):
    """Of EDICT on Gaussian data against the exact solution, its network asked `slip` time units too late."""
    schedule = CosineSchedule()
    levels = grid(schedule, count)
    latents = torch.linspace(-1, 2, 4, dtype=torch.float64).reshape(1, 1, 2, 2)
    shifted = [dataclasses.replace(level, timestep=level.timestep - slip) for level in levels]
    denoiser = Denoiser(GaussianNetwork(schedule, "epsilon"), Unguided(), {"positive": Conditioning()})
    *_, step = denoise(Run(denoiser, Coupled(0.93), shifted, latents.repeat(2, 1, 1, 1), NoiseSource([0]), schedule))
    return (step.latents[:1] - exact(latents, levels[0], levels[-1])).abs().max().item()


def test_edict_converges_to_the_exact_flow_and_a_slipped_schedule_does_not():
    """A round trip closes on any schedule, so it cannot tell."""
    coarse, fine = edict_error(100), edict_error(200)
    assert math.log2(coarse / fine) == pytest.approx(1, abs=0.25)
    assert edict_error(200, slip=20) > 3 * fine


# Round trips on the shipped UNet, in float64.


@pytest.mark.parametrize(
    ("scale", "steps", "bound"),
    [
        (7.5, 15, 1e-11),
        pytest.param(3.0, 40, 1e-12, marks=pytest.mark.slow),
        pytest.param(7.5, 50, 1e-11, marks=pytest.mark.slow),
    ],
)
def test_edict_closes(family, picture, scale, steps, bound):
    error, _, _ = round_trip(family, picture, "edict", scale, steps, targets=(SOURCE_PROMPT,))
    print(f"EDICT, w {scale}, {steps} steps: {error:.1e}")
    assert error < bound


def test_direct_inversion_closes_exactly_and_follows_the_path(family, picture):
    error, rows, trajectory = round_trip(family, picture, "direct", 7.5, 15)
    assert error == 0
    inversion, path = INVERSIONS["direct"].build(), pivots(trajectory)
    steps = run(
        family,
        inversion.denoising(trajectory),
        levels_of(family, 15)[:4],
        inversion.forked(trajectory.steps[-1].latents),
        (SOURCE_PROMPT, TARGET_PROMPT),
        7.5,
    )
    for step in steps:
        assert torch.equal(step.latents[SOURCE], path[14 - step.index][0])
    assert not torch.equal(rows[SOURCE], rows[TARGET])


def test_ddim_at_strong_guidance_fails_by_orders(family, picture):
    plain, _, _ = round_trip(family, picture, "ddim", 1.0, 25, targets=(SOURCE_PROMPT,))
    strong, _, _ = round_trip(family, picture, "ddim", 7.5, 25, up_scale=7.5, targets=(SOURCE_PROMPT,))
    print(f"DDIM inversion: {plain:.2g} at w 1, {strong:.2g} at w 7.5")
    assert 1e-3 < plain < strong
    assert strong > 0.5


@pytest.mark.parametrize("key", ["ddim", "direct"])
def test_the_edits_row_is_the_same_with_and_without_the_pinned_source(family, picture, key):
    _, rows, _ = round_trip(family, picture, key, 4.0, 5)
    _, other, _ = round_trip(family, picture, "ddim", 4.0, 5)
    assert torch.equal(rows[TARGET], other[TARGET])


@pytest.mark.parametrize("key", [key for key in INVERSIONS if key != "rf"])
def test_the_source_prompt_gives_equal_rows_or_the_source(family, picture, key):
    error, rows, _ = round_trip(family, picture, key, 1.0, 5, targets=(SOURCE_PROMPT, SOURCE_PROMPT))
    if key in ("direct", "ddpm", "cycle", "ledits"):
        assert error == 0
    if key != "direct":
        torch.testing.assert_close(rows[SOURCE], rows[TARGET], rtol=0, atol=1e-12)


@pytest.mark.parametrize("key", list(INVERSIONS))
def test_what_does_not_fit_is_said(key):
    flow = Traits("sd3", "flow", "transformer")
    assert "own pipeline" in INVERSIONS[key].fit(Traits("stock", "epsilon", "pipeline"))
    assert bool(INVERSIONS[key].fit(flow)) == (key in ("edict", "dpm_solver"))
    if key == "rf":
        assert "flow model" in INVERSIONS[key].fit(Traits("sd", "epsilon", "unet"))
        return
    assert INVERSIONS[key].fit(Traits("sd", "epsilon", "unet")) is None
    refusal = INVERSIONS[key].fit(Traits("sd", "sample", "unet"))
    assert refusal is None if key in ("ddpm", "cycle", "ledits") else "picture" in refusal


# Noise maps, fixed points, and the source prompt in the negative prompt's place.


@pytest.mark.parametrize(("key", "eta"), [("ddpm", None), ("cycle", 0.1), ("cycle", 1.0), ("ledits", None)])
def test_noise_maps_lead_the_source_prompt_back_at_any_guidance(family, picture, key, eta):
    """The edit's row isn't overwritten: with the source's prompt and guidance the noise alone must lead it back."""
    settings = {"source_guidance_scale": 3.5, **({} if eta is None else {"eta": eta})}
    inversion, levels = INVERSIONS[key].build(settings), levels_of(family, 10)
    steps = run(family, inversion.noising(), levels[::-1], picture, [SOURCE_PROMPT], 3.5)
    trajectory = Trajectory(picture, tuple(steps))
    rows = inversion.forked(trajectory.steps[-1].latents)
    prompts = (SOURCE_PROMPT, SOURCE_PROMPT)
    down = run(family, inversion.denoising(trajectory), levels, rows, prompts, 3.5)
    error = (down[-1].latents[TARGET] - picture[0]).abs().max().item()
    print(f"{key}, eta {eta}: {error:.1e}")
    # One row and two are rounded differently, by 1e-16, which ten guided steps of this network make 1e-10 of.
    assert error < 1e-8
    assert torch.equal(down[-1].latents[SOURCE], picture[0])
    other = run(family, inversion.denoising(trajectory), levels, rows, prompts, 3.0)
    assert (other[-1].latents[TARGET] - picture[0]).abs().max() > 1e-3


@pytest.mark.parametrize(("key", "eta"), [("ddpm", 1.0), ("cycle", 0.1), ("cycle", 1.0)])
def test_the_noise_of_neighboring_levels_is_as_the_papers_say(key, eta):
    """Independent for DDPM inversion; for the DPM-Encoder as the posterior q(x_i | x_{i+1}, z0) of DDIM makes it."""
    schedule = CosineSchedule()
    levels = [schedule.at(0.0), schedule.at(300.0), schedule.at(600.0)]
    clean = torch.full((1, 1, 400, 400), 0.5, dtype=torch.float64)
    denoiser = Denoiser(GaussianNetwork(schedule, "epsilon"), Unguided(), {"positive": Conditioning()})
    sampler = INVERSIONS[key].build({} if key == "ddpm" else {"eta": eta}).noising()
    steps = list(denoise(Run(denoiser, sampler, levels, clean, NoiseSource([0]), schedule)))
    noises = [(step.latents - level.alpha * clean) / level.sigma for step, level in zip(steps, levels[1:], strict=True)]
    for noise in noises:
        assert noise.var().item() == pytest.approx(1, abs=0.015)  # four standard deviations of 160,000 draws
    s = fresh_noise(levels[2], levels[1], eta)
    expected = 0.0 if key == "ddpm" else math.sqrt(levels[1].sigma ** 2 - s**2) / levels[1].sigma
    assert (noises[0] * noises[1]).mean().item() == pytest.approx(expected, abs=0.011)


def test_fixed_point_iteration_closes_as_it_goes_on(family, picture):
    """Of the steps of 50: the ten next to the picture, where a step changes the noise level by the largest factor."""
    errors, levels = [], levels_of(family, 50)[-11:]
    for iterations in (1, 5, 20):
        inversion = INVERSIONS["fixed_point"].build({"iterations": iterations})
        up = run(family, inversion.noising(), levels[::-1], picture, [SOURCE_PROMPT], 1.0)
        down = run(family, Ddim(DdimSettings()), levels, up[-1].latents, [SOURCE_PROMPT], 1.0)
        errors.append((down[-1].latents - picture).abs().max().item())
        assert up[-1].evaluations == 10 * iterations
    print(f"1, 5, 20 iterations: {errors}")
    assert errors[1] < 1e-2 * errors[0] and errors[2] < 1e-9


@pytest.mark.parametrize("kind", ["diffusion", "flow"])
def test_fixed_point_iteration_solves_steps_from_and_to_the_ends(kind):
    """To pure noise, where alpha is 0, and from a clean picture."""
    schedule = SCHEDULES_OF[kind]
    levels = [schedule.at(float(time)) for time in (0, 250, 500, 750, 1000)]
    latents = torch.linspace(-1, 2, 4, dtype=torch.float64).reshape(1, 1, 2, 2)
    network = GaussianNetwork(schedule, "flow" if kind == "flow" else "v_prediction")
    sampler = INVERSIONS["fixed_point"].build({"iterations": 20}).noising()
    denoiser = Denoiser(network, Unguided(), {"positive": Conditioning()})
    *_, up = denoise(Run(denoiser, sampler, levels, latents, NoiseSource([0]), schedule))
    *_, down = denoise(Run(denoiser, Ddim(DdimSettings()), levels[::-1], up.latents, NoiseSource([0]), schedule))
    torch.testing.assert_close(down.latents, latents, rtol=0, atol=1e-6)


def test_negative_prompt_inversion_brings_the_source_back_at_any_guidance():
    family = family_of(tiny_sd().components)
    picture = Picture(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))

    def last(inversion, scale):
        guidance = Choice("cfg", {"guidance_scale": scale})
        return edited(family, request_of(picture, "reprompt", inversion=inversion, guidance=guidance))[2][-1].latents

    weak, strong, ddim = last("negative_prompt", 1.5), last("negative_prompt", 7.5), last("ddim", 7.5)
    assert torch.equal(weak[SOURCE], strong[SOURCE])
    assert not torch.equal(weak[TARGET], strong[TARGET])
    assert not torch.equal(ddim[SOURCE], strong[SOURCE])
    torch.testing.assert_close(last("ddim", 1.0)[SOURCE], strong[SOURCE], rtol=0, atol=1e-4)
    assert "no negative prompt" in INVERSIONS["negative_prompt"].fit(Traits("flux", "flow", "transformer", "embedded"))
