"""Text to image on any family: from a request and a loaded model to a run of the loop, and to pictures."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import torch

from pipelines.core.denoiser import Conditioning, Denoiser, Guidance
from pipelines.core.errors import SettingsError
from pipelines.core.loop import Begin, Run
from pipelines.core.noise import NoiseSource, initial_noise
from pipelines.core.sampler import Sampler
from pipelines.core.schedule import Level, NoiseSchedule
from pipelines.core.types import Choice, Request
from pipelines.families.base import Family
from pipelines.guidance import GUIDANCE
from pipelines.guidance.cfg import Unguided
from pipelines.initializations import INITIALIZATIONS
from pipelines.initializations.base import Start, StartContext
from pipelines.requests.limits import check_fit
from pipelines.samplers import SAMPLERS
from pipelines.samplers.fitted_factors import FittedFactors
from pipelines.schedules import settle_schedule
from pipelines.schedules.learned import FittedSchedule
from pipelines.weights.network_identity import network_identity

__all__ = [
    "ResolvedRun",
    "assembled_run",
    "build_run",
    "decode",
    "resolve",
    "resolve_size",
    "starting_noise",
    "to_uint8",
]


@dataclasses.dataclass(frozen=True)
class ResolvedRun:
    """A request settled on a loaded model: every method is looked up and built once, here.

    Attributes:
        request: with the model's own size where none was given, and its learned schedule by name.
        noise_schedule: the model's at this size.
        levels: N + 1 noise levels, descending.
        sampler: the request's, or the fitted factors that take its place.
        guidance: the request's.
        initialization: makes the first latents.
    """

    request: Request
    noise_schedule: NoiseSchedule
    levels: tuple[Level, ...]
    sampler: Sampler
    guidance: Guidance
    initialization: Start


def resolve_size(request: Request, family: Family) -> Request:
    """The request with the model's own size where none was given.

    Raises:
        SettingsError: a size the model cannot make.
    """
    width, height = family.default_size
    request = request.replace(width=request.width or width, height=request.height or height)
    family.require_size(request.width, request.height)
    return request


def resolve(request: Request, family: Family) -> ResolvedRun:
    """Settle a checked request on a loaded model.

    Args:
        request: to be settled.
        family: the loaded model, before LoRAs are applied, which would make its weights look like another model's.

    Raises:
        SettingsError: a size the model cannot make, a schedule that cannot serve it or that was learned for other weights,
            or a start that spares steps which a learned solver needs.
        MethodFitError: a method that does not fit it.
    """
    request = resolve_size(request, family)
    check_fit(request, family.traits)
    schedule = settle_schedule(request, family.learned, lambda: network_identity(family))
    sampler = SAMPLERS[request.sampler.key].build(request.sampler.settings)
    initialization = INITIALIZATIONS[request.start.key].build(request.start.settings)
    if isinstance(schedule, FittedSchedule):
        settings = {**request.schedule.settings, "name": schedule.name}
        request = request.replace(schedule=Choice(request.schedule.key, settings))
        sampler = schedule.solver(sampler)
        _require_all_steps(request, initialization, sampler)
    noise_schedule = family.noise_schedule_for(request.width, request.height)
    return ResolvedRun(
        request,
        noise_schedule,
        tuple(schedule.levels(noise_schedule, request.num_inference_steps)),
        sampler,
        GUIDANCE[request.guidance.key].build(request.guidance.settings),
        initialization,
    )


def _require_all_steps(request: Request, initialization: Start, sampler: Sampler) -> None:
    """Fitted factors combine what every step of their schedule said, so no start may spare one."""
    steps = request.num_inference_steps
    if isinstance(sampler, FittedFactors) and initialization.left(steps) != steps:
        raise SettingsError(
            f"The start {INITIALIZATIONS[request.start.key].label} spares steps, and the learned schedule "
            f"{request.schedule.settings['name']!r} is a Bespoke solver, which needs all of its {steps} steps. Choose the "
            "start Plain noise, or another schedule."
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


def build_run(resolved: ResolvedRun, family: Family, cancelled: Callable[[], bool] = lambda: False) -> Run:
    """The run that makes a request's pictures; the prompt is encoded here.

    Args:
        resolved: as `resolve` returned it.
        family: the loaded model, its LoRAs already applied.
        cancelled: polled before every evaluation.
    """
    request = resolved.request
    conditionings = family.encode_prompts(
        request.prompt, request.negative_prompt, request.batch_size, (request.width, request.height)
    )
    return assembled_run(resolved, family, starting_noise(request, family), conditionings, cancelled)


def assembled_run(
    resolved: ResolvedRun,
    family: Family,
    noise: tuple[torch.Tensor, NoiseSource],
    conditionings: dict[str, Conditioning],
    cancelled: Callable[[], bool] = lambda: False,
) -> Run:
    """The run of a request's methods on given noise and encoded prompts.

    Args:
        resolved: as `resolve` returned it; the prompts and seeds of its request are not read.
        family: the loaded model, its LoRAs already applied.
        noise: unit normal (B, C, h, w) float32, and the source that goes on from there.
        conditionings: branch name to conditioning, of B rows each.
        cancelled: polled before every evaluation.
    """
    guidance, conditionings = _embedded(resolved.guidance, conditionings, family)
    initial, source = noise
    noise_schedule, levels = resolved.noise_schedule, resolved.levels
    return Run(
        denoiser=Denoiser(family, guidance, conditionings, cancelled),
        sampler=resolved.sampler,
        levels=levels,
        latents=(initial * noise_schedule.initial_scale(levels[0])).to(family.device),
        noise=source,
        noise_schedule=noise_schedule,
        begin=_begin(resolved, family, source),
    )


def _begin(resolved: ResolvedRun, family: Family, noise: NoiseSource) -> Begin | None:
    """How the request's start makes the first latents; None for plain noise."""
    if resolved.request.start.key == Request.start.key:
        return None
    fitted = family.components.get("fitted_starts")
    context = StartContext(noise, resolved.noise_schedule, resolved.request.model, fitted)
    return functools.partial(resolved.initialization.begin, context=context)


def _embedded(guidance: Guidance, conditionings: dict, family: Family) -> tuple[Guidance, dict]:
    if family.traits.guidance == "cfg":
        return guidance, conditionings
    scale = guidance.guidance_scale
    return Unguided(), family.embed_guidance(conditionings, scale)


@torch.no_grad()
def decode(family: Family, latents: torch.Tensor) -> np.ndarray:
    """Pictures (B, H, W, 3), uint8, of scaled latents (B, C, h, w)."""
    return to_uint8(family.decode(latents))


def to_uint8(images: torch.Tensor) -> np.ndarray:
    """(B, H, W, 3) uint8, rounded, of images (B, 3, H, W) in [0, 1], as diffusers' numpy_to_pil does."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
