"""From what a person asks for to a fitted schedule: pictures, teacher, fit, record."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pipelines.core.prediction import Guidance
from pipelines.core.registry import Table, parse_settings
from pipelines.core.types import Choice, Request
from pipelines.families.base import Family
from pipelines.guidance import GUIDANCE
from pipelines.guidance.cfg import Unguided
from pipelines.learning.auto_diffusion import Generation, evolve
from pipelines.learning.bespoke import FittedSolver, Trial, fit_bespoke
from pipelines.learning.bespoke_settings import BespokeSettings
from pipelines.learning.cases import Cases, make_cases
from pipelines.learning.ld3 import Round, fit_ld3
from pipelines.learning.problem import Problem, build_teacher_trajectory
from pipelines.learning.q_sched import Correction, QSchedSettings, fit_q_sched, judge_prompts
from pipelines.learning.request import LEARNERS, PROMPTS, LearnRequest, Progress, require_learnable
from pipelines.samplers import SAMPLERS
from pipelines.schedules.learned import LearnedSettings, learned_levels
from pipelines.schedules.learned_file import LearnedSchedule
from pipelines.weights.network_identity import network_identity

__all__ = ["learn"]

Result = Round | Generation | Trial | Correction

_FITS: Mapping[str, Callable[..., Iterator[Any]]] = {
    "ld3": fit_ld3,
    "auto_diffusion": evolve,
    "bespoke": fit_bespoke,
    "q_sched": fit_q_sched,
}


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
    base, start_time = request.base, time.perf_counter()
    settings = LEARNERS.build(request.learner)
    require_learnable(base)
    goes_on = isinstance(settings, BespokeSettings) and settings.start == "kept"
    more: dict[str, Any] = {"previous": _find_previous(base, family, settings.kept)} if goes_on else {}
    if isinstance(settings, QSchedSettings) and settings.score == "adherence":
        more["judge"] = judge_prompts(_list_prompts(request)[: request.pictures.fitted], family.decode)
    yield Progress("Making the pictures of the long run", 0, 1)
    problem = _build_problem(request, family, cancelled)
    curve: list[Mapping[str, Any]] = []
    for result in _FITS[request.learner.key](problem, settings, request.pictures.seed, **more):
        curve.append(_build_row(result))
        yield Progress("Fitting", result.index, result.total, tuple(curve))
    times, model_times, held_out = _read_result(result, problem)
    learned = LearnedSchedule(
        method=request.learner.key,
        model=base.model,
        network=network_identity(family),
        sampler=_fill_settings(base.sampler, SAMPLERS),
        guidance=_fill_settings(base.guidance, GUIDANCE),
        num_inference_steps=base.num_inference_steps,
        evaluations=_count_evaluations(result, problem),
        times=times,
        model_times=model_times,
        held_out=held_out,
        curve=tuple(curve),
        fit_details={
            "settings": dataclasses.asdict(settings),
            "pictures": dataclasses.asdict(request.pictures),
            "seconds": round(time.perf_counter() - start_time, 1),
        },
        **_build_factors(result),
    )
    yield Progress("Done", result.total, result.total, tuple(curve), learned)


def _find_previous(base: Request, family: Family, name: str) -> FittedSolver:
    """The bespoke solver of a name that is kept for a run, or without a name the best.

    Raises:
        SettingsError: there is none.
    """
    settings = LearnedSettings("bespoke", name)
    record = family.learned.choose(settings, base, lambda: network_identity(family)).record
    return FittedSolver(
        record.model_times, record.rows, math.inf, record.held_out["fitted"], record.terms, record.prompt_extrapolation
    )


def _list_prompts(request: LearnRequest) -> list[str]:
    """One for each picture, first those that are fitted to."""
    prompts, count = request.prompts or PROMPTS, request.pictures.fitted + request.pictures.held_out
    return [prompts[i % len(prompts)] for i in range(count)]


def _build_problem(request: LearnRequest, family: Family, cancelled: Callable[[], bool]) -> Problem:
    base, pictures = request.base, request.pictures
    width, height = (
        requested or default for requested, default in zip((base.width, base.height), family.default_size, strict=True)
    )
    count = pictures.fitted + pictures.held_out
    cases = make_cases(
        family,
        _list_prompts(request),
        range(pictures.seed, pictures.seed + count),
        base.negative_prompt,
        (width, height),
    )
    guidance, cases = _build_guidance(base.guidance, cases, family)
    schedule, flow = family.noise_schedule_for(width, height), family.traits.flow
    rows = max(1, min(16, 16 * 256 // (cases.noise[0, 0].numel() or 1)))
    fitted, held_out = (
        build_teacher_trajectory(
            part, family, guidance, schedule, flow=flow, steps=pictures.teacher_steps, rows=rows, cancelled=cancelled
        )
        for part in (cases.part(0, pictures.fitted), cases.part(pictures.fitted, count))
    )
    return Problem(
        family,
        schedule,
        guidance,
        SAMPLERS.build(base.sampler),
        base.num_inference_steps,
        fitted,
        held_out,
        rows=rows,
        cancelled=cancelled,
    )


def _build_guidance(choice: Choice, cases: Cases, family: Family) -> tuple[Guidance, Cases]:
    guidance = GUIDANCE.build(choice)
    if family.traits.guidance == "cfg":
        return guidance, cases
    scale = guidance.guidance_scale
    return Unguided(), dataclasses.replace(cases, conditionings=family.embed_guidance(dict(cases.conditionings), scale))


def _build_factors(result: Result) -> dict[str, Any]:
    if isinstance(result, Correction):
        return {"coefficients": result.best}
    if not isinstance(result, Trial):
        return {}
    return {
        "rows": result.best.rows,
        "branches": result.best.terms.branches,
        "single": result.best.terms.single,
        "prompt_extrapolation": result.best.prompt_extrapolation,
    }


def _count_evaluations(result: Result, problem: Problem) -> int:
    nfe = problem.sampler.nfe(problem.num_steps)
    return result.best.terms.evaluations(nfe) if isinstance(result, Trial) else nfe


def _build_row(result: Result) -> dict[str, Any]:
    if isinstance(result, Correction):
        row = {"round": result.index, "loss": round(result.best_loss, 5), "held_out": round(result.held_out, 5)}
        return {**row, "coefficients": [round(one, 4) for one in result.best]}
    if isinstance(result, Trial):
        return {"round": result.index, "loss": round(result.loss, 5), "held_out": round(result.best.held_out, 5)}
    if isinstance(result, Round):
        row = {"round": result.index, "loss": round(result.loss, 5)}
        return row if result.held_out is None else {**row, "held_out": round(result.held_out, 5)}
    return {
        "round": result.index,
        "loss": round(result.best_error, 5),
        "population": [round(error, 4) for error in result.errors],
    }


def _read_result(result: Result, problem: Problem) -> tuple[tuple, tuple, dict[str, float]]:
    if isinstance(result, Correction):
        return result.times, result.times, {"uniform": result.uniform, "fitted": result.held_out}
    if isinstance(result, Trial):
        return result.best.times, result.best.times, {"uniform": result.uniform, "fitted": result.best.held_out}
    if isinstance(result, Round):
        return result.best.times, result.best.model_times, {"uniform": result.uniform, "fitted": result.best.held_out}
    times = tuple(float(time) for time in result.best)
    uniform = learned_levels(*2 * (_list_uniform_times(problem),), problem.noise_schedule)
    held_out = {
        "uniform": problem.error(uniform, problem.held_out),
        "fitted": problem.error(learned_levels(times, times, problem.noise_schedule), problem.held_out),
    }
    return times, times, held_out


def _list_uniform_times(problem: Problem) -> tuple[float, ...]:
    from pipelines.schedules.uniform import uniform_times

    return tuple(uniform_times(problem.noise_schedule, problem.num_steps, "trailing").tolist())


def _fill_settings(choice: Choice, table: Table) -> Choice:
    """The choice with every setting spelled out."""
    return Choice(choice.key, dataclasses.asdict(parse_settings(table[choice.key].settings, choice.settings)))
