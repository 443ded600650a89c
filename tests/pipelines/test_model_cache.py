"""The model cache under threads, failing loads, eviction and waiting."""

from __future__ import annotations

import random
import threading
import time

import pytest

from pipelines.core.denoiser import Cancelled
from pipelines.core.errors import BusyError, ModelError
from pipelines.models.cache import ModelCache, Wanted


class Part:
    """A loaded object that knows whether it was freed."""

    def __init__(self, key, size):
        self.key, self.size, self.freed = key, size, False


class Device:
    """A pretended device that counts what is really on it."""

    def __init__(self, fail=0.0, load_seconds=0.0, free_seconds=0.0):
        self.lock, self.random = threading.Lock(), random.Random(0)
        self.bytes = self.peak = self.loads = 0
        self.loading, self.double_loads = set(), 0
        self.fail, self.load_seconds, self.free_seconds = fail, load_seconds, free_seconds

    def want(self, key, size, estimate=None):
        return Wanted(
            key,
            size if estimate is None else estimate,
            lambda: self._load(key, size),
            self._free,
            lambda part: part.size,
        )

    def _load(self, key, size):
        with self.lock:
            self.loads += 1
            self.double_loads += key in self.loading
            self.loading.add(key)
            self.bytes += size
            self.peak = max(self.peak, self.bytes)
            fails = self.random.random() < self.fail
        time.sleep(self.load_seconds)
        with self.lock:
            self.loading.discard(key)
            if fails:
                self.bytes -= size
        if fails:
            raise OSError("torn file")
        return Part(key, size)

    def _free(self, part):
        time.sleep(self.free_seconds)
        part.freed = True
        with self.lock:
            self.bytes -= part.size


def in_threads(*works):
    """Run all at once; return what they raised (None where nothing)."""
    raised = [None] * len(works)

    def run(index):
        try:
            works[index]()
        except Exception as error:
            raised[index] = error

    threads = [threading.Thread(target=run, args=(index,), daemon=True) for index in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"
    return raised


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


def test_a_failed_load_is_the_requesters_and_the_next_tries_again():
    cache, calls, gate = ModelCache(10), [], threading.Event()

    def load():
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
        cache.acquire([device.want("a", 4), Wanted("b", 4, lambda: 1 / 0)])
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
    cache.acquire([Wanted("a", 8, lambda: "object", lambda part: 1 / 0)]).close()
    with pytest.raises(ZeroDivisionError):
        cache.acquire([Wanted("b", 8, lambda: "object")])
    assert cache.snapshot() == []
    cache.acquire([Wanted("b", 8, lambda: "object")], timeout=1).close()
