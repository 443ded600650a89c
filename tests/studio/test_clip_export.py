"""A finished clip in another format: its frames, its time and its settings go along."""

from __future__ import annotations

import itertools
import sys
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.testclient import TestClient

from pipelines.core.errors import SettingsError, StoreError
from studio.media import clips
from studio.media.clips import SUFFIXES, decode_clip, encode_clip
from studio.results.store import Store
from studio.ui import clip_export
from studio.ui.clip_export import ClipExport, convert_clip
from studio.ui.results_route import build_result_routes
from tests.studio.store_only import store_only

FORMATS = tuple(SUFFIXES)


def frames(count=6, size=(33, 47)):
    """Few colors, so that a GIF holds them all."""
    made = np.zeros((count, *size, 3), np.uint8)
    made[:, :, : size[1] // 2] = (220, 40, 30)
    for number in range(count):
        made[number, 4 : 8 + 2 * number, 24:40] = (30, 90, 200)
    return made


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "outputs")


def clip(store, format, fps=12, **metadata):
    data = encode_clip(frames(), fps, format, "Steps: 5, Seed: 7")
    about = {"request": {"prompt": "a fox"}, "animate": {"fps": fps, "format": format}, **metadata}
    return store.save_bytes(data, SUFFIXES[format], about, "Steps: 5, Seed: 7", kind="video", size=(47, 33))


@pytest.mark.parametrize(("source", "into"), itertools.permutations(FORMATS, 2))
def test_every_format_becomes_every_other_with_all_its_frames(store, tmp_path, source, into):
    pytest.importorskip("av")
    record = clip(store, source)
    path = convert_clip(record, into, tmp_path / "out")
    assert path.parent == tmp_path / "out" and path.name == f"{record.id}{SUFFIXES[into]}"
    seen, rate = decode_clip(path)
    assert len(seen) == 6 and abs(rate - 12) <= (1 if into == "gif" else 0)
    seen = seen[:, :33, :47].astype(int)
    lossy = "mp4" in (source, into)
    assert np.abs(seen - frames()).mean() < (3 if lossy else 0.5)
    assert np.abs(seen[:, 20, 5] - (220, 40, 30)).max() <= (6 if lossy else 2)
    if into != "mp4":
        assert seen.shape[1:3] == (33, 47)
        with Image.open(path) as opened:
            said = opened.info.get("comment", b"").decode() if into == "gif" else opened.getexif()[0x010E]
        assert "Seed: 7" in said


STILL_MOMENTS = {
    "pairs": (0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5),
    "holds": (0, 1, 1, 1, 1, 2, 3, 3, 5),
    "still": (4,) * 12,
}


@pytest.mark.parametrize("fps", [8, 12, 30])
@pytest.mark.parametrize("order", STILL_MOMENTS.values(), ids=STILL_MOMENTS)
@pytest.mark.parametrize(("source", "into"), [("webp", "gif"), ("gif", "webp")])
def test_a_still_moment_lasts_as_long_in_the_other_format(store, tmp_path, source, into, order, fps):
    """Both formats store equal neighbors as one frame, and a WebP of nothing else as a picture without a duration."""
    about = {"request": {"prompt": "a fox"}, "animate": {"fps": fps, "frames": len(order), "format": source}}
    data = encode_clip(frames()[list(order)], fps, source, "")
    record = store.save_bytes(data, SUFFIXES[source], about, "", kind="video", size=(47, 33))
    path = convert_clip(record, into, tmp_path / "out")
    seen, rate = decode_clip(path, fps, len(order))
    assert rate == fps and len(seen) == len(order)
    assert np.abs(seen.astype(int) - frames()[list(order)]).mean() < 0.5  # a GIF's palette
    with Image.open(path) as opened:
        lasts = 0
        for number in range(getattr(opened, "n_frames", 1)):
            opened.seek(number), opened.load()
            lasts += opened.info.get("duration", 0)
    if len(set(order)) > 1:
        assert lasts == pytest.approx(1000 * len(order) / fps, abs=5.1)  # a GIF counts in hundredths of a second


def test_a_clip_without_its_request_comes_back_by_its_shortest_frames(tmp_path):
    for format in ("webp", "gif"):
        path = tmp_path / f"clip{SUFFIXES[format]}"
        path.write_bytes(encode_clip(frames()[[0, 1, 1, 1, 2, 2, 3]], 12, format))
        seen, rate = decode_clip(path)
        assert (len(seen), rate) == (7, 12), format


def test_what_is_no_clip_and_what_is_damaged_is_said(store, tmp_path):
    picture = store.save(Image.new("RGB", (8, 8)), {"request": {"prompt": "a fox"}})
    with pytest.raises(SettingsError, match="not a clip"):
        convert_clip(picture, "gif", tmp_path / "out")
    record = clip(store, "webp")
    record.path.write_bytes(record.path.read_bytes()[:40])
    with pytest.raises(StoreError, match="may be damaged"):
        convert_clip(record, "gif", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("format", FORMATS)
def test_a_clip_too_large_for_the_memory_is_refused_before_it_is_decoded(store, tmp_path, monkeypatch, format):
    record = clip(store, format)
    monkeypatch.setattr(clips, "LARGEST_CLIP", 2 * 47 * 33)
    with pytest.raises(SettingsError, match="more than are decoded"):
        convert_clip(record, "gif" if format != "gif" else "webp", tmp_path / "out")


def test_without_pyav_mp4_is_greyed_and_the_command_is_said(store, tmp_path, monkeypatch):
    webp, mp4 = clip(store, "webp"), clip(store, "mp4")
    monkeypatch.setattr(clip_export, "get_default_format", lambda: "webp")
    monkeypatch.setitem(sys.modules, "av", None)
    with gr.Blocks() as demo:
        export = ClipExport("x")
    hint = next(block.value for block in demo.blocks.values() if block.elem_id == "x-save-hint")
    assert "pip install -r requirements-video.txt" in hint

    def able(record):
        updates = export.updates(record)
        return {format: updates[button]["interactive"] for format, button in export.buttons.items()}

    assert able(webp) == {"mp4": False, "webp": False, "gif": True}
    assert able(mp4) == {"mp4": False, "webp": False, "gif": False}
    for record, format in ((webp, "mp4"), (mp4, "gif")):
        with pytest.raises(SettingsError, match=r"pip install -r requirements-video\.txt"):
            convert_clip(record, format, tmp_path / "out")


def test_the_buttons_come_with_a_clip_and_go_with_a_picture(store):
    with gr.Blocks():
        export = ClipExport("x")
    shown = export.updates(clip(store, "webp"))
    assert shown[export.row]["visible"] and shown[export.buttons["gif"]]["interactive"]
    assert not shown[export.buttons["webp"]]["interactive"]
    still = store.save(Image.new("RGB", (8, 8)), {})
    for record in (None, still):
        assert export.updates(record) == {export.row: gr.update(visible=False)}


def test_a_button_writes_into_the_pages_own_folder_and_says_what_is_wrong(store, tmp_path, monkeypatch):
    monkeypatch.setattr(clip_export, "get_upload_folder", lambda: str(tmp_path / "temp"))
    with gr.Blocks():
        export = ClipExport("x")
    record = clip(store, "webp")
    address = export._save("gif", {"id": record.id}, lambda data: store.get(data["id"]))[export.file]
    (path,) = (tmp_path / "temp").rglob("*.gif")
    assert address == f"stepwise/archives/{path.parent.name}/{record.id}.gif" and str(tmp_path) not in address
    studio = store_only(store)
    with TestClient(Starlette(routes=build_result_routes(studio, tmp_path / "temp"))) as client:
        answer = client.get(f"/{address}")
        assert answer.content == path.read_bytes() and answer.headers["content-type"] == "image/gif"
        (path.parent / "x.html").write_text("<script>")
        assert client.get(f"/stepwise/archives/{path.parent.name}/x.html").status_code == 404
    for one in ("../../etc/passwd", "", {"path": "/etc/passwd"}):
        with pytest.raises(gr.Error, match="no result"):
            export._save("gif", SimpleNamespace(id=one), lambda data: store.get(data.id))
