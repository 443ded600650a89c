"""A finished job that nobody remembers leaves memory at once, and not when Python next looks for cycles."""

from __future__ import annotations

import base64
import gc
import io
import weakref

import pytest
from PIL import Image

from pipelines.requests.limits import Limits
from studio.backend import Studio, StudioSettings
from studio.jobs import heap
from studio.jobs.history import JobHistory
from studio.jobs.job import Job, JobStatus
from studio.jobs.local_engine import LocalEngine
from tests.studio.waiting import ended


@pytest.fixture
def without_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def encode(side):
    stream = io.BytesIO()
    Image.new("RGB", (side, side), "red").save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def test_what_a_job_was_given_goes_with_the_job(tmp_path, without_collector):
    studio = Studio(StudioSettings(outputs=tmp_path / "outputs", models=tmp_path / "models", device="cpu"))
    studio._jobs = JobHistory(capacity=1)
    base = {"num_inference_steps": 1, "seed": 1, "prompt": "a fox"}
    left = []
    for task, values in (
        ("text_to_image", base),
        ("edit", {"base": base, "picture": encode(64)}),
        ("edit", {"base": base, "picture": encode(64), "edit": "replace", "source_prompt": "a cat"}),
        ("upscale", {"base": {}, "picture": encode(16)}),
        ("compare", {"base": base, "cells": [{}, {"sampler": "ddim"}], "reference": False}),
        ("animate", {"base": base, "frames": 2, "format": "gif", "keys": [{"prompt": "a cat"}]}),
        ("quantize", {"base": base, "variants": ["int8"], "measure": False}),
        ("text_to_image", {**base, "guidance": {"key": "cfg", "guidance_scale": 2}}),
        ("text_to_image", base),
    ):
        job = studio.submit(task, values)
        assert ended(job).status is JobStatus.DONE, job.view().message
        left.append((task, weakref.ref(job)))
        del job
    # The last two are remembered: one in the history, one in the worker until it has the next.
    assert [task for task, job in left[:-2] if job() is not None] == []
    studio.close()


def test_a_job_that_was_stopped_in_the_queue_goes_too(without_collector):
    engine = LocalEngine(lambda job: None, Limits())
    engine._place_jobs = lambda: None
    job = engine.submit(Job("text_to_image", None))
    assert job.view().position == 0
    job.cancel()
    assert job.status is JobStatus.CANCELLED
    left = weakref.ref(job)
    del job
    assert left() is None
    engine.close()


def test_whoever_waits_for_the_end_is_told_once():
    told, job = [], Job("text_to_image", None)
    job.when_over(lambda job: told.append(job.status))
    job.touch()
    assert told == []
    job.set_status(JobStatus.DONE)
    job.touch()
    job.let_pictures_go()
    job.when_over(lambda job: told.append("late"))
    assert told == [JobStatus.DONE, "late"]


def test_the_objects_of_the_start_are_looked_through_no_more():
    start, aside = [[] for _ in range(400_000)], gc.get_freeze_count()
    gc.disable()  # as `app.py` does
    try:
        heap.set_start_aside()
        assert gc.isenabled()
        assert gc.get_freeze_count() >= aside + 400_000 and len(gc.get_objects()) < 10_000
        collections = gc.get_stats()[2]["collections"]
        growing = [[] for _ in range(95_000)]  # fewer than a quarter of the start's
        assert gc.get_stats()[2]["collections"] > collections and len(growing) < len(start)
    finally:
        gc.enable()
