"""From what a person asks for to a fitted schedule: pictures, teacher, fit, record."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pipelines.core.denoiser import Guidance
from pipelines.core.errors import SettingsError
from pipelines.core.registry import Method, Table, parse_settings, setting
from pipelines.core.types import Choice, Request
from pipelines.families.base import Family
from pipelines.guidance import GUIDANCE
from pipelines.guidance.cfg import Unguided
from pipelines.learning.auto_diffusion import AutoDiffusionSettings, Generation, evolve
from pipelines.learning.bespoke import BespokeSettings, FittedSolver, Trial, fit_bespoke
from pipelines.learning.cases import Cases, make_cases
from pipelines.learning.ld3 import Ld3Settings, Round, fit_ld3
from pipelines.learning.problem import Problem, build_teacher_trajectory
from pipelines.samplers import SAMPLERS
from pipelines.schedules.learned import LearnedSettings, learned_levels
from pipelines.schedules.learned_file import LearnedSchedule
from pipelines.weights.network_identity import network_identity

__all__ = ["LEARNERS", "PROMPTS", "LearnRequest", "PictureSettings", "Progress", "learn"]

PROMPTS = tuple(
    f"a {thing} on a {color} background"
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
            help="Fits the factors of every step, by least squares and then by gradients through the whole run. For one evaluation a step.",
        ),
    ],
)
"""The ways to fit a schedule; each makes the settings of its fit."""


_FITS = {"ld3": fit_ld3, "auto_diffusion": evolve, "bespoke": fit_bespoke}


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
    """One fit.

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
    """How far a fit is.

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


def learn(request: LearnRequest, family: Family, cancelled: Callable[[], bool] = lambda: False) -> Iterator[Progress]:
    """Fit a schedule and report after every round; the last report has the result.

    Args:
        request: checked against the model.
        family: the loaded model.
        cancelled: polled before every evaluation.

    Raises:
        MethodFitError: the sampler cannot be fitted this way.
        SettingsError: a setting or a prompt cannot be.
        Cancelled: it was stopped.
    """
    base, began = request.base, time.perf_counter()
    settings = LEARNERS[request.learner.key].build(request.learner.settings)
    if base.num_inference_steps < 2:
        raise SettingsError("A schedule of 1 step has nothing to learn. Choose 2 steps or more.")
    goes_on = isinstance(settings, BespokeSettings) and settings.start == "kept"
    kept = {"kept": _kept(base, family, settings.kept)} if goes_on else {}
    yield Progress("Making the pictures of the long run", 0, 1)
    problem = _problem(request, family, cancelled)
    curve: list[Mapping[str, Any]] = []
    for one in _FITS[request.learner.key](problem, settings, request.pictures.seed, **kept):
        curve.append(_row(one))
        yield Progress("Fitting", one.index, one.total, tuple(curve))
    times, told, held_out = _result(one, problem)
    learned = LearnedSchedule(
        method=request.learner.key,
        model=base.model,
        network=network_identity(family),
        sampler=_filled(base.sampler, SAMPLERS),
        guidance=_filled(base.guidance, GUIDANCE),
        num_inference_steps=base.num_inference_steps,
        evaluations=_evaluations(one, problem),
        times=times,
        model_times=told,
        held_out=held_out,
        curve=tuple(curve),
        told={
            "settings": dataclasses.asdict(settings),
            "pictures": dataclasses.asdict(request.pictures),
            "seconds": round(time.perf_counter() - began, 1),
        },
        **_factors(one),
    )
    yield Progress("Done", one.total, one.total, tuple(curve), learned)


def _kept(base: Request, family: Family, name: str) -> FittedSolver:
    """The bespoke solver of a name that is kept for a run, or without a name the best.

    Raises:
        SettingsError: there is none.
    """
    settings = LearnedSettings("bespoke", name)
    one = family.learned.choose(settings, base, lambda: network_identity(family)).record
    return FittedSolver(one.model_times, one.rows, math.inf, one.held_out["fitted"], one.terms, one.emphasis)


def _problem(request: LearnRequest, family: Family, cancelled: Callable[[], bool]) -> Problem:
    base, pictures = request.base, request.pictures
    width, height = (given or own for given, own in zip((base.width, base.height), family.default_size, strict=True))
    prompts, count = request.prompts or PROMPTS, pictures.fitted + pictures.held_out
    cases = make_cases(
        family,
        [prompts[i % len(prompts)] for i in range(count)],
        range(pictures.seed, pictures.seed + count),
        base.negative_prompt,
        (width, height),
    )
    guidance, cases = _guided(base.guidance, cases, family)
    schedule, flow = family.noise_schedule_for(width, height), family.traits.flow
    rows = max(1, min(16, 16 * 256 // (cases.noise[0, 0].numel() or 1)))
    ends = [
        build_teacher_trajectory(
            part, family, guidance, schedule, flow=flow, steps=pictures.teacher_steps, rows=rows, cancelled=cancelled
        )
        for part in (cases.part(0, pictures.fitted), cases.part(pictures.fitted, count))
    ]
    return Problem(
        family,
        schedule,
        guidance,
        SAMPLERS[base.sampler.key].build(base.sampler.settings),
        base.num_inference_steps,
        *ends,
        rows=rows,
        cancelled=cancelled,
    )


def _guided(choice: Choice, cases: Cases, family: Family) -> tuple[Guidance, Cases]:
    guidance = GUIDANCE[choice.key].build(choice.settings)
    if family.traits.guidance == "cfg":
        return guidance, cases
    scale = guidance.guidance_scale
    return Unguided(), dataclasses.replace(cases, conditionings=family.embed_guidance(dict(cases.conditionings), scale))


def _factors(one: Round | Generation | Trial) -> dict[str, Any]:
    if not isinstance(one, Trial):
        return {}
    return {
        "rows": one.best.rows,
        "branches": one.best.terms.branches,
        "single": one.best.terms.single,
        "emphasis": one.best.emphasis,
    }


def _evaluations(one: Round | Generation | Trial, problem: Problem) -> int:
    nfe = problem.sampler.nfe(problem.num_steps)
    return one.best.terms.evaluations(nfe) if isinstance(one, Trial) else nfe


def _row(one: Round | Generation | Trial) -> dict[str, Any]:
    if isinstance(one, Trial):
        return {"round": one.index, "loss": round(one.loss, 5), "held_out": round(one.best.held_out, 5)}
    if isinstance(one, Round):
        row = {"round": one.index, "loss": round(one.loss, 5)}
        return row if one.held_out is None else {**row, "held_out": round(one.held_out, 5)}
    return {
        "round": one.index,
        "loss": round(one.best_error, 5),
        "population": [round(error, 4) for error in one.errors],
    }


def _result(one: Round | Generation | Trial, problem: Problem) -> tuple[tuple, tuple, dict[str, float]]:
    if isinstance(one, Trial):
        return one.best.times, one.best.times, {"uniform": one.uniform, "fitted": one.best.held_out}
    if isinstance(one, Round):
        return one.best.times, one.best.model_times, {"uniform": one.uniform, "fitted": one.best.held_out}
    times = tuple(float(time) for time in one.best)
    uniform = learned_levels(*2 * (_uniform(problem),), problem.noise_schedule)
    held = {
        "uniform": problem.error(uniform, problem.held_out),
        "fitted": problem.error(learned_levels(times, times, problem.noise_schedule), problem.held_out),
    }
    return times, times, held


def _uniform(problem: Problem) -> tuple[float, ...]:
    from pipelines.schedules.uniform import uniform_times

    return tuple(uniform_times(problem.noise_schedule, problem.num_steps, "trailing").tolist())


def _filled(choice: Choice, table: Table) -> Choice:
    """The choice with every setting spelled out."""
    return Choice(choice.key, dataclasses.asdict(parse_settings(table[choice.key].settings, choice.settings)))
