"""No request is larger than its cap, whether its length is announced or not."""

from __future__ import annotations

from studio.safety.asgi import App, Message, Receive, Scope, Send, api_route, header, refuse
from studio.safety.limits import MIB, Limits

__all__ = ["FORM_ROOM", "BodyGuard"]

FORM_ROOM = 64 * 1024  # what a multipart form adds to the file in it


class BodyGuard:
    """Answers 413 to a request whose body is too large.

    A body that only turns out too large while it streams is broken off with gradio's own parser
    error, because gradio then deletes the half-written file; whatever it answers is replaced.
    The connection stays open: the server reads the rest and drops it, while a closed connection
    would show the person a network error instead of our sentence.

    Args:
        app: what is guarded.
        limits: the caps.
    """

    def __init__(self, app: App, limits: Limits):
        self._app, self._limits = app, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_upload = api_route(scope) == "upload"
        cap = self._limits.upload_bytes + FORM_ROOM if is_upload else self._limits.body_bytes
        detail = f"The request is larger than the {_shown(cap)} that this server accepts."
        announced = header(scope, "content-length") or "0"
        if not announced.isdecimal() or int(announced) > cap:
            await refuse(scope, send, 413, detail)
            return
        stream = _Counted(receive, send, cap, is_upload)
        try:
            await self._app(scope, stream.receive, stream.send)
        except Exception:
            if not stream.too_large:
                raise
        if stream.too_large and not stream.started:
            await refuse(scope, send, 413, detail)


class _Counted:
    """One request and its answer, with the bytes of the request counted."""

    def __init__(self, receive: Receive, send: Send, cap: int, is_upload: bool):
        self._receive, self._send = receive, send
        self._left, self._is_upload = cap, is_upload
        self._whole = False
        self.too_large = self.started = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._left -= len(message.get("body", b""))
            self._whole = not message.get("more_body", False)
            if self._left < 0:
                self.too_large = True
                raise _broken_off()
        elif self._is_upload and not self._whole:
            raise _broken_off()  # the person left: gradio would keep the half-written file
        return message

    async def send(self, message: Message) -> None:
        if self.too_large and not self.started:
            return
        self.started = True
        await self._send(message)


def _broken_off() -> Exception:
    # Imported here: importing the guards must not import a web framework.
    from starlette.formparsers import MultiPartException

    return MultiPartException("The request was broken off.")


def _shown(count: int) -> str:
    return f"{count / MIB:.0f} MiB" if count >= MIB else f"{count / 1024:.0f} KiB"
