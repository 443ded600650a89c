"""Where people sign in, an event, a session and an upload answer only to whoever began them.

Gradio names them by words that a client draws or is told, and asks for no more than the word: whoever knows it reads
the events, cancels them, and watches an upload.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterable
from urllib.parse import parse_qs

from studio.safety.asgi import App, Message, Receive, Scope, Send, get_api_route, refuse
from studio.safety.owner import LOGIN

__all__ = ["NAMED", "EventGuard"]

NAMED = "stepwise.named"
"""Where a request's scope holds the sessions and events that its JSON names: see `PayloadGuard`."""

_LARGEST_ANSWER = 4096
"""Bytes of an answer that names an event."""


class EventGuard:
    """Answers 404 to whoever names a session, an event or an upload of somebody else's.

    The first to name one owns it. It stands inside the guards that know who asks and what the request's JSON names.

    Args:
        app: what is guarded.
        capacity: names that are remembered; the longest unused one is forgotten first.
    """

    def __init__(self, app: App, capacity: int = 20_000):
        self._app, self._capacity = app, capacity
        self._owners: OrderedDict[str, str] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route, login = (get_api_route(scope) if scope["type"] == "http" else None), scope.get(LOGIN)
        if route is None or not login:
            await self._app(scope, receive, send)
            return
        names = list(_names(scope, route))
        if any(self._owners.get(name, login) != login for name in names):
            await refuse(scope, send, 404, "There is no such session or event.")
            return
        self._claim(names, login)
        starts = scope["method"] == "POST" and route.startswith(("call/", "queue/join"))
        await self._app(scope, receive, self._claiming(send, login) if starts else send)

    def _claim(self, names: Iterable[str], login: str) -> None:
        for name in names:
            self._owners[name] = login
            self._owners.move_to_end(name)
        while len(self._owners) > self._capacity:
            self._owners.popitem(last=False)

    def _claiming(self, send: Send, login: str) -> Send:
        """The event that the answer names belongs to whoever asked for it."""
        answer = bytearray()

        async def claimed(message: Message) -> None:
            if message["type"] == "http.response.body":
                if len(answer) <= _LARGEST_ANSWER:
                    answer.extend(message.get("body", b""))
                if not message.get("more_body", False):
                    self._claim(_event_in(bytes(answer)), login)
            await send(message)

        return claimed


def _names(scope: Scope, route: str) -> Iterable[str]:
    """What a request names, each with its kind in front, so that no kind is taken for another."""
    query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
    for kind in ("session_hash", "upload_id"):
        yield from (f"{kind} {value}" for value in query.get(kind, ()))
    parts = route.strip("/").split("/")
    if scope["method"] == "GET" and parts[0] == "call" and len(parts) > 2:
        # An event without a session has one of its own, by the event's name.
        yield from (f"event {parts[-1]}", f"session_hash {parts[-1]}")
    if parts[0] in ("heartbeat", "stream") and len(parts) > 1:
        yield f"session_hash {parts[1]}"
    for kind, value in scope.get(NAMED, {}).items():
        yield f"{'event' if kind == 'event_id' else kind} {value}"


def _event_in(answer: bytes) -> Iterable[str]:
    try:
        content = json.loads(answer)
    except ValueError:
        return ()
    event = content.get("event_id") if isinstance(content, dict) else None
    return (f"event {event}", f"session_hash {event}") if isinstance(event, str) else ()
