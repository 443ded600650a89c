"""The model cache under threads, failing loads, eviction and waiting."""

from __future__ import annotations

import threading
import time

import pytest

from pipelines.core.errors import BusyError, ModelError
from pipelines.models.cache import ModelCache, Wanted
from tests.pipelines.cached_parts import Device, in_threads


def test_evicts_the_least_recently_used_first():
    ticks = iter(range(1000))
    device, cache = Device(), ModelCache(10, clock=lambda: next(ticks))
    for name in "abcab":
        cache.acquire([device.want(name, 3)]).close()
    cache.acquire([device.want("d", 3)]).close()
    assert {row.key for row in cache.snapshot()} == {"a", "b", "d"}


def test_evicts_nothing_in_vain():
    device, cache = Device(), ModelCache(10)
    cache.acquire([device.want("idle", 3)]).close()
    with cache.acquire([device.want("used", 6)]), pytest.raises(BusyError, match="other jobs hold"):
        cache.acquire([device.want("large", 8)], timeout=0.05)
    assert {row.key for row in cache.snapshot()} == {"idle", "used"}


def test_a_part_larger_than_the_budget_is_refused_at_once():
    device, cache = Device(), ModelCache(10_000_000, headroom_bytes=1_000_000)
    with pytest.raises(ModelError, match="needs 10 MB of memory and the models may take 9 MB"):
        cache.acquire([device.want("huge", 9_500_000)], timeout=60)
    assert device.loads == 0
    assert cache.snapshot() == []


def test_headroom_is_kept_free():
    device, cache = Device(), ModelCache(10, headroom_bytes=3)
    for name in "abcdef":
        cache.acquire([device.want(name, 3)]).close()
    assert device.peak <= 7


def test_a_failed_load_is_the_requesters_and_the_next_tries_again():
    cache, calls, gate = ModelCache(10), [], threading.Event()

    def load(abandoned):
        calls.append(len(calls))
        if len(calls) == 1:
            gate.wait(5)
            raise OSError("torn file")
        return "object"

    def first():
        cache.acquire([Wanted("a", 4, load)])

    def second():
        time.sleep(0.1)
        threading.Timer(0.1, gate.set).start()
        with cache.acquire([Wanted("a", 4, load)]) as lease:
            assert lease["a"] == "object"

    raised = in_threads(first, second)
    assert isinstance(raised[0], OSError)
    assert raised[1] is None
    assert [(row.pins, row.state) for row in cache.snapshot()] == [(0, "ready")]


def test_a_failed_load_gives_back_the_others_of_the_job():
    device, cache = Device(), ModelCache(10)
    with pytest.raises(ZeroDivisionError):
        cache.acquire([device.want("a", 4), Wanted("b", 4, lambda abandoned: 1 / 0)])
    assert [(row.key, row.pins) for row in cache.snapshot()] == [("a", 0)]


def test_estimates_are_corrected_after_the_load():
    device, cache = Device(), ModelCache(10)
    cache.acquire([device.want("old", 4)]).close()
    with cache.acquire([device.want("a", 8, estimate=5)]):
        assert {row.key: row.bytes for row in cache.snapshot()} == {"a": 8}
    cache.acquire([device.want("b", 2, estimate=6)]).close()
    assert cache.used_bytes <= 10


def test_a_part_that_turns_out_larger_than_the_budget_is_dropped():
    device, cache = Device(), ModelCache(10)
    with pytest.raises(ModelError, match="took"):
        cache.acquire([device.want("a", 12, estimate=5)])
    assert cache.snapshot() == []
    assert device.bytes == 0


def test_release_on_demand():
    device, cache = Device(), ModelCache(10)
    lease = cache.acquire([device.want("a", 4)])
    assert cache.release("a") is False
    assert not lease["a"].freed
    lease.close()
    lease.close()
    assert cache.snapshot() == []
    assert device.bytes == 0
    assert cache.release("a") is True
    cache.acquire([device.want("a", 4)]).close()
    assert cache.release("a") is True
    assert device.bytes == 0


def test_a_free_that_fails_is_loud_and_leaves_no_trace():
    cache = ModelCache(10)
    cache.acquire([Wanted("a", 8, lambda abandoned: "object", lambda part: 1 / 0)]).close()
    with pytest.raises(ZeroDivisionError):
        cache.acquire([Wanted("b", 8, lambda abandoned: "object")])
    assert cache.snapshot() == []
    cache.acquire([Wanted("b", 8, lambda abandoned: "object")], timeout=1).close()
