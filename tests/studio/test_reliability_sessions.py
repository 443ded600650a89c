"""What gradio remembers of a session goes when nobody can come back to it."""

from __future__ import annotations

import asyncio

import pytest

from studio.safety.sessions import SessionGuard


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

    return SessionGuard(app, forgotten.append, kept=2)


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


def test_a_broken_answer_forgets_too(forgotten):
    async def broken(scope, receive, send):
        raise RuntimeError

    guard = SessionGuard(broken, forgotten.append)
    with pytest.raises(RuntimeError):
        visit(guard, "/gradio_api/call/generate/abc")
    assert forgotten == ["abc"]
