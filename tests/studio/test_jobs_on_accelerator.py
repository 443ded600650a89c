"""Whole jobs of the studio on a device that holds no tensor of the CPU: that of `tests/pipelines/accelerator.py`."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from studio.backend import Studio, StudioSettings
from studio.jobs.job import JobStatus
from tests.pipelines.accelerator import Accelerator
from tests.pipelines.tiny_models import tiny_sd
from tests.pipelines.tiny_videos import TINY_VIDEOS
from tests.studio.clip_runs import BASE, picture, values
from tests.studio.waiting import ended

JOBS = {
    "text_to_image": BASE,
    "edit": {"base": BASE | {"num_inference_steps": 4}, "picture": picture((32, 32)), "source_prompt": "a cat"},
    "compare": {"base": BASE, "cells": [{}, {"sampler": "dpmpp_2m"}]},
    "quantize": {"base": BASE, "variants": ["int8", "nf4"]},
    "convergence": {"base": BASE, "samplers": ["ddim"], "evaluations": [4], "reference_steps": 20},
    "walk": values(),
    "animatediff": values("tiny-animatediff"),
    "ltx": values("tiny-ltx"),
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A studio on the stand-in and one on the CPU, with the same models."""
    folder, device = tmp_path_factory.mktemp("device"), Accelerator("cuda")
    tiny_sd(folder / "models" / "tiny-sd")
    for name in ("animatediff", "ltx"):
        TINY_VIDEOS[name](folder / "models" / f"tiny-{name}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "mem_get_info", lambda _: (20 * 10**9, 24 * 10**9))
        patch.setattr(torch.cuda, "get_device_name", lambda _: "Stand-in")
        on_cpu = Studio(StudioSettings(folder / "cpu", folder / "models", device="cpu", dtype="float32"))
        # Its worker is a thread of the context's.
        with device.on():
            on_device = Studio(StudioSettings(folder / "cuda", folder / "models", device="cuda:0", dtype="float32"))
            yield on_cpu, on_device
            on_device.close()
        on_cpu.close()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name != "text_to_image")) for name in JOBS]
)
def test_a_job_on_the_device_ends_with_the_pictures_that_the_cpu_makes(name, pair):
    task = "animate" if name in ("walk", "animatediff", "ltx") else name
    here, there = (ended(studio.submit(task, JOBS[name])) for studio in pair)
    for view in (here, there):
        assert view.status is JobStatus.DONE, view.message
    assert len(there.cells) == len(here.cells) > 0
    for one, other in zip(there.cells, here.cells, strict=True):
        assert (one.images is None) == (other.images is None)
        if one.images is not None:
            assert np.abs(one.images.astype(int) - other.images.astype(int)).mean() < 1
