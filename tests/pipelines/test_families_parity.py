"""Our loop equals the stock pipelines at a fixed seed, so closely that a slip of one time step shows.

The noise levels are the stock scheduler's own, so what is compared is families, guidance and samplers.
"""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from tiny_models import tiny_flux, tiny_sd, tiny_sd3, tiny_sdxl

from pipelines.core.denoiser import Denoiser
from pipelines.core.loop import Run, denoise
from pipelines.core.noise import NoiseSource
from pipelines.core.schedule import CLEAN, Level
from pipelines.families import family_of
from pipelines.guidance import GUIDANCE
from pipelines.guidance.cfg import Unguided
from pipelines.samplers import SAMPLERS

PROMPT, NEGATIVE = "a red fox", "blurry"
SEEDS = [3, 11]
SCALE = 5.0
TOKENS = 16
"""T5 tokens, instead of hundreds of padding."""

TOLERANCE = 3e-6
"""Largest difference over the largest value; float32 gives 2e-7 to 1e-6, a slip by one at least 5e-6."""


def tiny_sd_v():
    return tiny_sd(prediction_type="v_prediction")


def tiny_schnell():
    return tiny_flux(guidance_embeds=False)


def use_scheduler(pipe, name: str) -> None:
    config = dict(pipe.scheduler.config)
    if name == "ddim":
        pipe.scheduler = DDIMScheduler.from_config(config, clip_sample=False, set_alpha_to_one=False)
    elif name == "euler":
        pipe.scheduler = EulerDiscreteScheduler.from_config(config, timestep_spacing="leading")
    elif name == "euler_trailing":
        pipe.scheduler = EulerDiscreteScheduler.from_config(config, timestep_spacing="trailing")
    elif name == "dpmpp_2m":
        pipe.scheduler = DPMSolverMultistepScheduler.from_config(config)
    elif name == "flow_dpmpp_2m":
        pipe.scheduler = DPMSolverMultistepScheduler(
            use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0
        )
    else:
        pipe.scheduler = FlowMatchEulerDiscreteScheduler.from_config(config, timestep_spacing="leading")


def stock_levels(scheduler, noise_schedule, flow: bool) -> list[Level]:
    """The levels that the stock scheduler visited in its last run."""
    times = [float(time) for time in scheduler.timesteps]
    if isinstance(scheduler, DDIMScheduler):
        return [*(noise_schedule.at(time) for time in times), noise_schedule.at(0)]
    sigmas = [float(sigma) for sigma in scheduler.sigmas[: len(times)]]
    if flow:
        return [*(Level(1 - sigma, sigma, time) for sigma, time in zip(sigmas, times, strict=True)), CLEAN]
    alphas = [1 / math.sqrt(1 + sigma**2) for sigma in sigmas]
    return [*(Level(a, a * sigma, time) for a, sigma, time in zip(alphas, sigmas, times, strict=True)), CLEAN]


def stock_latents(pipe, size: int, num_inference_steps: int, **arguments) -> torch.Tensor:
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    latents = pipe(
        PROMPT,
        height=size,
        width=size,
        num_inference_steps=num_inference_steps,
        num_images_per_prompt=len(SEEDS),
        generator=generators,
        output_type="latent",
        **arguments,
    ).images
    return pipe._unpack_latents(latents, size, size, pipe.vae_scale_factor) if latents.ndim == 3 else latents


def stock_scale(scheduler, level: Level) -> float:
    """Standard deviation of the stock run's initial latents, in our scale (theirs for Euler is x / alpha)."""
    scale = float(getattr(scheduler, "init_noise_sigma", 1))
    return scale * level.alpha if isinstance(scheduler, EulerDiscreteScheduler) else scale


def our_latents(family, levels, sampler: str, guidance, size: int, negative: str = NEGATIVE) -> torch.Tensor:
    noise = NoiseSource(SEEDS)
    latents = noise(torch.empty(len(SEEDS), *family.latent_shape(size, size)))
    latents = latents * stock_scale(family.components["scheduler"], levels[0])
    conditionings = family.encode_prompts(PROMPT, negative, len(SEEDS), (size, size))
    if family.traits.guidance == "embedded":
        conditionings = family.embed_guidance(conditionings, SCALE)
    schedule = family.noise_schedule_for(size, size)
    run = Run(Denoiser(family, guidance, conditionings), SAMPLERS[sampler].build({}), levels, latents, noise, schedule)
    return list(denoise(run))[-1].latents


def slipped(levels: list[Level], index: int) -> list[Level]:
    """The same levels, but the network is told a time later by one at one of them."""
    return [dataclasses.replace(level, timestep=level.timestep + (i == index)) for i, level in enumerate(levels)]


def error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


def compare(pipe, sampler: str, guidance, arguments, size: int = 32, steps: int = 8, negative: str = NEGATIVE):
    """(our error, the smallest error of a run that slips once)."""
    family = family_of(pipe.components)
    family.max_sequence_length = TOKENS
    assert family.components["scheduler"] is pipe.scheduler
    if family.traits.flow:
        arguments = {**arguments, "max_sequence_length": TOKENS}
    theirs = stock_latents(pipe, size, steps, **arguments)
    levels = stock_levels(pipe.scheduler, family.noise_schedule, family.traits.flow)
    assert len(levels) == steps + 1
    ours = our_latents(family, levels, sampler, guidance, size, negative)
    slips = [our_latents(family, slipped(levels, index), sampler, guidance, size, negative) for index in range(steps)]
    return error(ours, theirs), min(error(slip, theirs) for slip in slips)


CASES = [
    *((make, name, name) for make in (tiny_sd, tiny_sd_v, tiny_sdxl) for name in ("ddim", "euler", "dpmpp_2m")),
    (tiny_sd, "euler_trailing", "euler"),
    (tiny_sd3, "flow_euler", "flow_euler"),
    (tiny_sd3, "flow_dpmpp_2m", "dpmpp_2m"),
    (tiny_schnell, "flow_euler", "flow_euler"),
]


@pytest.mark.parametrize(("make", "scheduler", "sampler"), CASES, ids=lambda case: getattr(case, "__name__", case))
def test_guided_text_to_image_equals_the_stock_pipeline(make, scheduler, sampler):
    pipe = make()
    use_scheduler(pipe, scheduler)
    scale = "true_cfg_scale" if make is tiny_schnell else "guidance_scale"
    guidance = GUIDANCE["cfg"].build({"guidance_scale": SCALE})
    ours, slip = compare(pipe, sampler, guidance, {"negative_prompt": NEGATIVE, scale: SCALE})
    print(f"parity {make.__name__} {scheduler}: {ours:.1e}, a slip {slip:.1e}")
    assert ours < TOLERANCE < slip


@pytest.mark.parametrize("true_cfg", [False, True])
def test_flux_with_an_embedded_scale_equals_the_stock_pipeline(true_cfg):
    pipe = tiny_flux()
    arguments = {"guidance_scale": SCALE}
    if true_cfg:
        arguments |= {"negative_prompt": NEGATIVE, "true_cfg_scale": 3.0}
    guidance = GUIDANCE["cfg"].build({"guidance_scale": 3.0}) if true_cfg else Unguided()
    ours, slip = compare(pipe, "flow_euler", guidance, arguments)
    print(f"parity flux embedded, true cfg {true_cfg}: {ours:.1e}, a slip {slip:.1e}")
    assert ours < TOLERANCE < slip


def test_sdxl_without_a_negative_prompt_equals_the_stock_pipeline():
    guidance = GUIDANCE["cfg"].build({"guidance_scale": SCALE})
    ours, _ = compare(tiny_sdxl(), "euler", guidance, {"guidance_scale": SCALE}, steps=3, negative="")
    assert ours < TOLERANCE


def test_a_latent_consistency_unet_takes_the_scale_as_an_input():
    pipe = tiny_sd(time_cond_proj_dim=8)
    assert family_of(pipe.components).traits.guidance == "embedded"
    ours, slip = compare(pipe, "ddim", Unguided(), {"guidance_scale": SCALE}, steps=3)
    assert ours < TOLERANCE < slip


def test_the_shift_that_grows_with_the_picture_is_the_stock_pipelines():
    pipe = tiny_flux()
    family = family_of(pipe.components)
    stock_latents(pipe, 64, 4, max_sequence_length=TOKENS)
    shift = family.noise_schedule_for(64, 64).shift
    times = [1 - i / 4 for i in range(4)]
    expected = [shift * time / (1 + (shift - 1) * time) for time in times]
    assert pipe.scheduler.sigmas[:-1].tolist() == pytest.approx(expected, rel=1e-6)
    assert family.noise_schedule_for(64, 64).shift > family.noise_schedule_for(32, 32).shift


def test_the_fixed_shift_is_the_schedulers():
    assert family_of(tiny_sd3().components).noise_schedule.shift == 3.0
