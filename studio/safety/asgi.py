"""The few words of ASGI that every guard needs."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

__all__ = ["App", "Message", "Receive", "Scope", "Send", "get_api_route", "get_header", "refuse"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_API = "/gradio_api/"


def get_header(scope: Scope, name: str) -> str | None:
    """Return the first value of a request header.

    Args:
        scope: of the request.
        name: in lower case.

    Returns:
        The value, or None where the header is missing.
    """
    lowercase_name = name.encode("latin-1")
    for key, value in scope.get("headers", ()):
        if key.lower() == lowercase_name:
            return value.decode("latin-1").strip()
    return None


def get_api_route(scope: Scope) -> str | None:
    """Return the part of the path that names one of gradio's API routes.

    Args:
        scope: of the request. Its path may carry a prefix (`root_path`).

    Returns:
        What follows `/gradio_api/`, such as `queue/join`; None for any other path.
    """
    _, separator, route = scope.get("path", "").partition(_API)
    return route if separator else None


async def refuse(
    scope: Scope,
    send: Send,
    status: int,
    detail: str,
    headers: Iterable[tuple[bytes, bytes]] = (),
) -> None:
    """Answers in place of the application.

    The page shows `detail` as a toast. On the upload route it shows the whole body, so there
    the body is the bare sentence.

    Args:
        scope: of the request; a WebSocket is closed before it opens.
        send: towards the client.
        status: of the answer, 400 to 599.
        detail: one sentence for the person.
        headers: more headers of the answer.
    """
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": detail[:120]})
        return
    if get_api_route(scope) == "upload":
        kind, body = b"text/plain; charset=utf-8", detail.encode()
    else:
        kind, body = b"application/json", json.dumps({"detail": detail}).encode()
    length = str(len(body)).encode()
    start = [(b"content-type", kind), (b"content-length", length), *headers]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": body})
