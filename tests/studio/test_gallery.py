"""The gallery's parts: finding, thumbnails, archives, settings to use again, and what it says as HTML."""

from __future__ import annotations

import io
import json
import re
import zipfile

import gradio as gr
import pytest
from PIL import Image

from pipelines.core.errors import SettingsError, StoreError
from pipelines.core.types import Request
from studio.page.gallery import list as gallery_shelf
from studio.page.gallery import markup as gallery_markup
from studio.page.gallery import tab as gallery
from studio.results import archives as gallery_files
from studio.results.archives import make_thumbnail, pack
from studio.results.search import extract_settings, find
from studio.results.store import Store
from studio.results.visible import VisibleResults
from studio.ui.page_context import PageContext
from studio.ui.presentation import format_file_size
from tests.studio.store_only import store_only


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "outputs")


def save(store, prompt="a fox", size=(64, 64), kind="text_to_image", **request):
    values = Request(prompt=prompt, **request).to_json()
    return store.save(
        Image.new("RGB", size, "#4080e4"),
        {"request": values, "figures": {"evaluations": 9, "seconds": 1.0}},
        "Steps: 5",
        kind=kind,
    )


def test_kinds_are_counted_from_the_index(store):
    first = [save(store), save(store), save(store, kind="edit")][0]
    assert store.count_kinds() == {"text_to_image": 2, "edit": 1}
    store.delete(first.id)
    assert store.count_kinds() == {"text_to_image": 1, "edit": 1}
    assert store.count_kinds(trashed=True) == {"text_to_image": 1}


def test_find_gives_pages_without_gap_or_repeat(store):
    ids = [save(store, f"fox {i}").id for i in range(7)][::-1]
    page, more = find(store, "fox", "", 3)
    rest, end = find(store, "fox", "", 10, before=page[-1].id)
    assert [record.id for record in (*page, *rest)] == ids
    assert more and not end
    assert find(store, "owl", "", 3) == ([], False)


def fill(store, count):
    """So many results in the index, the newest last, all of one small file."""
    save(store)
    with store._open(write=True) as connection:
        row = dict(connection.execute("SELECT * FROM result").fetchone())
        for column in ("number", "model", "steps", "seconds"):  # the index computes them itself
            del row[column]
        for number in range(count - 1):
            store._enter(
                connection,
                row | {"id": f"20200101-000000-{number:012x}", "created": 1e9 + number, "prompt": f"a fox {number}"},
            )


def work(store, monkeypatch):
    """A list that grows by one for a hundred instructions of the index: the rows that it reads, not seconds."""
    done, connect = [], store._connect

    def counted():
        connection = connect()
        connection.set_progress_handler(lambda: done.append(1), 100)
        return connection

    monkeypatch.setattr(store, "_connect", counted)
    return done


@pytest.mark.parametrize("search", ["", "fox"])
def test_every_one_of_ten_thousand_results_is_reached_a_page_at_a_time(tab, store, monkeypatch, search):
    fill(store, 10_000)
    if search:
        store.save(Image.new("RGB", (8, 8)), {"request": {"prompt": "an owl"}})
    done, shelf = work(store, monkeypatch), tab.result_list
    updates = shelf.list_newest(search, "", {})
    first, longest = updates[shelf.grid], len(updates[shelf.grid])
    seen, costs = [*IDS.findall(first)], []
    while updates[shelf.more]["visible"]:
        before, place = len(done), updates[shelf.place]
        updates = shelf.list_next(search, "", place)
        costs.append(len(done) - before)
        assert shelf.grid not in updates and updates[shelf.place]["list"] == place["list"]
        assert f'data-list="{place["list"]}" hidden' in updates[shelf.next]
        assert len(updates[shelf.next]) < 1.2 * longest
        seen += IDS.findall(updates[shelf.next])
    assert len(seen) == len(set(seen)) == 10_000
    assert updates[shelf.place]["shown"] == 10_000 and "10,000 results" in updates[shelf.summary].replace(
        "10000", "10,000"
    )
    assert 1 < max(costs) < 1.2 * costs[0] + 2


IDS = re.compile(r'class="sw-piece" data-id="([^"]+)"')


def test_a_long_list_drawn_anew_is_as_long_as_it_was_up_to_a_bound_and_goes_on_behind_it(tab, store):
    fill(store, 1100)
    shelf = tab.result_list
    place = {"list": "old", "last": store.list(1)[0].id, "shown": 10_000}
    updates = shelf.list_newest("", "", place)
    assert len(IDS.findall(updates[shelf.grid])) == gallery_shelf.MOST
    rest = IDS.findall(shelf.list_next("", "", updates[shelf.place])[shelf.next])
    assert rest == [record.id for record in store.list(1000, store.list(1000)[gallery_shelf.MOST - 1].id)][:48]
    assert len(IDS.findall(shelf.list_newest("", "", {"shown": 100})[shelf.grid])) == 100


@pytest.mark.parametrize(
    "place", [None, {}, [], "x", 7, {"last": "../../etc/passwd"}, {"last": None, "shown": "x"}, {"shown": -1}]
)
def test_a_place_that_is_none_begins_the_list_anew(tab, store, place):
    record = save(store)
    for handler in (tab.result_list.list_newest, tab.result_list.list_next):
        updates = handler("", "", place)
        assert (
            IDS.findall(updates[tab.result_list.grid]) == [record.id] and not updates[tab.result_list.more]["visible"]
        )


def test_a_deletion_between_two_pages_leaves_no_gap(tab, store):
    fill(store, 120)
    shelf = tab.result_list
    updates = shelf.list_newest("", "", {})
    last = updates[shelf.place]["last"]
    store.delete(last)
    seen = [*IDS.findall(updates[shelf.grid]), *IDS.findall(shelf.list_next("", "", updates[shelf.place])[shelf.next])]
    listed = [record.id for record in store.list(95)]
    assert seen == [*listed[:47], last, *listed[47:]]


def test_a_small_picture_is_its_own_thumbnail_and_a_large_one_is_made_once(store, tmp_path):
    small, large = save(store), save(store, size=(900, 600))
    folder = tmp_path / "temp"
    assert make_thumbnail(small, folder) == small.path
    made = make_thumbnail(large, folder)
    assert made.parent == folder
    with Image.open(made) as picture:
        assert max(picture.size) == 320
    before = made.stat().st_mtime_ns
    assert make_thumbnail(large, folder).stat().st_mtime_ns == before
    assert [path.suffix for path in folder.iterdir()] == [".jpg"]


def test_a_damaged_picture_and_a_table_have_no_thumbnail(store, tmp_path):
    large = save(store, size=(900, 600))
    large.path.write_bytes(large.path.read_bytes()[:200])
    table = store.save_bytes(b"a,b\n", ".csv", {}, kind="comparison")
    assert make_thumbnail(large, tmp_path / "temp") is None
    assert make_thumbnail(table, tmp_path / "temp") is None
    html = gallery_markup.build_tiles([(large, None), (table, None)])
    assert "cannot be shown" in html and "CSV" in html


def test_an_archive_holds_the_files_and_their_settings(store, tmp_path):
    records = [save(store, "a fox"), save(store, "an owl")]
    path = pack(records, tmp_path / "out" / "some.zip")
    with zipfile.ZipFile(path) as archive:
        assert set(archive.namelist()) == {"results.json", *(record.path.name for record in records)}
        assert archive.read(records[0].path.name) == records[0].path.read_bytes()
        assert [row["prompt"] for row in json.loads(archive.read("results.json"))] == ["a fox", "an owl"]


def test_an_archive_has_caps_and_leaves_nothing_half_written(store, tmp_path, monkeypatch):
    record = save(store)
    with pytest.raises(SettingsError, match="Nothing is selected"):
        pack([], tmp_path / "a.zip")
    with pytest.raises(SettingsError, match="1000 at most"):
        pack([record] * 1001, tmp_path / "a.zip")
    monkeypatch.setattr(gallery_files, "LARGEST_ARCHIVE", 10)
    with pytest.raises(SettingsError, match="choose fewer"):
        pack([record], tmp_path / "a.zip")
    monkeypatch.undo()
    record.path.unlink()
    with pytest.raises(StoreError, match="cannot be written"):
        pack([record], tmp_path / "a.zip")
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]


def test_settings_are_used_again_only_where_a_request_accepts_them(store):
    values = extract_settings(save(store, "a fox", seed=2**60 + 1))
    assert values["seed"] == 2**60 + 1 and values["seed_mode"] == "fixed"
    assert extract_settings(store.save(Image.new("RGB", (8, 8)), {"request": {"prompt": "x", "seed": "soon"}})) is None
    assert extract_settings(store.save(Image.new("RGB", (8, 8)), {"request": "x"})) is None
    assert extract_settings(store.save(Image.new("RGB", (8, 8)), {})) is None


@pytest.fixture
def tab(store, tmp_path, monkeypatch):
    monkeypatch.setattr(gallery, "get_upload_folder", lambda: str(tmp_path / "temp"))
    studio = store_only(store, catalog={})
    with gr.Blocks() as demo, gr.Tabs() as tabs:
        context = PageContext(demo, tabs, {"gallery": "Gallery"}, {})
        with gr.Tab("Gallery"):
            return gallery.GalleryTab(studio, context)


def test_deleting_and_undoing_take_only_ids_that_exist(tab, store):
    kept, gone = save(store, "a kept fox"), save(store, "a gone owl")
    updates = tab._remove([gone.id, "../../etc/passwd", "nothing", {"path": "/etc/passwd"}], "", "", {})
    assert updates[tab.undone] == [gone.id]
    assert "a gone owl" not in updates[tab.result_list.grid] and "a kept fox" in updates[tab.result_list.grid]
    assert "1 result deleted" in updates[tab.notice]
    back = tab._restore(updates[tab.undone], "", "", {})
    assert "a gone owl" in back[tab.result_list.grid]
    assert store.get(kept.id).trashed is None and store.get(gone.id).trashed is None


@pytest.mark.parametrize("chosen", [None, [], "x", ["../../etc/passwd"], [None], {"a": 1}, 7])
def test_nonsense_from_the_page_gets_one_sentence(tab, chosen):
    for handler in (tab._compare, tab._export):
        assert "Nothing is selected" in handler(chosen)[tab.notice]
    assert "Nothing is selected" in tab._remove(chosen, "", "", {})[tab.notice]
    assert "no result" in tab._open(gr.EventData(None, {"action": "open", "id": "../x"}))[tab.notice]


def test_the_export_is_written_into_the_pages_temporary_folder(tab, store, tmp_path):
    record = save(store)
    tab._export([record.id, record.id])
    (path,) = (tmp_path / "temp").rglob("*.zip")
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:
        assert archive.namelist() == [record.path.name, "results.json"]


def test_the_trash_is_a_kind_of_its_own_and_an_empty_gallery_says_what_comes(tab, store):
    assert "appears here" in tab.result_list.list_newest("", "", {})[tab.result_list.grid]
    record = save(store)
    assert "Nothing found" in tab.result_list.list_newest("owl", "", {})[tab.result_list.grid]
    store.delete(record.id)
    assert record.id in tab.result_list.list_newest("", gallery_shelf.TRASH, {})[tab.result_list.grid]
    store.restore(record.id)
    assert tab.result_list.list_newest("", gallery_shelf.TRASH, {})[tab.result_list.kind]["value"] == ""


def test_the_trash_is_emptied_by_a_second_click(tab, store):
    trash, record = tab.result_list.trash, save(store)
    size = format_file_size(record.path.stat().st_size)
    store.delete(record.id)
    assert tab.result_list.list_newest("", "", {})[trash.button]["visible"] is False
    shown = tab.result_list.list_newest("", gallery_shelf.TRASH, {})
    assert shown[trash.button]["visible"] and shown[trash.button]["value"] == f"Empty trash (1 result, {size})"
    asked = tab._empty_trash(shown[trash.was_asked], "", gallery_shelf.TRASH, {})
    assert "for good?" in asked[trash.button]["value"] and store.get(record.id).trashed
    emptied = tab._empty_trash(asked[trash.was_asked], "", gallery_shelf.TRASH, {})
    assert f"1 result, {size} removed for good" in emptied[tab.notice]
    assert emptied[trash.button]["visible"] is False
    with pytest.raises(StoreError):
        store.get(record.id)


@pytest.mark.parametrize("asked", [None, True, "1", 1, {}, [1], {"results": 2}, {"results": True}])
def test_nothing_but_the_second_click_empties_it(tab, store, asked):
    record = save(store)
    store.delete(record.id)
    tab._empty_trash(asked, "", gallery_shelf.TRASH, {})
    assert store.get(record.id).trashed


def test_people_see_and_empty_their_own_trash_alone(store):
    ann, bob = VisibleResults(store, "ann"), VisibleResults(store, "bob")
    records = {name: store.save(Image.new("RGB", (8, 8)), {}, owner=name) for name in ("ann", "bob")}
    sizes = {name: record.path.stat().st_size for name, record in records.items()}
    for record in records.values():
        store.delete(record.id)
    assert VisibleResults(store).measure_trash() == (2, sum(sizes.values()))
    assert ann.measure_trash() == (1, sizes["ann"])
    assert ann.empty_trash() == (1, sizes["ann"])
    assert (ann.measure_trash(), bob.measure_trash()) == ((0, 0), (1, sizes["bob"]))
    assert VisibleResults(store).empty_trash() == (1, sizes["bob"])
