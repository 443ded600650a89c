"""What a request may ask for, checked before anything is loaded and again against the loaded model."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping

from pipelines.core.errors import PromptError, SettingsError
from pipelines.core.registry import Table, parse_settings
from pipelines.core.types import MAX_PROMPT, METHODS, Request, Traits
from pipelines.guidance import GUIDANCE
from pipelines.initializations import INITIALIZATIONS
from pipelines.samplers import SAMPLERS
from pipelines.schedules import SCHEDULES
from pipelines.schedules.learned import Learned, LearnedSchedules

__all__ = ["TABLES", "Limits", "check_fit", "check_orders", "check_request"]

TABLES: Mapping[str, Table] = {
    "sampler": SAMPLERS,
    "schedule": SCHEDULES,
    "guidance": GUIDANCE,
    "start": INITIALIZATIONS,
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
        max_cells: cells of one comparison.
        max_frames: frames of one clip.
        max_clip_pixels: pixels of all frames of a clip together.
        max_fps: frames a second of a clip.
        max_keys: prompts and seeds that a walk passes through.
        max_queue: jobs waiting, of everybody together.
        max_jobs_per_owner: jobs waiting or running, of one person.
    """

    max_steps: int = 200
    max_side: int = 2048
    min_side: int = 16
    max_pixels: int = 16 * 1024 * 1024
    max_batch: int = 16
    max_prompt: int = MAX_PROMPT
    max_loras: int = 8
    max_cells: int = 36
    max_frames: int = 257
    max_clip_pixels: int = 256 * 1024 * 1024
    max_fps: int = 60
    max_keys: int = 12
    max_queue: int = 64
    max_jobs_per_owner: int = 8


def check_request(
    request: Request, limits: Limits, prompt_needed: bool = True, learned: LearnedSchedules | None = None
) -> None:
    """Everything that can be said without the model.

    Args:
        request: untrusted.
        limits: the server's caps.
        prompt_needed: False for a model that starts from a picture alone.
        learned: the fitted schedules that a name is looked for among; None leaves that to the run, which refuses what it
            does not find.

    Raises:
        SettingsError: the first thing that is wrong, its value, and what is allowed.
    """
    _check_prompts(request, limits, prompt_needed)
    _check_range("number of steps", request.num_inference_steps, 1, limits.max_steps)
    _check_range("batch size", request.batch_size, 1, limits.max_batch)
    _check_range("variation strength", request.variation_strength, 0, 1)
    _check_range("seed", request.seed, 0, 2**63 - 1)
    _check_range("variation seed", request.variation_seed, 0, 2**63 - 1)
    for name in ("width", "height"):
        if value := getattr(request, name):
            _check_range(name, value, limits.min_side, limits.max_side)
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
        choice = getattr(request, name)
        method = table[choice.key]
        parse_settings(method.settings, choice.settings, method.label)
    if learned is not None:
        _check_learned(request, learned)
    check_orders(request)


def _check_learned(request: Request, learned: LearnedSchedules) -> None:
    schedule = SCHEDULES[request.schedule.key].build(request.schedule.settings)
    if isinstance(schedule, Learned):
        learned.require(schedule.settings.name)


def check_fit(request: Request, traits: Traits, said: Collection[str] = METHODS) -> None:
    """Whether the chosen methods fit the model.

    Args:
        request: its methods are looked at.
        traits: of the model.
        said: fields that somebody chose: a stock pipeline has no use for the others and never sees them.

    Raises:
        MethodFitError: one does not, and why.
    """
    for name, table in TABLES.items():
        if name in said or traits.backbone != "pipeline":
            table[getattr(request, name).key].require_fit(traits)


def check_orders(request: Request) -> None:
    """Whether an order that somebody wrote finds as many steps; a default that nobody wrote uses what there is.

    Asked again wherever the number of steps changes after a request was checked.

    Args:
        request: its settings are valid. A start that spares steps counts; one whose chain decides cannot.

    Raises:
        SettingsError: it does not, and what to do.
    """
    method, steps = SAMPLERS[request.sampler.key], request.num_inference_steps
    start = INITIALIZATIONS[request.start.key]
    left = start.build(request.start.settings).left(steps)
    steps, skipped_steps = (steps, "") if left in (None, steps) else (left, f" that {start.label} leaves of {steps}")
    known = {field.name for field in dataclasses.fields(method.settings) if field.name.endswith("order")}
    for name, value in request.sampler.settings.items():
        if name in known and int(value) > steps:
            raise SettingsError(
                f"{method.label}: {name.replace('_', ' ')} is {value}, for a run of {steps} steps{skipped_steps}. "
                f"Choose an order up to {steps}, or at least {value} steps."
            )


def _check_prompts(request: Request, limits: Limits, needed: bool) -> None:
    if needed and not request.prompt.strip():
        raise PromptError("The prompt is empty. Write what the picture should show.")
    for name, prompt in (("prompt", request.prompt), ("negative prompt", request.negative_prompt)):
        if len(prompt) > limits.max_prompt:
            raise PromptError(
                f"The {name} has {len(prompt)} characters. At most {limits.max_prompt} are read: shorten it."
            )


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise SettingsError(f"The {name} is {value}. Choose a value from {low} to {high}.")
