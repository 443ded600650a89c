"""The store: whole files or none, an index that follows them, and plain words when the disk refuses."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.core.errors import StoreError
from pipelines.core.types import Request
from studio.infotext import read, write
from studio.results import files as store_files
from studio.results import migrations
from studio.results.records import about
from studio.results.store import Store, default_folder

ROOT = Path(__file__).resolve().parents[2]


def picture(seed: int = 0, side: int = 32) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8))


def metadata(prompt: str = "a cat", **more) -> dict:
    return {"request": Request(prompt=prompt, seed=3).to_json(), "evaluations": 50, **more}


def files(folder: Path) -> list[str]:
    return sorted(
        path.name for path in folder.rglob("*") if path.is_file() and not path.name.startswith("index.sqlite")
    )


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "outputs")


# Saving and finding.


@pytest.mark.parametrize(("format", "suffix"), [("png", ".png"), ("jpeg", ".jpg"), ("webp", ".webp")])
def test_a_saved_picture_comes_back_whole(store, format, suffix):
    facts = metadata('a 😀, "quoted"\nprompt')
    text = write(facts["request"])
    record = store.save(picture(), facts, text, job="job-1", index=2, format=format)
    assert store.get(record.id) == record == store.list()[0]
    assert (record.kind, record.job, record.index, record.width, record.height) == ("text_to_image", "job-1", 2, 32, 32)
    assert record.metadata == facts and record.parameters == text and record.prompt == facts["request"]["prompt"]
    assert record.size == record.path.stat().st_size and record.path.suffix == suffix
    with Image.open(record.path) as opened:
        assert opened.format.lower() == format
        if format == "png":
            assert np.array_equal(np.asarray(opened), np.asarray(picture()))
            assert opened.info["parameters"] == text
            assert json.loads(opened.info["stepwise"])["metadata"] == facts
    assert Request.parse(read(record.path).with_named_models()) == Request.parse(facts["request"])


def test_names_hold_nothing_of_the_request(store):
    record = store.save(picture(), metadata("../../etc/passwd"), "x", kind="../kind", job="../../job")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d/\d{8}-\d{6}-[0-9a-f]{12}\.png", str(record.path.relative_to(store.folder)))
    assert files(store.folder) == [record.path.name]


def test_bytes_are_saved_with_their_description_beside_them(store):
    record = store.save_bytes(b"a,b\n1,2\n", ".csv", {"grid": [1, 2]}, kind="compare", job="j")
    assert record.path.read_bytes() == b"a,b\n1,2\n" and store.get(record.id) == record
    assert files(store.folder) == [record.path.name, record.path.name + ".json"]
    for suffix in ("csv", ".c/v", ".CSV", "../x", ".json", "."):
        with pytest.raises(StoreError, match="cannot end in"):
            store.save_bytes(b"", suffix, {}, kind="compare")


def test_list_pages_kinds_and_texts(store):
    ids = [
        store.save(
            picture(),
            metadata(f"{'red' if i % 2 else 'blue'} ball {i} 100%"),
            kind="compare" if i == 3 else "text_to_image",
        ).id
        for i in range(7)
    ]
    assert [record.id for record in store.list()] == ids[::-1]
    assert [record.id for record in store.list(3)] == ids[:3:-1]
    assert [record.id for record in store.list(3, before=ids[4])] == ids[3:0:-1]
    assert [record.id for record in store.list(kind="compare")] == [ids[3]]
    for text, found in (
        ("RED", [5, 3, 1]),
        ("ball re", [5, 3, 1]),
        ("all 5", [5]),
        ("100%", [6, 5, 4, 3, 2, 1, 0]),
        ("%", [6, 5, 4, 3, 2, 1, 0]),
        ("_", []),
        ('"', []),
        ("red OR blue", []),
        ('blue" OR "', []),
        ("\x00", [6, 5, 4, 3, 2, 1, 0]),
    ):
        assert [record.id for record in store.list(text=text)] == [ids[i] for i in found], text
    assert store.list(before="unknown") == []


def test_the_search_is_the_same_without_full_text(store, monkeypatch):
    for prompt in ("a red BALL", "ein grüner Ball", "两只猫 😀", "100% \\ _"):
        store.save(picture(), metadata(prompt))
    texts = ("ball", "red ball", "grüner", "猫", "两只猫", "😀", "100%", "\\", "ll b")
    with_index = [[record.prompt for record in store.list(text=text)] for text in texts]
    monkeypatch.setattr(store, "_searchable", False)
    assert with_index == [[record.prompt for record in store.list(text=text)] for text in texts]
    assert with_index[0] == ["ein grüner Ball", "a red BALL"] and with_index[5] == ["两只猫 😀"]


def test_what_another_python_entered_without_full_text_is_found_later(store, monkeypatch):
    monkeypatch.setattr(store, "_searchable", False)
    store.save(picture(), metadata("zebra"))
    assert [record.prompt for record in Store(store.folder).list(text="zebra")] == ["zebra"]


def test_odd_texts_and_values_are_stored(store):
    facts = metadata("lone \ud800 surrogate \x00 and nul", figure=np.float32(1.5), path=Path("x"))
    record = store.save(picture(), facts, "text \ud800\x00")
    assert store.get(record.id).prompt == "lone ? surrogate  and nul"
    long = store.save(picture(), metadata(seconds=list(range(40_000))))
    assert len(store.get(long.id).metadata["seconds"]) == 40_000
    assert read(long.path).source == "stepwise"


def test_unknown_ids(store):
    for id in ("", "nope", "../../etc/passwd", "\ud800", "x" * 10_000):
        for call in (store.get, store.delete, store.restore):
            with pytest.raises(StoreError, match="There is no result"):
                call(id)


def test_a_row_that_leads_outside_is_not_followed(store, tmp_path):
    (tmp_path / "secret.png").write_bytes(b"x")
    record = store.save(picture(), metadata())
    with sqlite3.connect(store.folder / "index.sqlite") as connection:
        connection.execute("UPDATE result SET name = '../secret.png'")
    connection.close()
    for call in (lambda: store.get(record.id), store.list, lambda: store.delete(record.id)):
        with pytest.raises(StoreError, match="outside the results folder"):
            call()


# Deleting.


def test_delete_restore_and_empty_the_trash(store):
    records = [store.save(picture(), metadata("one")), store.save_bytes(b"clip", ".mp4", {}, kind="video")]
    for record in records:
        gone = store.delete(record.id)
        assert gone.path.parent.name == "trash" and gone.path.exists() and not record.path.exists() and gone.trashed
        assert about(gone.path).exists() is (gone.kind == "video") and not about(record.path).exists()
        assert store.delete(record.id) == gone
        assert store.list() == [] or record.id not in {other.id for other in store.list()}
        assert [other.id for other in store.list(trashed=True)][0] == record.id
        assert store.restore(record.id) == record == store.restore(record.id)
    for record in records:
        store.delete(record.id)
    assert store.empty_trash(older_than=60) == 0 and len(files(store.folder)) == 3
    assert store.empty_trash() == 2 and files(store.folder) == []
    with pytest.raises(StoreError, match="There is no result"):
        store.restore(records[0].id)
    assert store.list(trashed=True) == [] and store.reconcile().adopted == 0


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
    assert (done.adopted, done.dropped, done.leftovers) == (5, 0, 0)
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
    assert (done.adopted, done.dropped, done.leftovers) == (0, 1, 0)
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


def every(store: Store) -> list:
    return [*store.list(1000), *store.list(1000, trashed=True)]


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
        assert all(about(record.path).exists() for record in every(store) if record.kind == "video")
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
    assert all(whole(record) and (about(record.path).exists() or record.kind != "video") for record in every(store))
    assert {name.removesuffix(".json") for name in files(store.folder)} == {record.path.name for record in every(store)}


# Threads and processes.


def test_many_threads_and_two_stores_on_one_folder(tmp_path):
    failures, ids = [], []
    stores: list[Store] = []

    def work(number: int) -> None:
        try:
            mine = Store(tmp_path / "outputs")  # opened at the same moment
            stores.append(mine)
            for i in range(6):
                record = mine.save(picture(side=8), metadata(f"thread {number} {i}"))
                ids.append(record.id)
                assert mine.get(record.id) == record and mine.list(5)
                if i % 3 == 0:
                    mine.delete(record.id)
                if i == 3:
                    mine.reconcile()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert {record.id for record in every(stores[0])} == set(ids) and len(set(ids)) == 48
    assert len(stores[0].list(1000, text="thread")) == 32


# When the disk refuses.


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "is full: free some space"),
        (errno.EDQUOT, "is full: free some space"),
        (errno.EROFS, "cannot be written to"),
        (errno.EACCES, "cannot be written to"),
        (errno.EIO, "check the disk"),
    ],
)
@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace"])
def test_a_refused_write_says_what_to_do_and_leaves_nothing(store, monkeypatch, code, words, call):
    store.save(picture(), metadata())
    before = files(store.folder)

    def refuse(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    class Refusing:
        def __init__(self, path, mode):
            self.file = open(path, mode)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

        def write(self, data):
            self.file.write(data[: len(data) // 2])
            self.file.flush()
            refuse()

    with monkeypatch.context() as patch:
        if call in {"open", "write"}:
            patch.setattr(store_files, "open", refuse if call == "open" else Refusing, raising=False)
        else:
            patch.setattr(store_files.os, call, refuse)
        for save in (
            lambda: store.save(picture(), metadata()),
            lambda: store.save_bytes(b"x" * 99, ".mp4", {}, kind="video"),
        ):
            with pytest.raises(StoreError, match=words) as caught:
                save()
            assert str(store.folder) not in str(caught.value)
    assert files(store.folder) == before and len(store.list()) == 1
    assert store.save(picture(), metadata()).path.exists()


def test_a_full_disk_in_the_index_keeps_the_whole_file_for_later(store, monkeypatch):
    def full(*args):
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(store, "_enter", full)
        with pytest.raises(StoreError, match="free some space"):
            store.save(picture(), metadata("late"))
    assert store.list() == [] and store.reconcile().adopted == 1 and store.list()[0].prompt == "late"


@pytest.mark.skipif(
    os.name == "nt" or not hasattr(os, "geteuid") or os.geteuid() == 0, reason="rights do not bind the superuser"
)
def test_a_read_only_folder(tmp_path):
    (tmp_path / "outputs").mkdir(mode=0o500)
    with pytest.raises(StoreError, match="cannot be written to"):
        Store(tmp_path / "outputs")


def test_a_file_where_the_folder_should_be_and_a_damaged_index(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="cannot be used"):
        Store(tmp_path / "file" / "outputs")
    store = Store(tmp_path / "outputs")
    store.save(picture(), metadata("kept"))
    (store.folder / "index.sqlite").write_bytes(b"x" * 9000)
    with pytest.raises(StoreError, match="remove index.sqlite"):
        Store(store.folder)
    (store.folder / "index.sqlite").unlink()
    again = Store(store.folder)
    assert again.reconcile().adopted == 1 and again.list()[0].prompt == "kept"


# The index.


def test_migrations_from_every_version_keep_the_rows(tmp_path):
    for version in range(len(migrations.MIGRATIONS) + 1):
        folder = tmp_path / f"v{version}"
        folder.mkdir()
        connection = sqlite3.connect(folder / "index.sqlite", isolation_level=None)
        for statements in migrations.MIGRATIONS[:version]:
            for statement in statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {version}")
        if version:
            connection.execute(
                "INSERT INTO result (id, kind, name, created, job, position, width, height, size, prompt, parameters, metadata)"
                " VALUES ('a', 'k', 'd/a.png', 1.5, 'j', 0, 8, 8, 99, 'old prompt', 'text', '{\"x\": 1}')"
            )
        connection.close()
        store = Store(folder)
        with store._open() as connection:
            assert connection.execute("PRAGMA user_version").fetchone()[0] == len(migrations.MIGRATIONS)
        if version:
            assert (
                store.get("a").metadata == {"x": 1} and store.get("a").created == 1.5 and store.get("a").trashed is None
            )
            assert [record.id for record in store.list(text="old")] == ["a"]
        assert store.save(picture(), metadata()).id in {record.id for record in store.list()}


def test_released_migrations_are_never_changed():
    digests = [hashlib.sha256("\n".join(statements).encode()).hexdigest()[:12] for statements in migrations.MIGRATIONS]
    assert digests[:3] == ["e35f84c26d9d", "c7aee85e7fde", "3003c4aead25"]


def test_a_failed_migration_leaves_the_version_before(tmp_path, monkeypatch):
    store = Store(tmp_path / "outputs")
    record = store.save(picture(), metadata())
    broken = (*migrations.MIGRATIONS, ("ALTER TABLE result ADD COLUMN stars INTEGER", "THIS IS NO SQL"))
    monkeypatch.setattr(migrations, "MIGRATIONS", broken)
    with pytest.raises(sqlite3.OperationalError):
        Store(store.folder)
    monkeypatch.undo()
    assert Store(store.folder).get(record.id) == record


def test_an_index_of_a_newer_studio_is_left_alone(tmp_path):
    store = Store(tmp_path / "outputs")
    with sqlite3.connect(store.folder / "index.sqlite") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreError, match="update the studio"):
        Store(store.folder)


def test_ten_thousand_rows_are_found_through_indexes(store):
    kinds = ("text_to_image", "compare", "video")
    with store._open(write=True) as connection:
        for i in range(10_000):
            store._enter(
                connection,
                {
                    "id": f"20260101-000000-{i:012x}",
                    "kind": kinds[i % 3],
                    "name": f"2026-01-01/20260101-000000-{i:012x}.png",
                    "created": float(i),
                    "job": f"j{i // 4}",
                    "position": i % 4,
                    "width": 64,
                    "height": 64,
                    "size": 1,
                    "prompt": f"a cat number {i}",
                    "parameters": "",
                    "metadata": "{}",
                    "trashed": 1.0 if i % 10 == 0 else None,
                },
            )
    assert [record.created for record in store.list(3)] == [9999.0, 9998.0, 9997.0]
    wanted = [i for i in range(9999, -1, -1) if i % 10 and "777" in str(i)]
    assert [record.created for record in store.list(50, text="number 777")] == wanted
    plans = {}
    with store._open() as connection:
        for name, arguments in {
            "first page": (None, None, "", False),
            "next page": ("20260101-000000-000000000fff", None, "", False),
            "kind": (None, "compare", "", False),
            "kind, next page": ("20260101-000000-000000000fff", "compare", "", False),
            "text": (None, None, "cat 777", False),
            "text and kind": (None, "video", "cat 777", False),
            "short text": (None, None, "7", False),
            "trash": (None, None, "", True),
        }.items():
            query, values = store._query(*arguments)
            plans[name] = "; ".join(
                row["detail"] for row in connection.execute(f"EXPLAIN QUERY PLAN {query} LIMIT 50", values)
            )
    for name, plan in plans.items():
        assert "USING" in plan and not re.search(r"SCAN result(;|$)", plan), (name, plan)
        if "text" not in name and name != "trash":
            assert "TEMP B-TREE" not in plan, (name, plan)
    assert "VIRTUAL TABLE INDEX" in plans["text"] or not store._searchable


def test_the_default_folder_follows_the_environment_when_asked(monkeypatch, tmp_path):
    monkeypatch.setenv("STEPWISE_HOME", str(tmp_path / "home"))
    assert default_folder() == tmp_path / "home" / "outputs" and not (tmp_path / "home").exists()
    assert Store().folder == (tmp_path / "home" / "outputs").resolve()
    monkeypatch.delenv("STEPWISE_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr(sys, "platform", "linux")
    assert default_folder() == tmp_path / "xdg" / "stepwise" / "outputs"
    assert not default_folder().is_relative_to(ROOT)
