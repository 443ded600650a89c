"""Several devices: a worker each, a job on the free one that has its model, and each device's memory on the page."""

from __future__ import annotations

import threading
from importlib.util import find_spec

import pytest
import torch

from pipelines.core.devices import applied_device, synchronize
from pipelines.core.errors import SettingsError
from pipelines.models.device_choice import require_devices
from pipelines.requests.limits import Limits
from studio.backend import Studio, StudioSettings
from studio.jobs.job import Job, JobStatus
from studio.jobs.local_engine import LocalEngine
from studio.models.memory_segments import list_devices
from tests.studio.test_engine import finish


def test_jobs_run_at_once_on_free_devices_each_where_it_suits_best_and_wait_when_none_is_free():
    gates = {name: threading.Event() for name in "abc"}
    running = {name: threading.Event() for name in "abc"}

    def run(job: Job) -> None:
        running[job.request].set()
        gates[job.request].wait(10)

    liking = {("a", "one"): 1, ("a", "two"): 2, ("b", "one"): 1, ("b", "two"): 2, ("c", "one"): 0, ("c", "two"): 0}
    engine = LocalEngine(run, Limits(), devices=("one", "two"), suits=lambda job, device: liking[job.request, device])
    try:
        first, second, third = (engine.submit(Job("text_to_image", name)) for name in "abc")
        assert running["a"].wait(10) and running["b"].wait(10)
        # The second would like where the first is; it takes what is free.
        assert (first.device, second.device) == ("two", "one")
        assert engine.count_jobs() == (1, 2) and third.view().position == 2 and not running["c"].is_set()
        assert engine.run_if_idle(lambda: 1, "one") is None
        gates["b"].set()
        assert finish(second) is JobStatus.DONE and running["c"].wait(10) and third.device == "one"
        gates["a"].set()
        assert finish(first) is JobStatus.DONE
        assert engine.run_if_idle(lambda: 1, "two") == 1 and engine.run_if_idle(lambda: 1, "one") is None
        gates["c"].set()
        assert finish(third) is JobStatus.DONE
    finally:
        for gate in gates.values():
            gate.set()
        assert engine.close()


def test_a_job_with_two_workers_starts_when_the_first_of_them_is_expected_to_be_free():
    gates = [threading.Event(), threading.Event()]
    engine = LocalEngine(lambda job: gates[job.request].wait(10), Limits(), devices=("one", "two"))
    try:
        engine._seconds["text_to_image"] = 100.0
        busy = [engine.submit(Job("text_to_image", index)) for index in range(2)]
        third, fourth, fifth = (engine.submit(Job("text_to_image", 0)) for _ in range(3))
        waits = [job.find_place(job)[1] for job in (third, fourth, fifth)]
        assert [round(one, -1) for one in waits] == [100, 100, 200]
    finally:
        for gate in gates:
            gate.set()
        engine.close()
    assert all(job.status.final for job in busy)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    settings = StudioSettings(folder / "out", folder / "models", device="cpu", more_devices=("cpu:0",), dtype="float32")
    studio = Studio(settings)
    yield studio
    studio.close()


def test_two_workers_make_the_same_picture_at_once_and_the_third_goes_where_the_model_is(pair):
    values = {"prompt": "a fox", "num_inference_steps": 3, "seed": 5}
    jobs = [pair.submit("text_to_image", values) for _ in range(2)]
    assert [finish(job, 60) for job in jobs] == [JobStatus.DONE] * 2
    assert {job.device for job in jobs} == {"cpu", "cpu:0"}
    first, second = (job.view().cells[0].images for job in jobs)
    assert (first == second).all()
    assert all(loader.loaded("emoji") for loader in pair.loaders) and pair.is_loaded("emoji")
    pair.loader.release("emoji")
    assert pair.is_loaded("emoji")
    job = pair.submit("text_to_image", values)
    assert finish(job, 60) is JobStatus.DONE and job.device == "cpu:0" and not pair.loader.loaded("emoji")
    assert pair.model_list.release("emoji") and not pair.is_loaded("emoji")


def test_the_page_programs_and_metrics_say_each_devices_name_and_memory(pair, monkeypatch):
    from pipelines.models import device_choice
    from studio.api.listings import list_models
    from studio.page.models.markup import build_memory
    from studio.page.page import _status
    from studio.server.health import _collect_devices

    rows = list_devices(pair.loaders)
    assert [row.name for row in rows] == ["CPU", "CPU"] and "CPU (cpu:0)" in build_memory(rows, str)
    assert [row["free_bytes"] for row in list_models(pair)["devices"]] == [None, None]
    assert _status(pair)[0].startswith("CPU, ")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3 * 10**9 * device.index, 24 * 10**9))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"Card {device.index}")
    for loader, name in zip(pair.loaders, ("cuda:1", "cuda:2"), strict=True):
        monkeypatch.setattr(loader, "device", name)
    text = build_memory(list_devices(pair.loaders), str)
    assert "Card 1 (cuda:1): 3.0 GB free of 24.0 GB" in text and "Card 2 (cuda:2): 6.0 GB free" in text
    assert [row["total_bytes"] for row in list_models(pair)["devices"]] == [24 * 10**9] * 2
    assert _status(pair)[:2] == ["Card 1, 24.0 GB", "Card 2, 24.0 GB"]
    assert device_choice.describe_device("cuda:1") == "Card 1: 3.0 GB free, 21.0 of 24.0 GB used"
    if find_spec("prometheus_client"):
        total, free = _collect_devices(pair)
        assert [sample.value for sample in free.samples] == [3e9, 6e9] and len(total.samples) == 2


def test_a_further_card_is_the_current_one_of_its_thread_and_is_the_one_that_is_waited_for(monkeypatch):
    seen = []

    class Current:
        def __init__(self, device):
            self.device = device

        def __enter__(self):
            seen.append(("enter", str(self.device)))

        def __exit__(self, *_):
            seen.append(("exit", str(self.device)))

    monkeypatch.setattr(torch.cuda, "device", Current)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: seen.append(("wait", str(device))))
    with applied_device("cuda:1"):
        synchronize(torch.device("cuda:1"))
    for name in ("cuda", "cuda:0", "cpu", "mps"):
        with applied_device(name):
            pass
    assert seen == [("enter", "cuda:1"), ("wait", "cuda:1"), ("exit", "cuda:1")]


def test_devices_are_named_with_commas_and_each_once(monkeypatch):
    assert require_devices("cpu") == ("cpu",)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert require_devices("cuda:1, cuda:0") == ("cuda:1", "cuda:0") and require_devices("all") == ("cuda:0", "cuda:1")
    with pytest.raises(SettingsError, match="twice"):
        require_devices("cuda,cuda:0")
    with pytest.raises(SettingsError, match="not here"):
        require_devices("cuda:0,cuda:2")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert require_devices("all") == ("cuda",)
