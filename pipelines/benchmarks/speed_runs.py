"""Runs that are timed beside the uncached run of the same steps, in turns."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from pipelines.caches.intervals import WHOLE
from pipelines.core.errors import SettingsError
from pipelines.core.loop import denoise
from pipelines.core.prediction import Query
from pipelines.core.types import Choice, Request
from pipelines.families.base import Family
from pipelines.metrics.pictures import psnr
from pipelines.requests.encoding import decode
from pipelines.requests.text_to_image import build_run, resolve

__all__ = ["Closeness", "Timing", "draw", "measure_bookkeeping", "measure_closeness", "time_in_turns"]


@dataclasses.dataclass(frozen=True)
class Timing:
    """Holds what a run of one picture took.

    Attributes:
        seconds: of processor time, the least of all rounds.
        evaluations: of the network, those in part as the share that was run.
    """

    seconds: float
    evaluations: float


@dataclasses.dataclass(frozen=True)
class Closeness:
    """Says how close pictures came to others.

    Attributes:
        mean, least: PSNR in decibels of the pictures.
    """

    mean: float
    least: float


def draw(family: Family, request: Request) -> tuple[torch.Tensor, float]:
    """Run a request to its end; returns its latents (B, C, h, w) and its evaluations."""
    *_, step = denoise(build_run(resolve(request, family), family))
    return step.latents, step.evaluations


def time_in_turns(runs: Sequence[Callable[[], float]], rounds: int) -> list[Timing]:
    """Time runs one after the other, round by round.

    Args:
        runs: each gives its evaluations.
        rounds: of all of them; the least time counts.
    """
    seconds, evaluations = [math.inf] * len(runs), [0.0] * len(runs)
    for _ in range(rounds):
        for index, run in enumerate(runs):
            # Of this thread alone, which does all the work: another program that has the core does not count.
            start = time.thread_time()
            evaluations[index] = run()
            seconds[index] = min(seconds[index], time.thread_time() - start)
    return [Timing(*one) for one in zip(seconds, evaluations, strict=True)]


def measure_closeness(
    family: Family, prompts: Sequence[str], request: Request, cache: Choice, references: list[np.ndarray]
) -> Closeness:
    """Compare pictures of a cached run with those of the uncached one.

    Args:
        family: the loaded model.
        prompts: one picture each.
        request: of the uncached run.
        cache: the choice.
        references: pictures of the uncached run, filled at the first call.
    """
    if not references:
        references += [decode(family, draw(family, request.replace(prompt=one))[0])[0] for one in prompts]
    values = []
    for prompt, reference in zip(prompts, references, strict=True):
        picture = decode(family, draw(family, request.replace(prompt=prompt, cache=cache))[0])[0]
        values.append(min(psnr(picture, reference), 99.0))
    return Closeness(sum(values) / len(values), min(values))


def measure_bookkeeping(family: Family, request: Request, calls: int = 300) -> tuple[float, float]:
    """Time what a cache does around an evaluation, without the evaluation.

    Args:
        family: the loaded model.
        request: with a cache.
        calls: whose mean counts.

    Returns:
        Seconds of processor time around a whole evaluation and around one in part.
    """
    run = build_run(resolve(request, family), family)
    denoiser, level = run.denoiser, run.levels[0]
    seconds: dict[bool, float] = {}
    with torch.no_grad():
        while len(seconds) < 2:
            remembered = denoiser.remember("positive", Query(run.latents, level))
            if remembered is None:
                raise SettingsError("The request has no cache. Give it one.")
            is_whole = remembered.plan == WHOLE
            if is_whole not in seconds and any(row.state for row in remembered.rows):
                start = time.thread_time()
                for _ in range(calls):
                    with remembered.cache.applied(family, remembered.plan, remembered.rows):
                        pass
                seconds[is_whole] = (time.thread_time() - start) / calls
            denoiser.predict(run.latents, level)
    return seconds[True], seconds[False]
