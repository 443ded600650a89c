"""The MCP server: an agent on loopback lists the tools and gets a picture."""

from __future__ import annotations

import ast
import asyncio
import io
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from PIL import Image

from pipelines.core.errors import SettingsError
from studio.reliability.server import run_server
from studio.server import mcp as mcp_server

ROOT = Path(__file__).resolve().parents[2]


def test_without_its_package_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setattr(mcp_server, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"pip install -r requirements-mcp.txt"):
        mcp_server.check_mcp()
    assert (ROOT / "requirements-mcp.txt").is_file()


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    pytest.importorskip("mcp", reason="pip install -r requirements-mcp.txt")
    home = tmp_path_factory.mktemp("mcp")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folders = [part for name in ("models", "outputs", "temp") for part in (f"--{name}-folder", str(home / name))]
    environment = {**os.environ, "HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    log = home / "log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "app.py", "--port", str(port), "--mcp", *folders],
            cwd=ROOT,
            env=environment,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    try:
        until = time.monotonic() + 120
        while "speak MCP at" not in log.read_text():
            assert process.poll() is None and time.monotonic() < until, log.read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


def talk(url, speak):
    from mcp import ClientSession
    from mcp.client.streamable_http import streamable_http_client

    async def conversation():
        async with (
            streamable_http_client(url + mcp_server.PATH) as (reader, writer, _),
            ClientSession(reader, writer) as session,
        ):
            await session.initialize()
            return await speak(session)

    return asyncio.run(conversation())


def test_the_tools_are_the_public_endpoints_and_nothing_else(url):
    from studio.api import ENDPOINTS

    tools = talk(url, lambda session: session.list_tools()).tools
    assert {tool.name for tool in tools} == set(ENDPOINTS)
    assert all(tool.description for tool in tools)


def test_an_agent_gets_a_picture(url):
    asked = {"prompt": "a fox on a blue background", "settings": {"num_inference_steps": 2, "seed": 3}}
    answer = talk(url, lambda session: session.call_tool("generate", asked))
    assert not answer.isError
    told = ast.literal_eval(answer.content[0].text)
    assert told["status"] == "done"
    with urllib.request.urlopen(told["images"][0]["url"]) as stream, Image.open(io.BytesIO(stream.read())) as picture:
        assert picture.size == (64, 64)
        assert "Steps: 2" in picture.info["parameters"]


def test_a_mistake_reaches_the_agent_as_a_sentence(url):
    answer = talk(
        url,
        lambda session: session.call_tool("generate", {"prompt": "a fox", "settings": {"num_inference_steps": 10**6}}),
    )
    assert answer.isError and "from 1 to 200" in answer.content[0].text


@pytest.mark.slow
def test_an_agent_that_signed_in_makes_results_of_its_own(tmp_path):
    import httpx

    pytest.importorskip("mcp", reason="pip install -r requirements-mcp.txt")
    tool = {"name": "generate", "arguments": {"prompt": "a fox", "settings": {"num_inference_steps": 1}}}
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": tool}
    asked = {"json": call, "headers": {"accept": "application/json, text/event-stream"}}
    with run_server(tmp_path, flags=("--mcp", "--auth", "ann:pass", "--auth", "bob:word")) as server:
        assert server.web.post(mcp_server.PATH, **asked).status_code == 401
        found = {}
        for name, password in (("ann", "pass"), ("bob", "word")):
            with httpx.Client(base_url=server.url, trust_env=False, timeout=120) as web:
                web.post("/login", data={"username": name, "password": password})
                if name == "ann":
                    assert "'status': 'done'" in web.post(mcp_server.PATH, **asked).text
                event = web.post("/gradio_api/call/gallery", json={"data": ["", "", 10]}).json()["event_id"]
                kind, data = web.get(f"/gradio_api/call/gallery/{event}").text.strip().splitlines()[-2:]
                assert kind == "event: complete", data
                found[name] = [one["kind"] for one in json.loads(data.removeprefix("data: "))[0]["results"]]
    assert found == {"ann": ["text_to_image"], "bob": []}
