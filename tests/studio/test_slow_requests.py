"""Requests that never end and connections that say nothing: each is closed, and others are answered meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time

import pytest

from studio.safety.bodies import BodyGuard
from studio.safety.limits import ClientLimits
from studio.safety.temp import TempFolder
from studio.safety.uploads import UploadGuard
from studio.server.connections import build_protocol

SLOW = ClientLimits(body_pause=0.3, body_rate=1000.0, body_bytes=10_000, open_bytes=15_000)


async def read_all(scope, receive, send):
    while (await receive()).get("more_body", False):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"done"})


def scope(path="/gradio_api/queue/join", **headers):
    named = [(name.replace("_", "-").encode(), str(value).encode()) for name, value in headers.items()]
    return {"type": "http", "method": "POST", "path": path, "headers": named}


async def ask(guard, parts, pause=0.0, path="/gradio_api/queue/join", **headers):
    """The status for a body in parts, with a pause before each; None ends it without an end."""
    messages, waiting = [], list(parts)

    async def receive():
        await asyncio.sleep(pause)
        if not waiting:
            await asyncio.sleep(60)
        part = waiting.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(waiting) or part != b"end"}

    async def send(message):
        messages.append(message)

    await guard(scope(path, **headers), receive, send)
    return messages[0]["status"]


def test_a_body_that_does_not_go_on_is_broken_off():
    guard = BodyGuard(read_all, SLOW)
    began = time.monotonic()
    assert asyncio.run(ask(guard, [b"x"])) == 408
    assert time.monotonic() - began < 5
    assert asyncio.run(ask(guard, [b"x", b"end"], pause=0.1)) == 200


def test_a_body_that_drips_is_broken_off_however_regular():
    guard = BodyGuard(read_all, SLOW)
    assert asyncio.run(ask(guard, [b"x"] * 100 + [b"end"], pause=0.02)) == 408
    assert asyncio.run(ask(guard, [b"x" * 100] * 20 + [b"end"], pause=0.02)) == 200


def test_bodies_have_a_budget_together_which_is_given_back():
    guard = BodyGuard(read_all, SLOW)

    async def crowd(count):
        slow = (ask(guard, [b"x", b"end"], pause=0.05, content_length=6000) for _ in range(count))
        return sorted(await asyncio.gather(*slow))

    assert asyncio.run(crowd(5)) == [200, 200, 503, 503, 503]
    assert asyncio.run(crowd(2)) == [200, 200] and guard._open_bytes == 0
    assert asyncio.run(ask(guard, [b"x"], content_length=6000)) == 408 and guard._open_bytes == 0


def test_the_temporary_folders_room_is_taken_before_an_upload_is_written(tmp_path):
    limits = ClientLimits(temp_bytes=1000, free_bytes=0)
    temp = TempFolder(tmp_path / "temp", limits)
    guard = UploadGuard(read_all, limits, temp.root, temp.add, temp.reserve)

    async def crowd():
        uploads = (
            ask(guard, [b"x", b"end"], pause=0.1, path="/gradio_api/upload", content_length=400) for _ in range(4)
        )
        return sorted(await asyncio.gather(*uploads))

    guard._find_problem = lambda answer: None
    assert asyncio.run(crowd()) == [200, 200, 507, 507]
    assert asyncio.run(crowd()) == [200, 200, 507, 507]
    assert temp._reserved_bytes == 0


# Connections.


@pytest.fixture(scope="module")
def server():
    uvicorn = pytest.importorskip("uvicorn")

    async def app(scope, receive, send):
        if scope["type"] != "http":
            raise RuntimeError
        if scope["path"] == "/long":
            await asyncio.sleep(1.5)
        await read_all(scope, receive, send)

    limits = ClientLimits(header_seconds=0.5, connections=8, address_connections=6)
    config = uvicorn.Config(app, port=0, log_level="error", http=build_protocol(limits), lifespan="off")
    running = uvicorn.Server(config)
    running.install_signal_handlers = lambda: None
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.01)
    yield running.servers[0].sockets[0].getsockname()[1]
    running.should_exit = True
    thread.join(5)


def line(port):
    return contextlib.closing(socket.create_connection(("127.0.0.1", port), timeout=5))


def closed_after(connection):
    began = time.monotonic()
    assert connection.recv(100) == b""
    return time.monotonic() - began


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: x\r\nX-Never", b"G"])
def test_a_connection_whose_headers_do_not_come_is_closed(server, sent):
    with line(server) as connection:
        connection.sendall(sent)
        assert closed_after(connection) < 3


def test_headers_that_drip_are_not_waited_for(server):
    with line(server) as connection, pytest.raises(OSError):
        for letter in b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 100:
            connection.sendall(bytes([letter]))
            time.sleep(0.05)


def test_a_long_answer_and_a_second_request_are_not_closed(server):
    with line(server) as connection:
        for path in (b"/long", b"/"):
            connection.sendall(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = connection.recv(1000)
            while path == b"/long" and not answer.endswith(b"0\r\n\r\n"):  # its parts come one by one
                answer += connection.recv(1000)
            assert answer.startswith(b"HTTP/1.1 200")
            time.sleep(0.1)
        connection.sendall(b"GET / HT")
        with contextlib.suppress(ConnectionError):
            while connection.recv(1000):
                pass
    time.sleep(0.1)


def test_one_address_cannot_hold_all_connections(server):
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(line(server)) for _ in range(6)]
        time.sleep(0.1)
        with line(server) as more:
            assert more.recv(1000).startswith(b"HTTP/1.1 503")
        assert held
    time.sleep(0.2)
    with line(server) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
