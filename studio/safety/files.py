"""Only the temporary folder, the results and our own example files are served.

Gradio's `file=` route fetches any public address for anybody and serves whole allowed folders,
the index of the results with the pictures. And a handler that returns a person's text to a file
component copies any file below the working folder or the system's temporary folder to where it
is served.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from studio.results.files import NAME
from studio.safety.asgi import App, Message, Receive, Scope, Send, get_api_route, refuse

__all__ = ["MEDIA_SUFFIXES", "FileGuard", "ServedFolders", "list_blocked_around", "list_blocked_paths"]

MEDIA_SUFFIXES = frozenset(
    [
        ".png",
        ".jpg",
        ".jpeg",
        ".webp",
        ".gif",
        ".avif",
        ".mp4",
        ".webm",
        ".mov",
        ".mkv",
        ".csv",
        ".json",
        ".txt",
        ".zip",
    ]
)

TRASH = "trash"
"""Folder of the deleted results in that of the results."""

# Routes of gradio that nothing here uses: a fetcher, an editor of the source code, an encoder of
# uploaded recordings, a reload signal that wakes twenty times a second.
_CLOSED = ("proxy=", "vibe-", "undo-vibe-edit", "process_recording", "dev/", "run-history/", "runs")


@dataclass(frozen=True)
class ServedFolders:
    """Decides which files may leave, and which may be named by a request.

    Args:
        temp: gradio's temporary folder: uploads, and copies of what handlers return.
        outputs: the results; only media files in it are served.
        assets: folders of ours with examples and styles.
    """

    temp: Path
    outputs: Path | None = None
    assets: tuple[Path, ...] = field(default=())

    def is_served(self, path: str) -> bool:
        """Say whether the file route may answer with this file.

        Args:
            path: as the request names it.

        Returns:
            True where the file itself, with every link followed, lies in a served folder.
        """
        real = _resolve_file(path)
        if real is None:
            return False
        if _is_visible_in(real, self.temp) or any(_is_visible_in(real, f) for f in self.assets):
            return True
        return self.is_result(real)

    def is_result(self, real: Path) -> bool:
        """Say whether a file is a media file of the results that was not deleted.

        Args:
            real: with every link followed.
        """
        if self.outputs is None or real.suffix.lower() not in MEDIA_SUFFIXES:
            return False
        return _is_visible_in(real, self.outputs) and not real.is_relative_to(self.outputs.resolve() / TRASH)

    def names_result(self, path: str) -> bool:
        """Say whether a path is one that a result has or had, whether or not there is such a file.

        Args:
            path: as the request names it.
        """
        if self.outputs is None or not NAME.match(os.path.basename(path)) or "\0" in path:
            return False
        return Path(os.path.normpath(path)).is_relative_to(self.outputs.resolve())

    def is_input(self, path: str, may_read: Callable[[Path], bool] = lambda path: False) -> bool:
        """Say whether a request may name this file as an input.

        Args:
            path: as the request names it.
            may_read: whether whoever names it may see a file of the results.

        Returns:
            True for files in the temporary folder (uploads), in our own example folders, and for results that whoever
            asks may see.
        """
        real = _resolve_file(path)
        if real is None:
            return False
        if any(_is_visible_in(real, folder) for folder in (self.temp, *self.assets)):
            return True
        return self.is_result(real) and may_read(real)


def _resolve_file(path: str) -> Path | None:
    """The file with every link followed; None for addresses, relative paths and no file."""
    try:
        requested = Path(path)
        if not requested.is_absolute() or ".." in requested.parts or "\0" in path:
            return None
        real = requested.resolve(strict=True)
        return real if real.is_file() else None
    except (OSError, ValueError, RuntimeError):
        return None


def _is_visible_in(real: Path, folder: Path) -> bool:
    try:
        inside = real.relative_to(folder.resolve())
    except ValueError:
        return False
    return not any(part.startswith(".") for part in inside.parts)


class FileGuard:
    """Answers 403 to a file that is not ours to give, 404 to routes that are closed and to results that are not there.

    A result that was deleted, one of somebody else and one that never was have the same answer.

    Args:
        app: what is guarded.
        folders: what is served.
        may_read: whether whoever sent a request may see a file of the results; called in a thread.
    """

    def __init__(self, app: App, folders: ServedFolders, may_read: Callable[[Scope, Path], bool] = lambda *_: True):
        self._app, self._folders, self._may_read = app, folders, may_read

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = get_api_route(scope) if scope["type"] == "http" else None
        if route is None:
            await self._app(scope, receive, send)
            return
        if route.startswith(_CLOSED):
            await refuse(scope, send, 404, "Not found.")
            return
        if not route.startswith(("file=", "file/")):
            await self._app(scope, receive, send)
            return
        if not await asyncio.to_thread(self._is_served, scope, route[5:]):
            if self._folders.names_result(route[5:]):
                await refuse(scope, send, 404, "There is no such result.")
            else:
                await refuse(scope, send, 403, "This file is not served.")
            return
        await self._app(scope, receive, _sandbox(send))

    def _is_served(self, scope: Scope, path: str) -> bool:
        if not self._folders.is_served(path):
            return False
        real = _resolve_file(path)
        return real is not None and (not self._folders.is_result(real) or self._may_read(scope, real))


def _sandbox(send: Send) -> Send:
    """A served file that is opened as a page runs no script, whatever is in it."""

    async def send_sandboxed(message: Message) -> None:
        if message["type"] == "http.response.start":
            policy = (b"content-security-policy", b"sandbox")
            message["headers"] = [*message.get("headers", ()), policy]
        await send(message)

    return send_sandboxed


def list_blocked_around(folder: Path, keep: Iterable[Path]) -> list[Path]:
    """List the parts of a folder that hold nothing to keep.

    Args:
        folder: existing folder.
        keep: folders that must stay reachable.

    Returns:
        The folder itself where no kept one is in it; nothing where it is, or is in, a kept one;
        else its entries, looked into in the same way. Links are left out, and files that come
        later are not listed.
    """
    if folder.is_symlink():
        return []  # gradio follows links before it compares
    return _list_around(folder.resolve(), [path.resolve() for path in keep])


def _list_around(folder: Path, keep: list[Path]) -> list[Path]:
    """As `list_blocked_around`, of resolved paths. A temporary folder may have thousands of entries: nothing is asked
    about an entry that holds nothing to keep but whether it is a link."""
    if any(folder.is_relative_to(path) for path in keep):
        return []
    if not (inside := [path for path in keep if path.is_relative_to(folder)]):
        return [folder]
    ways = {path.parts[len(folder.parts)] for path in inside}
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if not entry.is_symlink())
    return [
        part for name in names for part in (_list_around(folder / name, inside) if name in ways else [folder / name])
    ]


def list_blocked_paths(folders: ServedFolders, source: Path) -> list[str]:
    """List what gradio must not copy to where it is served, although it would.

    Args:
        folders: what is served.
        source: the folder of `app.py`.

    Returns:
        Absolute paths for `launch(blocked_paths=...)`: the working folder, the source tree and
        the system's temporary folder, as far as they hold nothing that is served.
    """
    keep = [folders.temp, *folders.assets, *([folders.outputs] if folders.outputs else [])]
    roots = {Path.cwd().resolve(), source.resolve(), Path(tempfile.gettempdir()).resolve()}
    return [str(path) for root in sorted(roots) for path in list_blocked_around(root, keep)]
