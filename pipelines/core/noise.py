"""Random numbers as an argument: one generator a sample, so that the batch size never changes an image."""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["NoiseSource", "initial_noise", "slerp"]

_SEEDS = 2**63


class NoiseSource:
    """Draws standard normal noise for a batch, sample by sample, always on the CPU.

    The CPU's generator gives the same numbers on every machine and the same as diffusers does when it
    is handed a list of CPU generators.

    Args:
        seeds: one a sample.
    """

    def __init__(self, seeds: Sequence[int]):
        self._generators = [torch.Generator("cpu").manual_seed(seed % _SEEDS) for seed in seeds]

    def __call__(self, like: torch.Tensor) -> torch.Tensor:
        """Fresh noise of the shape, dtype and device of `like`, (B, ...), B the number of seeds."""
        # Drawn in float32 whatever the dtype, or float64 would be another stream of numbers.
        dtype = torch.float32 if like.dtype != torch.float64 else torch.float64
        rows = [torch.randn((1, *like.shape[1:]), generator=one, dtype=dtype) for one in self._generators]
        return torch.cat(rows).to(like)

    def clone(self) -> NoiseSource:
        """An independent source that will draw the same numbers, for search and particles."""
        twin = NoiseSource([0] * len(self._generators))
        for mine, theirs in zip(self._generators, twin._generators, strict=True):
            theirs.set_state(mine.get_state())
        return twin


def slerp(start: torch.Tensor, end: torch.Tensor, strength: float) -> torch.Tensor:
    """Spherical interpolation of each sample, which keeps the norm that a denoiser expects.

    Args:
        start, end: (B, ...).
        strength: 0 gives `start`, 1 gives `end`.

    Source: Shoemake, Animating rotation with quaternion curves, SIGGRAPH 1985.
    """
    if strength == 0:
        return start
    if strength == 1:
        return end
    flat_start, flat_end = start.flatten(1), end.flatten(1)
    cosine = torch.nn.functional.cosine_similarity(flat_start, flat_end, dim=1).clamp(-1, 1)
    angle = torch.arccos(cosine)[:, None]
    along = torch.sin(angle)
    straight = (1 - strength) * flat_start + strength * flat_end
    turned = (torch.sin((1 - strength) * angle) * flat_start + torch.sin(strength * angle) * flat_end) / along
    return torch.where(along.abs() < 1e-6, straight, turned).reshape(start.shape)


def initial_noise(
    source: NoiseSource, shape: tuple[int, ...], variation: NoiseSource | None = None, strength: float = 0.0
) -> torch.Tensor:
    """The (B, C, h, w) float32 noise a run starts from, turned towards a second noise by `strength`."""
    like = torch.empty(shape)
    noise = source(like)
    return noise if variation is None or strength == 0 else slerp(noise, variation(like), strength)
