"""Random numbers as an argument: one generator a sample, so that the batch size never changes an image."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pipelines.core.devices import upload
from pipelines.core.schedule import Level

__all__ = ["NoiseSource", "initial_noise", "slerp"]

_SEEDS = 2**63


class NoiseSource:
    """Draws standard normal noise for a batch, sample by sample, always on the CPU.

    The CPU's generator gives the same numbers on every machine and the same as diffusers does when it
    is handed a list of CPU generators.

    Args:
        seeds: one a sample.
    """

    follows_path = False
    """Whether `between` gives increments of one Brownian path in sigma / alpha, so that draws over overlapping spans
    depend on each other."""

    def __init__(self, seeds: Sequence[int]):
        self._generators = [torch.Generator("cpu").manual_seed(seed % _SEEDS) for seed in seeds]

    def __call__(self, like: torch.Tensor) -> torch.Tensor:
        """Draw fresh noise of the shape, dtype and device of `like`, (B, ...), B the number of seeds."""
        # Drawn in float32 whatever the dtype, or float64 would be another stream of numbers.
        dtype = torch.float32 if like.dtype != torch.float64 else torch.float64
        rows = [torch.randn((1, *like.shape[1:]), generator=one, dtype=dtype) for one in self._generators]
        return upload(torch.cat(rows), like.device, like.dtype)

    def between(self, like: torch.Tensor, level: Level, next_level: Level) -> torch.Tensor:
        """Draw noise for the span of an SDE solver's step, standard normal, (B, ...) as `like`; here simply fresh."""
        return self(like)

    def clone(self) -> NoiseSource:
        """Make an independent source that will draw the same numbers, for search and particles."""
        twin = NoiseSource([0] * len(self._generators))
        for generator, copy in zip(self._generators, twin._generators, strict=True):
            copy.set_state(generator.get_state())
        return twin

    @staticmethod
    def cat(sources: Sequence[NoiseSource]) -> NoiseSource:
        """Join sources to an independent one of all their samples, in order, each at its present state."""
        joined = NoiseSource([])
        joined._generators = [one for source in sources for one in source.clone()._generators]
        return joined

    def select(self, rows: Sequence[int]) -> NoiseSource:
        """Make an independent source whose sample i will draw what sample rows[i] of this one would."""
        chosen = NoiseSource([0] * len(rows))
        for row, generator in zip(rows, chosen._generators, strict=True):
            generator.set_state(self._generators[row].get_state())
        return chosen


def slerp(start: torch.Tensor, end: torch.Tensor, strength: float) -> torch.Tensor:
    """Interpolate each sample on the sphere, which keeps the norm that a denoiser expects.

    Args:
        start, end: (B, ...).
        strength: 0 gives `start`, 1 gives `end`.

    Source: Shoemake, Animating rotation with quaternion curves, SIGGRAPH 1985.
    """
    if strength == 0:
        return start
    if strength == 1:
        return end
    # In float16 a norm overflows at 65504, and an angle is known to three digits.
    dtype = torch.promote_types(start.dtype, torch.float32)
    flat_start, flat_end = start.flatten(1).to(dtype), end.flatten(1).to(dtype)
    cosine = torch.nn.functional.cosine_similarity(flat_start, flat_end, dim=1).clamp(-1, 1)
    angle = torch.arccos(cosine)[:, None]
    sine = torch.sin(angle)
    linear = (1 - strength) * flat_start + strength * flat_end
    spherical = (torch.sin((1 - strength) * angle) * flat_start + torch.sin(strength * angle) * flat_end) / sine
    return torch.where(sine.abs() < 1e-6, linear, spherical).reshape(start.shape).to(start.dtype)


def initial_noise(
    source: NoiseSource, shape: tuple[int, ...], variation: NoiseSource | None = None, strength: float = 0.0
) -> torch.Tensor:
    """Draw the noise that a run starts from.

    Args:
        source: of the noise.
        shape: (B, C, h, w).
        variation: of a second noise; None for none.
        strength: how far the first is turned towards the second, 0 to 1.

    Returns:
        (B, C, h, w), float32, of standard normal numbers.
    """
    like = torch.empty(shape)
    noise = source(like)
    return noise if variation is None or strength == 0 else slerp(noise, variation(like), strength)
