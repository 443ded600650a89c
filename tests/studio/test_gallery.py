"""The gallery's parts: finding, thumbnails, archives, settings to use again, and what it says as HTML."""

from __future__ import annotations

import io
import json
import time
import zipfile
from types import SimpleNamespace

import gradio as gr
import pytest
from PIL import Image

from pipelines.errors import SettingsError, StoreError
from pipelines.types import Request
from studio import gallery_files, gallery_markup, shelves
from studio.gallery_files import pack, thumbnail
from studio.gallery_records import find, reusable
from studio.shell import Shell
from studio.store import Store
from studio.tabs import gallery


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


def test_ten_thousand_results_are_listed_quickly_and_without_their_files(store):
    save(store)
    with store._open(write=True) as connection:
        row = dict(connection.execute("SELECT * FROM result").fetchone())
        del row["number"]
        for number in range(10_000):
            store._enter(
                connection,
                row | {"id": f"20200101-000000-{number:012x}", "created": 1e9 + number, "prompt": f"a fox {number}"},
            )
    started = time.perf_counter()
    page, more = find(store, "", "", gallery.PAGE)
    found, _ = find(store, "fox 99", "", gallery.PAGE)
    store.kinds()
    assert time.perf_counter() - started < 1.0
    assert len(page) == gallery.PAGE and more and all("fox 99" in record.prompt for record in found)


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


@pytest.fixture
def tab(store, tmp_path, monkeypatch):
    monkeypatch.setattr(gallery, "get_upload_folder", lambda: str(tmp_path / "temp"))
    studio = SimpleNamespace(store=store, catalog={})
    with gr.Blocks() as demo, gr.Tabs() as tabs:
        shell = Shell(demo, tabs, ("gallery",), {})
        with gr.Tab("Gallery"):
            return gallery.GalleryTab(studio, shell)


def test_deleting_and_undoing_take_only_ids_that_exist(tab, store):
    kept, gone = save(store, "a kept fox"), save(store, "a gone owl")
    updates = tab._remove([gone.id, "../../etc/passwd", "nothing", {"path": "/etc/passwd"}], "", "", 48)
    assert updates[tab.undone] == [gone.id]
    assert "a gone owl" not in updates[tab.grid] and "a kept fox" in updates[tab.grid]
    assert "1 result deleted" in updates[tab.notice]
    back = tab._restore(updates[tab.undone], "", "", 48)
    assert "a gone owl" in back[tab.grid]
    assert store.get(kept.id).trashed is None and store.get(gone.id).trashed is None


@pytest.mark.parametrize("chosen", [None, [], "x", ["../../etc/passwd"], [None], {"a": 1}, 7])
def test_nonsense_from_the_page_gets_one_sentence(tab, chosen):
    for handler in (tab._compare, tab._export):
        assert "Nothing is chosen" in handler(chosen)[tab.notice]
    assert "Nothing is chosen" in tab._remove(chosen, "", "", 48)[tab.notice]
    assert "no result" in tab._open(gr.EventData(None, {"action": "open", "id": "../x"}))[tab.notice]


def test_the_export_is_written_into_the_pages_temporary_folder(tab, store, tmp_path):
    record = save(store)
    tab._export([record.id, record.id])
    (path,) = (tmp_path / "temp").rglob("*.zip")
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:
        assert archive.namelist() == [record.path.name, "results.json"]


def test_the_trash_is_a_kind_of_its_own_and_an_empty_gallery_says_what_comes(tab, store):
    assert "kept here" in tab._list("", "", 48)[tab.grid]
    record = save(store)
    assert "Nothing found" in tab._list("owl", "", 48)[tab.grid]
    store.delete(record.id)
    assert record.id in tab._list("", gallery.TRASH, 48)[tab.grid]
    store.restore(record.id)
    assert tab._list("", gallery.TRASH, 48)[tab.kind]["value"] == ""
