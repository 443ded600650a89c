"""Only the temporary folder, the results and our own example files are served.

Gradio's `file=` route fetches any public address for anybody and serves whole allowed folders,
the index of the results with the pictures. And a handler that returns a person's text to a file
component copies any file below the working folder or the system's temporary folder to where it
is served.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from studio.safety.asgi import App, Message, Receive, Scope, Send, api_route, refuse

__all__ = ["MEDIA_SUFFIXES", "FileGuard", "ServedFolders", "blocked_around", "blocked_paths"]

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

# Routes of gradio that nothing here uses: a fetcher, an editor of the source code, an encoder of
# uploaded recordings, a reload signal that wakes twenty times a second.
_CLOSED = ("proxy=", "vibe-", "undo-vibe-edit", "process_recording", "dev/", "run-history/", "runs")


@dataclass(frozen=True)
class ServedFolders:
    """Which files may leave, and which may be named by a request.

    Args:
        temp: gradio's temporary folder: uploads, and copies of what handlers return.
        outputs: the results; only media files in it are served.
        assets: folders of ours with examples and styles.
    """

    temp: Path
    outputs: Path | None = None
    assets: tuple[Path, ...] = field(default=())

    def is_served(self, path: str) -> bool:
        """Whether the file route may answer with this file.

        Args:
            path: as the request names it.

        Returns:
            True where the file itself, with every link followed, lies in a served folder.
        """
        found = _real_file(path)
        if found is None:
            return False
        if _is_visible_in(found, self.temp) or any(_is_visible_in(found, f) for f in self.assets):
            return True
        is_media = found.suffix.lower() in MEDIA_SUFFIXES
        return self.outputs is not None and is_media and _is_visible_in(found, self.outputs)

    def is_input(self, path: str) -> bool:
        """Whether a request may name this file as an input.

        Args:
            path: as the request names it.

        Returns:
            True for files in the temporary folder (uploads) and in our own example folders.
        """
        found = _real_file(path)
        return found is not None and any(_is_visible_in(found, folder) for folder in (self.temp, *self.assets))


def _real_file(path: str) -> Path | None:
    """The file with every link followed; None for addresses, relative paths and no file."""
    try:
        given = Path(path)
        if not given.is_absolute() or ".." in given.parts or "\0" in path:
            return None
        found = given.resolve(strict=True)
        return found if found.is_file() else None
    except (OSError, ValueError, RuntimeError):
        return None


def _is_visible_in(found: Path, folder: Path) -> bool:
    try:
        inside = found.relative_to(folder.resolve())
    except ValueError:
        return False
    return not any(part.startswith(".") for part in inside.parts)


class FileGuard:
    """Answers 403 to a file that is not ours to give, 404 to routes that are closed.

    Args:
        app: what is guarded.
        folders: what is served.
    """

    def __init__(self, app: App, folders: ServedFolders):
        self._app, self._folders = app, folders

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = api_route(scope) if scope["type"] == "http" else None
        if route is None:
            await self._app(scope, receive, send)
            return
        if route.startswith(_CLOSED):
            await refuse(scope, send, 404, "Not found.")
            return
        if not route.startswith(("file=", "file/")):
            await self._app(scope, receive, send)
            return
        if not self._folders.is_served(route[5:]):
            await refuse(scope, send, 403, "This file is not served.")
            return
        await self._app(scope, receive, _sandboxed(send))


def _sandboxed(send: Send) -> Send:
    """A served file that is opened as a page runs no script, whatever is in it."""

    async def guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            policy = (b"content-security-policy", b"sandbox")
            message["headers"] = [*message.get("headers", ()), policy]
        await send(message)

    return guarded


def blocked_around(folder: Path, keep: Iterable[Path]) -> list[Path]:
    """The parts of a folder that hold nothing to keep.

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
    folder, kept = folder.resolve(), [path.resolve() for path in keep]
    if any(folder.is_relative_to(path) for path in kept):
        return []
    inside = [path for path in kept if path.is_relative_to(folder)]
    if not inside:
        return [folder]
    return [part for entry in sorted(folder.iterdir()) for part in blocked_around(entry, inside)]


def blocked_paths(folders: ServedFolders, source: Path) -> list[str]:
    """What gradio must not copy to where it is served, although it would.

    Args:
        folders: what is served.
        source: the folder of `app.py`.

    Returns:
        Absolute paths for `launch(blocked_paths=...)`: the working folder, the source tree and
        the system's temporary folder, as far as they hold nothing that is served.
    """
    keep = [folders.temp, *folders.assets, *([folders.outputs] if folders.outputs else [])]
    roots = {Path.cwd().resolve(), source.resolve(), Path(tempfile.gettempdir()).resolve()}
    return [str(path) for root in sorted(roots) for path in blocked_around(root, keep)]
