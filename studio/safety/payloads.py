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
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote, urlsplit

from pipelines.core.errors import PictureError, SettingsError
from studio.safety.asgi import App, Message, Receive, Scope, Send, api_route, header, refuse
from studio.safety.files import ServedFolders
from studio.safety.limits import Limits
from studio.safety.uploads import check_picture

__all__ = ["PayloadGuard", "check_payload"]

_FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")
_TAKE_FORMS = ("upload", "component_server")  # on any other route gradio fails on a form that is no text
_LARGE = 256 * 1024  # above this the text is parsed in a thread, not in the event loop
_PICTURE_DATA = "data:image/"


class PayloadGuard:
    """Answers 400 to a request that names a file of its own choosing.

    Args:
        app: what is guarded.
        folders: where an uploaded or example file may lie.
        limits: the cap on the pixels of a picture inside the request.
    """

    def __init__(self, app: App, folders: ServedFolders, limits: Limits):
        self._app, self._folders, self._limits = app, folders, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = (header(scope, "content-type") or "").lower()
        is_call = scope["type"] == "http" and scope["method"] == "POST" and api_route(scope)
        is_form = kind.startswith(_FORMS)
        if not is_call or (is_form and is_call.startswith(_TAKE_FORMS)):
            await self._app(scope, receive, send)
            return
        if is_form:
            await refuse(
                scope, send, 415, "This address takes JSON, and the request is a form. Send it as application/json."
            )
            return
        body = await _whole_body(receive)
        if body is None:
            return
        try:
            if len(body) > _LARGE:
                await asyncio.to_thread(self._check, body)
            else:
                self._check(body)
        except SettingsError as error:
            await refuse(scope, send, 400, str(error))
            return
        await self._app(scope, _replay(body, receive), send)

    def _check(self, body: bytes) -> None:
        if not body.strip():
            return
        try:
            content = json.loads(body, parse_constant=_finite, parse_float=_finite)
        except SettingsError:
            raise
        except (ValueError, RecursionError) as error:
            raise SettingsError("The request is not readable JSON.") from error
        check_payload(content, self._folders, self._limits)


def _finite(text: str) -> float:
    """A number of the JSON. Python reads NaN and 1e999, and FastAPI's answer to a wrong request cannot be written with one."""
    if not math.isfinite(number := float(text)):
        raise SettingsError(f"The request holds the number {text[:20]}. Send finite ones.")
    return number


def check_payload(content: Any, folders: ServedFolders, limits: Limits) -> None:
    """Checks every file that a request's JSON names, at any depth.

    Args:
        content: the parsed JSON.
        folders: where the files may lie.
        limits: the cap on the pixels of a picture inside the JSON.

    Raises:
        SettingsError: a `path` is no file that was uploaded here, or a `url` beside it leads
            elsewhere.
        PictureError: a picture inside the JSON cannot be used.
    """
    for record in _records(content):
        path, url = record.get("path"), record.get("url")
        if isinstance(path, str):
            _check_path(path, folders)
        # Without a path a `url` is only text, except that a data URL is decoded.
        if isinstance(url, str) and url[:5].lower() == "data:":
            _check_data(url, limits)
        elif isinstance(url, str) and isinstance(path, str):
            _check_address(url, folders)


def _records(content: Any) -> Iterator[dict[str, Any]]:
    waiting = [content]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            yield item
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)


def _check_path(path: str, folders: ServedFolders) -> None:
    if not folders.is_input(path):
        raise SettingsError(
            f"The request names the file {path[:80]!r}, which was not uploaded here. Upload the file first."
        )


def _check_address(url: str, folders: ServedFolders) -> None:
    """`url` beside a path is what the page shows: our own address of an allowed file."""
    try:
        _, found, path = unquote(urlsplit(url).path).partition("/gradio_api/file=")
    except ValueError:
        found = path = ""
    if not found or not folders.is_input(path):
        raise SettingsError(
            f"The request names the address {url[:80]!r}. Addresses are not fetched here: "
            "download the file and upload it."
        )


def _check_data(url: str, limits: Limits) -> None:
    head, _, text = url.partition(",")
    if not head.lower().startswith(_PICTURE_DATA) or not head.lower().endswith(";base64"):
        raise PictureError(f"The picture comes as {head[:40]!r}. Use PNG, JPEG or WebP.")
    try:
        data = base64.b64decode(text)
    except (binascii.Error, ValueError) as error:
        raise PictureError("The picture inside the request is not readable.") from error
    check_picture(io.BytesIO(data), limits.picture_pixels)


async def _whole_body(receive: Receive) -> bytes | None:
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
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return waiting.pop() if waiting else await receive()

    return replayed
