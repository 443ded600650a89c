"""Results are saved, found, deleted and restored, from many threads and on disks that refuse."""

from __future__ import annotations

import errno
import json
import os
import re
import sqlite3
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.core.errors import StoreError
from pipelines.core.types import Request
from studio.infotext import read, write
from studio.results import files as store_files
from studio.results.records import get_description_path
from studio.results.store import Store
from tests.studio.stored_pictures import every, files, metadata, picture


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
        assert (
            get_description_path(gone.path).exists() is (gone.kind == "video")
            and not get_description_path(record.path).exists()
        )
        assert store.delete(record.id) == gone
        assert store.list() == [] or record.id not in {other.id for other in store.list()}
        assert next(other.id for other in store.list(trashed=True)) == record.id
        assert store.restore(record.id) == record == store.restore(record.id)
    for record in records:
        store.delete(record.id)
    assert store.empty_trash(older_than=60) == (0, 0) and len(files(store.folder)) == 3
    held = sum(path.stat().st_size for path in (store.folder / "trash").iterdir())
    assert held > 0 and store.count_bytes() == (0, records[0].size + records[1].size)
    assert store.empty_trash() == (2, held) and files(store.folder) == [] and store.count_bytes() == (0, 0)
    with pytest.raises(StoreError, match="There is no result"):
        store.restore(records[0].id)
    assert store.list(trashed=True) == [] and store.reconcile().adopted == 0


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
            self.file = open(path, mode)  # noqa: SIM115 - it is closed by __exit__

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
    assert store.list()[0].prompt == "late" and store.reconcile().adopted == 0  # found as soon as there is room


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
    with pytest.raises(StoreError, match=r"remove index.sqlite"):
        Store(store.folder)
    (store.folder / "index.sqlite").unlink()
    again = Store(store.folder)
    assert again.reconcile().adopted == 1 and again.list()[0].prompt == "kept"
