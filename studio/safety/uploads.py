"""Uploads are pictures and clips, by their content, with their pixels counted before decoding."""

from __future__ import annotations

import asyncio
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from pipelines.core.errors import PictureError
from studio.safety.asgi import App, Message, Receive, Scope, Send, get_api_route, get_header, refuse
from studio.safety.limits import MIB, ClientLimits

__all__ = ["UploadGuard", "check_picture", "check_upload"]

# Only these of Pillow's readers ever see a stranger's file.
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "AVIF")
_SIDE = 32_768
_STILL_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"mif1", b"msf1")  # pictures in an MP4 box


def check_picture(source: Path | BinaryIO, max_pixels: int) -> tuple[int, int]:
    """Reads the size of a picture without decoding it.

    Args:
        source: file or open stream.
        max_pixels: the most that width x height may be.

    Returns:
        Width and height in pixels.

    Raises:
        PictureError: it is no picture of a kind we read, or it has too many pixels.
    """
    from PIL import Image

    too_large = f"The picture has more than {max_pixels / 1e6:.0f} megapixels. Make it smaller."
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(source, formats=_FORMATS) as picture:
                width, height = picture.size
    except Image.DecompressionBombError as error:
        raise PictureError(too_large) from error
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise PictureError("The file is not a readable picture. Use PNG, JPEG, WebP, GIF or AVIF.") from error
    if width * height > max_pixels:
        raise PictureError(too_large)
    if max(width, height) > _SIDE:
        raise PictureError(f"The picture is {width} x {height}. No side may exceed {_SIDE} pixels.")
    return width, height


def _is_clip(path: Path) -> bool:
    with path.open("rb") as stream:
        head = stream.read(12)
    is_mp4 = head[4:8] == b"ftyp" and head[8:12] not in _STILL_BRANDS
    is_matroska = head[:4] == b"\x1a\x45\xdf\xa3"
    return is_mp4 or is_matroska or (head[:4] == b"RIFF" and head[8:12] == b"AVI ")


def check_upload(path: Path, limits: ClientLimits) -> None:
    """Checks one uploaded file by its content; its name says nothing.

    Args:
        path: where gradio stored it.
        limits: the caps.

    Raises:
        PictureError: it is neither a picture nor a clip, or it is too large.
    """
    size = path.stat().st_size
    if size > limits.upload_bytes:
        raise PictureError(f"The file has {size / MIB:.0f} MiB; at most {limits.upload_bytes / MIB:.0f} are taken.")
    if not _is_clip(path):
        check_picture(path, limits.picture_pixels)


class UploadGuard:
    """Looks at what gradio stored before the page may use it, and deletes what it may not.

    Args:
        app: what is guarded.
        limits: the caps.
        folder: where uploads are stored.
        count_stored: called with the bytes of each accepted upload; returns False where the folder
            is full.
        reserve: called with the bytes of an upload before it is written, and with the same negated
            when it is done; returns False where there is no room for them.
    """

    def __init__(
        self,
        app: App,
        limits: ClientLimits,
        folder: Path,
        count_stored: Callable[[int], bool],
        reserve: Callable[[int], bool] = lambda count: True,
    ):
        self._app, self._limits, self._folder = app, limits, folder
        self._count_stored, self._reserve_bytes = count_stored, reserve

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_upload = scope["type"] == "http" and get_api_route(scope) == "upload"
        if not is_upload or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        announced = get_header(scope, "content-length") or ""
        reserved = int(announced) if announced.isdecimal() else self._limits.upload_bytes
        full = await asyncio.to_thread(self._reserve, reserved)
        if full:
            await refuse(scope, send, 507, full)
            return
        answer = _HeldAnswer(send)
        try:
            await self._app(scope, receive, answer.send)
            problem = await asyncio.to_thread(self._find_problem, answer) if answer.is_success else None
        finally:
            self._reserve_bytes(-reserved)
        if problem:
            await refuse(scope, send, 415, problem)
        else:
            await answer.release()

    def _reserve(self, count: int) -> str | None:
        """Take room for an upload before it is written, or say why there is none."""
        if shutil.disk_usage(self._folder).free - count < self._limits.free_bytes:
            return "The server's disk is full. Delete results or models, then upload again."
        if not self._count_stored(0) or not self._reserve_bytes(count):
            return "The server's temporary folder is full. Try again in some minutes."
        return None

    def _find_problem(self, answer: _HeldAnswer) -> str | None:
        paths = [Path(name) for name in json.loads(answer.body)]
        try:
            for path in paths:
                check_upload(path, self._limits)
        except PictureError as error:
            for path in paths:
                path.unlink(missing_ok=True)
            return str(error)
        self._count_stored(sum(path.stat().st_size for path in paths))
        return None


class _HeldAnswer:
    """An answer that waits for our verdict. Upload answers are short lists of names."""

    def __init__(self, send: Send):
        self._send = send
        self._messages: list[Message] = []

    async def send(self, message: Message) -> None:
        self._messages.append(message)

    @property
    def is_success(self) -> bool:
        return bool(self._messages) and self._messages[0].get("status") == 200

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self._messages[1:])

    async def release(self) -> None:
        for message in self._messages:
            await self._send(message)
