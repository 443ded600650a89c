"""Image to image: the picture noised part of the way, and denoised with another prompt."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

from pipelines.core.registry import setting
from pipelines.core.sampler import Sampler
from pipelines.edits.base import EditContext, UnpatchedEdit

__all__ = ["ImageToImage", "ImageToImageSettings"]


@dataclasses.dataclass(frozen=True)
class ImageToImageSettings:
    strength: float = setting(
        0.6,
        "Share of the steps that are run: 0 keeps the picture, 1 all but forgets it.",
        low=0,
        high=1,
        step=0.05,
        label="Denoising strength",
    )


class ImageToImage(UnpatchedEdit):
    """Runs SDEdit with a text-to-image model.

    Source: Meng et al., SDEdit, arXiv:2108.01073, algorithm 1.
    """

    def __init__(self, settings: ImageToImageSettings = ImageToImageSettings()):
        self.strength = settings.strength

    @contextlib.contextmanager
    def applied(self, context: EditContext) -> Iterator[Sampler]:
        yield context.sampler
