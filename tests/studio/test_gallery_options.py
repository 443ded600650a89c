"""The gallery's order, its model filter and its favorites: in the store, on the page, for programs."""

from __future__ import annotations

import itertools
import time

import gradio as gr
import pytest
from PIL import Image

from pipelines.core.errors import SettingsError, StoreError
from studio.api import gallery, gallery_change
from studio.cli.main import main
from studio.page.gallery.list import ResultList
from studio.results.housekeeping import Housekeeper
from studio.results.options import ORDERS, ListOptions
from studio.results.retention import Housekeeping
from studio.results.search import find
from studio.results.store import Store
from studio.results.visible import VisibleResults
from tests.studio.store_only import store_only

ROWS = [("emoji", 9, 2.0), ("sd15", 4, 0.5), ("", 0, 0.0), ("emoji", 2, 7), ("sd15", 4, 0.5), ("emoji", 9, "soon")]
"""Model, steps and seconds of the results, the oldest first; one has no settings, one no seconds."""


def save(store, model="emoji", steps=1, seconds=1.0, owner=""):
    metadata = {"request": {"prompt": "a fox", "model": model, "num_inference_steps": steps}} if model else {}
    metadata |= {"figures": {"seconds": seconds}}
    return store.save(Image.new("RGB", (8, 8)), metadata, owner=owner)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "outputs")


@pytest.fixture
def rows(store, monkeypatch):
    clock = itertools.count(1_700_000_000)
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: float(next(clock)))
        return [save(store, *row) for row in ROWS]


@pytest.mark.parametrize(
    ("order", "places"),
    [
        ("newest", [5, 4, 3, 2, 1, 0]),
        ("oldest", [0, 1, 2, 3, 4, 5]),
        ("model", [5, 3, 0, 4, 1, 2]),
        ("slowest", [3, 0, 4, 1, 5, 2]),
        ("steps", [5, 0, 4, 1, 3, 2]),
    ],
)
def test_every_order_is_followed_across_pages(store, rows, order, places):
    options, ids = ListOptions(order=order), []
    more = True
    while more:
        page, more = find(VisibleResults(store), "", "", 2, before=ids[-1] if ids else "", options=options)
        ids += [record.id for record in page]
    assert ids == [rows[place].id for place in places]


@pytest.mark.parametrize("order", ORDERS)
def test_orders_and_filters_read_an_index_and_sort_nothing(store, order):
    choices = [ListOptions(order=order)]
    if order in ("newest", "oldest"):
        choices += [ListOptions("emoji", order=order), ListOptions(favorites=True, order=order)]
    with store._open() as connection:
        for options, before in itertools.product(choices, (None, "x")):
            query, values = store._query(before, None, "", False, None, options)
            plan = "; ".join(row["detail"] for row in connection.execute(f"EXPLAIN QUERY PLAN {query}", values))
            assert "USING INDEX result_" in plan and "TEMP B-TREE" not in plan, (options, plan)


def test_a_models_results_are_counted_and_listed(store, rows):
    assert store.count_models() == {"emoji": 3, "sd15": 2}
    assert [one.id for one in store.list(options=ListOptions("sd15"))] == [rows[4].id, rows[1].id]
    store.delete(rows[4].id)
    assert store.count_models() == {"emoji": 3, "sd15": 1}


def test_a_favorite_survives_a_restart_and_goes_after_all_others(store):
    star, _, _ = (save(store) for _ in range(3))
    VisibleResults(store).star(star.id)
    assert [one.id for one in Store(store.folder).list(options=ListOptions(favorites=True))] == [star.id]
    Housekeeper(store, Housekeeping(keep_seconds=1.0), lambda: time.time() + 100.0).tidy()
    assert [one.id for one in store.list()] == [star.id]
    store.delete(star.id)
    with store._open(write=True) as connection:  # deleted before the others, and removed after them all the same
        connection.execute("UPDATE result SET trashed = 1.0 WHERE id = ?", (star.id,))
    keeper = Housekeeping(trash_seconds=1e12, trash_bytes=star.size)
    assert Housekeeper(store, keeper).tidy().results == 2
    assert [one.id for one in store.list(trashed=True)] == [star.id]


def test_a_favorite_is_its_owners_alone(store):
    record = save(store, owner="ann")
    ann, bob, reader = (
        VisibleResults(store, "ann"),
        VisibleResults(store, "bob"),
        VisibleResults(store, "eve", reads_all=True),
    )
    assert ann.star(record.id).favorite and ann.get(record.id).favorite
    assert not reader.get(record.id).favorite and not reader.list()[0].favorite
    assert reader.list(options=ListOptions(favorites=True)) == [] and ann.list(options=ListOptions(favorites=True))
    with pytest.raises(StoreError, match="There is no result"):
        bob.unstar(record.id)
    with pytest.raises(StoreError, match="somebody else"):
        reader.unstar(record.id)
    assert bob.count_models() == {} and store.get(record.id).favorite


def test_the_page_filters_orders_and_stars(store, rows, tmp_path):
    with gr.Blocks():
        shown = ResultList(store_only(store, catalog={}), tmp_path / "small", "{0}")
        shown.build_search()
        shown.build_results()
    grid = shown.list_newest("", "", {}, "sd15", False, "oldest")[shown.grid]
    assert grid.index(rows[1].id) < grid.index(rows[4].id) and rows[0].id not in grid
    assert 'data-action="star"' in grid and 'aria-pressed="true"' not in grid
    inputs = ("", "", {}, "", True, "newest")
    assert shown.star({"action": "star", "id": rows[0].id}, inputs) == ({}, "")
    grid = shown.list_newest(*inputs)[shown.grid]
    assert rows[0].id in grid and rows[1].id not in grid and 'aria-pressed="true"' in grid
    for data in (None, {}, {"action": "star", "id": "../x"}, {"action": "star", "id": {"a": 1}}, 7):
        updates, problem = shown.star(data, inputs)
        assert "There is no result" in problem and rows[0].id in updates[shown.grid]
    for wild in ({"a": 1}, ["x"], "gone", 7, None):  # a model that made nothing is no filter
        assert rows[5].id in shown.list_newest("", "", {}, wild)[shown.grid]
    assert "order" in shown.list_newest("", "", {}, "", False, "wild")[shown.grid]
    link = {"made_by": "sd15", "favorites": True, "sort": "model"}
    updates = shown.update_from_link(link)
    assert updates[shown.model]["value"] == "sd15" and updates[shown.order] == "model" and updates[shown.favorites]


def test_programs_filter_order_and_star(store, rows, tmp_path, capsys):
    listing, change = (one.endpoint(store_only(store)) for one in (gallery, gallery_change))
    answer = change("star", [rows[0].id, rows[0].id])
    assert answer == {"action": "star", "changed": [rows[0].id]}
    assert change("star", [rows[0].id])["changed"] == []
    with pytest.raises(gr.Error, match="order"):
        listing(order="wild")
    for wrong in ({"model": 3}, {"favorites": "yes"}, {"order": None}):
        with pytest.raises(SettingsError):
            ListOptions.parse(**wrong)
    folders = ["--outputs-folder", str(store.folder), "--models-folder", str(tmp_path / "models")]
    assert main([*folders, "gallery", "--star", rows[3].id]) == 0 and store.get(rows[3].id).favorite
    capsys.readouterr()
    assert main([*folders, "gallery", "--favorites", "--model", "emoji", "--sort", "oldest"]) == 0
    assert [line.split(" ")[0] for line in capsys.readouterr().out.splitlines()] == [
        str(store.get(rows[place].id).path) for place in (0, 3)
    ]
    assert main([*folders, "gallery", "--unstar", rows[3].id]) == 0 and not store.get(rows[3].id).favorite
