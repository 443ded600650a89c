"""What gradio remembers of a session goes when nobody can come back to it.

Gradio makes a copy of the whole page's configuration, over a megabyte, for every tab, for every client, and for
every single `/call` of a program, and keeps ten thousand of them: a day of calls fills the memory.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from studio.safety.asgi import App, Message, Receive, Scope, Send, get_api_route

__all__ = ["CLOSED_KEPT", "SESSIONS_KEPT", "SessionGuard"]

CLOSED_KEPT = 16
"""Tabs that have closed or lost their connection, and may still come back with what gradio knew of them."""

SESSIONS_KEPT = 256
"""For gradio's own cap: sessions of programs that started a call and never asked for its end."""


class SessionGuard:
    """Forgets a call's session when its answer has been read, and a tab's when others have closed after it.

    Args:
        app: what is guarded.
        forget: takes the id of a session; unknown ones are fine.
        capacity: closed tabs that are remembered.
    """

    def __init__(self, app: App, forget: Callable[[str], None], capacity: int = CLOSED_KEPT):
        self._app, self._forget, self._capacity = app, forget, capacity
        self._open: dict[str, int] = {}
        self._closed: OrderedDict[str, None] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = (get_api_route(scope) or "") if scope["type"] == "http" and scope["method"] == "GET" else ""
        kind, _, path = route.partition("/")
        session = path.rpartition("/")[2]
        if kind == "heartbeat" and session:
            await self._run_while_open(session, scope, receive, send)
        elif kind == "call" and session:
            await self._run_call(session, scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _run_call(self, session: str, scope: Scope, receive: Receive, send: Send) -> None:
        """A call of no session has one of its own, by the name of its event. It is forgotten before the answer's last
        byte: who has read the whole answer and asks again at once is told 404, not sent half a stream.
        """

        def forget() -> None:
            if session not in self._open and session not in self._closed:
                self._forget(session)

        async def forget_and_send(message: Message) -> None:
            if message["type"] == "http.response.body" and not message.get("more_body"):
                forget()
            await send(message)

        try:
            await self._app(scope, receive, forget_and_send)
        finally:  # where the caller left before the end, or the answer broke
            forget()

    async def _run_while_open(self, session: str, scope: Scope, receive: Receive, send: Send) -> None:
        self._open[session] = self._open.get(session, 0) + 1
        self._closed.pop(session, None)
        try:
            await self._app(scope, receive, send)
        finally:
            self._open[session] -= 1
            if not self._open[session]:
                del self._open[session]
                self._closed[session] = None
            while len(self._closed) > self._capacity:
                self._forget(self._closed.popitem(last=False)[0])
