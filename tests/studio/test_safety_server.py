"""The guards around a real gradio server on loopback, and what gradio itself would let through.

One server process serves two pages for the whole module: an open one, and one with a login. It
writes down every name it looks up and every address it connects to.
"""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import httpx
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]

SERVER = """
import dataclasses, sys, threading, time
from pathlib import Path

base, port, login_port = Path(sys.argv[1]), *sys.argv[2:4]
contacts = open(base / "contacts", "a", buffering=1)

def note(event, args):
    if event == "socket.getaddrinfo":
        contacts.write(f"lookup {args[0]}\\n")
    elif event == "socket.connect":
        contacts.write(f"connect {args[1]}\\n")

sys.addaudithook(note)

from studio.safety.environment import prepare_environment
from studio.safety.flags import parse_flags
from studio.safety.limits import ClientLimits

common = ["--temp-folder", str(base / "temp"), "--outputs-folder", str(base / "outputs")]
common += ["--trust-proxy", "127.0.0.1"]  # the tests speak as several clients
small = ClientLimits(upload_bytes=2_000_000, body_bytes=500_000)
settings = parse_flags([*common, "--port", port], {})
settings = dataclasses.replace(settings, limits=small)
closed = parse_flags([*common, "--port", login_port, "--auth", "ann:pass"], {})
prepare_environment(settings.temp)

import gradio as gr
from studio.server.serve import run_server, serve

def slow():
    for number in range(3):
        time.sleep(0.4)
        yield number

with gr.Blocks() as demo:
    text, out, file, number = gr.Textbox(), gr.Textbox(), gr.File(), gr.Number()
    image = gr.Image(type="filepath", image_mode=None)
    gr.Button().click(lambda t: t.upper(), text, out, api_name="up")
    gr.Button().click(lambda t: t, text, file, api_name="give")
    gr.Button().click(lambda p: str(p), image, out, api_name="take")
    gr.Button().click(slow, None, number, api_name="slow")

with gr.Blocks() as private:
    gr.Button().click(lambda t: t.upper(), gr.Textbox(), gr.Textbox(), api_name="up")

with run_server(private, closed):
    print([thread.name for thread in threading.enumerate()])
    serve(demo, settings, css="h1 {color: red}", theme=gr.themes.Soft())
print("stopped")
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    base = tmp_path_factory.mktemp("safety")
    ports = free_port(), free_port()
    environ = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "GRADIO_SHARE": "True",
        "GRADIO_ALLOWED_PATHS": "/",
        "GRADIO_ANALYTICS_ENABLED": "True",
    }
    log = base / "log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(base), *map(str, ports)],
            cwd=ROOT,
            env=environ,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    try:
        until = time.time() + 120
        while "runs at" not in log.read_text():
            assert process.poll() is None and time.time() < until, log.read_text()
            time.sleep(0.1)
        yield SimpleNamespace(
            base=base,
            temp=base / "temp",
            outputs=base / "outputs",
            process=process,
            log=log,
            url=f"http://127.0.0.1:{ports[0]}",
            closed=f"http://127.0.0.1:{ports[1]}",
        )
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def web(server):
    with httpx.Client(base_url=server.url, timeout=30) as client:
        yield client


def call(web, name, *data, **headers):
    """Calls an endpoint; returns the status and the last event's name and data."""
    answer = web.post(f"/gradio_api/call/{name}", json={"data": data}, headers=headers)
    if answer.status_code != 200:
        return answer.status_code, None, answer.json()["detail"]
    events = web.get(f"/gradio_api/call/{name}/{answer.json()['event_id']}").text
    kind, value = events.strip().split("\n\n")[-1].split("\n")
    return 200, kind.removeprefix("event: "), json.loads(value.removeprefix("data: "))


def picture(width=8, height=8) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, height)).save(stream, "PNG")
    return stream.getvalue()


def upload(web, content: bytes, name="picture.png", url="/gradio_api/upload"):
    return web.post(url, files={"files": (name, content)})


def stored(server) -> set[str]:
    return {str(path) for path in server.temp.rglob("*") if path.is_file()}


# --- it still works -------------------------------------------------------------------------


def test_the_first_document_is_compressed(web):
    page = web.get("/", headers={"Accept-Encoding": "gzip"})
    assert page.headers.get("content-encoding") == "gzip"
    assert "<html" in page.text


def test_the_page_opens_with_its_headers(web):
    answer = web.get("/")
    assert answer.status_code == 200 and "gradio" in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "frame-ancestors 'self'" in answer.headers["content-security-policy"]


def test_the_python_client_works(server, tmp_path):
    from gradio_client import Client, handle_file

    client = Client(server.url, verbose=False, analytics_enabled=False, download_files=tmp_path)
    assert client.predict("abc", api_name="/up") == "ABC"
    (tmp_path / "in.png").write_bytes(picture())
    taken = client.predict(handle_file(tmp_path / "in.png"), api_name="/take")
    assert Path(taken).is_relative_to(server.temp)
    assert list(client.submit(api_name="/slow")) == [0, 1, 2]


def test_event_streams_are_not_buffered(web):
    event = web.post("/gradio_api/call/slow", json={"data": []}).json()["event_id"]
    with web.stream("GET", f"/gradio_api/call/slow/{event}") as stream:
        times = [time.monotonic() for line in stream.iter_lines() if line.startswith("data")]
    assert len(times) >= 3 and times[2] - times[0] > 0.5


def test_fifty_people_at_once(server):
    def one(number):
        with httpx.Client(base_url=server.url, timeout=60) as web:
            return call(web, "up", f"a{number}")

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(one, range(50)))
    assert answers == [(200, "complete", [f"A{number}"]) for number in range(50)]


# --- other sites ----------------------------------------------------------------------------


def test_another_site_cannot_start_anything(web):
    for headers in (
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"referer": "http://evil.example/"},
    ):
        status, _, detail = call(web, "up", "x", **headers)
        assert status == 403 and "not accepted here" in detail
    own = {"origin": str(web.base_url).rstrip("/"), "sec-fetch-site": "same-origin"}
    assert call(web, "up", "x", **own) == (200, "complete", ["X"])


def test_another_site_cannot_read_under_any_name(web):
    """Gradio reflects the origin, with credentials, wherever the host is not localhost."""
    for host in (str(web.base_url.netloc, "ascii"), "192.168.1.7:7860"):
        headers = {"origin": "http://evil.example", "host": host}
        asked = {**headers, "access-control-request-method": "POST"}
        for answer in (
            web.get("/config", headers=headers),
            web.options("/gradio_api/queue/join", headers=asked),
        ):
            assert answer.status_code == 403
            assert not [name for name in answer.headers if name.startswith("access-control")]


def test_a_rebound_name_reaches_nothing(web):
    for path in ("/", "/config", "/gradio_api/info"):
        assert web.get(path, headers={"host": "evil.example:7860"}).status_code == 403


@pytest.mark.parametrize(
    "kind", ["application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/plain", ""]
)
@pytest.mark.parametrize("body", [b"\xff\xfe\x00", b"\x80", b'{"data": ["\xff"]}'])
def test_a_body_that_is_no_text_is_refused_and_breaks_nothing(web, kind, body):
    answer = web.post("/gradio_api/call/up", content=body, headers={"content-type": kind} if kind else {})
    assert answer.status_code in (400, 415, 422)


def test_a_flood_from_one_address_is_refused(web):
    flood = {"x-forwarded-for": "203.0.113.9"}  # as a proxy on this machine tells it
    answers = []
    while not answers or (answers[-1].status_code != 429 and len(answers) < 5000):
        answers.append(web.post("/gradio_api/cancel", json={}, headers=flood))
    assert {answer.status_code for answer in answers[:240]} == {422}
    assert answers[-1].status_code == 429 and "Too many" in answers[-1].json()["detail"]
    assert call(web, "up", "x")[0] == 200


# --- files ----------------------------------------------------------------------------------


def test_the_file_route_serves_ours_and_nothing_else(server, web):
    (server.outputs / "done.png").write_bytes(picture())
    (server.outputs / "index.sqlite").write_bytes(b"db")
    outside = server.base / "secret.png"
    outside.write_bytes(b"secret")
    (server.temp / "link.png").unlink(missing_ok=True)
    (server.temp / "link.png").symlink_to(outside)
    assert web.get(f"/gradio_api/file={server.outputs}/done.png").content == picture()
    for path in (
        outside,
        server.temp / "link.png",
        f"{server.temp}/../secret.png",
        server.outputs / "index.sqlite",
        ROOT / "pipelines/core/errors.py",
        "/etc/passwd",
        "app.py",
        "requirements.txt",
        "pipelines/core/errors.py",
        "../etc/passwd",
        "http://bait.example/x.png",
        "https://bait.example/x.png",
    ):
        for text in (quote(str(path)), quote(str(path), safe=""), quote(quote(str(path)))):
            for route in ("file=", "file/"):
                answer = web.get(f"/gradio_api/{route}{text}")
                assert answer.status_code in (403, 404), (path, answer.status_code)
                assert b"secret" not in answer.content


def test_the_proxy_route_is_closed(web):
    assert web.get("/gradio_api/proxy=https://bait.hf.space/x").status_code == 404


def test_a_handler_that_echoes_a_path_gives_nothing_away(server, web):
    """Gradio copies any file below the working folder or the system's temporary folder."""
    errors = ROOT / "pipelines/core/errors.py"
    for path in (errors, "pipelines/core/errors.py", ROOT / "studio/server/serve.py", server.log):
        status, kind, value = call(web, "give", str(path))
        assert (status, kind) == (200, "error"), value
    (server.outputs / "done.png").write_bytes(picture())
    status, kind, value = call(web, "give", str(server.outputs / "done.png"))
    # A result is sent from where it is: a copy would outlive its deletion.
    assert kind == "complete" and Path(value[0]["path"]) == server.outputs / "done.png"
    assert web.get(f"/gradio_api/file={server.outputs / 'done.png'}").status_code == 200
    (server.outputs / "index.sqlite").write_bytes(b"secret")
    for path in ("index.sqlite", "trash/gone.png"):
        call(web, "give", str(server.outputs / path))
        assert web.get(f"/gradio_api/file={server.outputs / path}").status_code == 403
    assert {Path(path).name for path in stored(server)}.isdisjoint({"errors.py", "serve.py", "log"})


@pytest.mark.parametrize(
    "record",
    [
        {"path": "http://bait.example/x.png"},
        {"path": "https://bait.example/x.png"},
        {"path": "/etc/passwd"},
        {"path": str(ROOT / "pipelines/core/errors.py")},
        {"path": "picture.png", "url": "http://bait.example/x.png"},
    ],
)
def test_a_request_names_no_file_of_its_own_choosing(web, record):
    record["meta"] = {"_type": "gradio.FileData"}
    status, _, detail = call(web, "take", record)
    assert status == 400 and "not uploaded here" in detail
    joined = web.post("/gradio_api/queue/join", json={"data": [record], "fn_index": 2, "session_hash": "s"})
    assert joined.status_code == 400
    run = web.post("/gradio_api/run/take", json={"data": [record]})
    assert run.status_code == 400


def test_an_uploaded_picture_may_be_named(server, web):
    path = upload(web, picture()).json()[0]
    assert Path(path).is_relative_to(server.temp)
    record = {"path": path, "meta": {"_type": "gradio.FileData"}}
    record["url"] = f"{server.url}/gradio_api/file={quote(path)}"
    assert call(web, "take", record) == (200, "complete", [path])


def test_the_temporary_folder_is_pruned_while_the_server_runs(server):
    assert "'temp-folder'" in server.log.read_text()
    assert (server.temp / ".stepwise-temporary").exists()


# --- sizes ----------------------------------------------------------------------------------


def test_only_pictures_and_clips_are_stored(server, web):
    before = stored(server)
    strange = {"a.html": b"<script>", "a.safetensors": b"\x80\x04.", "a.png": b"x"}
    for name, content in strange.items():
        answer = upload(web, content, name)
        assert answer.status_code == 415 and answer.text.startswith("The file is not a readable")
    assert stored(server) == before


def test_a_picture_of_too_many_pixels_is_refused_before_decoding(server, web):
    before = stored(server)
    large = bytearray(picture())
    large[16:24] = (30_000).to_bytes(4, "big") * 2
    large[29:33] = zlib.crc32(bytes(large[12:29])).to_bytes(4, "big")
    answer = upload(web, bytes(large))
    assert answer.status_code == 415 and "megapixels" in answer.text
    assert stored(server) == before


def multipart(size: int):
    yield b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    for _ in range(size // 65536):
        yield b"x" * 65536
    yield b"\r\n--b--\r\n"


def test_a_large_upload_is_broken_off_and_leaves_nothing(server, web):
    before = stored(server)
    announced = upload(web, b"x" * 3_000_000)
    assert announced.status_code == 413 and "larger than" in announced.text
    kind = {"content-type": "multipart/form-data; boundary=b"}
    counted = web.post("/gradio_api/upload", content=multipart(3_000_000), headers=kind)
    assert counted.status_code == 413 and counted.text == announced.text
    assert stored(server) == before


def test_a_person_who_leaves_while_uploading_leaves_nothing(server):
    before = stored(server)
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as line:
        head = (
            "POST /gradio_api/upload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n"
            "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
        )
        line.sendall(head.encode() + next(multipart(0)) + b"x" * 100_000)
        time.sleep(0.5)
        assert stored(server) != before  # the half-written file is there
    until = time.time() + 10
    while stored(server) != before and time.time() < until:
        time.sleep(0.05)
    assert stored(server) == before


def test_a_large_call_is_refused(web):
    assert call(web, "up", "x" * 600_000)[0] == 413
    text = json.dumps({"data": ["x" * 600_000]}).encode()
    kind = {"content-type": "application/json"}
    answer = web.post("/gradio_api/call/up", content=iter([text]), headers=kind)
    assert answer.status_code == 413 and "larger than" in answer.json()["detail"]


# --- logins ---------------------------------------------------------------------------------


def test_nothing_works_before_signing_in(server):
    with httpx.Client(base_url=server.closed) as web:
        assert web.get("/config").status_code == 401
        assert web.post("/gradio_api/call/up", json={"data": ["x"]}).status_code == 401
        assert upload(web, picture()).status_code == 401
        (server.outputs / "done.png").write_bytes(picture())
        for path in (f"file={server.outputs}/done.png", "heartbeat/s", "queue/data", "info"):
            assert web.get(f"/gradio_api/{path}").status_code == 401
        assert web.post("/gradio_api/cancel", json={}).status_code == 401
        assert "auth_required" in web.get("/").text
        right = {"username": "ann", "password": "pass"}
        assert web.post("/login", data=right).status_code == 200
        assert call(web, "up", "x") == (200, "complete", ["X"])
        assert web.get(f"/gradio_api/file={server.outputs}/done.png").content == picture()


def test_the_python_client_signs_in(server, tmp_path):
    from gradio_client import Client

    client = Client(
        server.closed,
        auth=("ann", "pass"),
        verbose=False,
        analytics_enabled=False,
        download_files=tmp_path,
        headers={"x-forwarded-for": "203.0.113.7"},
    )
    assert client.predict("abc", api_name="/up") == "ABC"


def test_passwords_cannot_be_tried_for_long(server):
    with httpx.Client(base_url=server.closed, headers={"x-forwarded-for": "203.0.113.8"}) as web:
        wrong = {"username": "ann", "password": "guess"}
        answers = [web.post("/login", data=wrong).status_code for _ in range(15)]
    assert answers[:10] == [400] * 10 and 429 in answers[10:]


# --- the end (these stay last) --------------------------------------------------------------


def test_nobody_outside_was_asked(server):
    lines = (server.base / "contacts").read_text().splitlines()
    assert any("127.0.0.1" in line for line in lines)
    allowed = ("127.0.0.1", "localhost", "('::1'", "lookup None", "0.0.0.0")
    assert [line for line in lines if not any(name in line for name in allowed)] == []


def test_a_termination_signal_stops_it_even_with_a_page_open(server, web):
    def listen():
        try:
            with web.stream("GET", "/gradio_api/heartbeat/s") as stream:
                for _ in stream.iter_raw():
                    pass
        except httpx.HTTPError:
            pass

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    time.sleep(0.5)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(timeout=15) == 0
    log = server.log.read_text()
    assert "\nstopped" in log
    assert "Traceback" not in log.partition("\nstopped")[2]
