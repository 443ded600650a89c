"""Results in the store with what they were made with: pictures and clips."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
from PIL import Image

from pipelines.core.types import Request, Traits
from pipelines.models.catalog import Catalog
from pipelines.workflows.video.request import VideoRequest
from studio.jobs.job import Job
from studio.media.clips import SUFFIXES, encode_clip, encode_poster
from studio.results.described import describe_result, find_typed_prompts_of_job
from studio.results.store import Store

__all__ = ["ResultSaver"]


class ResultSaver:
    """Saves pictures and clips with their settings.

    Args:
        catalog: names the models.
        store: of the results.
        traits: what methods ask of a model, as far as it is known.
        release: from pictures of a model to those that may be stored. Tasks have shown them released already; here no
            task can forget it.
    """

    def __init__(
        self,
        catalog: Catalog,
        store: Store,
        traits: Callable[[str], Traits | None],
        release: Callable[[np.ndarray, str], np.ndarray],
    ):
        self._catalog, self._store, self._traits, self._release = catalog, store, traits, release

    def save_picture(
        self,
        image: np.ndarray,
        request: Request,
        job: Job,
        index: int = 0,
        figures: Mapping[str, object] | None = None,
        unread: Collection[str] = (),
        drawn: tuple[int, int] | None = None,
    ) -> str:
        """Store one finished picture (H, W, 3), uint8, with its settings inside; returns its id.

        Args:
            unread: methods of the request that its model took no notice of, which the file must not claim.
            drawn: (width, height) that the request drew; by default the picture's own.

        Raises:
            StoreError: it cannot be written.
        """
        image = self._release(image[None], request.model)[0]
        width, height = drawn or (image.shape[1], image.shape[0])
        metadata, parameters = self._describe(request.replace(width=width, height=height), figures, unread, job)
        record = self._store.save(
            Image.fromarray(image), metadata, parameters, kind=job.task, job=job.id, index=index, owner=job.owner
        )
        return record.id

    def encode_clip(self, frames: np.ndarray, request: VideoRequest) -> bytes:
        """Encode a finished clip (F, H, W, 3), uint8, as a file with its settings inside.

        Raises:
            StoreError: it cannot be written in this format.
        """
        frames = self._release(frames, request.base.model)
        return encode_clip(frames, request.fps, request.format, self._describe(request.base, None, request.unread)[1])

    def save_clip(
        self,
        data: bytes,
        frames: np.ndarray,
        request: VideoRequest,
        job: Job,
        figures: Mapping[str, object] | None = None,
    ) -> str:
        """Store one finished clip, the file that `encode_clip` made of its frames, with its settings beside it; returns
        its id.

        Raises:
            StoreError: it cannot be written.
        """
        metadata, parameters = self._describe(request.base, figures, request.unread, job)
        poster = encode_poster(self._release(frames[:1], request.base.model)[0])
        metadata |= {"animate": request.to_json(), "poster": poster}
        size = (frames.shape[2], frames.shape[1])
        record = self._store.save_bytes(
            data, SUFFIXES[request.format], metadata, parameters, kind="video", job=job.id, owner=job.owner, size=size
        )
        return record.id

    def _describe(
        self,
        request: Request,
        figures: Mapping[str, object] | None,
        unread: Collection[str] = (),
        job: Job | None = None,
    ) -> tuple[dict[str, Any], str]:
        """A result's metadata, and the same as text."""
        label, traits = self._catalog[request.model].label, self._traits(request.model)
        typed = find_typed_prompts_of_job(request, job) if job else {}
        return describe_result(request, label, traits, figures, unread, typed)
