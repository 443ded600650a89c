"""Whole jobs of the studio on a device that holds no tensor of the CPU: that of `tests/pipelines/accelerator.py`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler

from studio.backend import Studio, StudioSettings
from studio.jobs.job import JobStatus
from tests.pipelines.accelerator import Accelerator
from tests.pipelines.tiny_models import tiny_sd
from tests.pipelines.tiny_videos import TINY_VIDEOS
from tests.studio.clip_runs import BASE, picture, values
from tests.studio.waiting import ended


@pytest.mark.slow
def test_two_cards_take_a_job_each_and_the_next_goes_to_the_free_one(tmp_path, monkeypatch):
    device = Accelerator("cuda", count=2)
    tiny_sd(tmp_path / "models" / "tiny-sd")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (20 * 10**9, 24 * 10**9))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Stand-in")
    with device.on():
        settings = StudioSettings(
            tmp_path / "out", tmp_path / "models", device="cuda:0", more_devices=("cuda:1",), dtype="float32"
        )
        studio = Studio(settings)
        jobs = [studio.submit("text_to_image", BASE) for _ in range(2)]
        views = [ended(job) for job in jobs]
        assert [view.status for view in views] == [JobStatus.DONE] * 2, [view.message for view in views]
        assert {job.device for job in jobs} == {"cuda:0", "cuda:1"}
        pictures = [view.cells[0].images for view in views]
        assert (pictures[0] == pictures[1]).all()
        cards = {}
        for loader in studio.loaders:
            with loader.model("tiny-sd") as family:
                cards[loader.device] = {str(one.device) for one in family.network.parameters()}
        assert cards == {"cuda:0": {"cuda:0"}, "cuda:1": {"cuda:1"}}
        studio.loaders[0].release("tiny-sd")
        assert ended(job := studio.submit("text_to_image", BASE)).status is JobStatus.DONE
        assert job.device == "cuda:1", "the free card that has the model"
        studio.close()


JOBS = {
    "text_to_image": BASE,
    "edit": {"base": BASE | {"num_inference_steps": 4}, "picture": picture((32, 32)), "source_prompt": "a cat"},
    "compare": {"base": BASE, "cells": [{}, {"sampler": "dpmpp_2m"}]},
    "quantize": {"base": BASE, "variants": ["int8", "nf4"]},
    "convergence": {"base": BASE, "samplers": ["ddim"], "evaluations": [4], "reference_steps": 20},
    "walk": values(),
    "animatediff": values("tiny-animatediff"),
    "ltx": values("tiny-ltx"),
    "svd": values("tiny-svd"),
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A studio on the stand-in and one on the CPU, with the same models."""
    folder, device = tmp_path_factory.mktemp("device"), Accelerator("cuda")
    tiny_sd(folder / "models" / "tiny-sd")
    for name in ("animatediff", "ltx", "svd"):
        TINY_VIDEOS[name](folder / "models" / f"tiny-{name}")
    set_timesteps, stand_in = EulerDiscreteScheduler.set_timesteps, device

    def set_on_host(self, steps, device=None, **further):
        # A list of tensors of the CPU becomes a tensor, which PyTorch does not do while the stand-in is there.
        with stand_in.aside():
            set_timesteps(self, steps, device="cpu", **further)
        self.timesteps = self.timesteps.to(device)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EulerDiscreteScheduler, "set_timesteps", set_on_host)
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
    task = "animate" if name in ("walk", "animatediff", "ltx", "svd") else name
    here, there = (ended(studio.submit(task, JOBS[name])) for studio in pair)
    for view in (here, there):
        assert view.status is JobStatus.DONE, view.message
    assert len(there.cells) == len(here.cells) > 0
    for one, other in zip(there.cells, here.cells, strict=True):
        assert (one.images is None) == (other.images is None)
        if one.images is not None:
            assert np.abs(one.images.astype(int) - other.images.astype(int)).mean() < 1
