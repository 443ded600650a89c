"""What a request may ask for, checked before anything is loaded and again against the loaded model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping

from pipelines.autoencoders import VAES, get_vae_name
from pipelines.caches import CACHES
from pipelines.compatibility import COMPATIBILITIES
from pipelines.controls import CONTROLS, ENSEMBLES, IMAGE_PROMPTS, SLIDERS, T2I_ADAPTERS
from pipelines.core.caching import SteppedCache
from pipelines.core.errors import MethodFitError, PromptError, SettingsError
from pipelines.core.registry import Table, parse_settings
from pipelines.core.types import MAX_PROMPT, METHODS, Request, Traits
from pipelines.core.validation import require_range
from pipelines.guidance import GUIDANCE
from pipelines.initializations import INITIALIZATIONS
from pipelines.requests.refusals import require_made_here
from pipelines.requests.stories import check_story, require_story_fit
from pipelines.rewards import REWARDS
from pipelines.samplers import SAMPLERS
from pipelines.schedules import SCHEDULES
from pipelines.schedules.learned import Learned, LearnedSchedules
from pipelines.search import SEARCHES
from pipelines.second_passes import SECOND_PASSES
from pipelines.second_passes.base import SteeringPass
from pipelines.stories import STORIES

__all__ = ["TABLES", "Limits", "check_fit", "check_orders", "check_request", "check_second_pass"]

TABLES: Mapping[str, Table[object]] = {
    "sampler": SAMPLERS,
    "schedule": SCHEDULES,
    "guidance": GUIDANCE,
    "start": INITIALIZATIONS,
    "made_like": COMPATIBILITIES,
    "second_pass": SECOND_PASSES,
    "cache": CACHES,
    "vae": VAES,
    "control": CONTROLS,
    "t2i_adapter": T2I_ADAPTERS,
    "image_prompt": IMAGE_PROMPTS,
    "ensemble": ENSEMBLES,
    "sliders": SLIDERS,
    "story": STORIES,
    "search": SEARCHES,
    "reward": REWARDS,
}
"""The table of each of a request's methods, by its field."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """The server's caps; a request past one is refused with the cap named.

    Attributes:
        max_steps: steps of one run.
        max_side, min_side: pixels of a side.
        max_pixels: pixels of all pictures of a batch together.
        max_batch: pictures of one run.
        max_prompt: characters of a prompt.
        max_loras: LoRAs applied together.
        max_cells: cells of one comparison, and samplers of one convergence view.
        max_budgets: budgets of evaluations of one convergence view.
        max_evaluations: network evaluations of one run of a convergence view.
        max_variants: quantized forms of one comparison with the full precision.
        max_frames: frames of one clip.
        max_clip_pixels: pixels of all frames of a clip together.
        max_fps: frames a second of a clip.
        max_keys: prompts and seeds that a walk passes through.
        max_prompts: prompts that a schedule is fitted to.
        max_search_evaluations: of one search.
        max_queue: jobs waiting, of everybody together.
        max_jobs_per_owner: jobs waiting or running, of one person.
        max_seconds: that one job may hold the device; infinite for as long as it takes.
        max_cached_bytes: of finished runs, their pictures and encoded texts, which an equal request finds again; 0
            keeps none.
    """

    max_steps: int = 200
    max_side: int = 2048
    min_side: int = 16
    max_pixels: int = 16 * 1024 * 1024
    max_batch: int = 16
    max_prompt: int = MAX_PROMPT
    max_loras: int = 8
    max_cells: int = 36
    max_budgets: int = 16
    max_evaluations: int = 400
    max_variants: int = 7
    max_frames: int = 257
    max_clip_pixels: int = 256 * 1024 * 1024
    max_fps: int = 60
    max_keys: int = 12
    max_prompts: int = 2048
    max_search_evaluations: int = 20_000
    max_queue: int = 64
    max_jobs_per_owner: int = 8
    max_seconds: float = math.inf
    max_cached_bytes: int = 64 * 2**20


def check_request(
    request: Request, limits: Limits, prompt_needed: bool = True, learned: LearnedSchedules | None = None
) -> None:
    """Check everything that can be said without the model.

    Args:
        request: untrusted.
        limits: the server's caps.
        prompt_needed: False for a model that starts from a picture alone.
        learned: the fitted schedules that a name is looked for among; None leaves that to the run, which refuses what
            it does not find.

    Raises:
        SettingsError: the first thing that is wrong, its value, and what is allowed.
    """
    _check_prompts(request, limits, prompt_needed)
    check_story(request, limits.max_batch, limits.max_prompt)
    require_range("number of steps", request.num_inference_steps, 1, limits.max_steps)
    require_range("batch size", request.batch_size, 1, limits.max_batch)
    require_range("variation strength", request.variation_strength, 0, 1)
    # Picture i of a batch has seed + i, and each must be a seed itself.
    largest = 2**63 - max(request.batch_size, 1)
    require_range("seed", request.seed, 0, largest)
    require_range("variation seed", request.variation_seed, 0, largest if request.variation_strength else 2**63 - 1)
    for name in ("width", "height"):
        if value := getattr(request, name):
            require_range(name, value, limits.min_side, limits.max_side)
    if request.width * request.height * request.batch_size > limits.max_pixels:
        raise SettingsError(
            f"{request.batch_size} pictures of {request.width} × {request.height} pixels are more than this "
            f"studio makes at once ({limits.max_pixels} pixels). Choose a smaller size or batch."
        )
    if len(request.loras) > limits.max_loras:
        raise SettingsError(
            f"{len(request.loras)} LoRAs are chosen. At most {limits.max_loras} can be applied together."
        )
    for name, table in TABLES.items():
        table.require(getattr(request, name))
    COMPATIBILITIES.build(request.made_like).check(request)
    check_second_pass(request, limits)
    check_steering(request)
    _check_ensemble(request)
    _check_sliders(request)
    cache = CACHES.build(request.cache)
    if isinstance(cache, SteppedCache):
        cache.require_steps(request.num_inference_steps)
    search = SEARCHES.build(request.search)
    if search is not None:
        require_range("budget of the search", search.settings.budget, 1, limits.max_search_evaluations)
    if learned is not None:
        _check_learned(request, learned)
    check_orders(request)


def _check_learned(request: Request, learned: LearnedSchedules) -> None:
    schedule = SCHEDULES.build(request.schedule)
    if isinstance(schedule, Learned):
        learned.require(schedule.settings.name)


def check_second_pass(request: Request, limits: Limits) -> None:
    """Check whether the caps allow the size of the second pass; a size that the model decides passes until it is known.

    Raises:
        SettingsError: its pictures are too large, or it cannot follow another program's rules.
        MethodFitError: it sees pictures in parts, which a cache and pictures that steer do not know.
    """
    second = SECOND_PASSES.build(request.second_pass)
    if second.factor == 1:
        return
    steering = (request.control, request.t2i_adapter, request.image_prompt, request.ensemble, request.sliders)
    company = (request.cache, *steering, request.story)
    if isinstance(second, SteeringPass) and second.alone and any(one.key != "none" for one in company):
        raise MethodFitError(second.alone)
    require_made_here(request, "A second pass")
    width, height = round(request.width * second.factor), round(request.height * second.factor)
    if max(width, height) > limits.max_side or width * height * request.batch_size > limits.max_pixels:
        raise SettingsError(
            f"The second pass makes {width} × {height} pixels, {request.batch_size} at once: more than this studio "
            f"makes ({limits.max_side} a side, {limits.max_pixels} together). Choose a smaller factor or batch."
        )


def check_steering(request: Request) -> None:
    """Check the settings of the VAE and of what reads pictures against each other and the other methods.

    Raises:
        SettingsError: no model or no picture is named, or its part of the run is empty.
        MethodFitError: a cache leaves out the layers that a ControlNet or a T2I-Adapter adds to.
    """
    if request.vae.key != Request.vae.key and not get_vae_name(request):
        raise SettingsError("No VAE is chosen. Put one into the models folder and choose it, or take the model's own.")
    control, image_prompt = CONTROLS.build(request.control), IMAGE_PROMPTS.build(request.image_prompt)
    adapters = T2I_ADAPTERS.build(request.t2i_adapter)
    for built, label in ((control, "ControlNet"), (adapters, "T2I-Adapter"), (image_prompt, "IP-Adapter")):
        if built is None:
            continue
        settings = built.settings
        if not settings.model:
            raise SettingsError(f"No {label} is chosen. Put one into the models folder and choose it, or choose none.")
        if not settings.picture:
            raise SettingsError(f"The {label} has no picture. Choose one, or choose none.")
        if settings.begin >= settings.end:
            raise SettingsError(f"The {label} begins at {settings.begin:g} and ends at {settings.end:g}. End it later.")
    if adapters and adapters.settings.second and not adapters.settings.second_picture:
        raise SettingsError("The second T2I-Adapter has no picture. Choose one, or take one adapter alone.")
    for key, label in ((request.control.key, "ControlNet"), (request.t2i_adapter.key, "T2I-Adapter")):
        if key != "none" and request.cache.key != Request.cache.key:
            raise MethodFitError(f"A {label} adds to layers that a cache leaves out. Set Cache to No cache ('none').")


def _check_ensemble(request: Request) -> None:
    """Check a composition of models against the other methods.

    Raises:
        SettingsError: its own settings, or another program's rules, stand against it.
        MethodFitError: a cache, which knows one network.
    """
    ensemble = ENSEMBLES.build(request.ensemble)
    if ensemble is None:
        return
    ensemble.check(request.model)
    require_made_here(request, "A composition of several models")
    if request.cache.key != Request.cache.key:
        raise MethodFitError("A cache knows one network, not several models. Set Cache to No cache ('none').")


def _check_sliders(request: Request) -> None:
    """Check sliders against the other methods.

    Raises:
        SettingsError: their own settings contradict each other, or a second pass has another size.
        MethodFitError: a cache, which leaves out the layer that they move.
    """
    sliders = SLIDERS.build(request.sliders)
    if sliders is None:
        return
    sliders.check()
    if request.second_pass.key != Request.second_pass.key:
        raise SettingsError("Sliders are of one size, and a second pass has another. Set one of the two to none.")
    if request.cache.key != Request.cache.key:
        raise MethodFitError("Sliders move a layer that a cache leaves out. Set Cache to No cache ('none').")


def check_fit(request: Request, traits: Traits, fields: Collection[str] = METHODS) -> None:
    """Check whether the chosen methods fit the model.

    Args:
        request: its methods are looked at.
        traits: of the model.
        fields: fields that somebody chose: a stock pipeline has no use for the others and never sees them.

    Raises:
        MethodFitError: one does not, and why.
    """
    for name, table in TABLES.items():
        if name in fields or traits.backbone != "pipeline":
            choice = getattr(request, name)
            table[choice.key].require_fit(traits, choice.settings)
    require_story_fit(request, traits)


def check_orders(request: Request) -> None:
    """Check whether an order that somebody wrote finds as many steps; a default that nobody wrote uses what there is.

    Asked again wherever the number of steps changes after a request was checked.

    Args:
        request: its settings are valid. A start that skips steps counts; one whose chain decides cannot.

    Raises:
        SettingsError: it does not, and what to do.
    """
    if request.made_like.key != Request.made_like.key:
        return  # other programs lower the order of short runs, and so do their rules here
    method, steps = SAMPLERS[request.sampler.key], request.num_inference_steps
    start = INITIALIZATIONS[request.start.key]
    remaining = start.build(request.start.settings).remaining_steps(steps)
    steps, skipped_steps = (
        (steps, "") if remaining in (None, steps) else (remaining, f" that {start.label} leaves of {steps}")
    )
    order_fields = {field.name for field in dataclasses.fields(method.settings) if field.name.endswith("order")}
    settings = dataclasses.asdict(parse_settings(method.settings, request.sampler.settings, method.label))
    for name, value in settings.items():
        if name in order_fields and name in request.sampler.settings and value > steps:
            raise SettingsError(
                f"{method.label}: {name.replace('_', ' ')} is {value}, for a run of {steps} steps{skipped_steps}. "
                f"Choose an order up to {steps}, or at least {value} steps."
            )


def _check_prompts(request: Request, limits: Limits, is_required: bool) -> None:
    if is_required and not request.prompt.strip():
        raise PromptError("The prompt is empty. Write what the picture should show.")
    for name, prompt in (("prompt", request.prompt), ("negative prompt", request.negative_prompt)):
        if len(prompt) > limits.max_prompt:
            raise PromptError(
                f"The {name} has {len(prompt)} characters. At most {limits.max_prompt} are read: shorten it."
            )
