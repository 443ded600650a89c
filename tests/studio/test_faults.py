"""Faults around the server: folders that vanish, disks that refuse, names that nobody knows, systems without POSIX."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from PIL import Image

from pipelines.core.errors import SettingsError, StoreError
from pipelines.models import memory
from studio.results.store import Store
from studio.safety.asgi import refuse
from studio.safety.environment import prepare_environment
from studio.safety.signout import SignOutGuard
from studio.server import mcp
from studio.server.serve import _bracket

ROOT = Path(__file__).resolve().parents[2]
REQUEST = {"request": {"prompt": "a fox"}}
PICTURE = Image.fromarray(np.zeros((16, 16, 3), np.uint8))


# The results folder.


def test_a_results_folder_that_was_deleted_is_made_again(tmp_path):
    store = Store(tmp_path / "outputs")
    gone = store.save(PICTURE, REQUEST, owner="login ann")
    shutil.rmtree(store.folder)
    assert store.list() == [] and store.count_bytes() == (0, 0)
    again = store.save(PICTURE, REQUEST, owner="login ann")
    assert [one.id for one in store.list()] == [again.id] and again.path.exists()
    assert again.owner == gone.owner  # the key of the pseudonyms was written again
    with pytest.raises(StoreError, match="There is no result"):
        store.get(gone.id)


def test_a_picture_whose_row_could_not_be_written_is_found_without_a_restart(tmp_path, monkeypatch):
    store = Store(tmp_path / "outputs")
    connect = Store._connect

    def locked(self):
        connection = connect(self)
        connection.execute("PRAGMA busy_timeout = 50")
        return connection

    monkeypatch.setattr(Store, "_connect", locked)
    other = sqlite3.connect(store.folder / "index.sqlite", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreError, match="in use by another program"):
        store.save(PICTURE, REQUEST)
    other.execute("ROLLBACK")
    other.close()
    (found,) = store.list()
    assert found.path.exists() and found.prompt == "a fox"


START = """
import contextlib, errno, io, json, pathlib, sys
import app

make_folder, found = pathlib.Path.mkdir, []
def mkdir(self, *arguments, **named):
    if self.name == "full":
        raise OSError(errno.ENOSPC, "No space left on device")
    return make_folder(self, *arguments, **named)
pathlib.Path.mkdir = mkdir
for outputs in json.loads(sys.argv.pop()):
    sys.argv[:] = ["app.py", *FOLDERS, "--outputs-folder", outputs]
    with contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            status = app.main()
        except SystemExit as done:
            status = done.code
    found.append([status, said.getvalue()])
print(json.dumps(found))
"""
"""Starts of `app.py`, one after the other in one process: how each ended, and what it said."""


def test_a_results_folder_that_cannot_be_used_ends_the_start_with_a_sentence(tmp_path):
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "index.sqlite").write_bytes(b"not a database" * 1000)
    (tmp_path / "file").write_text("")
    outputs = [str(tmp_path / name) for name in ("damaged", "file/in/the/way", "full")]
    folders = [part for kind in ("models", "temp") for part in (f"--{kind}-folder", str(tmp_path / kind))]
    done = subprocess.run(
        [sys.executable, "-c", START.replace("*FOLDERS", f"*{folders}"), json.dumps(outputs)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    starts = json.loads(done.stdout.splitlines()[-1])
    assert len(starts) == 3
    for status, said in starts:
        assert status == 2 and "Traceback" not in said, said
        assert said.strip().splitlines()[-1].startswith("app.py: The "), said


# Systems and their variables.

WITHOUT_POSIX = """
import os, signal, sys
for name in ("sysconf", "sysconf_names", "fork", "getuid", "geteuid", "chown", "getloadavg", "sched_getaffinity",
             "statvfs", "O_DIRECTORY", "O_NOFOLLOW", "fchmod", "getpgid", "killpg", "uname"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGKILL", "SIGHUP", "SIGQUIT", "SIGUSR1"):
    delattr(signal, name)
for name in ("fcntl", "pwd", "grp", "resource", "termios"):
    sys.modules[name] = None
"""


def test_a_command_runs_where_no_posix_name_is(tmp_path):
    program = (
        "import torch, gradio, gradio.http_server, uvicorn\n"  # what they do on Windows is not ours to test
        "from transformers import CLIPTextModel, CLIPTokenizer, CLIPImageProcessor\n"
        "from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel\n"
        + WITHOUT_POSIX
        + "from studio.cli.main import main\nimport studio.server.serve, studio.server.stopping, studio.server.known\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    folders = ["--outputs-folder", str(tmp_path / "outputs"), "--models-folder", str(tmp_path / "models")]
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            program,
            *folders,
            "generate",
            "a fox",
            "--steps",
            "1",
            "--out",
            str(tmp_path / "f.png"),
        ],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "f.png").exists()


def test_memory_is_sized_on_windows_and_where_nobody_says(monkeypatch):
    assert memory.total_memory() == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    monkeypatch.delattr(os, "sysconf")
    assert memory.total_memory() == memory._UNKNOWN
    monkeypatch.setattr(sys, "platform", "win32")
    assert memory.total_memory() == memory._UNKNOWN

    def tell(status):
        status._obj.total = 17 * 2**30
        return 1

    kernel = SimpleNamespace(GlobalMemoryStatusEx=tell)
    monkeypatch.setattr(memory.ctypes, "windll", SimpleNamespace(kernel32=kernel), raising=False)
    assert memory.total_memory() == 17 * 2**30


def test_a_socks_proxy_without_its_package_is_left_out_and_said(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("studio.safety.environment.find_spec", lambda name: None)
    environ = {"ALL_PROXY": "socks5h://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:3128"}
    prepare_environment(tmp_path / "temp", environ)
    assert "ALL_PROXY" not in environ and environ["HTTPS_PROXY"] == "http://127.0.0.1:3128"
    assert "httpx[socks]" in capsys.readouterr().err
    monkeypatch.setattr("studio.safety.environment.find_spec", lambda name: object())
    environ = {"ALL_PROXY": "socks5h://127.0.0.1:9"}
    prepare_environment(tmp_path / "temp", environ)
    assert "ALL_PROXY" in environ


@pytest.mark.parametrize(("found", "is_fine"), [("1.30.0", True), ("2.0.0", False), ("0.9", False)])
def test_an_mcp_of_another_major_version_is_refused_by_name(monkeypatch, found, is_fine):
    monkeypatch.setattr(mcp, "find_spec", lambda name: object())
    monkeypatch.setattr(mcp, "version", lambda name: found)
    if is_fine:
        mcp.check_mcp()
    else:
        with pytest.raises(SettingsError, match=f"{found} is installed"):
            mcp.check_mcp()


@pytest.mark.parametrize(("host", "shown"), [("::1", "[::1]"), ("[::1]", "[::1]"), ("::", "[::]"), ("a.b", "a.b")])
def test_an_ipv6_host_stands_in_brackets_in_an_address(host, shown):
    assert _bracket(host) == shown


@pytest.mark.parametrize("host", ["::", pytest.param("::1", marks=pytest.mark.slow)])
def test_the_page_is_shown_on_ipv6(tmp_path, host):
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("no IPv6 here")
        port = probe.getsockname()[1]
    folders = [p for kind in ("models", "outputs", "temp") for p in (f"--{kind}-folder", str(tmp_path / kind))]
    command = [sys.executable, "app.py", "--host", host, "--port", str(port), "--insecure-no-auth-i-know", *folders]
    log = tmp_path / "log"
    with log.open("w") as stream:
        environ = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        process = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=stream, stderr=subprocess.STDOUT)
    try:
        until = time.time() + 120
        while "runs at" not in log.read_text():
            assert process.poll() is None and time.time() < until, log.read_text()
            time.sleep(0.1)
        assert httpx.get(f"http://[::1]:{port}/", trust_env=False, timeout=30).status_code == 200
    finally:
        process.terminate()
        assert process.wait(30) == 0


# Names that nobody knows.

JSON = {"data": []}


@pytest.mark.parametrize(
    ("path", "content", "status"),
    [
        ("call/nope", JSON, 404),
        ("call/v2/nope", {"a": 1}, 404),
        ("call/v2/generate", {"nope": 1}, 422),
        ("call/v2/generate", {}, 422),
        ("run/nope", JSON, 404),
        ("api/nope", JSON, 404),
        ("run/predict", {**JSON, "fn_index": 99999}, 404),
        ("queue/join", {**JSON, "fn_index": 99999, "session_hash": "a"}, 404),
        ("queue/join", {**JSON, "fn_index": -1, "session_hash": "a"}, 404),
        ("queue/join", {**JSON, "fn_index": "x", "session_hash": "a"}, 422),
        ("queue/join", {**JSON, "fn_index": "0", "session_hash": "a"}, 422),
        ("component_server", {**JSON, "component_id": 99999, "session_hash": "a", "fn_name": "x"}, 404),
        ("component_server", {**JSON, "component_id": "0", "session_hash": "a", "fn_name": "x"}, 404),
        ("component_server", {**JSON, "component_id": None, "session_hash": "a", "fn_name": "x"}, 404),
        ("component_server", {**JSON, "component_id": [0], "session_hash": "a", "fn_name": "x"}, 404),
        ("call/generate/nope", None, 404),
        ("call/nope/nope", None, 404),
        ("queue/data?session_hash=nobody", None, 404),
    ],
)
def test_an_unknown_name_is_answered_without_a_traceback(server, path, content, status):
    verb, before = "GET" if content is None else "POST", server.log.count("Traceback")
    answer = server.web.request(verb, f"/gradio_api/{path}", json=content, timeout=10)
    assert answer.status_code == status and answer.json()["detail"]
    time.sleep(0.1)
    assert server.log.count("Traceback") == before


def test_what_is_known_is_answered_as_before(server):
    assert server.call("models").event == "complete"
    answer = server.web.post("/gradio_api/call/v2/generate", json={"prompt": "a fox", "settings": {"x": 1}})
    assert answer.status_code == 200
    assert "event: error" in server.web.get(f"/gradio_api/call/v2/generate/{answer.json()['event_id']}").text


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_people_sign_out_by_post_alone(method):
    import asyncio

    seen, messages = [], []

    async def app(scope, receive, send):
        seen.append(scope["method"])
        await refuse(scope, send, 302, "gone")

    async def send(message):
        messages.append(message)

    for path in ("/logout", "/logout/", "/prefix/logout"):
        messages.clear()
        asyncio.run(SignOutGuard(app)({"type": "http", "method": method, "path": path, "headers": []}, None, send))
        assert messages[0]["status"] == (302 if method == "POST" else 405)
    assert seen == (["GET"] * 3 if method == "POST" else [])
