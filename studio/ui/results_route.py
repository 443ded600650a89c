"""Stored results by their ids: what the page shows is fetched here, so that no path of this machine reaches a browser.

    GET  stepwise/results/{id}           the file, in parts where that is asked for, as a player does
    GET  stepwise/results/{id}/small     a small picture of it
    GET  stepwise/archives/{token}/{name}

The routes stand behind the same guards as Gradio's. Programs are given Gradio's own form of a file, which holds its path:
gradio_client fetches no other.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from pipelines.core.errors import StepwiseError
from studio.results.archives import thumbnail
from studio.safety.files import MEDIA_SUFFIXES

if TYPE_CHECKING:
    from studio.backend import Studio
    from studio.results.store import Store

__all__ = ["address", "address_of", "archive_address", "result_routes"]

_KINDS = {".webp": "image/webp", ".mp4": "video/mp4", ".csv": "text/csv"}
"""What Python's own table lacks in some versions or on some systems."""

_HEADERS = {"content-security-policy": "sandbox", "cache-control": "private, no-cache"}
"""Opened as a page it runs no script; a cached one is asked for again, since it may have been deleted."""

_TOKEN, _NAME = re.compile(r"[0-9a-f]{32}\Z"), re.compile(r"[\w-]{1,80}\.(zip|mp4|webp|gif)\Z", re.ASCII)


def address(result: str) -> str:
    """Where a result is fetched, below the page's own address."""
    return f"stepwise/results/{result}"


def address_of(store: Store, result: str) -> str | None:
    """The same, or None where the result was deleted for good."""
    try:
        store.get(result)
    except StepwiseError:
        return None
    return address(result)


def archive_address(path: Path) -> str:
    """Where an archive or an exported clip is fetched, which lies in a folder of its own in the page's temporary folder."""
    return f"stepwise/archives/{path.parent.name}/{path.name}"


def result_routes(studio: Studio, temp: Path) -> list[Route]:
    """The routes, to stand before Gradio's own.

    Args:
        studio: whose results.
        temp: the page's temporary folder.
    """

    async def whole(request: Request) -> Response:
        return _sent(await to_thread.run_sync(_stored, request.path_params["id"]))

    async def small(request: Request) -> Response:
        return _sent(await to_thread.run_sync(_small, request.path_params["id"]))

    async def archive(request: Request) -> Response:
        token, name = request.path_params["token"], request.path_params["name"]
        return _sent(temp / token / name if _TOKEN.match(token) and _NAME.match(name) else None)

    def _stored(result: str) -> Path | None:
        try:
            return studio.store.get(result).path
        except StepwiseError:
            return None

    def _small(result: str) -> Path | None:
        try:
            return thumbnail(studio.store.get(result), temp / "thumbnails")
        except StepwiseError:
            return None

    routes = {"results/{id}": whole, "results/{id}/small": small, "archives/{token}/{name}": archive}
    return [Route(f"/stepwise/{path}", answer, methods=["GET"]) for path, answer in routes.items()]


def _sent(path: Path | None) -> Response:
    suffix = "" if path is None else path.suffix.lower()
    if suffix not in MEDIA_SUFFIXES or not path.is_file():
        return JSONResponse({"detail": "There is no such result: it may have been deleted; reload the gallery."}, 404)
    return FileResponse(
        path, headers=_HEADERS, media_type=_KINDS.get(suffix), filename=path.name, content_disposition_type="inline"
    )
