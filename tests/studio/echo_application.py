"""An application that echoes what reaches it, and requests to it through a guard."""

from __future__ import annotations

import asyncio
import io

from PIL import Image

JOIN = "/gradio_api/queue/join"
UPLOAD = "/gradio_api/upload"


class Echo:
    """Answers 200 with the body it got, and counts."""

    def __init__(self, answer: bytes | None = None, headers=()):
        self.calls, self.answer, self.headers = 0, answer, list(headers)

    async def __call__(self, scope, receive, send):
        self.calls += 1
        body = b""
        if scope["type"] == "http":
            while True:
                message = await receive()
                body += message.get("body", b"")
                if not message.get("more_body"):
                    break
        start = {"type": "http.response.start", "status": 200, "headers": self.headers}
        await send(start)
        await send({"type": "http.response.body", "body": self.answer or body})


def ask(app, path=JOIN, method="POST", chunks=(b"",), client="10.0.0.1", kind="http", query=b"", **headers):
    """One request; header names with _ for -. Returns status, headers and body."""
    sent = []
    waiting = [
        {"type": "http.request", "body": chunk, "more_body": i + 1 < len(chunks)} for i, chunk in enumerate(chunks)
    ] + [{"type": "http.disconnect"}]

    async def receive():
        return waiting.pop(0)

    async def send(message):
        sent.append(message)

    pairs = {"host": "127.0.0.1:7860", **{k.replace("_", "-"): v for k, v in headers.items()}}
    scope = {
        "type": kind,
        "method": method,
        "path": path,
        "client": (client, 5000),
        "query_string": query,
        "headers": [(k.encode(), v.encode()) for k, v in pairs.items() if v is not None],
    }
    asyncio.run(app(scope, receive, send))
    if not sent:
        return None, {}, b""
    if kind == "websocket":
        return sent[0].get("code", 200), {}, b""
    body = b"".join(m.get("body", b"") for m in sent[1:])
    return sent[0]["status"], dict(sent[0]["headers"]), body


def picture(width=8, height=8, kind="PNG") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, height)).save(stream, kind)
    return stream.getvalue()
