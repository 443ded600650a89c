"""The index of results: its migrations, its speed, and where it stands by default."""

from __future__ import annotations

import hashlib
import re
import sqlite3
import sys

import pytest

from pipelines.core.errors import StoreError
from studio.results import migrations
from studio.results.store import Store, get_default_folder
from tests.studio.stored_pictures import ROOT, metadata, picture


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "outputs")


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
                "INSERT INTO result (id, kind, name, created, job, position, width, height, size, prompt, parameters, "
                "metadata)"
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
            "owner": (None, None, "", False, "0123456789abcdef"),
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
    assert get_default_folder() == tmp_path / "home" / "outputs" and not (tmp_path / "home").exists()
    assert Store().folder == (tmp_path / "home" / "outputs").resolve()
    monkeypatch.delenv("STEPWISE_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr(sys, "platform", "linux")
    assert get_default_folder() == tmp_path / "xdg" / "stepwise" / "outputs"
    assert not get_default_folder().is_relative_to(ROOT)
