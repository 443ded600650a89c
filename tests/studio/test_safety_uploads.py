"""Uploads are checked before they are decoded, and temporary files are pruned."""

from __future__ import annotations

import io
import json
import os
import time
import zlib
from pathlib import Path

import pytest

from pipelines.core.errors import PictureError
from studio.safety.limits import ClientLimits
from studio.safety.temp import TempFolder
from studio.safety.uploads import UploadGuard, check_picture, check_upload
from tests.studio.echo_application import UPLOAD, Echo, ask, picture

# --- uploads --------------------------------------------------------------------------------


def test_a_picture_is_measured_before_it_is_decoded():
    assert check_picture(io.BytesIO(picture(30, 20)), 600) == (30, 20)
    with pytest.raises(PictureError, match="megapixels"):
        check_picture(io.BytesIO(picture(30, 20)), 599)
    header = bytearray(picture(8, 8))
    header[16:24] = (30_000).to_bytes(4, "big") * 2
    header[29:33] = zlib.crc32(bytes(header[12:29])).to_bytes(4, "big")
    with pytest.raises(PictureError, match="megapixels"):
        check_picture(io.BytesIO(bytes(header)), 50_000_000)
    header[16:24] = (40_000).to_bytes(4, "big") + (1).to_bytes(4, "big")
    header[29:33] = zlib.crc32(bytes(header[12:29])).to_bytes(4, "big")
    with pytest.raises(PictureError, match="No side"):
        check_picture(io.BytesIO(bytes(header)), 50_000_000)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("page.html", b"<script>alert(1)</script>"),
        ("model.safetensors", b"\x80\x04pickle"),
        ("picture.png", b"\x89PNG\r\n\x1a\n"),
        ("picture.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
        ("clip.mp4", b"\0\0\0\x1cftypavif"),
        ("empty.png", b""),
    ],
)
def test_the_content_counts_not_the_name(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(PictureError, match="not a readable picture"):
        check_upload(path, ClientLimits())


def test_clips_and_pictures_are_taken(tmp_path):
    for name, content in {
        "a": picture(kind="WEBP"),
        "b": picture(kind="JPEG"),
        "c": b"\0\0\0\x1cftypisom",
        "d": b"\x1a\x45\xdf\xa3\0\0\0\0",
    }.items():
        (tmp_path / name).write_bytes(content)
        check_upload(tmp_path / name, ClientLimits())
    with pytest.raises(PictureError, match="MiB"):
        check_upload(tmp_path / "a", ClientLimits(upload_bytes=10))


def upload_guard(tmp_path, names, stored=lambda count: True, **limits):
    answer = json.dumps([str(tmp_path / name) for name in names]).encode()
    return UploadGuard(Echo(answer), ClientLimits(**limits), tmp_path, stored)


def test_a_refused_upload_is_deleted(tmp_path):
    (tmp_path / "good.png").write_bytes(picture())
    (tmp_path / "bad.png").write_bytes(b"nonsense")
    status, _, body = ask(upload_guard(tmp_path, ["good.png", "bad.png"]), UPLOAD)
    assert status == 415 and body.startswith(b"The file is not a readable picture")
    assert not list(tmp_path.iterdir())


def test_an_accepted_upload_is_answered_and_counted(tmp_path):
    counted = []
    (tmp_path / "good.png").write_bytes(picture())
    guard = upload_guard(tmp_path, ["good.png"], lambda count: counted.append(count) or True)
    status, _, body = ask(guard, UPLOAD)
    assert status == 200 and json.loads(body) == [str(tmp_path / "good.png")]
    assert counted == [0, len(picture())]


def test_uploads_stop_before_the_disk_is_full(tmp_path):
    status, _, body = ask(upload_guard(tmp_path, [], free_bytes=10**18), UPLOAD)
    assert status == 507 and b"disk is full" in body
    status, _, body = ask(upload_guard(tmp_path, [], stored=lambda count: False), UPLOAD)
    assert status == 507 and b"temporary folder is full" in body


# --- temporary files ------------------------------------------------------------------------


def temp_folder(root: Path, later: float, keep=tuple, **limits) -> TempFolder:
    return TempFolder(root, ClientLimits(**limits), clock=lambda: time.time() + later, keep=keep)


def test_old_files_and_empty_folders_go_and_others_stay(tmp_path):
    root, outside = tmp_path / "temp", tmp_path / "outside"
    outside.mkdir()
    (outside / "precious.txt").write_text("mine")
    folder = temp_folder(root, 0.0)
    (root / "a/b").mkdir(parents=True)
    (root / "a/b/file").write_bytes(b"xxxx")
    os.symlink(outside, root / "a/link")
    os.symlink(outside / "precious.txt", root / "link.txt")
    assert folder.prune().files == 0
    done = temp_folder(root, 1e6, temp_age=1e5).prune()
    assert done.files == 3
    assert [path.name for path in root.iterdir()] == [".stepwise-temporary"]
    assert (outside / "precious.txt").read_text() == "mine"


def test_a_copy_of_an_old_file_is_not_old(tmp_path):
    folder = temp_folder(tmp_path / "temp", 0.0, temp_age=100.0)
    path = tmp_path / "temp/copy.png"
    path.touch()
    os.utime(path, (1e9, 1e9))
    assert folder.prune().files == 0


def test_the_oldest_go_until_the_rest_fits(tmp_path):
    root = tmp_path / "temp"
    temp_folder(root, 0.0)
    for number in range(5):
        (root / str(number)).write_bytes(b"x" * 100)
        time.sleep(0.02)
    kept = str(root / "0")
    done = temp_folder(root, 1000.0, temp_bytes=250, keep=lambda: {kept}).prune()
    assert sorted(p.name for p in root.glob("[0-9]")) == ["0", "4"]
    assert (done.files, done.freed_bytes, done.remaining_bytes) == (3, 300, 200)
    assert temp_folder(root, 0.0, temp_bytes=50).prune().files == 0  # too young


def test_many_uploads_prune_by_themselves_and_then_stop(tmp_path):
    root = tmp_path / "temp"
    folder = temp_folder(root, 1000.0, temp_bytes=800)
    (root / "old").write_bytes(b"x" * 801)
    assert folder.add(90)
    assert (root / "old").exists()
    assert folder.add(90)
    assert not (root / "old").exists()
    young = temp_folder(root, 0.0, temp_bytes=800)
    (root / "new").write_bytes(b"x" * 801)
    assert not young.add(801)


def test_the_thread_prunes_again_and_ends(tmp_path):
    folder = temp_folder(tmp_path / "temp", 1e6)
    folder.start(interval=0.02)
    (tmp_path / "temp/late").touch()
    until = time.time() + 5
    while (tmp_path / "temp/late").exists() and time.time() < until:
        time.sleep(0.01)
    folder.stop()
    assert not (tmp_path / "temp/late").exists()
