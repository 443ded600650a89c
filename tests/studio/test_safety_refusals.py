"""Values that the page never sends to gradio's own events: a sentence and no 5xx, and a fault stays a fault."""

from __future__ import annotations

import asyncio
import json

import gradio as gr
import pytest

from studio.page.page import Page
from studio.safety.refusals import RefusalGuard


def answered(path: str, status: int, body: bytes, kind: str = "http") -> list[dict]:
    """What the client gets of an application's answer, which comes in two messages."""
    sent = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": status, "headers": [(b"a", b"b")]})
        await send(
            {"type": "http.response.body", "body": body[:5], "more_body": True}
            if status == 200
            else {"type": "http.response.body", "body": body}
        )

    async def keep(message):
        sent.append(message)

    asyncio.run(RefusalGuard(app)({"type": kind, "path": path}, None, keep))
    return sent


REFUSED = json.dumps({"error": "Value -5 is less than minimum value 1.", "title": "Error", "visible": True}).encode()


@pytest.mark.parametrize(
    ("path", "status", "body", "becomes"),
    [
        ("/gradio_api/run/predict", 500, REFUSED, 422),
        ("/under/gradio_api/api/predict/", 500, REFUSED, 422),
        ("/gradio_api/run/predict", 500, b'{"error": null}', 500),
        ("/gradio_api/run/predict", 500, b'{"error": null, "title": "Error"}', 500),
        ("/gradio_api/run/predict", 500, b"Internal Server Error", 500),
        ("/gradio_api/run/predict", 500, b"[]", 500),
        ("/gradio_api/upload", 500, REFUSED, 500),
        ("/", 500, REFUSED, 500),
        ("/gradio_api/run/predict", 200, b'{"data": []}', 200),
        ("/gradio_api/run/predict", 404, REFUSED, 404),
    ],
)
def test_only_a_sentence_for_the_person_becomes_a_refusal(path, status, body, becomes):
    start, last = answered(path, status, body)
    assert start == {"type": "http.response.start", "status": becomes, "headers": [(b"a", b"b")]}
    assert last["body"] == (body[:5] if status == 200 else body)


@pytest.fixture(scope="module")
def page():
    with Page() as demo:
        number, text, choice = gr.Slider(1, 9, value=3), gr.Textbox(), gr.Dropdown(["a", "b"], value="a")
        gr.Button().click(lambda *values: values[1], [number, text, choice], text)
    return demo


@pytest.mark.parametrize(
    "values",
    [
        [-5, "", "a"],
        [{}, "", "a"],
        [3, "", "c"],
        [3, "", "\ud800"],
        [3, "", "x" * 9000],
        [3, "", {}],
        [3],
        [],
        [None, None, [[]]],
    ],
)
def test_what_the_page_never_sends_is_a_sentence(page, values):
    event = next(iter(page.fns.values()))
    with pytest.raises(gr.Error) as refused:
        asyncio.run(page.preprocess_data(event, values, None))
    assert 0 < len(refused.value.message) <= 200 and not refused.value.print_exception
    assert refused.value.message.encode()
    assert "File" not in refused.value.message and "NoneType" not in refused.value.message


def test_what_the_page_sends_passes(page):
    assert asyncio.run(page.preprocess_data(next(iter(page.fns.values())), [3, "x", "b"], None)) == [3, "x", "b"]
