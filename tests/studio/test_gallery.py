"""The gallery's parts: finding, thumbnails, archives, settings to use again, and what it says as HTML."""

from __future__ import annotations

import io
import json
import re
import zipfile
from types import SimpleNamespace

import gradio as gr
import pytest
from PIL import Image

from pipelines.core.errors import SettingsError, StoreError
from pipelines.core.types import Request
from studio.api import gallery_change
from studio.api import listings as shelves
from studio.cli.main import main
from studio.page.gallery import list as gallery_shelf
from studio.page.gallery import markup as gallery_markup
from studio.page.gallery import tab as gallery
from studio.results import archives as gallery_files
from studio.results.archives import pack, thumbnail
from studio.results.search import find, reusable
from studio.results.store import Store
from studio.ui.page_context import PageContext


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
    assert store.kinds() == {"text_to_image": 2, "edit": 1}
    store.delete(first.id)
    assert store.kinds() == {"text_to_image": 1, "edit": 1}
    assert store.kinds(trashed=True) == {"text_to_image": 1}


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
        del row["number"]
        for number in range(count - 1):
            store._enter(
                connection,
                row | {"id": f"20200101-000000-{number:012x}", "created": 1e9 + number, "prompt": f"a fox {number}"},
            )


def work(store, monkeypatch):
    """A list that grows by one for each instruction of the index's own program: the rows that it reads, not seconds."""
    done, connect = [], store._connect

    def counted():
        connection = connect()
        connection.set_progress_handler(lambda: done.append(1), 1)
        return connection

    monkeypatch.setattr(store, "_connect", counted)
    return done


@pytest.mark.parametrize("search", ["", "fox"])
def test_every_one_of_ten_thousand_results_is_reached_a_page_at_a_time(tab, store, monkeypatch, search):
    fill(store, 10_000)
    if search:
        store.save(Image.new("RGB", (8, 8)), {"request": {"prompt": "an owl"}})
    done, shelf = work(store, monkeypatch), tab.result_list
    updates = shelf.listed(search, "", {})
    first, longest = updates[shelf.grid], len(updates[shelf.grid])
    seen, costs = [*IDS.findall(first)], []
    while updates[shelf.more]["visible"]:
        before, place = len(done), updates[shelf.place]
        updates = shelf.after(search, "", place)
        costs.append(len(done) - before)
        assert shelf.grid not in updates and updates[shelf.place]["list"] == place["list"]
        assert f'data-list="{place["list"]}" hidden' in updates[shelf.next]
        assert len(updates[shelf.next]) < 1.2 * longest
        seen += IDS.findall(updates[shelf.next])
    assert len(seen) == len(set(seen)) == 10_000
    assert updates[shelf.place]["shown"] == 10_000 and "10,000 results" in updates[shelf.summary].replace(
        "10000", "10,000"
    )
    assert max(costs) < 1.2 * costs[0] + 100


IDS = re.compile(r'class="sw-piece" data-id="([^"]+)"')


def test_a_long_list_drawn_anew_is_as_long_as_it_was_up_to_a_bound_and_goes_on_behind_it(tab, store):
    fill(store, 1100)
    shelf = tab.result_list
    place = {"list": "old", "last": store.list(1)[0].id, "shown": 10_000}
    updates = shelf.listed("", "", place)
    assert len(IDS.findall(updates[shelf.grid])) == gallery_shelf.MOST
    rest = IDS.findall(shelf.after("", "", updates[shelf.place])[shelf.next])
    assert rest == [record.id for record in store.list(1000, store.list(1000)[gallery_shelf.MOST - 1].id)][:48]
    assert len(IDS.findall(shelf.listed("", "", {"shown": 100})[shelf.grid])) == 100


@pytest.mark.parametrize(
    "place", [None, {}, [], "x", 7, {"last": "../../etc/passwd"}, {"last": None, "shown": "x"}, {"shown": -1}]
)
def test_a_place_that_is_none_begins_the_list_anew(tab, store, place):
    record = save(store)
    for handler in (tab.result_list.listed, tab.result_list.after):
        updates = handler("", "", place)
        assert (
            IDS.findall(updates[tab.result_list.grid]) == [record.id] and not updates[tab.result_list.more]["visible"]
        )


def test_a_deletion_between_two_pages_leaves_no_gap(tab, store):
    fill(store, 120)
    shelf = tab.result_list
    updates = shelf.listed("", "", {})
    last = updates[shelf.place]["last"]
    store.delete(last)
    seen = [*IDS.findall(updates[shelf.grid]), *IDS.findall(shelf.after("", "", updates[shelf.place])[shelf.next])]
    listed = [record.id for record in store.list(95)]
    assert seen == [*listed[:47], last, *listed[47:]]


def test_a_small_picture_is_its_own_thumbnail_and_a_large_one_is_made_once(store, tmp_path):
    small, large = save(store), save(store, size=(900, 600))
    folder = tmp_path / "temp"
    assert thumbnail(small, folder) == small.path
    made = thumbnail(large, folder)
    assert made.parent == folder
    with Image.open(made) as picture:
        assert max(picture.size) == 320
    before = made.stat().st_mtime_ns
    assert thumbnail(large, folder).stat().st_mtime_ns == before
    assert [path.suffix for path in folder.iterdir()] == [".jpg"]


def test_a_damaged_picture_and_a_table_have_no_thumbnail(store, tmp_path):
    large = save(store, size=(900, 600))
    large.path.write_bytes(large.path.read_bytes()[:200])
    table = store.save_bytes(b"a,b\n", ".csv", {}, kind="comparison")
    assert thumbnail(large, tmp_path / "temp") is None
    assert thumbnail(table, tmp_path / "temp") is None
    html = gallery_markup.tiles([(large, None), (table, None)])
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
    with pytest.raises(SettingsError, match="Nothing is chosen"):
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
    values = reusable(save(store, "a fox", seed=2**60 + 1))
    assert values["seed"] == 2**60 + 1 and values["seed_mode"] == "fixed"
    assert reusable(store.save(Image.new("RGB", (8, 8)), {"request": {"prompt": "x", "seed": "soon"}})) is None
    assert reusable(store.save(Image.new("RGB", (8, 8)), {"request": "x"})) is None
    assert reusable(store.save(Image.new("RGB", (8, 8)), {})) is None


def test_a_prompt_is_text_and_never_html_or_a_template(store):
    record = save(store, '<script>x</script> ${1} {{a}} `b` " onerror=')
    for html in (
        gallery_markup.tiles([(record, record.path)]),
        gallery_markup.opened(record, "<i>"),
        gallery_markup.pair(record, record),
    ):
        assert not {"<script", "${", "{{", "`", '" onerror'} & {
            part for part in ("<script", "${", "{{", "`", '" onerror') if part in html
        }


def test_programs_get_plain_values_and_one_sentence_for_bad_ones(store):
    studio = SimpleNamespace(store=store)
    ids = [save(store, f"fox {i}").id for i in range(3)][::-1]
    told = shelves.listed_results(studio, "fox", "text_to_image", 2)
    assert [one["id"] for one in told["results"]] == ids[:2] and told["more"]
    assert json.dumps(told)
    for values in (
        {"limit": 0},
        {"limit": 10**6},
        {"limit": "x"},
        {"limit": float("nan")},
        {"limit": True},
        {"search": 3},
        {"kind": ["x"]},
    ):
        with pytest.raises(SettingsError):
            shelves.results(studio, **values)
    with pytest.raises(StoreError):
        shelves.results(studio, before="../../etc/passwd")


def test_programs_delete_and_restore_by_id_alone(store):
    studio = SimpleNamespace(store=store)
    kept, gone = save(store, "a kept fox"), save(store, "a gone owl")
    wild = [gone.id, gone.id, "../../etc/passwd", str(kept.path), {"path": "/etc/passwd"}, None]
    assert shelves.change_results(studio, "delete", wild) == {"action": "delete", "changed": [gone.id]}
    assert store.get(gone.id).trashed is not None and store.get(kept.id).trashed is None and kept.path.exists()
    assert shelves.change_results(studio, "delete", [gone.id])["changed"] == []  # it is deleted already
    assert shelves.change_results(studio, "restore", [gone.id, kept.id])["changed"] == [gone.id]
    assert store.get(gone.id).trashed is None
    for ids in (None, [], "x", ["../x"], {"a": 1}, 7):
        with pytest.raises(SettingsError, match="Nothing is chosen"):
            shelves.change_results(studio, "delete", ids)
    for action in ("", "empty", "__del__", None, ["delete"]):
        with pytest.raises(SettingsError, match="delete, restore"):
            shelves.change_results(studio, action, [kept.id])


def test_the_endpoint_deletes_and_says_what_is_wrong_in_a_sentence(store):
    change, record = gallery_change.endpoint(SimpleNamespace(store=store)), save(store)
    assert change("delete", [record.id])["changed"] == [record.id] and store.get(record.id).trashed is not None
    for wrong in (("delete", []), ("empty", [record.id]), ("restore", "x")):
        with pytest.raises(gr.Error, match=r"Nothing is chosen|Unknown action"):
            change(*wrong)


def test_the_command_line_deletes_and_restores(store, tmp_path, capsys):
    record = save(store)
    folders = ["--outputs-folder", str(store.folder), "--models-folder", str(tmp_path / "models")]
    for action, trashed in (("delete", True), ("restore", False)):
        assert main([*folders, "gallery", f"--{action}", record.id]) == 0
        assert capsys.readouterr().out.split() == [record.id]
        assert (store.get(record.id).trashed is not None) is trashed
    assert main([*folders, "gallery", "--delete", "../x"]) == 2
    assert "Nothing is chosen" in capsys.readouterr().err


@pytest.fixture
def tab(store, tmp_path, monkeypatch):
    monkeypatch.setattr(gallery, "get_upload_folder", lambda: str(tmp_path / "temp"))
    studio = SimpleNamespace(store=store, catalog={})
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
        assert "Nothing is chosen" in handler(chosen)[tab.notice]
    assert "Nothing is chosen" in tab._remove(chosen, "", "", {})[tab.notice]
    assert "no result" in tab._open(gr.EventData(None, {"action": "open", "id": "../x"}))[tab.notice]


def test_the_export_is_written_into_the_pages_temporary_folder(tab, store, tmp_path):
    record = save(store)
    tab._export([record.id, record.id])
    (path,) = (tmp_path / "temp").rglob("*.zip")
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:
        assert archive.namelist() == [record.path.name, "results.json"]


def test_the_trash_is_a_kind_of_its_own_and_an_empty_gallery_says_what_comes(tab, store):
    assert "appears here" in tab.result_list.listed("", "", {})[tab.result_list.grid]
    record = save(store)
    assert "Nothing found" in tab.result_list.listed("owl", "", {})[tab.result_list.grid]
    store.delete(record.id)
    assert record.id in tab.result_list.listed("", gallery_shelf.TRASH, {})[tab.result_list.grid]
    store.restore(record.id)
    assert tab.result_list.listed("", gallery_shelf.TRASH, {})[tab.result_list.kind]["value"] == ""
