"""What was fitted to one model, the noise levels of a run, and what looks at words of the prompt, checked before
anything is loaded."""

from __future__ import annotations

from pathlib import Path

from pipelines.caches import CACHES
from pipelines.core.caching import FittedCache
from pipelines.core.errors import PromptError, SettingsError
from pipelines.core.schedule import NoiseSchedule
from pipelines.core.types import Request
from pipelines.guidance import GUIDANCE
from pipelines.guidance.linear import FittedGuidance
from pipelines.guidance.word_maps import WordedGuidance, choose_words
from pipelines.initializations import INITIALIZATIONS
from pipelines.initializations.fitted import find_fitted
from pipelines.prompts.weights import parse_weights
from pipelines.requests.prompts import require_one_text
from pipelines.requests.refusals import require_made_here
from pipelines.schedules import levels_for
from pipelines.schedules.learned import LearnedSchedules

__all__ = ["check_fitted", "check_levels", "check_start", "check_words"]


def check_fitted(request: Request) -> None:
    """Check a fitted cache and a fitted guidance against the model and the steps.

    A run's levels are held against the fit once the model is loaded.

    Raises:
        MethodFitError: one was fitted to another model, or to another number of steps.
    """
    # A hand-typed schedule and another program may make another number of steps than is asked for.
    is_plain = request.schedule.key != "hand_typed" and request.made_like.key == Request.made_like.key
    steps = request.num_inference_steps if is_plain else None
    cache, guidance = CACHES.build(request.cache), GUIDANCE.build(request.guidance)
    if isinstance(cache, FittedCache):
        cache.require_model(request.model, steps)
    if isinstance(guidance, FittedGuidance):
        guidance.require_model(request.model, steps)


def check_start(request: Request, folder: Path) -> None:
    """Check whether the start's fitted files are there, and whether it makes as many pictures at once.

    Args:
        request: its settings are valid.
        folder: of what was fitted for its model.

    Raises:
        ModelMissingError: a file is missing, with the command that makes it.
        SettingsError: the start makes fewer pictures at a time.
    """
    start = INITIALIZATIONS.build(request.start)
    for name in start.list_files(request.num_inference_steps):
        find_fitted(name, request.model, folder)
    if start.most_pictures and request.batch_size > start.most_pictures:
        raise SettingsError(
            f"{INITIALIZATIONS[request.start.key].label} makes {start.most_pictures} picture at a time, and "
            f"{request.batch_size} are asked for. Choose {start.most_pictures}, or another start."
        )


def check_levels(request: Request, noise_schedule: NoiseSchedule, learned: LearnedSchedules) -> None:
    """Check whether the chosen schedule has levels for the model and the number of steps.

    Args:
        request: its settings are valid. Another program's rules make levels of their own, which are left to the run.
        noise_schedule: the model's own.
        learned: the fitted schedules that there are.

    Raises:
        SettingsError: it has none, and why.
    """
    if request.made_like.key == Request.made_like.key:
        levels_for(request, noise_schedule, learned)


def check_words(request: Request) -> None:
    """Check the words that a guidance looks at against the prompt; their tokens are found once the model is loaded.

    Raises:
        MethodFitError: the prompt says different things at different steps.
        PromptError: a word is not in the prompt, or no word is left to look at.
        SettingsError: another program's rules read the prompt.
    """
    guidance = GUIDANCE.build(request.guidance)
    if not isinstance(guidance, WordedGuidance) or not request.prompt.strip():
        return
    label = GUIDANCE[request.guidance.key].label
    require_made_here(request, f"A run with {label}")
    require_one_text(request.prompt, request.negative_prompt, f"Runs with {label}")
    words = "".join(piece for piece, _ in parse_weights(request.prompt)).split()
    text = "".join(words).lower()
    for word in choose_words(guidance.words, words):
        if "".join(word.split()).lower() not in text:
            raise PromptError(
                f"{label} looks for {word[:40]!r}, which is not in the prompt. Write it there, or leave it."
            )
