"""Text to image on any family: from a request and a loaded model to a run of the loop, and to pictures."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import torch

from pipelines.caches import CACHES
from pipelines.compatibility import COMPATIBILITIES
from pipelines.compatibility.base import Compatibility
from pipelines.controls import SLIDERS
from pipelines.controls.direction_files import read_directions
from pipelines.core.branches import ONE_TEXT, PERTURBED, BranchPlan
from pipelines.core.caching import Cache, FittedCache
from pipelines.core.denoiser import Denoiser
from pipelines.core.errors import PromptError, SettingsError
from pipelines.core.loop import Begin, Run
from pipelines.core.noise import NoiseSource
from pipelines.core.prediction import AskingGuidance, Conditioning, Guidance, ShiftingGuidance
from pipelines.core.sampler import Sampler
from pipelines.core.schedule import Level, NoiseSchedule
from pipelines.core.types import Choice, Request
from pipelines.edits.words import read_words
from pipelines.families.base import Family
from pipelines.guidance import GUIDANCE
from pipelines.guidance.cfg import without_branches
from pipelines.guidance.linear import FittedGuidance
from pipelines.guidance.word_maps import WordedGuidance, choose_words
from pipelines.initializations import INITIALIZATIONS
from pipelines.initializations.base import Start, StartContext
from pipelines.requests.encoding import Encode, encode_request
from pipelines.requests.judging import bind_guidance
from pipelines.requests.limits import check_fit
from pipelines.requests.prompts import require_one_text
from pipelines.requests.refusals import require_made_here, require_one_pass, require_unsearched
from pipelines.requests.scenes import scene_of_story, subject_of_story
from pipelines.requests.steering import build_additions
from pipelines.requests.stories import share_network
from pipelines.samplers import SAMPLERS
from pipelines.samplers.fitted_factors import FittedFactors
from pipelines.schedules import settle_schedule
from pipelines.schedules.learned import FittedSchedule
from pipelines.weights.network_identity import network_identity

__all__ = ["ResolvedRun", "assemble_run", "build_run", "one_of_batch", "resolve", "resolve_size", "starting_noise"]


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
        program: whose noise, times and formulas the run has.
        cache: leaves parts of evaluations out; None for none.
    """

    request: Request
    noise_schedule: NoiseSchedule
    levels: tuple[Level, ...]
    sampler: Sampler
    guidance: Guidance
    initialization: Start
    program: Compatibility
    cache: Cache | None = None


def resolve_size(request: Request, family: Family) -> Request:
    """Return the request with the model's own size where none was given.

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
        SettingsError: a size the model cannot make, a schedule that cannot serve it or that was learned for other
            weights, a start that skips steps which a learned solver needs, or a second pass or a search, which are
            runs of their own (`pipelines.requests.passes`, `pipelines.requests.search`).
        MethodFitError: a method that does not fit it.
    """
    require_one_pass(request, "This run")
    require_unsearched(request, "This run")
    request = resolve_size(request, family)
    check_fit(request, family.traits)
    schedule = settle_schedule(request, family.learned, lambda: network_identity(family))
    sampler = SAMPLERS.build(request.sampler)
    initialization = INITIALIZATIONS.build(request.start)
    if isinstance(schedule, FittedSchedule):
        require_made_here(request, "A run with a learned schedule")
        settings = {**request.schedule.settings, "name": schedule.name}
        request = request.replace(schedule=Choice(request.schedule.key, settings))
        sampler = schedule.solver(sampler)
        _require_all_steps(request, initialization, sampler)
    _require_sliders(request, family)
    program = COMPATIBILITIES.build(request.made_like)
    program.check(request)
    noise_schedule = family.noise_schedule_for(request.width, request.height)
    if not isinstance(schedule, FittedSchedule):
        noise_schedule = program.noise_schedule(noise_schedule, family.scheduler_config)
        sampler = program.sampler(request, sampler, noise_schedule)
    levels = tuple(program.levels(request, schedule, noise_schedule))
    guidance = program.guidance(GUIDANCE.build(request.guidance))
    guidance = bind_guidance(_bind_words(guidance, request, family), request, levels, family)
    if isinstance(guidance, FittedGuidance):
        guidance.require_levels(request.model, levels)
    _try_patches(guidance, levels, family)
    cache = CACHES.build(request.cache)
    if cache is not None:
        cache.require_fit(family)
    if isinstance(cache, FittedCache):
        cache.require_run(request.model, levels)
    return ResolvedRun(
        request,
        noise_schedule,
        levels,
        sampler,
        guidance,
        initialization,
        program,
        cache,
    )


def _require_sliders(request: Request, family: Family) -> None:
    """Say now, where the size is known, which sliders do not fit."""
    sliders = SLIDERS.build(request.sliders)
    if sliders is not None and family.directions_folder is not None:
        directions = read_directions(family.directions_folder, sliders.settings.file)
        sliders.require_fit(directions, request.model, (request.width, request.height))


def _bind_words(guidance: Guidance, request: Request, family: Family) -> Guidance:
    """Tell a guidance that looks at single words where they stand.

    Raises:
        PromptError: a word is not in the prompt, or the prompt is not one text of one chunk.
        SettingsError: another program's rules read the prompt.
    """
    if not isinstance(guidance, WordedGuidance):
        return guidance
    label, request = GUIDANCE[request.guidance.key].label, subject_of_story(request)
    require_made_here(request, f"A run with {label}")
    require_one_text(request.prompt, request.negative_prompt, f"Runs with {label}")
    read = read_words(family.components["tokenizer"], request.prompt)
    places = {}
    for word in choose_words(guidance.words, read.words):
        places[word] = read.find(word)
        if not places[word]:
            raise PromptError(
                f"{label} looks for {word[:40]!r}, which is not in the prompt. Write it there, or leave it."
            )
    return guidance.with_places(places)


def _try_patches(guidance: Guidance, levels: Sequence[Level], family: Family) -> None:
    """Say what the network has nothing for now, and not in the middle of runs that share a batch."""
    patches = [guidance.perturbation] if any(PERTURBED in guidance.plan(level) for level in levels) else []
    if isinstance(guidance, AskingGuidance) and any(guidance.further_evaluations(level) for level in levels):
        patches.append(guidance.patch)
    if isinstance(guidance, ShiftingGuidance) and guidance.shift_evaluations(len(levels) - 1):
        patches.append(guidance.patch)
    for patch in patches:
        if patch is not None:
            with patch.applied(family):
                pass


def _require_all_steps(request: Request, initialization: Start, sampler: Sampler) -> None:
    """Fitted factors combine what every step of their schedule said, so no start may skip one."""
    steps = request.num_inference_steps
    if isinstance(sampler, FittedFactors) and initialization.remaining_steps(steps) != steps:
        raise SettingsError(
            f"The initialization {INITIALIZATIONS[request.start.key].label} skips steps, and the learned schedule "
            f"{request.schedule.settings['name']!r} is a Bespoke solver, which needs all of its {steps} steps. "
            f"Choose the "
            "initialization Plain noise, or another schedule."
        )


def starting_noise(resolved: ResolvedRun, family: Family) -> tuple[torch.Tensor, NoiseSource]:
    """Draw unit normal (B, C, h, w) float32 noise on the CPU by the program's rule.

    Returns:
        The noise, and the source that goes on from there.
    """
    request = resolved.request
    return resolved.program.noise(request, family.latent_shape(request.width, request.height), resolved.levels)


def one_of_batch(request: Request, index: int) -> Request:
    """Return the request that makes picture `index` (from 0) of a batch alone.

    It has that picture's own seeds, or its place in the batch where the program draws all with one. A picture of a
    story cannot be made alone: it has its own prompt, and all else is the story's.
    """
    if request.story.key != Request.story.key:
        return scene_of_story(request, index)
    return COMPATIBILITIES.build(request.made_like).one_of_batch(request, index)


def build_run(
    resolved: ResolvedRun,
    family: Family,
    cancelled: Callable[[], bool] = lambda: False,
    encode: Encode | None = None,
) -> Run:
    """Build the run that makes a request's pictures; the prompt is encoded here.

    Args:
        resolved: as `resolve` returned it.
        family: the loaded model, its LoRAs already applied.
        cancelled: polled before every evaluation.
        encode: makes the conditionings; None is `encode_request`.
    """
    conditionings, plan = (encode or encode_request)(resolved.request, family, resolved.request.batch_size)
    noise = starting_noise(resolved, family)
    return assemble_run(resolved, family, noise, conditionings, cancelled, plan)


def assemble_run(
    resolved: ResolvedRun,
    family: Family,
    noise: tuple[torch.Tensor, NoiseSource],
    conditionings: dict[str, Conditioning],
    cancelled: Callable[[], bool] = lambda: False,
    plan: BranchPlan = ONE_TEXT,
) -> Run:
    """Build the run of a request's methods on given noise and encoded prompts.

    Args:
        resolved: as `resolve` returned it; the prompts and seeds of its request are not read.
        family: the loaded model, its LoRAs already applied.
        noise: unit normal (B, C, h, w) float32, and the source that goes on from there.
        conditionings: branch name to conditioning, of B rows each.
        cancelled: polled before every evaluation.
        plan: what the branches are made of where the prompts switch or compose.
    """
    guidance, conditionings = _embed_guidance_scale(resolved.guidance, conditionings, family)
    initial, source = noise
    steering = build_additions(resolved.request, family, [1.0] * len(initial))
    network, additions = share_network(resolved.request, family, steering, len(initial))
    noise_schedule, levels = resolved.noise_schedule, resolved.levels
    run = Run(
        denoiser=Denoiser(network, guidance, conditionings, cancelled, plan, resolved.cache, additions),
        sampler=resolved.sampler,
        levels=levels,
        latents=(initial * resolved.program.initial_scale(levels, noise_schedule)).to(family.device),
        noise=source,
        noise_schedule=noise_schedule,
        begin=_bind_begin(resolved, family, source),
    )
    sliders = SLIDERS.build(resolved.request.sliders)
    return run if sliders is None else sliders.lead(run, family, [1.0] * len(initial))


def _bind_begin(resolved: ResolvedRun, family: Family, noise: NoiseSource) -> Begin | None:
    """How the request's start makes the first latents; None for plain noise."""
    if resolved.request.start.key == Request.start.key:
        return None
    fitted = family.components.get("fitted_starts")
    context = StartContext(noise, resolved.noise_schedule, resolved.request.model, fitted)
    return functools.partial(resolved.initialization.begin, context=context)


def _embed_guidance_scale(guidance: Guidance, conditionings: dict, family: Family) -> tuple[Guidance, dict]:
    if family.traits.guidance == "cfg":
        return guidance, conditionings
    scale = guidance.guidance_scale
    return without_branches(guidance), family.embed_guidance(conditionings, scale)
