"""Programs list, delete and restore results, and get one sentence for what cannot be."""

from __future__ import annotations

import json

import gradio as gr
import pytest
from PIL import Image

from pipelines.core.errors import SettingsError, StoreError
from pipelines.core.types import Request
from studio.api import gallery_change
from studio.api import listings as shelves
from studio.cli.main import main
from studio.page.gallery import markup as gallery_markup
from studio.results.store import Store
from studio.results.visible import VisibleResults
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


def test_a_prompt_is_text_and_never_html_or_a_template(store):
    record = save(store, '<script>x</script> ${1} {{a}} `b` " onerror=')
    for html in (
        gallery_markup.build_tiles([(record, record.path)]),
        gallery_markup.build_opened(record, "<i>"),
        gallery_markup.build_pair(record, record),
    ):
        assert not {"<script", "${", "{{", "`", '" onerror'} & {
            part for part in ("<script", "${", "{{", "`", '" onerror') if part in html
        }


def test_programs_get_plain_values_and_one_sentence_for_bad_ones(store):
    visible = VisibleResults(store)
    ids = [save(store, f"fox {i}").id for i in range(3)][::-1]
    told = shelves.list_results(visible, "fox", "text_to_image", 2)
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
        {"kind": "nokind"},
        {"kind": "\x00"},
    ):
        with pytest.raises(SettingsError):
            shelves.find_results(visible, **values)
    with pytest.raises(StoreError):
        shelves.find_results(visible, before="../../etc/passwd")


def test_programs_delete_and_restore_by_id_alone(store):
    visible = VisibleResults(store)
    kept, gone = save(store, "a kept fox"), save(store, "a gone owl")
    wild = [gone.id, gone.id, "../../etc/passwd", str(kept.path), {"path": "/etc/passwd"}, None]
    assert shelves.change_results(visible, "delete", wild) == {"action": "delete", "changed": [gone.id]}
    assert store.get(gone.id).trashed is not None and store.get(kept.id).trashed is None and kept.path.exists()
    assert shelves.change_results(visible, "delete", [gone.id])["changed"] == []  # it is deleted already
    assert shelves.change_results(visible, "restore", [gone.id, kept.id])["changed"] == [gone.id]
    assert store.get(gone.id).trashed is None
    for ids in (None, [], "x", ["../x"], {"a": 1}, 7):
        with pytest.raises(SettingsError, match="Nothing is selected"):
            shelves.change_results(visible, "delete", ids)
    for action in ("", "wipe", "__del__", None, ["delete"]):
        with pytest.raises(SettingsError, match="delete, restore"):
            shelves.change_results(visible, action, [kept.id])


def test_the_endpoint_deletes_and_says_what_is_wrong_in_a_sentence(store):
    change, record = gallery_change.endpoint(store_only(store)), save(store)
    assert change("delete", [record.id])["changed"] == [record.id] and store.get(record.id).trashed is not None
    sentences = {
        "Nothing is selected": [("delete", []), ("restore", "x"), ("remove", [])],
        "takes no ids": [("empty", [record.id])],
        "delete, restore": [("wipe", [record.id])],
    }
    for sentence, requests in sentences.items():
        for request in requests:
            with pytest.raises(gr.Error, match=sentence):
                change(*request)
    assert store.get(record.id).trashed is not None


def test_the_command_line_deletes_and_restores(store, tmp_path, capsys):
    record = save(store)
    folders = ["--outputs-folder", str(store.folder), "--models-folder", str(tmp_path / "models")]
    for action, trashed in (("delete", True), ("restore", False)):
        assert main([*folders, "gallery", f"--{action}", record.id]) == 0
        assert capsys.readouterr().out.split() == [record.id]
        assert (store.get(record.id).trashed is not None) is trashed
    assert main([*folders, "gallery", "--delete", "../x"]) == 2
    assert "Nothing is selected" in capsys.readouterr().err
