"""No request is larger than its cap or slower than it may be, and all that are on their way have a budget together."""

from __future__ import annotations

import asyncio
import time

from studio.safety.asgi import App, Message, Receive, Scope, Send, get_api_route, get_header, refuse
from studio.safety.limits import MIB, ClientLimits

__all__ = ["FORM_ROOM", "BodyGuard"]

FORM_ROOM = 64 * 1024  # what a multipart form adds to the file in it


class BodyGuard:
    """Answers 413 to a request whose body is too large, 408 to one whose body does not come, and 503 to one for which
    there is no room beside the others that are on their way.

    A body that only turns out too large while it streams is ended with gradio's own parser
    error, because gradio then deletes the half-written file; whatever it answers is replaced.
    The connection stays open: the server reads the rest and drops it, while a closed connection
    would show the person a network error instead of our sentence.

    Args:
        app: what is guarded.
        limits: the caps.
    """

    def __init__(self, app: App, limits: ClientLimits):
        self._app, self._limits = app, limits
        self._open_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_upload = get_api_route(scope) == "upload"
        cap = self._limits.upload_bytes + FORM_ROOM if is_upload else self._limits.body_bytes
        announced = get_header(scope, "content-length") or "0"
        if not announced.isdecimal() or int(announced) > cap:
            await refuse(scope, send, 413, _describe_cap(cap))
            return
        reserved = int(announced) or (cap if get_header(scope, "transfer-encoding") else 0)
        if self._open_bytes + reserved > max(self._limits.open_bytes, cap):
            detail = "Too much is being sent to this server at the moment. Try again in a minute."
            await refuse(scope, send, 503, detail, [(b"retry-after", b"30"), (b"connection", b"close")])
            return
        self._open_bytes += reserved
        try:
            await self._guard(scope, receive, send, cap, is_upload)
        finally:
            self._open_bytes -= reserved

    async def _guard(self, scope: Scope, receive: Receive, send: Send, cap: int, is_upload: bool) -> None:
        stream = _Counted(receive, send, cap, is_upload, self._limits)
        try:
            await self._app(scope, stream.receive, stream.send)
        except Exception:
            if not stream.failure:
                raise
        if stream.is_started:
            return
        if stream.failure == 413:
            await refuse(scope, send, 413, _describe_cap(cap))
        elif stream.failure == 408:
            slow = "The request came too slowly and was broken off. Try again on a better connection."
            await refuse(scope, send, 408, slow, [(b"connection", b"close")])


class _Counted:
    """One request and its answer, with the bytes of the request counted and timed.

    Attributes:
        failure: 413 or 408 where the body was broken off as too large or too slow, else 0.
        is_started: whether the answer has begun.
    """

    def __init__(self, receive: Receive, send: Send, cap: int, is_upload: bool, limits: ClientLimits):
        self._receive, self._send, self._limits = receive, send, limits
        self._remaining, self._cap, self._is_upload = cap, cap, is_upload
        self._is_complete = False
        self._began = time.monotonic()
        self.failure, self.is_started = 0, False

    async def receive(self) -> Message:
        message = await (self._receive() if self._is_complete else self._receive_in_time())
        if message["type"] == "http.request":
            self._remaining -= len(message.get("body", b""))
            self._is_complete = not message.get("more_body", False)
            if self._remaining < 0:
                self.failure = 413
                raise _build_abort()
        elif self._is_upload and not self._is_complete:
            raise _build_abort()  # the person left: gradio would keep the half-written file
        return message

    async def _receive_in_time(self) -> Message:
        """The next part of the body: it may pause, but must come with a least rate on the whole."""
        earned = self._limits.body_pause + (self._cap - self._remaining) / self._limits.body_rate
        left = self._began + earned - time.monotonic()
        try:
            return await asyncio.wait_for(self._receive(), max(0.01, min(self._limits.body_pause, left)))
        except (TimeoutError, asyncio.TimeoutError):
            self.failure = 408
            raise _build_abort() from None

    async def send(self, message: Message) -> None:
        if self.failure and not self.is_started:
            return
        self.is_started = True
        await self._send(message)


def _build_abort() -> Exception:
    # Imported here: importing the guards must not import a web framework.
    from starlette.formparsers import MultiPartException

    return MultiPartException("The request was cut off.")


def _describe_cap(cap: int) -> str:
    return f"The request is larger than the {_format_bytes(cap)} that this server accepts."


def _format_bytes(count: int) -> str:
    return f"{count / MIB:.0f} MiB" if count >= MIB else f"{count / 1024:.0f} KiB"
