"""The progress of an upload ends with the upload, and what gradio remembers of it goes.

Gradio's stream of an upload that was broken off waits for the rest for ever, and each id that anybody ever asked for
stays in memory.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from studio.safety.asgi import App, Receive, Scope, Send, get_api_route, refuse

if TYPE_CHECKING:
    from gradio.route_utils import FileUploadProgress

__all__ = ["UploadProgressGuard"]

_LONGEST_ID = 64
_KEPT = 256
"""Uploads that are over and whose progress nobody has read to its end: the page asks for it beside the upload."""


class UploadProgressGuard:
    """Answers 404 to ids that no page makes, and lets streams of progress end with their uploads.

    Args:
        app: gradio's.
        statuses: what gradio remembers of uploads.
        capacity: finished uploads that are remembered.
    """

    def __init__(self, app: App, statuses: FileUploadProgress, capacity: int = _KEPT):
        self._app, self._statuses, self._capacity = app, statuses, capacity
        self._finished: OrderedDict[str, None] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = (get_api_route(scope) or "").strip("/") if scope["type"] == "http" else ""
        if route not in ("upload", "upload_progress"):
            await self._app(scope, receive, send)
            return
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
        upload = query.get("upload_id", [""])[-1]
        if len(upload) > _LONGEST_ID:
            await refuse(scope, send, 404, "There is no such upload here.")
            return
        try:
            await self._app(scope, receive, send)
        finally:
            if upload and route == "upload":
                self._end_upload(upload)
            elif upload:
                self._end_reading(upload)

    def _end_upload(self, upload: str) -> None:
        statuses = self._statuses
        if upload in statuses._statuses and not statuses.is_done(upload):
            self._forget(upload)  # whoever reads its progress finds it gone, and ends
            return
        self._finished[upload] = None
        while len(self._finished) > self._capacity:
            self._forget(self._finished.popitem(last=False)[0])

    def _end_reading(self, upload: str) -> None:
        if upload not in self._statuses._statuses:
            self._forget(upload)

    def _forget(self, upload: str) -> None:
        self._finished.pop(upload, None)
        self._statuses.stop_tracking(upload)
        self._statuses._signals.pop(upload, None)
