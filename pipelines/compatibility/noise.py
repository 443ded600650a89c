"""Other programs' sources of noise: a generator a batch or a picture, of the CPU or of CUDA, and a Brownian path."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch

from pipelines.compatibility.brownian import BrownianPath
from pipelines.compatibility.philox import PhiloxGenerator
from pipelines.core.noise import NoiseSource
from pipelines.core.schedule import Level

__all__ = [
    "CPU",
    "CUDA",
    "GENERATORS",
    "BatchNoise",
    "CpuGenerator",
    "Generator",
    "PathNoise",
    "PathSigmas",
    "PictureNoise",
    "Rows",
]

CPU, CUDA = "CPU", "CUDA"
"""The devices whose generators programs draw from."""


class Generator(Protocol):
    """A generator draws normal numbers, float32 on the CPU, one call after another."""

    def randn(self, shape: Sequence[int]) -> torch.Tensor:
        """Draw a tensor of this shape."""

    def clone(self) -> Generator:
        """Make an independent generator that will draw the same numbers."""


class CpuGenerator:
    """A generator of PyTorch's on the CPU, seeded with any whole number up to 2^64 - 1."""

    def __init__(self, seed: int):
        self._generator = torch.Generator("cpu").manual_seed(seed)

    def randn(self, shape: Sequence[int]) -> torch.Tensor:
        """Draw float32 normal numbers."""
        return torch.randn(tuple(shape), generator=self._generator)

    def clone(self) -> CpuGenerator:
        """Make an independent generator that will draw the same numbers."""
        twin = CpuGenerator(0)
        twin._generator.set_state(self._generator.get_state())
        return twin


GENERATORS: dict[str, Callable[[int], Generator]] = {CPU: CpuGenerator, CUDA: PhiloxGenerator}
"""Device to a maker of its generators."""


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows say which pictures of a batch are wanted.

    Attributes:
        first: index of the first, from 0.
        wanted: how many.
        total: pictures of the whole batch, as it was drawn at once.
    """

    first: int
    wanted: int
    total: int

    def of(self, batch: torch.Tensor) -> torch.Tensor:
        """Take the wanted rows of (total, ...)."""
        return batch[self.first : self.first + self.wanted]


class BatchNoise(NoiseSource):
    """One generator for a whole batch, which draws all its pictures at once; only some are wanted.

    Args:
        generator: of the batch.
        rows: the wanted ones.
    """

    def __init__(self, generator: Generator, rows: Rows):
        self.generator, self.rows = generator, rows

    def __call__(self, like: torch.Tensor) -> torch.Tensor:
        return self.rows.of(self.generator.randn((self.rows.total, *like.shape[1:]))).to(like)

    def clone(self) -> BatchNoise:
        return BatchNoise(self.generator.clone(), self.rows)


class PictureNoise(NoiseSource):
    """A generator for each picture, each of which draws (C, h, w)."""

    def __init__(self, generators: Sequence[Generator]):
        self.generators = list(generators)

    def __call__(self, like: torch.Tensor) -> torch.Tensor:
        return torch.stack([one.randn(like.shape[1:]) for one in self.generators]).to(like)

    def clone(self) -> PictureNoise:
        return PictureNoise([one.clone() for one in self.generators])


class PathSigmas:
    """Holds the sigmas in which a run's path is walked: of a flow model its own, from 0 to 1, of others sigma / alpha.

    Args:
        levels: of the run.

    Attributes:
        ends: the least above 0 and the largest.
    """

    def __init__(self, levels: Sequence[Level]):
        noisy = [level for level in levels if level.sigma > 0]
        self._is_flow = all(math.isclose(level.alpha + level.sigma, 1, rel_tol=1e-6) for level in noisy)
        sigmas = [self.of(level) for level in noisy]
        self.ends = min(sigmas), max(sigmas)

    def of(self, level: Level) -> float:
        """Return the sigma of a level."""
        return level.sigma if self._is_flow else level.sigma_ve


class PathNoise(NoiseSource):
    """A source whose spans are increments of Brownian paths in sigma; other draws are another source's.

    Args:
        fresh: for draws without a span.
        seeds: one for each path.
        rows: the wanted ones of a batch that shares one path; None where each picture has a path of its own.
        sigmas: of the run.
        device: whose generators the path's numbers come from.

    Source: k-diffusion, `BrownianTreeNoiseSampler`; a path runs in sigma, and from high to low its sign turns.
    """

    follows_path = True

    def __init__(self, fresh: NoiseSource, seeds: Sequence[int], rows: Rows | None, sigmas: PathSigmas, device: str):
        self.fresh, self.seeds, self.rows, self.sigmas, self.device = fresh, tuple(seeds), rows, sigmas, device
        self._paths: list[BrownianPath] = []

    def __call__(self, like: torch.Tensor) -> torch.Tensor:
        return self.fresh(like)

    def between(self, like: torch.Tensor, level: Level, next_level: Level) -> torch.Tensor:
        high, low = np.float32(self.sigmas.of(level)), np.float32(self.sigmas.of(next_level))
        if not self._paths:
            shape = tuple(like.shape[1:]) if self.rows is None else (self.rows.total, *like.shape[1:])
            self._paths = [self._path(seed, shape) for seed in self.seeds]
        scale = float(np.sqrt(np.abs(low - high)))
        increments = [-path(float(low), float(high)) / scale for path in self._paths]
        return (torch.stack(increments) if self.rows is None else self.rows.of(increments[0])).to(like)

    def clone(self) -> PathNoise:
        return PathNoise(self.fresh.clone(), self.seeds, self.rows, self.sigmas, self.device)

    def _path(self, seed: int, shape: tuple[int, ...]) -> BrownianPath:
        make = GENERATORS[self.device]
        low, high = (float(np.float32(end)) for end in self.sigmas.ends)
        return BrownianPath(low, high, seed, lambda number: make(number).randn(shape))
