"""Plain noise: where every run of a diffusion model begins by default."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch

from pipelines.core.registry import NoSettings
from pipelines.core.sampler import Sampler
from pipelines.core.schedule import Level
from pipelines.initializations.base import Beginning, StartContext

__all__ = ["PlainNoise"]


class PlainNoise:
    """Takes the noise itself, and the whole schedule."""

    most_pictures: ClassVar[int] = 0

    def __init__(self, settings: NoSettings = NoSettings()):
        pass

    def begin(self, latents: torch.Tensor, levels: Sequence[Level], context: StartContext) -> Beginning:
        return latents, levels
        yield  # a generator without a question

    def list_files(self, num_steps: int) -> Sequence[str]:
        return ()

    def remaining_steps(self, num_steps: int) -> int:
        return num_steps

    def nfe(self, num_steps: int, sampler: Sampler, ends_clean: bool = True) -> int:
        return sampler.nfe(num_steps, ends_clean)
