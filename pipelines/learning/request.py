"""What a person asks of a fit, and what it reports."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from pipelines.core.errors import MethodFitError, SettingsError
from pipelines.core.registry import Method, Table, setting
from pipelines.core.types import Choice, Request
from pipelines.learning.auto_diffusion import AutoDiffusionSettings
from pipelines.learning.bespoke_settings import BespokeSettings
from pipelines.learning.ld3 import Ld3Settings
from pipelines.learning.q_sched import QSchedSettings, require_corrected
from pipelines.prompts.articles import choose_article
from pipelines.requests.prompts import prompt_rules
from pipelines.requests.refusals import require_made_here, require_uncached
from pipelines.schedules.learned_file import LearnedSchedule

__all__ = ["LEARNERS", "PROMPTS", "LearnRequest", "PictureSettings", "Progress", "require_fit", "require_learnable"]

PROMPTS = tuple(
    f"{choose_article(thing)} {thing} on {choose_article(color)} {color} background"
    for thing, color in zip(
        (
            "fox",
            "rocket",
            "red apple",
            "penguin",
            "castle",
            "sunflower",
            "bus",
            "owl",
            "guitar",
            "mushroom",
            "sailboat",
            "robot",
            "tulip",
            "pizza",
            "lion",
            "snowman",
        ),
        (
            "blue",
            "black",
            "green",
            "teal",
            "pink",
            "purple",
            "white",
            "yellow",
            "orange",
            "brown",
            "gray",
            "red",
            "white",
            "blue",
            "green",
            "purple",
        ),
        strict=True,
    )
)
"""What the pictures show where no prompts are given: simple enough for any text-to-image model."""

LEARNERS = Table(
    "learner",
    [
        Method(
            "ld3",
            "LD3",
            lambda settings: settings,
            Ld3Settings,
            paper="Tong et al., LD3, arXiv:2405.15506",
            help="Learns the times by gradients through the whole run. For samplers without fresh noise.",
        ),
        Method(
            "auto_diffusion",
            "AutoDiffusion",
            lambda settings: settings,
            AutoDiffusionSettings,
            paper="Li et al., AutoDiffusion, arXiv:2309.10438",
            help="Evolves sets of time steps. For any sampler; slower.",
        ),
        Method(
            "bespoke",
            "Bespoke solver",
            lambda settings: settings,
            BespokeSettings,
            paper="Shaul et al., Bespoke non-stationary solvers, arXiv:2403.01329",
            help="Fits the factors of every step, by least squares and then by gradients through the whole run. "
            "For one evaluation a step.",
        ),
        Method(
            "q_sched",
            "Q-Sched",
            lambda settings: settings,
            QSchedSettings,
            paper="Frumkin & Marculescu, Q-Sched, arXiv:2509.01624",
            help="For a quantized model in few steps: two coefficients of the sampler that make up for the rounding.",
        ),
    ],
)
"""The ways to fit a schedule; each makes the settings of its fit."""


@dataclasses.dataclass(frozen=True)
class PictureSettings:
    fitted: int = setting(16, "Pictures to fit to.", low=2, high=1024, step=1)
    held_out: int = setting(16, "Other pictures, that judge the result.", low=2, high=512, step=1)
    teacher_steps: int = setting(
        60, "Steps of the long run whose ends the short one should reach.", low=10, high=1000, step=10
    )
    seed: int = setting(0, "Of the pictures' noises and of the fit.", low=0, high=2**31 - 1, step=1)


@dataclasses.dataclass(frozen=True)
class LearnRequest:
    """Describes one fit.

    Attributes:
        base: its model, sampler, guidance, steps, size and negative prompt.
        learner: of the table, with settings.
        pictures: how many, and their teacher.
        prompts: of the pictures, in turns; empty takes `PROMPTS`.
    """

    base: Request
    learner: Choice = Choice("ld3")
    pictures: PictureSettings = PictureSettings()
    prompts: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Progress:
    """Says how far a fit is.

    Attributes:
        stage: in words.
        done, total: rounds.
        curve: a row a round: "round", "loss", and where known "held_out", "population" (the errors of a generation).
        learned: the result, in the last report only.
    """

    stage: str
    done: int
    total: int
    curve: tuple[Mapping[str, Any], ...] = ()
    learned: LearnedSchedule | None = None


def require_learnable(base: Request) -> None:
    """Check whether a schedule can be fitted to a request's run.

    Raises:
        SettingsError: its rules are a peer's, or its one step leaves nothing to learn.
        MethodFitError: its guidance is not the same at every level.
    """
    require_made_here(base, "A schedule that is learned")
    require_uncached(base, "A schedule that is learned")
    if prompt_rules(base) != prompt_rules(Request()):
        raise SettingsError("A schedule is learned with all layers of the text encoder: set clip skip to 0.")
    if base.guidance.key != "cfg":
        raise MethodFitError(
            "A schedule is learned with the same guidance at every level: choose Classifier-free guidance."
        )
    if base.num_inference_steps < 2:
        raise SettingsError("A schedule of 1 step has nothing to learn. Choose 2 steps or more.")


def require_fit(request: LearnRequest) -> None:
    """Check whether a request's learner suits its run and its prompts, before any model is loaded.

    Raises:
        MethodFitError: the learner is for other runs.
        SettingsError: the learner cannot take a prompt.
    """
    settings = LEARNERS.build(request.learner)
    if isinstance(settings, QSchedSettings):
        require_corrected(settings, request.base.num_inference_steps, request.prompts or PROMPTS)
