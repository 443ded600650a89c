"""The page's documents once for all visitors: gradio copies the whole page's configuration for each visit."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Any
from urllib.parse import parse_qs

from studio.safety.asgi import App, Message, Receive, Scope, Send, get_header
from studio.safety.owner import LOGIN

__all__ = ["PageCache"]

_DOCUMENTS = frozenset(("/", "/config", "/config/", "/gradio_api/info", "/gradio_api/info/"))
_PARAMETERS_OF_ONE_PAGE = ("deep_link", "page", "session_hash")
"""Parameters of which gradio makes another document."""

_HEADERS = ("host", "x-forwarded-host", "x-forwarded-proto", "accept-encoding")
"""Headers of which it does: the address under which the page is shown, and how it is packed."""

_CAPACITY = 32


class PageCache:
    """Answers the page, its configuration and its list of endpoints from memory.

    Kept apart are answers to different addresses, packings and logins; whoever comes while one is made waits for it.
    Answers with parameters that gradio reads, and whatever is not a plain success, are not kept.

    Args:
        app: that makes the documents, and packs them.
        capacity: answers that are kept.
    """

    def __init__(self, app: App, capacity: int = _CAPACITY):
        self._app, self._capacity = app, capacity
        self._answers: OrderedDict[tuple[Any, ...], list[Message]] = OrderedDict()
        self._locks: dict[tuple[Any, ...], asyncio.Lock] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        key = _find_key(scope)
        if key is None:
            await self._app(scope, receive, send)
            return
        lock = self._locks.setdefault(key, asyncio.Lock())
        try:
            async with lock:
                answer = self._answers.get(key) or await self._make(key, scope, receive)
        finally:
            if not lock.locked():
                self._locks.pop(key, None)
        for message in answer:
            await send(dict(message))

    async def _make(self, key: tuple[object, ...], scope: Scope, receive: Receive) -> list[Message]:
        messages: list[Message] = []

        async def keep(message: Message) -> None:
            messages.append(message)

        await self._app(scope, receive, keep)
        if _is_plain_success(messages):
            body = b"".join(message.get("body", b"") for message in messages[1:])
            messages = [messages[0], {"type": "http.response.body", "body": body}]
            self._answers[key] = messages
            while len(self._answers) > self._capacity:
                self._answers.popitem(last=False)
        return messages


def _find_key(scope: Scope) -> tuple[Any, ...] | None:
    """What an answer depends on; None for a request that is not answered from memory."""
    if scope["type"] != "http" or scope["method"] != "GET" or scope["path"] not in _DOCUMENTS:
        return None
    query = parse_qs(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
    if any(name in query for name in _PARAMETERS_OF_ONE_PAGE):
        return None
    read = tuple(query.get("all_endpoints", ()))
    address = (scope.get("scheme"), scope.get("server"), scope.get("root_path"))
    headers = tuple(get_header(scope, name) for name in _HEADERS)
    return (scope["path"], read, address, headers, scope.get(LOGIN))


def _is_plain_success(messages: list[Message]) -> bool:
    if not messages or messages[0].get("status") != 200 or messages[-1].get("more_body", False):
        return False
    return not any(name.lower() == b"set-cookie" for name, _ in messages[0].get("headers", ()))
