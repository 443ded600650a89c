"""Text to image on any family: from a request and a loaded model to a run of the loop, and to pictures."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch

from pipelines.core.denoiser import Conditioning, Denoiser, Guidance
from pipelines.core.errors import SettingsError
from pipelines.core.loop import Begin, Run
from pipelines.core.noise import NoiseSource, initial_noise
from pipelines.core.schedule import NoiseSchedule
from pipelines.core.types import Request
from pipelines.families.base import Family
from pipelines.guidance import GUIDANCE
from pipelines.guidance.cfg import Unguided
from pipelines.initializations import INITIALIZATIONS
from pipelines.initializations.base import Start, StartContext
from pipelines.requests.limits import check_fit
from pipelines.samplers import SAMPLERS
from pipelines.samplers.fitted_factors import FittedFactors
from pipelines.schedules import levels_and_sampler, named, settled
from pipelines.schedules.learned import Learned
from pipelines.weights.network_identity import network_identity

__all__ = ["assembled_run", "build_run", "decode", "resolve", "starting_noise", "to_uint8"]


def resolve(request: Request, family: Family) -> Request:
    """The request with the model's own size where none was given and its learned schedule by name, checked against the model.

    Args:
        request: to be settled.
        family: the loaded model, before LoRAs are applied, which would make its weights look like another model's.

    Raises:
        SettingsError: a size the model cannot make, a schedule that was learned for other weights, or a start that spares
            steps which a learned solver needs.
        MethodFitError: a method that does not fit it.
    """
    width, height = family.default_size
    request = request.replace(width=request.width or width, height=request.height or height)
    family.require_size(request.width, request.height)
    check_fit(request, family.traits)
    request = named(request, lambda: network_identity(family))
    _require_whole_schedule(request)
    return request


def _require_whole_schedule(request: Request) -> None:
    """Fitted factors combine what every step of their schedule said, so no start may spare one."""
    start, schedule = INITIALIZATIONS[request.start.key], settled(request)
    whole = start.build(request.start.settings).left(request.num_inference_steps) == request.num_inference_steps
    if not whole and isinstance(schedule, Learned) and isinstance(schedule.solver(None), FittedFactors):
        raise SettingsError(
            f"The start {start.label} spares steps, and the learned schedule {schedule.name!r} is a Bespoke solver, which needs "
            f"all of its {request.num_inference_steps} steps. Choose the start Plain noise, or another schedule."
        )


def starting_noise(request: Request, family: Family) -> tuple[torch.Tensor, NoiseSource]:
    """Unit normal (B, C, h, w) float32 noise on the CPU, and the source that goes on from there.

    Picture i of a batch has seed + i; its later noise comes from the same generator, as in diffusers.
    """
    seeds = [request.seed + i for i in range(request.batch_size)]
    source = NoiseSource(seeds)
    variation = NoiseSource([request.variation_seed + i for i in range(request.batch_size)])
    shape = (request.batch_size, *family.latent_shape(request.width, request.height))
    return initial_noise(source, shape, variation, request.variation_strength), source


def build_run(request: Request, family: Family, cancelled: Callable[[], bool] = lambda: False) -> Run:
    """The run that makes a request's pictures; the prompt is encoded here.

    Args:
        request: as `resolve` returned it.
        family: the loaded model, its LoRAs already applied.
        cancelled: polled before every evaluation.
    """
    conditionings = family.encode_prompts(
        request.prompt, request.negative_prompt, request.batch_size, (request.width, request.height)
    )
    return assembled_run(request, family, starting_noise(request, family), conditionings, cancelled)


def assembled_run(
    request: Request,
    family: Family,
    noise: tuple[torch.Tensor, NoiseSource],
    conditionings: dict[str, Conditioning],
    cancelled: Callable[[], bool] = lambda: False,
) -> Run:
    """The run of a request's methods on given noise and encoded prompts.

    Args:
        request: as `resolve` returned it; its prompts and seeds are not read.
        family: the loaded model, its LoRAs already applied.
        noise: unit normal (B, C, h, w) float32, and the source that goes on from there.
        conditionings: branch name to conditioning, of B rows each.
        cancelled: polled before every evaluation.
    """
    noise_schedule = family.noise_schedule_for(request.width, request.height)
    sampler = SAMPLERS[request.sampler.key].build(request.sampler.settings)
    levels, sampler = levels_and_sampler(request, sampler, noise_schedule)
    guidance = GUIDANCE[request.guidance.key].build(request.guidance.settings)
    guidance, conditionings = _embedded(guidance, conditionings, family)
    initial, source = noise
    return Run(
        denoiser=Denoiser(family, guidance, conditionings, cancelled),
        sampler=sampler,
        levels=levels,
        latents=(initial * noise_schedule.initial_scale(levels[0])).to(family.device),
        noise=source,
        noise_schedule=noise_schedule,
        begin=_begin(request, family, source, noise_schedule),
    )


def _begin(request: Request, family: Family, noise: NoiseSource, noise_schedule: NoiseSchedule) -> Begin | None:
    """How the request's start makes the first latents; None for plain noise."""
    if request.start.key == Request.start.key:
        return None
    start: Start = INITIALIZATIONS[request.start.key].build(request.start.settings)
    context = StartContext(noise, noise_schedule, request.model, family.components.get("fitted_starts"))
    return functools.partial(start.begin, context=context)


def _embedded(guidance: Guidance, conditionings: dict, family: Family) -> tuple[Guidance, dict]:
    if family.traits.guidance == "cfg":
        return guidance, conditionings
    scale = getattr(guidance, "guidance_scale", 1.0)
    return Unguided(), family.embed_guidance(conditionings, scale)


@torch.no_grad()
def decode(family: Family, latents: torch.Tensor) -> np.ndarray:
    """Pictures (B, H, W, 3), uint8, of scaled latents (B, C, h, w)."""
    return to_uint8(family.decode(latents))


def to_uint8(images: torch.Tensor) -> np.ndarray:
    """(B, H, W, 3) uint8, rounded, of images (B, 3, H, W) in [0, 1], as diffusers' numpy_to_pil does."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
