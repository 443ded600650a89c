"""Sessions share the page's configuration until they change it, and visitors its documents."""

from __future__ import annotations

import asyncio
import json

import gradio as gr
import pytest

from studio.safety.owner import LOGIN
from studio.safety.page_cache import PageCache
from studio.server.page_document import SERVER_ONLY, describe_for_browser
from studio.server.shared_config import share_session_config


@pytest.fixture
def state_class(monkeypatch):
    from gradio.state_holder import SessionState

    for name in ("__init__", "_update_value_in_config"):
        monkeypatch.setattr(SessionState, name, getattr(SessionState, name))
    monkeypatch.setattr(SessionState, "_is_shared", False, raising=False)
    return SessionState


def test_a_shared_session_is_as_gradios_own_and_its_changes_are_its_own(state_class):
    with gr.Blocks() as demo:
        text, number = gr.Textbox("a"), gr.Number(3)
    plain = state_class(demo)
    share_session_config()
    first, second = state_class(demo), state_class(demo)
    for one in (first, second):
        assert one.config_values == plain.config_values and vars(one).keys() == vars(plain).keys()
        assert one.blocks_config.blocks.keys() == plain.blocks_config.blocks.keys()
    assert first.config_values[text._id] is second.config_values[text._id]
    second._update_value_in_config(text._id, "changed")
    second[number._id] = gr.Number(7, render=False)
    third = state_class(demo)
    for one in (first, third, plain):
        assert one.config_values[text._id]["props"]["value"] == "a"
        assert one.config_values[number._id]["props"]["value"] == 3
    assert second.config_values[text._id]["props"]["value"] == "changed"
    assert second[number._id].value == 7 and first[number._id].value == 3
    with gr.Blocks() as other:
        gr.Textbox("b")
    assert len(state_class(other).config_values) != len(first.config_values)


def test_the_browsers_configuration_is_gradios_own_but_for_what_the_server_alone_reads():
    with gr.Blocks() as demo:
        with gr.Row():
            text, number = gr.Textbox("a", elem_id="one"), gr.Number(3)
        gr.Textbox("a", elem_id="two")
        text.change(lambda word: 4, text, number)
    whole = json.loads(json.dumps(demo.get_config_file()))
    shorter, fill = describe_for_browser(whole)
    assert (
        "layout: page.layout" in fill
        and "dependencies = (class extends Array {}).from" in fill
        and "structuredClone(kinds[kind])" in fill
    )
    assert len(shorter["kinds"]) < len(shorter["components"])
    # What the page's script makes of it.
    components = [
        {**shorter["kinds"][kind], "id": identity, "props": {**shorter["kinds"][kind]["props"], **own}}
        for identity, kind, own in shorter["components"]
    ]
    page = shorter["page"][""]
    parts = {"components": components, "dependencies": shorter["dependencies"]}
    ids = {name: [one["id"] for one in part] for name, part in parts.items()}
    filled = {**shorter, "components": components, "layout": page["layout"], "page": {"": page | ids}}
    del filled["kinds"]
    left_out = [{name: one[name] for name in one if name not in SERVER_ONLY} for one in whole["components"]]
    assert filled == {**whole, "components": left_out} and any("api_info" in one for one in whole["components"])


def test_a_configuration_of_several_pages_stays_as_it_is():
    with gr.Blocks() as demo:
        gr.Textbox("a")
    with demo.route("Second"):
        gr.Textbox("b")
    whole = json.loads(json.dumps(demo.get_config_file()))
    assert describe_for_browser(whole) == (whole, "")


class App:
    """An application that counts how often it is asked, and says who asks."""

    def __init__(self, status=200, headers=()):
        self.asked, self.status, self.headers = 0, status, list(headers)

    async def __call__(self, scope, receive, send):
        self.asked += 1
        await asyncio.sleep(0.01)
        body = f"{scope['path']} {scope.get(LOGIN)} {dict(scope['headers'])}".encode()
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        await send({"type": "http.response.body", "body": body[:5], "more_body": True})
        await send({"type": "http.response.body", "body": body[5:]})


def ask(cache, path="/", query=b"", login=None, method="GET", **headers):
    scope = {"type": "http", "method": method, "path": path, "query_string": query, "scheme": "http", LOGIN: login}
    scope["headers"] = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    messages = []

    async def send(message):
        messages.append(message)

    async def run():
        await cache(scope, None, send)
        return messages[0]["status"], b"".join(message.get("body", b"") for message in messages[1:])

    return run()


def both(app, *calls):
    """The answers to calls one after another, and how often the application was asked."""
    cache = PageCache(app)

    async def run():
        return [await ask(cache, **call) for call in calls]

    return asyncio.run(run()), app.asked


def test_the_page_is_made_once_for_all_visitors_at_a_time():
    app = App()
    cache = PageCache(app)

    async def crowd():
        return await asyncio.gather(*(ask(cache, query=b"tab=compare&prompt=x") for _ in range(50)))

    answers = asyncio.run(crowd())
    assert app.asked == 1 and len(set(answers)) == 1 and answers[0][0] == 200


@pytest.mark.parametrize(
    "other",
    [
        {"login": "ann"},
        {"host": "example.org"},
        {"accept_encoding": "gzip"},
        {"x_forwarded_proto": "https"},
        {"path": "/config"},
        {"query": b"all_endpoints=true"},
    ],
)
def test_what_makes_another_document_is_kept_apart(other):
    (first, second, again), asked = both(App(), {}, other, other)
    assert second == again and asked == 2
    assert first != second or "query" in other  # the stand-in says nothing of it


@pytest.mark.parametrize("call", [{"query": b"deep_link=x"}, {"path": "/gradio_api/queue/data"}, {"method": "POST"}])
def test_what_may_differ_each_time_is_not_kept(call):
    assert both(App(), call, call)[1] == 2


@pytest.mark.parametrize("app", [App(500), App(headers=[(b"set-cookie", b"a=b")])])
def test_a_failure_and_a_cookie_are_not_kept(app):
    assert both(app, {}, {})[1] == 2


def test_only_the_latest_documents_are_kept():
    app = App()
    cache = PageCache(app, capacity=2)

    async def run():
        for host in ("a", "b", "c", "c", "a"):
            await ask(cache, host=host)

    asyncio.run(run())
    assert app.asked == 4 and len(cache._answers) == 2 and not cache._locks
