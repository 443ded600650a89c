"""Stored results by their ids: what the page shows is fetched here, so that no path of this machine reaches a browser.

    GET  stepwise/results/{id}           the file, in parts where that is asked for, as a player does;
                                         with ?name={date} {prompt}, to be saved under a name of this pattern
    GET  stepwise/results/{id}/small     a small picture of it
    GET  stepwise/trash/{id}             the same of a deleted result, which answers 404 everywhere else
    GET  stepwise/trash/{id}/small
    GET  stepwise/archives/{token}/{name}

The routes stand behind the same guards as Gradio's. Programs are given Gradio's own form of a file, which holds its
path: gradio_client fetches no other. Where people sign in, another's result is answered as one that there is not.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from pipelines.core.errors import StepwiseError
from studio.results.archives import THUMBNAILS, make_thumbnail
from studio.results.file_names import build_file_name
from studio.safety.files import MEDIA_SUFFIXES

if TYPE_CHECKING:
    from studio.backend import Studio
    from studio.results.store import Record, Store

__all__ = ["build_address", "build_archive_address", "build_record_address", "build_result_routes", "find_address"]

_KINDS = {".webp": "image/webp", ".mp4": "video/mp4", ".csv": "text/csv"}
"""What Python's own table lacks in some versions or on some systems."""

_HEADERS = {"content-security-policy": "sandbox", "cache-control": "private, no-cache"}
"""Opened as a page it runs no script; a cached one is asked for again, since it may have been deleted."""

_TOKEN, _NAME = re.compile(r"[0-9a-f]{32}\Z"), re.compile(r"[\w-]{1,80}\.(zip|mp4|webp|gif)\Z", re.ASCII)


def build_address(result: str) -> str:
    """Return where a result is fetched, below the page's own address."""
    return f"stepwise/results/{result}"


def build_record_address(record: Record) -> str:
    """Return where a result, deleted or not, is fetched."""
    return build_address(record.id) if record.trashed is None else f"stepwise/trash/{record.id}"


def find_address(store: Store, result: str) -> str | None:
    """Return where a result is fetched, or None where it was deleted."""
    try:
        record = store.get(result)
    except StepwiseError:
        return None
    return build_address(result) if record.trashed is None else None


def build_archive_address(path: Path) -> str:
    """Return where an archive or an exported clip is fetched: it has a folder of its own in the temporary folder."""
    return f"stepwise/archives/{path.parent.name}/{path.name}"


def build_result_routes(studio: Studio, temp: Path) -> list[Route]:
    """Build the routes, to stand before Gradio's own.

    Args:
        studio: whose results.
        temp: the page's temporary folder.
    """

    def find_record(request: Request, trashed: bool) -> Record | None:
        try:
            record = studio.results(studio.people.person(request.scope)).get(request.path_params["id"])
        except StepwiseError:
            return None
        return record if (record.trashed is not None) == trashed else None

    def serve_whole(trashed: bool) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            record = await to_thread.run_sync(find_record, request, trashed)
            if record is None or "name" not in request.query_params:
                return _send_file(None if record is None else record.path)
            try:
                return _send_file(record.path, build_file_name(request.query_params["name"], record))
            except StepwiseError as error:
                return JSONResponse({"detail": str(error)}, 422)

        return answer

    def serve_small(trashed: bool) -> Callable[[Request], Awaitable[Response]]:
        def find_thumbnail(request: Request) -> Path | None:
            record = find_record(request, trashed)
            return None if record is None else make_thumbnail(record, temp / THUMBNAILS)

        async def answer(request: Request) -> Response:
            return _send_file(await to_thread.run_sync(find_thumbnail, request))

        return answer

    async def serve_archive(request: Request) -> Response:
        token, name = request.path_params["token"], request.path_params["name"]
        return _send_file(temp / token / name if _TOKEN.match(token) and _NAME.match(name) else None)

    routes = {
        "results/{id}": serve_whole(False),
        "results/{id}/small": serve_small(False),
        "trash/{id}": serve_whole(True),
        "trash/{id}/small": serve_small(True),
        "archives/{token}/{name}": serve_archive,
    }
    return [Route(f"/stepwise/{path}", answer, methods=["GET"]) for path, answer in routes.items()]


def _send_file(path: Path | None, name: str = "") -> Response:
    """The file, to be shown; or, under a name of its own, to be saved."""
    if path is None or path.suffix.lower() not in MEDIA_SUFFIXES or not path.is_file():
        return JSONResponse({"detail": "There is no such result: it may have been deleted; reload the gallery."}, 404)
    kind = _KINDS.get(path.suffix.lower())
    use = "attachment" if name else "inline"
    return FileResponse(
        path, headers=_HEADERS, media_type=kind, filename=name or path.name, content_disposition_type=use
    )
