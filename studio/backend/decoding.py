"""A step of a finished run as pictures, sharp where the model is still in memory."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np

from pipelines.core.errors import SettingsError
from pipelines.core.types import Request
from pipelines.models.catalog import Catalog
from pipelines.models.extras import Extras
from pipelines.models.load_request import LoadRequest
from pipelines.models.loader import Loader
from pipelines.requests.extras import find_extras
from studio.jobs.job import Frame, Job
from studio.jobs.local_engine import LocalEngine
from studio.jobs.sharp_frames import SharpFrames
from studio.tasks.recording import decode_sharp

__all__ = ["FrameDecoder"]


class FrameDecoder:
    """Decodes the latents of a step while the device is idle; keeps the pictures that it decoded last.

    Args:
        catalog: the models that there are.
        loaders: of each device; some have models in memory.
        engine: says whether a device is idle.
        release: from pictures of a model to those that may be shown.
    """

    def __init__(
        self,
        catalog: Catalog,
        loaders: Sequence[Loader],
        engine: LocalEngine,
        release: Callable[[np.ndarray, str], np.ndarray],
    ):
        self._catalog, self._loaders, self._engine, self._release = catalog, loaders, engine, release
        self._frames = SharpFrames()

    def decode(self, job: Job, cell: int, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the noisy latents and the estimate of x0, each (B, H, W, 3), uint8: see `Studio.decode_frame`.

        Raises:
            SettingsError: the job has no such step.
        """
        cells = job.view().cells
        if not (0 <= cell < len(cells) and 0 <= step < len(cells[cell].frames)):
            raise SettingsError(f"This run has no step {step + 1}.")
        frame, model = cells[cell].frames[step], getattr(job.request, "model", "")
        extras = find_extras(job.request) if isinstance(job.request, Request) else Extras()
        extras = dataclasses.replace(extras, companions=())  # they decode nothing
        pictures = None
        if frame.latents is not None and model in self._catalog:
            for loader in self._loaders:
                if pictures is None and loader.loaded(model):
                    pictures = self._frames.get(
                        (job.id, cell, step), functools.partial(self._decode_sharp, frame, model, loader, extras)
                    )
        return pictures or (frame.noisy, frame.denoised)

    def _decode_sharp(
        self, frame: Frame, model: str, loader: Loader, extras: Extras
    ) -> tuple[np.ndarray, np.ndarray] | None:
        def decode() -> tuple[np.ndarray, np.ndarray]:
            with loader.model(model, request=LoadRequest(extras)) as family:
                noisy, denoised = decode_sharp(frame, family)
            return self._release(noisy, model), self._release(denoised, model)

        return self._engine.run_if_idle(decode, loader.device)
