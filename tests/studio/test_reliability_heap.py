"""Freed memory goes back to the system after each job."""

from __future__ import annotations

import sys
import time

import pytest

from pipelines.requests.limits import Limits
from studio.jobs import local_engine as local
from studio.jobs.heap import give_back
from studio.jobs.job import Job
from studio.jobs.local_engine import LocalEngine


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_the_free_pages_of_the_heap_are_returned():
    import os

    from studio.reliability.memory import measure_memory

    blocks = [bytearray(64_000) for _ in range(4000)]
    kept = blocks[::50]
    del blocks
    full = measure_memory(os.getpid()).rss
    give_back()
    assert measure_memory(os.getpid()).rss <= full
    assert len(kept) == 80


def test_every_job_ends_with_it_also_one_that_broke(monkeypatch, caplog):
    returned = []
    monkeypatch.setattr(local, "give_back", lambda: returned.append(True))
    engine = LocalEngine(lambda job: 1 / 0 if job.task == "broken" else None, Limits())
    for task in ("right", "broken"):
        engine.submit(Job(task, None))
    until = time.monotonic() + 10
    while len(returned) < 2 and time.monotonic() < until:
        time.sleep(0.01)
    engine.close()
    assert len(returned) == 2
