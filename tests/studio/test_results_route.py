"""Stored results by their ids: what is sent, what is refused, and that the page never learns a path."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.testclient import TestClient

from studio.media.clips import encode_clip, encode_poster
from studio.page.gallery.markup import build_archive_notice, build_opened, build_pair, build_tiles
from studio.results.archives import make_thumbnail
from studio.results.store import Store
from studio.ui.results_route import (
    build_address,
    build_archive_address,
    build_record_address,
    build_result_routes,
    find_address,
)
from tests.studio.store_only import store_only

REQUEST = {"request": {"prompt": "a fox"}}


@pytest.fixture
def shelf(tmp_path):
    store, temp = Store(tmp_path / "home of ann" / "outputs"), tmp_path / "home of ann" / "temp"
    temp.mkdir()
    return store, temp, TestClient(Starlette(routes=build_result_routes(store_only(store), temp)))


def picture(size=64, **more):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8))


@pytest.mark.parametrize(("format", "kind"), [("png", "image/png"), ("jpeg", "image/jpeg"), ("webp", "image/webp")])
def test_a_picture_is_sent_as_it_is_stored(shelf, format, kind):
    store, _, web = shelf
    record = store.save(picture(), REQUEST, format=format)
    answer = web.get(f"/{build_address(record.id)}")
    assert answer.status_code == 200 and answer.content == record.path.read_bytes()
    assert answer.headers["content-type"] == kind and answer.headers["content-security-policy"] == "sandbox"
    assert answer.headers["content-disposition"] == f'inline; filename="{record.path.name}"'
    assert web.head(f"/{build_address(record.id)}").status_code == 200


def test_a_player_may_ask_for_parts_of_a_clip(shelf):
    store, _, web = shelf
    frames = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    record = store.save_bytes(b"0123456789" * 50, ".mp4", REQUEST, kind="video")
    answer = web.get(f"/{build_address(record.id)}", headers={"range": "bytes=10-14"})
    assert (answer.status_code, answer.content, answer.headers["content-type"]) == (206, b"01234", "video/mp4")
    assert answer.headers["content-range"] == "bytes 10-14/500"
    clip = store.save_bytes(
        encode_clip(frames, 8, "gif"), ".gif", {**REQUEST, "poster": encode_poster(frames[0])}, kind="video"
    )
    with Image.open(io.BytesIO(web.get(f"/{build_address(clip.id)}/small").content)) as small:
        assert small.format == "JPEG"


def test_a_small_picture_is_made_and_an_archive_is_sent(shelf):
    store, temp, web = shelf
    record = store.save(picture(512), REQUEST)
    with Image.open(io.BytesIO(web.get(f"/{build_address(record.id)}/small").content)) as small:
        assert max(small.size) == 320
    path = temp / ("a" * 32) / "stepwise-20261125-101500.zip"
    path.parent.mkdir()
    path.write_bytes(b"PK")
    assert web.get(f"/{build_archive_address(path)}").content == b"PK"


@pytest.mark.parametrize(
    "path",
    [
        "results/nothing",
        "results/nothing/small",
        "results/..%2Findex.sqlite",
        "results/%2Fetc%2Fpasswd",
        "archives/thumbnails/x.zip",
        f"archives/{'a' * 32}/..%2F..%2Fsecret.zip",
        f"archives/{'a' * 32}/secret.png",
        "archives/..%2F..%2Foutputs/x.zip",
    ],
)
def test_nothing_else_is_sent(shelf, path):
    _store, temp, web = shelf
    (temp / ("a" * 32)).mkdir()
    for secret in (temp.parent / "secret.zip", temp / ("a" * 32) / "secret.png"):
        secret.write_bytes(b"secret")
    answer = web.get(f"/stepwise/{path}")
    assert answer.status_code == 404 and b"secret" not in answer.content


def test_a_deleted_result_has_no_address_outside_the_trash(shelf):
    store, _, web = shelf
    record = store.save(picture(), REQUEST)
    assert find_address(store, record.id) == build_address(record.id)
    store.delete(record.id)
    assert find_address(store, record.id) is None
    for path in (build_address(record.id), f"{build_address(record.id)}/small"):
        assert web.get(f"/{path}").status_code == 404
    trash = build_record_address(store.get(record.id))  # the gallery shows what can be restored
    assert web.get(f"/{trash}").status_code == web.get(f"/{trash}/small").status_code == 200
    store.restore(record.id)
    assert web.get(f"/{trash}").status_code == 404 and web.get(f"/{build_address(record.id)}").status_code == 200
    store.delete(record.id)
    store.empty_trash()
    assert find_address(store, record.id) is None
    for path in (build_address(record.id), trash):
        assert web.get(f"/{path}").status_code == 404


def test_the_gallery_tells_no_path(shelf):
    store, temp, _ = shelf
    first, second = (store.save(picture(size), REQUEST) for size in (64, 512))
    clip = store.save_bytes(b"clip", ".mp4", REQUEST, kind="video")
    shown = [(record, make_thumbnail(record, temp / "thumbnails")) for record in (first, second, clip)]
    path = temp / ("a" * 32) / "stepwise-1.zip"
    html = "".join(
        (
            build_tiles(shown),
            build_opened(first, ""),
            build_opened(clip, ""),
            build_pair(first, second),
            build_archive_notice(path, 2, 100),
        )
    )
    assert "home of ann" not in html
    assert f'data-file="{build_address(second.id)}/small" data-whole="{build_address(second.id)}"' in html
    assert f'data-href="{build_archive_address(path)}"' in html
