"""Comparisons on two tiny models through a studio, for the tests of the task "compare"."""

from __future__ import annotations

from pathlib import Path

from studio.jobs.job import Job
from tests.pipelines.tiny_models import tiny_sd
from tests.studio.waiting import ended

BASE = {
    "model": "tiny",
    "prompt": "a red fox",
    "seed": 5,
    "num_inference_steps": 4,
    "width": 32,
    "height": 32,
    "sampler": "dpmpp_2m",
    "schedule": "uniform",
    "guidance": {"key": "cfg", "guidance_scale": 4.0},
}


def make_models(folder: Path) -> None:
    for name, seed in (("tiny", 0), ("other", 1)):
        tiny_sd(folder / name, seed=seed)


def finished(studio, values, task="compare") -> Job:
    job = studio.submit(task, values)
    ended(job)
    return job


def compare(studio, *cells, **values) -> Job:
    what = {"cells": list(cells)} if cells else {}
    return finished(studio, {"base": BASE, **what, "reference_steps": 6, **values})
