"""The model cache under many threads: who waits, who is served, and what a cancel does."""

from __future__ import annotations

import random
import threading
import time

import pytest

from pipelines.core.cancelling import Cancelled
from pipelines.models.cache import ModelCache, Wanted
from tests.pipelines.cached_parts import Device, in_threads


def test_eight_threads_with_failing_loads():
    device, cache = Device(fail=0.05, load_seconds=1e-4, free_seconds=1e-4), ModelCache(10)
    sizes = {"a": 1, "b": 2, "c": 3, "d": 4, "e": 5, "f": 2}
    failures = [0] * 8

    def work(seed):
        draw = random.Random(seed)
        for _ in range(300):
            names = draw.sample(sorted(sizes), draw.choice([1, 1, 2]))
            try:
                with cache.acquire([device.want(name, sizes[name]) for name in names]) as lease:
                    for name in names:
                        assert lease[name].key == name
                        assert not lease[name].freed, "evicted in use"
                    if draw.random() < 0.2:
                        time.sleep(1e-4)
                    assert not any(lease[name].freed for name in names), "evicted in use"
            except OSError:
                failures[seed] += 1

    assert in_threads(*(lambda seed=seed: work(seed) for seed in range(8))) == [None] * 8
    assert device.peak <= 10
    assert cache.peak_bytes <= 10
    assert device.double_loads == 0
    assert sum(failures) > 0
    assert all(row.pins == 0 and row.state == "ready" for row in cache.snapshot())
    assert cache.used_bytes == device.bytes


def test_concurrent_requests_load_once():
    device, cache = Device(load_seconds=0.05), ModelCache(10)
    seen = []

    def work():
        with cache.acquire([device.want("a", 4)]) as lease:
            seen.append(lease["a"])

    assert in_threads(*[work] * 6) == [None] * 6
    assert device.loads == 1
    assert len({id(part) for part in seen}) == 1


def test_all_of_a_job_at_once_cannot_deadlock():
    device, cache = Device(load_seconds=1e-3), ModelCache(10)

    def work(first, second):
        for _ in range(20):
            with cache.acquire([device.want(first, 5), device.want(second, 5)]):
                pass

    raised = in_threads(lambda: work("a", "b"), lambda: work("c", "d"), lambda: work("b", "a"), lambda: work("d", "a"))
    assert raised == [None] * 4
    assert device.peak <= 10


def test_waits_until_another_gives_back():
    device, cache = Device(), ModelCache(10)
    lease = cache.acquire([device.want("a", 8)])
    threading.Timer(0.1, lease.close).start()
    began = time.monotonic()
    with cache.acquire([device.want("b", 8)], timeout=10):
        assert 0.08 < time.monotonic() - began < 5
    assert device.peak == 8


def test_waiting_can_be_cancelled():
    device, cache, flag = Device(), ModelCache(10), threading.Event()
    with cache.acquire([device.want("a", 8)]):
        threading.Timer(0.1, flag.set).start()
        with pytest.raises(Cancelled):
            cache.acquire([device.want("b", 8)], timeout=30, cancelled=flag.is_set)
    assert [row.pins for row in cache.snapshot()] == [0]
    cache.acquire([device.want("b", 8)], timeout=1).close()


def test_a_cancel_during_a_load_returns_at_once_and_the_load_serves_the_next():
    device, cache, flag = Device(load_seconds=1.0), ModelCache(10), threading.Event()
    threading.Timer(0.1, flag.set).start()
    began = time.monotonic()
    with pytest.raises(Cancelled):
        cache.acquire([device.want("a", 4)], cancelled=flag.is_set)
    assert time.monotonic() - began < 0.6
    assert [(row.pins, row.state) for row in cache.snapshot()] == [(0, "loading")]
    with cache.acquire([device.want("a", 4)]) as lease:
        assert not lease["a"].freed
    assert device.loads == 1


def test_a_load_that_nobody_wants_any_more_stops_and_leaves_nothing():
    cache, flag, stopped = ModelCache(10), threading.Event(), threading.Event()

    def load(abandoned):
        while not abandoned():
            flag.set()
            time.sleep(0.01)
        stopped.set()
        raise Cancelled

    with pytest.raises(Cancelled):
        cache.acquire([Wanted("a", 4, load)], cancelled=flag.is_set)
    assert stopped.wait(5)
    until = time.monotonic() + 5
    while cache.used_bytes and time.monotonic() < until:
        time.sleep(0.01)
    assert cache.snapshot() == []


def test_a_load_goes_on_while_somebody_else_waits_for_it():
    cache, flag, loads = ModelCache(10), threading.Event(), []

    def load(abandoned):
        loads.append("begun")
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            if abandoned():
                raise Cancelled
            time.sleep(0.01)
        return "object"

    def first():
        cache.acquire([Wanted("a", 4, load)], cancelled=flag.is_set)

    def second():
        time.sleep(0.1)
        threading.Timer(0.1, flag.set).start()
        with cache.acquire([Wanted("a", 4, load)]) as lease:
            assert lease["a"] == "object"

    raised = in_threads(first, second)
    assert isinstance(raised[0], Cancelled)
    assert raised[1] is None
    assert loads == ["begun"]


def test_a_part_that_is_released_during_an_abandoned_load_is_freed_at_its_end():
    device, cache, flag = Device(load_seconds=0.3), ModelCache(10), threading.Event()
    threading.Timer(0.05, flag.set).start()
    with pytest.raises(Cancelled):
        cache.acquire([device.want("a", 4)], cancelled=flag.is_set)
    assert cache.release("a") is False
    until = time.monotonic() + 5
    while cache.used_bytes and time.monotonic() < until:
        time.sleep(0.01)
    assert cache.snapshot() == []
    assert device.bytes == 0


def test_who_waits_longest_is_served_first():
    device, cache, order = Device(), ModelCache(10), []
    lease = cache.acquire([device.want("a", 8)])

    def work(name, size):
        with cache.acquire([device.want(name, size)], timeout=10):
            order.append(name)

    threads = []
    for name, size in (("large", 9), ("small", 2)):
        threads.append(threading.Thread(target=work, args=(name, size)))
        threads[-1].start()
        time.sleep(0.1)
    assert order == []
    lease.close()
    for thread in threads:
        thread.join(10)
    assert order == ["large", "small"]


def test_bytes_count_until_the_free_has_finished():
    device, cache = Device(free_seconds=0.05), ModelCache(10)

    def work(name):
        for _ in range(3):
            cache.acquire([device.want(name, 4)]).close()

    assert in_threads(*(lambda name=name: work(name) for name in "abcde")) == [None] * 5
    assert device.peak <= 10


def test_a_key_being_freed_blocks_its_reload():
    device, cache = Device(free_seconds=0.2), ModelCache(100)
    cache.acquire([device.want("a", 4)]).close()
    freeing = threading.Thread(target=cache.release, args=("a",))
    freeing.start()
    time.sleep(0.05)
    assert cache.snapshot()[0].state == "freeing"
    with cache.acquire([device.want("a", 4)]) as lease:
        assert not lease["a"].freed
    freeing.join()
    assert device.peak == 4
    assert device.loads == 2
