"""Files and index come together again after a crash, whatever moment the program is killed at."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

from studio.results.records import get_description_path
from studio.results.store import Store
from tests.studio.stored_pictures import ROOT, every, files, metadata, picture


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "outputs")


# Reconciling.


def test_reconcile_makes_a_lost_index_anew(store):
    kept = [
        store.save(picture(i), metadata(f"p{i}"), "text", job="j", index=i, format=format, kind="compare")
        for i, format in enumerate(("png", "jpeg", "webp"))
    ]
    kept.append(store.save_bytes(b"clip", ".mp4", {"a": 1}, "words", kind="video", job="k"))
    gone = store.delete(store.save(picture(), metadata()).id)
    for path in store.folder.glob("index.sqlite*"):
        path.unlink()
    again = Store(store.folder)
    assert again.list() == []
    done = again.reconcile()
    assert (done.adopted, done.removed, done.leftovers) == (5, 0, 0)
    assert [again.get(record.id) for record in kept] == kept
    assert [record.id for record in again.list(text="p1")] == [kept[1].id]
    assert again.get(gone.id).trashed and again.get(gone.id).path == gone.path
    assert again.reconcile() == type(done)(0, 0, 0)


def test_reconcile_takes_nothing_that_is_not_whole_or_not_ours(store):
    record = store.save(picture(), metadata())
    day = record.path.parent
    data = record.path.read_bytes()
    names = [f"20260101-000000-{i:012x}.png" for i in range(4)]
    (day / names[0]).write_bytes(data)  # another's id inside
    cut = store.save(picture(), metadata())
    cut.path.write_bytes(cut.path.read_bytes()[:-200])
    with store._open(write=True) as connection:
        connection.execute("DELETE FROM result WHERE id = ?", (cut.id,))
    (day / names[2]).write_bytes(b"")
    Image.new("RGB", (8, 8)).save(day / names[3])
    (day / "20260101-000000-00000000000a.mp4").write_bytes(b"no description")
    (day / "holiday.png").write_bytes(data)
    (day / "20260101-000000-00000000000b.png").symlink_to(record.path)
    before = files(store.folder)
    assert store.reconcile(older_than=0).adopted == 0
    assert files(store.folder) == before and len(store.list()) == 1


def test_reconcile_removes_old_leftovers_only_and_drops_rows_without_files(store):
    record, kept = store.save(picture(), metadata()), store.save(picture(), metadata())
    record.path.unlink()
    day = record.path.parent
    left = [day / f".{kept.path.name}.0123abcd.part", day / "20260101-000000-00000000000a.mp4.json"]
    foreign = [day / "notes.json", day / "film.part"]
    for path in (*left, *foreign):
        path.write_bytes(b"x")
    done = store.reconcile()
    assert (done.adopted, done.removed, done.leftovers) == (0, 1, 0)
    assert all(path.exists() for path in (*left, *foreign)) and [other.id for other in store.list()] == [kept.id]
    assert store.reconcile(older_than=0).leftovers == 2
    assert not any(path.exists() for path in left) and all(path.exists() for path in foreign)


@pytest.mark.parametrize("away", [True, False])
def test_a_crash_between_moving_and_noting_it_is_repaired(store, monkeypatch, away):
    record = store.save(picture(), metadata())
    if not away:
        store.delete(record.id)
    with monkeypatch.context() as patch:
        patch.setattr(store, "_record", lambda row: (_ for _ in ()).throw(KeyboardInterrupt))  # before the commit
        with pytest.raises(KeyboardInterrupt):
            (store.delete if away else store.restore)(record.id)
    assert (
        store.get(record.id).path.exists() and (store.get(record.id).trashed is None) is away
    )  # the row is behind the file
    store.reconcile()
    assert (store.get(record.id).trashed is not None) is away


# kill -9.

LOOP = """
import random, sys, time
from PIL import Image
from studio.results import files as store_files
from studio.results.store import Store
draw = random.Random(int(sys.argv[2]))
sync = store_files.os.fsync
store_files.os.fsync = lambda handle: (time.sleep(draw.random() / 40), sync(handle))[1]  # linger inside the write
store = Store(sys.argv[1])
noise = Image.effect_noise((200, 200), 80)
print("ready", flush=True)
while True:
    if draw.random() < 0.3:
        record = store.save_bytes(bytes(9000), ".mp4", {"n": 1}, kind="video")
    else:
        record = store.save(noise, {"request": {"prompt": "kill"}}, "text", format=draw.choice(["png", "jpeg", "webp"]))
    print(record.id, flush=True)
    if draw.random() < 0.3:
        store.delete(record.id)
        if draw.random() < 0.5:
            store.restore(record.id)
"""


def whole(record) -> bool:
    if record.path.suffix == ".mp4":
        return record.path.stat().st_size == record.size == 9000
    with Image.open(record.path) as opened:
        opened.load()
        return record.path.stat().st_size == record.size and opened.size == (200, 200)


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_kill_9_at_random_moments_loses_nothing_that_was_saved(tmp_path):
    folder, promised, draw, leftovers = tmp_path / "outputs", set(), random.Random(0), 0
    rounds = 0
    while rounds < 12 or (leftovers == 0 and rounds < 40):  # until a kill has hit the middle of a write
        rounds += 1
        child = subprocess.Popen(
            [sys.executable, "-c", LOOP, str(folder), str(rounds)], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        assert child.stdout.readline() == "ready\n"
        time.sleep(draw.uniform(0.02, 0.25))
        child.send_signal(signal.SIGKILL)
        said = child.stdout.read().splitlines(keepends=True)
        child.wait()
        child.stdout.close()
        promised |= {line.strip() for line in said if line.endswith("\n")}
        store = Store(folder)
        records = every(store)
        assert all(whole(record) for record in records)
        assert promised <= {record.id for record in records}
        leftovers += store.reconcile(older_than=0).leftovers
        assert promised <= {record.id for record in every(store)} and all(whole(record) for record in every(store))
        named = {record.path.name for record in every(store)}
        assert {name.removesuffix(".json") for name in files(folder)} == named
        assert all(get_description_path(record.path).exists() for record in every(store) if record.kind == "video")
    assert len(promised) > 10 and leftovers > 0, "the kills never hit a write: the test shows nothing"


CRASHES = """
import os, signal, sys
from PIL import Image
from studio.results import files as store_files
from studio.results import store

def dying(function, when):
    def wrapped(*args, **kwargs):
        counter[0] += 1
        if counter[0] == crash_at and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        value = function(*args, **kwargs)
        if counter[0] == crash_at and when == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return value
    return wrapped

place, crash_at, died = store.Store(sys.argv[1]), 0, True
noise = Image.effect_noise((200, 200), 80)
for when in ("before", "after"):
    crash_at, died = 0, True
    while died:
        crash_at += 1
        pid = os.fork()
        if pid == 0:
            counter = [0]
            os.replace, os.fsync = dying(os.replace, when), dying(os.fsync, when)
            store_files.open = dying(open, when)
            store.Store._enter, store.Store._forget = dying(store.Store._enter, when), dying(store.Store._forget, when)
            store.Store._record = dying(store.Store._record, when)
            for record in (place.save(noise, {}), place.save_bytes(bytes(9000), ".mp4", {}, kind="video")):
                print("saved", record.id, flush=True)
                place.delete(record.id)
            place.empty_trash()
            os._exit(0)
        died = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        seen = place.list(1000), place.list(1000, trashed=True)
        assert all(record.path.stat().st_size == record.size for records in seen for record in records)
        place.reconcile(older_than=0)
    print("points", crash_at - 1, flush=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_kill_9_at_every_seam(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", CRASHES, str(tmp_path / "outputs")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    points = [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("points")]
    assert len(points) == 2 and min(points) >= 15, points
    store = Store(tmp_path / "outputs")
    assert all(
        whole(record) and (get_description_path(record.path).exists() or record.kind != "video")
        for record in every(store)
    )
    assert {name.removesuffix(".json") for name in files(store.folder)} == {record.path.name for record in every(store)}
