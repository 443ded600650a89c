"""How many network evaluations a request takes, before it runs."""

from __future__ import annotations

import math

from pipelines.compatibility import COMPATIBILITIES
from pipelines.controls import ENSEMBLES
from pipelines.core.prediction import AskingGuidance, CountedGuidance, Guidance, ShiftingGuidance
from pipelines.core.schedule import Level
from pipelines.core.types import Request, Traits
from pipelines.guidance import GUIDANCE
from pipelines.initializations import INITIALIZATIONS
from pipelines.requests.prompts import branch_count
from pipelines.samplers import SAMPLERS
from pipelines.schedules import ends_clean, skipped_branches
from pipelines.schedules.learned import LearnedSchedules

__all__ = ["count_nfe", "evaluations"]

_LEVELS = tuple(Level(1 / math.sqrt(1 + 4.0**k), 2.0**k / math.sqrt(1 + 4.0**k), 500.0) for k in range(-8, 9))
"""From nearly clean to nearly noise, a factor of two apart: a guidance may evaluate other branches at each."""


def evaluations(request: Request, traits: Traits | None, learned: LearnedSchedules = LearnedSchedules()) -> int:
    """Count the network evaluations of one picture: the start's and the sampler's calls times the branches of the
    guidance, less those that a fitted solver leaves out.

    An upper bound where a sampler saves some at a level without signal. A guidance whose branches depend on
    the level counts with its most.

    Args:
        request: checked.
        traits: of the model, where they are known.
        learned: the fitted schedules that there are; by default the shipped ones.
    """
    nfe, branches = count_nfe(request, traits)
    guidance, ensemble = _build_guidance(request), ENSEMBLES.build(request.ensemble)
    models = 1 + len(ensemble.weights) if ensemble else 1
    if isinstance(guidance, CountedGuidance) and not (traits and traits.guidance != "cfg"):
        return models * sum(branch_count(request, plan) for plan in guidance.plans(nfe))
    shifts = guidance.shift_evaluations(request.num_inference_steps) if isinstance(guidance, ShiftingGuidance) else 0
    return models * (branches * nfe + shifts - skipped_branches(request, learned))


def _build_guidance(request: Request) -> Guidance:
    return COMPATIBILITIES.build(request.made_like).guidance(GUIDANCE.build(request.guidance))


def count_nfe(request: Request, traits: Traits | None) -> tuple[int, int]:
    """Count the evaluations of the denoiser in a run, and the branches that each takes, both at most."""
    guidance = _build_guidance(request)
    plans = [("positive",)] if traits and traits.guidance != "cfg" else [guidance.plan(level) for level in _LEVELS]
    branches = branch_count(request, max(plans, key=len))
    if isinstance(guidance, AskingGuidance):
        branches += max(guidance.further_evaluations(level) for level in _LEVELS)
    sampler = SAMPLERS.build(request.sampler)
    start = INITIALIZATIONS.build(request.start)
    return start.nfe(request.num_inference_steps, sampler, ends_clean(request.schedule)), branches
