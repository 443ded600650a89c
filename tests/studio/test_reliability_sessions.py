"""What gradio remembers of a session goes when nobody can come back to it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from studio.safety.sessions import SessionGuard
from studio.server.known import list_known

ROOT = Path(__file__).resolve().parents[2]


def http(path: str, method: str = "GET") -> dict:
    return {"type": "http", "method": method, "path": path, "headers": []}


@pytest.fixture
def forgotten():
    return []


@pytest.fixture
def guard(forgotten):
    async def app(scope, receive, send):
        while (await receive())["type"] != "http.disconnect":
            pass

    return SessionGuard(app, forgotten.append, capacity=2)


def visit(guard, *paths: str, method: str = "GET") -> None:
    async def gone():
        return {"type": "http.disconnect"}

    for path in paths:
        asyncio.run(guard(http(path, method), gone, None))


def test_the_session_of_a_single_call_goes_with_its_answer(guard, forgotten):
    visit(guard, "/gradio_api/call/generate", method="POST")
    assert forgotten == []
    visit(
        guard, "/gradio_api/call/generate/abc", "/gradio_api/call/v2/generate/def", "/gradio_api/queue/data", "/config"
    )
    assert forgotten == ["abc", "def"]


def test_a_closed_tab_may_come_back_until_others_have_closed_after_it(guard, forgotten):
    visit(guard, "/gradio_api/heartbeat/a", "/gradio_api/heartbeat/b", "/gradio_api/heartbeat/a")
    assert forgotten == []
    visit(guard, "/gradio_api/heartbeat/c")
    assert forgotten == ["b"]


def test_an_open_tab_is_never_forgotten(guard, forgotten):
    async def scene():
        left = {name: asyncio.Event() for name in "abcd"}

        async def tab(name):
            async def receive():
                await left[name].wait()
                return {"type": "http.disconnect"}

            await guard(http(f"/gradio_api/heartbeat/{name}"), receive, None)

        tabs = [asyncio.create_task(tab(name)) for name in "abcd"]
        await asyncio.sleep(0)
        for name in "bcd":
            left[name].set()
        await asyncio.gather(*tabs[1:])
        assert forgotten == ["b"]
        left["a"].set()
        await tabs[0]
        assert forgotten == ["b", "c"]

    asyncio.run(scene())


def test_a_session_is_forgotten_before_its_answer_has_ended(forgotten):
    """A reader who asks again at once must be told 404: the stream of a session that goes while it is sent breaks."""
    known_at = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for part, more in ((b"data", True), (b"", False)):
            await send({"type": "http.response.body", "body": part, "more_body": more})

    async def send(message):
        if message["type"] == "http.response.body":
            known_at.append(list(forgotten))

    guard = SessionGuard(app, forgotten.append)
    asyncio.run(guard(http("/gradio_api/call/generate/abc"), None, send))
    assert known_at[0] == [] and known_at[1] and set(forgotten) == {"abc"}


def test_a_broken_answer_forgets_too(forgotten):
    async def broken(scope, receive, send):
        raise RuntimeError

    guard = SessionGuard(broken, forgotten.append)
    with pytest.raises(RuntimeError):
        visit(guard, "/gradio_api/call/generate/abc")
    assert forgotten == ["abc"]


PROGRAM = """
import json, sys, httpx
from pathlib import Path
from studio.safety.environment import prepare_environment
from studio.safety.flags import parse_flags

base = Path(sys.argv[1])
settings = parse_flags(["--temp-folder", str(base / "temp"), "--outputs-folder", str(base / "outputs")], {})
prepare_environment(settings.temp)

import gradio as gr
from studio.server.serve import run_server

with gr.Blocks() as demo:
    gr.Button().click(lambda text: text.upper(), gr.Textbox(), gr.Textbox(), api_name="up")
queue, computed = demo._queue, []
compute = queue._get_df
queue._get_df = lambda records: computed.append(len(records)) or compute(records)
with run_server(demo, settings) as url, httpx.Client(base_url=url, trust_env=False, timeout=60) as web:
    for number in range(20):
        event = web.post("/gradio_api/call/up", json={"data": [f"a{number}"]}).json()["event_id"]
        assert f"A{number}" in web.get(f"/gradio_api/call/up/{event}").text
        assert web.get(f"/gradio_api/call/up/{event}").status_code == 404
    kept = [len(one) for one in (demo._queue.pending_messages_per_session, demo._queue.pending_event_ids_session)]
    print(json.dumps([*kept, len(demo._queue.event_analytics), computed]), flush=True)
    import os
    os._exit(0)
"""


def test_a_call_whose_answer_was_read_leaves_no_queue_and_no_record(tmp_path):
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=180)
    assert ended.returncode == 0, ended.stderr[-4000:]
    messages, events, records, computed = json.loads(ended.stdout.splitlines()[-1])
    assert messages == events == 0 and records <= 1
    assert computed == []  # gradio's table over all events, computed anew at the end of each


def test_an_event_is_known_until_its_answer_was_read():
    """Gradio keeps it in `event_ids_to_events` a little longer, where asking again got half a stream."""
    queue = SimpleNamespace(
        pending_messages_per_session={"waiting": None}, pending_event_ids_session={"a session": {"running"}}
    )
    queue.event_ids_to_events = {"running": None, "read": None}
    has_event = list_known(SimpleNamespace(_queue=queue, fns={}, blocks={})).has_event
    assert has_event("running") and has_event("waiting") and not has_event("read")
