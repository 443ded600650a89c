"""A cancel while a model is loaded: it is told at once, and what was begun ends or serves the next request."""

from __future__ import annotations

import threading
import time

import pytest
from model_folders import loader_of

from pipelines.core.cancelling import Cancelled
from pipelines.models import part_loading
from pipelines.weights.reading import TensorReader


def slow(function, seconds, calls):
    def wait_and_call(*args, **kwargs):
        calls.append(args)
        time.sleep(seconds)
        return function(*args, **kwargs)

    return wait_and_call


def cancel_a_load(loader, key="one", after=0.2):
    """Seconds from the cancel until the load has returned."""
    flag, moments = threading.Event(), []

    def cancel():
        moments.append(time.monotonic())
        flag.set()

    threading.Timer(after, cancel).start()
    with pytest.raises(Cancelled), loader.model(key, flag.is_set):
        pass
    return time.monotonic() - moments[0]


def wait_for_loads(loader):
    until = time.monotonic() + 30
    while any(row.state == "loading" for row in loader.memory()):
        assert time.monotonic() < until, "a load hangs"
        time.sleep(0.02)


def test_a_load_by_name_stops_between_tensors(models, monkeypatch):
    reads = []
    monkeypatch.setattr(TensorReader, "read_as", slow(TensorReader.read_as, 0.02, reads))
    loader = loader_of(models)
    assert cancel_a_load(loader) < 1
    wait_for_loads(loader)
    assert 0 < len(reads) < 40  # of hundreds
    assert all(row.state == "ready" and not row.in_use for row in loader.memory())
    monkeypatch.undo()
    with loader.model("one"):
        pass


def test_a_load_that_cannot_be_asked_is_left_behind_and_serves_the_next_request(models, monkeypatch):
    loads = []
    monkeypatch.setattr(part_loading, "_load_from_folder", slow(part_loading._load_from_folder, 1.0, loads))
    loader = loader_of(models)
    assert cancel_a_load(loader) < 0.7
    first = [args[0].name for args in loads]
    with loader.model("one") as model:
        assert model.network is not None
    names = [args[0].name for args in loads]
    assert len(first) == 1
    assert len(names) == len(set(names)), "a part was loaded twice"
    assert not any(row.in_use for row in loader.memory())
