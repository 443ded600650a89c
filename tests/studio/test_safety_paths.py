"""Which paths a request may name, and which files and routes are served."""

from __future__ import annotations

import base64
import json
import os

import pytest

from pipelines.core.errors import PictureError, SettingsError
from studio.safety.files import FileGuard, ServedFolders, list_blocked_around, list_blocked_paths
from studio.safety.limits import ClientLimits
from studio.safety.payloads import PayloadGuard, check_payload
from tests.studio.echo_application import JOIN, UPLOAD, Echo, ask, picture

# --- payloads -------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path):
    for name in ("temp/abc", "outputs", "assets", "secret"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "temp/abc/in.png").write_bytes(picture())
    (tmp_path / "outputs/out.png").write_bytes(picture())
    (tmp_path / "outputs/index.sqlite").write_bytes(b"db")
    (tmp_path / "assets/example.png").write_bytes(picture())
    (tmp_path / "secret/key.png").write_bytes(b"key")
    (tmp_path / "temp/.stepwise-temporary").touch()
    os.symlink(tmp_path / "secret/key.png", tmp_path / "temp/link.png")
    os.symlink(tmp_path / "secret", tmp_path / "outputs/linked")
    return ServedFolders(tmp_path / "temp", tmp_path / "outputs", (tmp_path / "assets",))


def file_data(path, **more):
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}, **more}


def nested(record):
    return {"data": [1, None, {"layers": [record]}], "fn_index": 0}


def test_an_uploaded_file_may_be_named(folders, tmp_path):
    path = tmp_path / "temp/abc/in.png"
    for url in (None, f"http://127.0.0.1:7860/gradio_api/file={path}", f"/gradio_api/file={path}"):
        check_payload(nested(file_data(path, url=url)), folders, ClientLimits())
    check_payload(nested(file_data(tmp_path / "assets/example.png")), folders, ClientLimits())


@pytest.mark.parametrize(
    "path",
    [
        "http://127.0.0.1:1/x.png",
        "https://example.org/x.png",
        "HTTP://x/y.png",
        "file:///etc/passwd",
        "/etc/passwd",
        "{0}/secret/key.png",
        "{0}/temp/link.png",
        "{0}/temp/../secret/key.png",
        "{0}/outputs/out.png",
        "{0}/temp/.stepwise-temporary",
        "{0}/temp/missing.png",
        "in.png",
        "{0}/temp/abc",
        "",
        "x\0y",
        "/" + "x" * 5000,
    ],
)
def test_any_other_path_is_refused(folders, tmp_path, path):
    bare = {"path": path.format(tmp_path)}
    for record in (file_data(bare["path"]), bare):
        with pytest.raises(SettingsError, match="not uploaded here"):
            check_payload(nested(record), folders, ClientLimits())


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1/x.png",
        "https://example.org/x.png",
        "file:///etc/passwd",
        "ftp://x/y",
        "http://x/gradio_api/file=/etc/passwd",
        "http://x/gradio_api/file=http://y/z",
        "http://[",
    ],
)
def test_an_address_beside_a_path_is_refused(folders, tmp_path, url):
    record = file_data(tmp_path / "temp/abc/in.png", url=url)
    with pytest.raises(SettingsError):
        check_payload(nested(record), folders, ClientLimits())


def test_text_is_left_alone(folders):
    content = {"data": ["see https://example.org/x.png", "/etc/passwd", {"url": "https://x.org"}]}
    check_payload(content, folders, ClientLimits())


def test_a_picture_inside_the_request_is_checked(folders):
    def data_url(data, kind="image/png"):
        return {"path": None, "url": f"data:{kind};base64,{base64.b64encode(data).decode()}"}

    check_payload(data_url(picture()), folders, ClientLimits())
    with pytest.raises(PictureError, match="megapixels"):
        check_payload(data_url(picture(60, 60)), folders, ClientLimits(picture_pixels=3599))
    with pytest.raises(PictureError, match="not a readable picture"):
        check_payload(data_url(b"%!PS-Adobe-3.0 EPSF-3.0"), folders, ClientLimits())
    with pytest.raises(PictureError, match="Use PNG"):
        check_payload(data_url(b"<html>", "text/html"), folders, ClientLimits())


def test_the_guard_answers_and_replays(folders):
    echo = Echo()
    guard = PayloadGuard(echo, folders, ClientLimits())
    fine = json.dumps({"data": ["x" * 300_000]}).encode()
    assert ask(guard, chunks=(fine[:100], fine[100:]))[2] == fine
    assert ask(guard)[0] == 200
    endless = (b'{"values": [NaN]}', b'{"data": [{"seed": 1e999}]}', b"-Infinity")
    for bad in (json.dumps(nested(file_data("http://x/y"))).encode(), b"{", b"[" * 200_000, *endless):
        for kind in ("application/json", "text/plain", None):
            status, _, body = ask(guard, chunks=(bad,), content_type=kind)
            assert status == 400 and json.loads(body)["detail"]
    assert echo.calls == 2
    assert ask(guard, UPLOAD, chunks=(b"{",), content_type="multipart/form-data; x")[0] == 200


# --- files ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["temp/abc/in.png", "outputs/out.png", "assets/example.png"])
def test_ours_is_served_and_cannot_run(folders, tmp_path, name):
    status, headers, _ = ask(FileGuard(Echo(), folders), f"/gradio_api/file={tmp_path / name}", "GET")
    assert status == 200 and headers[b"content-security-policy"] == b"sandbox"


@pytest.mark.parametrize(
    "path",
    [
        "{0}/secret/key.png",
        "{0}/temp/link.png",
        "{0}/outputs/linked/key.png",
        "/etc/passwd",
        "{0}/outputs/../secret/key.png",
        "{0}/outputs/index.sqlite",
        "{0}/temp/.stepwise-temporary",
        "{0}/outputs",
        "app.py",
        "requirements.txt",
        "http://127.0.0.1:1/x.png",
        "https://example.org/x.png",
        "https:/example.org/x.png",
        "",
        "x\0y",
        "..\\app.py",
    ],
)
@pytest.mark.parametrize("route", ["/gradio_api/file=", "/gradio_api/file/", "/p/gradio_api/file="])
def test_nothing_else_is_served(folders, tmp_path, path, route):
    echo = Echo()
    status, _, _ = ask(FileGuard(echo, folders), route + path.format(tmp_path), "GET")
    assert status == 403 and echo.calls == 0


RESULT = "20261129-101500-3f9c2a7be1d4.png"


@pytest.mark.parametrize("place", ["2026-11-29", "trash", "2026-11-29/../trash"])
def test_a_result_that_may_not_be_seen_is_told_from_none_by_nobody(folders, tmp_path, place):
    def fetch(guard):
        return ask(guard, f"/gradio_api/file={tmp_path}/outputs/{place}/{RESULT}", "GET")

    missing = fetch(FileGuard(Echo(), folders))
    assert missing[0] == 404
    for folder in ("2026-11-29", "trash"):
        (tmp_path / "outputs" / folder).mkdir()
        (tmp_path / "outputs" / folder / RESULT).write_bytes(picture())
    assert fetch(FileGuard(Echo(), folders, may_read=lambda *_: False)) == missing
    outside = ask(FileGuard(Echo(), folders), f"/gradio_api/file={tmp_path}/outputs/../secret/{RESULT}", "GET")
    assert outside[0] == 403


@pytest.mark.parametrize(
    "route",
    [
        "proxy=https://x.hf.space/a",
        "vibe-edit/",
        "vibe-code",
        "undo-vibe-edit",
        "process_recording",
        "dev/reload",
        "run-history/records",
        "vibe-starter-queries",
        "runs",
    ],
)
def test_routes_that_nobody_needs_are_closed(folders, route):
    assert ask(FileGuard(Echo(), folders), f"/gradio_api/{route}")[0] == 404


def test_other_routes_pass(folders):
    for path in ("/", JOIN, UPLOAD, "/assets/index.js", "/gradio_api/run/x"):
        assert ask(FileGuard(Echo(), folders), path)[0] == 200


def test_everything_around_a_kept_folder_is_blocked(tmp_path):
    for name in ("a/b/keep", "a/b/other", "a/c", "d"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "file").touch()
    os.symlink(tmp_path, tmp_path / "loop")
    around = list_blocked_around(tmp_path, [tmp_path / "a/b/keep"])
    assert {str(path.relative_to(tmp_path)) for path in around} == {"a/b/other", "a/c", "d", "file"}
    assert list_blocked_around(tmp_path / "d", [tmp_path]) == []
    assert list_blocked_around(tmp_path / "d", [tmp_path / "a"]) == [tmp_path / "d"]


def test_the_source_tree_is_blocked_but_not_its_examples(tmp_path, monkeypatch):
    source = tmp_path / "source"
    for name in ("studio", "assets"):
        (source / name).mkdir(parents=True)
    (source / "app.py").touch()
    monkeypatch.chdir(source)
    served = ServedFolders(tmp_path / "temp", tmp_path / "outputs", (source / "assets",))
    blocked = list_blocked_paths(served, source)
    assert {str(source / "studio"), str(source / "app.py")} <= set(blocked)
    assert not any((source / "assets").is_relative_to(path) for path in blocked)
