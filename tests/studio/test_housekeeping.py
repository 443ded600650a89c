"""The trash is emptied by age and by size, old results go, and a full folder takes no new jobs."""

from __future__ import annotations

import time

import numpy as np
import pytest
from PIL import Image

from pipelines.core.errors import BusyError, SettingsError
from studio.results.housekeeping import Housekeeper
from studio.results.retention import Housekeeping
from studio.results.store import Store
from studio.safety.flags import parse_flags

REQUEST = {"request": {"prompt": "a fox"}}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "outputs")


def save(store, count=1):
    generator = np.random.default_rng(0)
    pictures = [Image.fromarray(generator.integers(0, 256, (64, 64, 3), np.uint8)) for _ in range(count)]
    return [store.save(picture, REQUEST) for picture in pictures]


def disk_bytes(store):
    return sum(path.stat().st_size for path in store.folder.rglob("*.png"))


def test_the_trash_is_emptied_by_age(store):
    first, second = save(store, 2)
    store.delete(first.id)
    heard = []
    now = [time.time()]
    keeper = Housekeeper(store, Housekeeping(trash_seconds=60.0), lambda: now[0], heard.append)
    assert keeper.tidy() == (0, 0) and not heard
    Housekeeper(store, Housekeeping(trash_seconds=0.0), removed=heard.append).tidy()
    assert heard == [(1, first.size)] and disk_bytes(store) == second.size


def test_the_trash_is_emptied_by_size_what_was_deleted_first_goes_first(store):
    records = save(store, 5)
    for record in records[:4]:
        store.delete(record.id)
    before = disk_bytes(store)
    freed = Housekeeper(store, Housekeeping(trash_bytes=2 * records[0].size + 100)).tidy()
    assert freed.results == 2 and disk_bytes(store) == before - freed.bytes
    assert {one.id for one in store.list(trashed=True)} == {records[2].id, records[3].id}


def test_results_go_into_the_trash_when_they_are_old(store):
    (record,) = save(store)
    later = time.time() + 100.0
    Housekeeper(store, Housekeeping(keep_seconds=200.0), lambda: later).tidy()
    assert store.get(record.id).trashed is None
    Housekeeper(store, Housekeeping(keep_seconds=50.0), lambda: later).tidy()
    assert store.get(record.id).trashed is not None


def test_a_full_folder_takes_no_job_until_something_is_deleted(store):
    records = save(store, 4)
    keeper = Housekeeper(store, Housekeeping(quota_bytes=4 * records[0].size - 10))
    with pytest.raises(BusyError, match="Delete some in the gallery"):
        keeper.require_room()
    store.delete(records[0].id)
    keeper.require_room()  # the trash made room
    assert store.count_bytes().trash == 0 and len(store.list()) == 3
    keeper.require_room()


def test_the_rules_come_from_the_command_line():
    flags = ["--results-quota", "2", "--keep-days", "7", "--trash-days", "1", "--trash-size", "0.5"]
    assert parse_flags(flags, {}).housekeeping == Housekeeping(86400.0, 500_000_000, 7 * 86400.0, 2_000_000_000)
    assert parse_flags([], {}).housekeeping == Housekeeping()
    for flag in ("--results-quota", "--keep-days", "--trash-days", "--trash-size"):
        with pytest.raises(SettingsError, match="out of range"):
            parse_flags([flag, "-1"], {})


def test_a_thread_tidies_up_again_and_again_and_outlives_a_folder_that_is_gone(store):
    (record,) = save(store)
    keeper = Housekeeper(store, Housekeeping(trash_seconds=0.0))
    keeper.start(every=0.05)
    store.delete(record.id)
    until = time.time() + 10
    while store.count_bytes().trash and time.time() < until:
        time.sleep(0.05)
    assert store.count_bytes() == (0, 0)
    keeper.stop()
