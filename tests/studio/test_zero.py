"""The ZeroGPU engine, through a stand-in for the decorator that forks a process and pickles every yield."""

from __future__ import annotations

import contextvars
import dataclasses
import logging
import os
import pickle
import sys
import time

import numpy as np
import pytest
import torch

from pipelines.core.errors import ModelMissingError, SettingsError
from pipelines.core.types import Choice, Request
from studio.backend import Studio, StudioSettings
from studio.jobs.job import Job, JobStatus
from studio.server import spaces as spaces_start
from studio.tasks import TASKS as TABLE
from studio.tasks import forked
from studio.tasks.forked import LEAST_SECONDS, MOST_SECONDS, estimate_gpu_seconds
from tests.studio.task_examples import FOX, OFFERED, find_example
from tests.studio.zero_stand_in import StandIn

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="ZeroGPU is Linux")

EXAMPLES = {key: find_example(key) for key in OFFERED}
TASKS = {key: example.values for key, example in EXAMPLES.items()}
GROWN = {key: example.larger for key, example in EXAMPLES.items() if example.larger}


@pytest.fixture(scope="module")
def gpu():
    return StandIn()


@pytest.fixture(scope="module")
def studios(tmp_path_factory, gpu):
    homes = [tmp_path_factory.mktemp(name) for name in ("local", "zero")]
    made = [
        Studio(StudioSettings(outputs=home / "outputs", models=home / "models", device="cpu", gpu=one))
        for home, one in zip(homes, (None, gpu), strict=True)
    ]
    yield made
    for studio in made:
        studio.close()


@pytest.fixture
def zero(studios):
    return studios[1]


def ended(job: Job):
    view = job.view()
    until = time.monotonic() + 60
    while not view.status.final:
        assert time.monotonic() < until
        view = job.wait(view.version, 1)
    return view


@pytest.mark.parametrize("task", TASKS)
def test_the_worker_makes_the_local_engines_pictures_and_tells_every_step(studios, gpu, task):
    local, zero = (ended(studio.submit(task, TASKS[task])) for studio in studios)
    assert zero.status is JobStatus.DONE, zero.message
    assert gpu.workers[-1] != os.getpid()
    for ours, theirs in zip(local.cells, zero.cells, strict=True):
        assert [row.sigma for row in ours.rows] == [row.sigma for row in theirs.rows]
        assert len(theirs.rows) == theirs.num_steps and len(theirs.frames) == len(ours.frames)
        for one, other in zip(ours.frames, theirs.frames, strict=True):
            np.testing.assert_array_equal(one.denoised, other.denoised)
        assert (ours.images is None) == (theirs.images is None)
        if ours.images is not None:
            np.testing.assert_array_equal(ours.images, theirs.images)
    assert local.outcome.keys() == zero.outcome.keys()
    results = [result for cell in zero.cells for result in cell.results]
    assert len(results) == sum(len(cell.results) for cell in local.cells)
    assert bool(results) == EXAMPLES[task].has_results
    assert all(studios[1].store.get(result).path.is_file() for result in results)


@pytest.mark.parametrize("task", TASKS)
def test_no_worker_waits_for_a_lock_that_the_parent_held_when_it_forked(zero, task):
    loader = zero.loader
    with loader.cache._condition, loader._lock, loader._plans._lock:
        view = ended(zero.submit(task, TASKS[task]))
    assert view.status is JobStatus.DONE, view.message


def test_a_space_keeps_no_quantized_model(zero):
    from studio.models.save_quantized import keep

    with pytest.raises(SettingsError, match=r"loads its models when it starts.*cannot be saved"):
        zero.submit("quantize", {**TASKS["quantize"], "keep": True})
    with pytest.raises(SettingsError, match="cannot be saved"):
        keep(zero, "emoji", Choice("int8"))
    with pytest.raises(SettingsError, match="cannot be saved"):
        zero.submit("keep", {"model": "emoji", "variant": "int8"})
    with pytest.raises(SettingsError, match="live mode cannot run here"):
        zero.submit("live", {"base": FOX})
    assert not list(zero.catalog.folder.glob("*+*"))


def tensors(value, seen=None):
    seen = set() if seen is None else seen
    if isinstance(value, torch.Tensor):
        yield value
    if id(value) in seen:
        return
    seen.add(id(value))
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple, set)) else ()
    parts = vars(value).values() if dataclasses.is_dataclass(value) else parts
    for part in parts:
        yield from tensors(part, seen)


def test_nothing_that_is_yielded_holds_a_tensor(zero, gpu):
    gpu.yielded.clear()
    ended(zero.submit("text_to_image", FOX))
    events = [pickle.loads(packed) for packed in gpu.yielded]
    assert {name for name, *_ in events} >= {"set_status", "set_cells", "add_step", "update_cell"}
    assert [*tensors(events)] == []


def test_a_stop_reaches_the_worker_after_its_next_yield(zero, gpu):
    before, shown = len(gpu.made), len(gpu.yielded)
    job = zero.submit("text_to_image", {**FOX, "num_inference_steps": 200})
    view = job.view()
    while not (view.cells and len(view.cells[0].rows) >= 3):
        view = job.wait(view.version, 5)
    job.cancel()
    view = ended(job)
    assert view.status is JobStatus.CANCELLED and view.cells[0].results == ()
    assert len(view.cells[0].rows) < 100
    (made,) = gpu.made[before:]
    assert made <= len(gpu.yielded) - shown + 2  # the one in the pipe, and the one that found the stop
    assert ended(zero.submit("text_to_image", FOX)).status is JobStatus.DONE


def test_a_mistake_in_the_worker_is_a_sentence(zero, monkeypatch):
    from studio.tasks.text_to_image import TextToImage

    def refuse(*_):
        raise SettingsError("This sampler wants two steps at least. Choose more.")

    with monkeypatch.context() as patch:
        patch.setattr(TextToImage, "run", refuse)
        view = ended(zero.submit("text_to_image", FOX))
    assert (view.status, view.message) == (JobStatus.FAILED, "This sampler wants two steps at least. Choose more.")


def test_a_bug_in_the_worker_fails_one_job_only(zero, monkeypatch, caplog):
    from studio.tasks.text_to_image import TextToImage

    with monkeypatch.context() as patch, caplog.at_level(logging.CRITICAL):
        patch.setattr(TextToImage, "run", lambda *_: 1 / 0)
        view = ended(zero.submit("text_to_image", FOX))
    assert view.status is JobStatus.FAILED and "Something broke inside the studio" in view.message
    assert ended(zero.submit("text_to_image", FOX)).status is JobStatus.DONE


def test_a_worker_that_is_aborted_fails_one_job_only(zero, gpu):
    gpu.yielded.clear()
    gpu.kill_after = 4
    view = ended(zero.submit("text_to_image", {**FOX, "num_inference_steps": 100}))
    gpu.kill_after = None
    assert view.status is JobStatus.FAILED and "GPU task aborted" in view.message
    assert ended(zero.submit("text_to_image", FOX)).status is JobStatus.DONE


def test_what_the_quota_refuses_is_said(zero, gpu):
    from gradio.exceptions import Error

    gpu.refuse = Error("You have exceeded your GPU quota", print_exception=False)
    view = ended(zero.submit("text_to_image", FOX))
    gpu.refuse = None
    assert view.status is JobStatus.FAILED and "exceeded your GPU quota" in view.message


def test_the_gpu_is_asked_for_in_the_context_of_whoever_asks(zero, gpu):
    from gradio.context import LocalContext

    def submitted(name):
        LocalContext.request.set(name)
        return zero.submit("text_to_image", FOX)

    gpu.callers.clear()
    jobs = [contextvars.copy_context().run(submitted, name) for name in ("ann", "bob")]
    assert all(ended(job).status is JobStatus.DONE for job in jobs)
    assert gpu.callers == ["ann", "bob"]


def test_a_model_that_was_not_loaded_at_the_start_is_refused(zero):
    run, release = forked.build_forked_run(zero, ["emoji"], TABLE)
    release()
    with pytest.raises(ModelMissingError, match=forked.MODELS):
        run(Job("text_to_image", Request.parse({**FOX, "model": "sd15"})))
    assert forked.list_preloaded_models({}) == ["emoji"]
    assert forked.list_preloaded_models({forked.MODELS: " emoji, sdxl,"}) == ["emoji", "sdxl"]


def test_the_model_is_not_changed_by_a_worker(zero):
    def weights():
        with zero.model("emoji", Job("text_to_image", None)) as family:
            return [float(parameter.double().sum()) for parameter in family.components["unet"].parameters()]

    before = weights()
    ended(zero.submit("edit", TASKS["edit"]))
    assert weights() == before


@pytest.mark.parametrize("task", [task for task in GROWN if task != "compare"])  # whose cells have their own steps
def test_the_time_that_is_asked_for_grows_with_the_work_and_has_bounds(studios, task):
    request = TABLE[task].parse(TASKS[task], studios[0])
    base = getattr(request, "base", request)

    def seconds(**changes):
        new = base.replace(**changes)
        return estimate_gpu_seconds(TABLE[task], new if request is base else dataclasses.replace(request, base=new))

    assert LEAST_SECONDS <= seconds() < seconds(num_inference_steps=60, width=768, height=768) <= MOST_SECONDS
    assert seconds(num_inference_steps=200, width=2048, height=2048) == MOST_SECONDS


@pytest.mark.parametrize("task", GROWN)
def test_the_time_counts_frames_keys_cells_variants_and_points(studios, task):
    less, more = (
        estimate_gpu_seconds(TABLE[task], TABLE[task].parse(values, studios[0]))
        for values in (TASKS[task], {**TASKS[task], **GROWN[task]})
    )
    assert LEAST_SECONDS <= less < more <= MOST_SECONDS


def test_the_time_of_a_clip_and_of_a_comparison_of_weights(studios):
    def seconds(task, **values):
        return estimate_gpu_seconds(TABLE[task], TABLE[task].parse({**TASKS[task], **values}, studios[0]))

    long = {"base": {**FOX, "num_inference_steps": 20}}
    assert seconds("animate", **long, frames=2) < seconds("animate", **long, frames=24) < MOST_SECONDS
    assert seconds("animate", **long, frames=257) == MOST_SECONDS
    keys = [{"seed": number} for number in range(9)]
    assert seconds("animate", frames=12, keys=keys) > seconds("animate", frames=12)
    plain, measured, peak = (seconds("quantize", **long, **more) for more in ({"measure": False}, {}, {"peak": True}))
    assert plain < measured < peak
    assert seconds("learn") == MOST_SECONDS


def test_the_decorator_is_taken_on_zerogpu_only(monkeypatch):
    package = type(sys)("spaces")
    package.GPU = object()
    monkeypatch.setitem(sys.modules, "spaces", package)
    space = {"SPACE_ID": "ann/stepwise"}
    assert spaces_start.find_gpu_decorator({}) is None
    assert spaces_start.find_gpu_decorator(space) is None
    assert spaces_start.find_gpu_decorator({**space, "SPACES_ZERO_GPU": "true"}) is package.GPU
    monkeypatch.setitem(sys.modules, "spaces", None)
    assert spaces_start.find_gpu_decorator(space) is None
    with pytest.raises(SettingsError, match="pip install spaces"):
        spaces_start.find_gpu_decorator({**space, "SPACES_ZERO_GPU": "true"})


def test_a_job_that_waits_as_the_space_stops_is_told_what_becomes_of_it(tmp_path, gpu):
    studio = Studio(StudioSettings(outputs=tmp_path / "out", models=tmp_path / "models", device="cpu", gpu=gpu))
    values = {**TASKS["text_to_image"], "num_inference_steps": 200}
    running, waiting = (studio.submit("text_to_image", values) for _ in range(2))
    assert studio.stop(60.0)
    assert ended(running).status.final and "It was not kept: ask for it again." in ended(waiting).message
    studio.close()
