"""No path and no address comes from a request, except that of a file uploaded here.

Gradio downloads any `http(s)` address that a request names as the path of a picture, and reads
any path inside its folder. Nothing of ours needs the first, so it is refused before gradio sees
the request.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from pipelines.core.errors import PictureError, SettingsError
from studio.safety.asgi import App, Message, Receive, Scope, Send, get_api_route, get_header, refuse
from studio.safety.events import NAMED
from studio.safety.files import ServedFolders
from studio.safety.known import CONTENT
from studio.safety.limits import ClientLimits
from studio.safety.uploads import check_picture

__all__ = ["PayloadGuard", "check_payload"]

_FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")
_TAKE_FORMS = ("upload", "component_server")  # on any other route gradio fails on a form that is no text
_LARGE = 256 * 1024  # above this the text is parsed in a thread, not in the event loop
_PICTURE_DATA = "data:image/"
_EVENT_NAMES = ("session_hash", "event_id")


class PayloadGuard:
    """Answers 400 to a request that names a file of its own choosing.

    Args:
        app: what is guarded.
        folders: where an uploaded or example file may lie.
        limits: the cap on the pixels of a picture inside the request.
        may_read: whether whoever sent a request may see a file of the results, and so name it.
    """

    def __init__(
        self,
        app: App,
        folders: ServedFolders,
        limits: ClientLimits,
        may_read: Callable[[Scope, Path], bool] = lambda *_: False,
    ):
        self._app, self._folders, self._limits, self._may_read = app, folders, limits, may_read

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = (get_header(scope, "content-type") or "").lower()
        is_call = scope["type"] == "http" and scope["method"] == "POST" and get_api_route(scope)
        is_form = kind.startswith(_FORMS)
        if not is_call or (is_form and is_call.startswith(_TAKE_FORMS)):
            await self._app(scope, receive, send)
            return
        if is_form:
            await refuse(
                scope, send, 415, "This address takes JSON, and the request is a form. Send it as application/json."
            )
            return
        body = await _read_body(receive)
        if body is None:
            return
        try:
            is_large = len(body) > _LARGE
            content = await asyncio.to_thread(self._check, scope, body) if is_large else self._check(scope, body)
        except SettingsError as error:
            await refuse(scope, send, 400, str(error))
            return
        scope[CONTENT] = content
        if isinstance(content, dict):
            scope[NAMED] = {name: content[name] for name in _EVENT_NAMES if isinstance(content.get(name), str)}
        await self._app(scope, _replay(body, receive), send)

    def _check(self, scope: Scope, body: bytes) -> Any:
        """The request's JSON, None where there is none.

        Raises:
            SettingsError, PictureError: see `check_payload`.
        """
        if not body.strip():
            return None
        try:
            content = json.loads(body, parse_constant=_parse_finite, parse_float=_parse_finite)
        except SettingsError:
            raise
        except (ValueError, RecursionError) as error:
            raise SettingsError("The request is not readable JSON.") from error
        check_payload(content, self._folders, self._limits, lambda path: self._may_read(scope, path))
        return content


def _parse_finite(text: str) -> float:
    """Read a number of the JSON. Python reads NaN and 1e999, with which FastAPI cannot write its answer."""
    if not math.isfinite(number := float(text)):
        raise SettingsError(f"The request holds the number {text[:20]}. Send finite ones.")
    return number


def check_payload(
    content: object,
    folders: ServedFolders,
    limits: ClientLimits,
    may_read: Callable[[Path], bool] = lambda path: False,
) -> None:
    """Checks every file that a request's JSON names, at any depth.

    Args:
        content: the parsed JSON.
        folders: where the files may lie.
        limits: the cap on the pixels of a picture inside the JSON.
        may_read: whether a file of the results may be named.

    Raises:
        SettingsError: a `path` is no file that was uploaded here, or a `url` beside it leads
            elsewhere.
        PictureError: a picture inside the JSON cannot be used.
    """
    for record in _iter_records(content):
        path, url = record.get("path"), record.get("url")
        if isinstance(path, str):
            _check_path(path, folders, may_read)
        # Without a path a `url` is only text, except that a data URL is decoded.
        if isinstance(url, str) and url[:5].lower() == "data:":
            _check_data(url, limits)
        elif isinstance(url, str) and isinstance(path, str):
            _check_address(url, folders, may_read)


def _iter_records(content: object) -> Iterator[dict[str, Any]]:
    queue = [content]
    while queue:
        item = queue.pop()
        if isinstance(item, dict):
            yield item
            queue.extend(item.values())
        elif isinstance(item, list):
            queue.extend(item)


def _check_path(path: str, folders: ServedFolders, may_read: Callable[[Path], bool]) -> None:
    if not folders.is_input(path, may_read):
        raise SettingsError(
            f"The request names the file {path[:80]!r}, which was not uploaded here. Upload the file first."
        )


def _check_address(url: str, folders: ServedFolders, may_read: Callable[[Path], bool]) -> None:
    """`url` beside a path is what the page shows: our own address of an allowed file."""
    try:
        _, separator, path = unquote(urlsplit(url).path).partition("/gradio_api/file=")
    except ValueError:
        separator = path = ""
    if not separator or not folders.is_input(path, may_read):
        raise SettingsError(
            f"The request names the address {url[:80]!r}. Addresses are not fetched here: "
            "download the file and upload it."
        )


def _check_data(url: str, limits: ClientLimits) -> None:
    head, _, text = url.partition(",")
    if not head.lower().startswith(_PICTURE_DATA) or not head.lower().endswith(";base64"):
        raise PictureError(f"The picture comes as {head[:40]!r}. Use PNG, JPEG or WebP.")
    try:
        data = base64.b64decode(text)
    except (binascii.Error, ValueError) as error:
        raise PictureError("The picture inside the request is not readable.") from error
    check_picture(io.BytesIO(data), limits.picture_pixels)


async def _read_body(receive: Receive) -> bytes | None:
    """The body, or None where the client left before its end."""
    chunks: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        chunks.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(chunks)


def _replay(body: bytes, receive: Receive) -> Receive:
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return pending.pop() if pending else await receive()

    return receive_again
