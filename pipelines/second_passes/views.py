"""A network that sees a large picture in parts of the size that it knows: in windows, and in dilated grids."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from pipelines.core.cancelling import Cancelled
from pipelines.core.prediction import Conditioning
from pipelines.families.base import Family

__all__ = ["ViewedNetwork", "blur", "cosine_factor", "list_windows"]


def cosine_factor(progress: float) -> float:
    """Compute (1 + cos(pi p)) / 2: 1 at the beginning of a run, 0 at its end.

    Source: Du et al., DemoFusion, arXiv:2311.16973, equation 5.
    """
    return (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0))) / 2


def list_windows(length: int, window: int, jitter: float = 0.0) -> list[int]:
    """List the starts of half-overlapping windows that cover a side.

    Args:
        length: of the side.
        window: of the windows.
        jitter: from -1 to 1: how far those between the first and the last are moved, in quarters of the stride.
    """
    if window >= length:
        return [0]
    stride = max(1, window // 2)
    count = math.ceil((length - window) / stride) + 1
    most = (window - stride) // 4
    moved = [min(max(index * stride + round(jitter * most), 0), length - window) for index in range(1, count - 1)]
    return list(dict.fromkeys([0, *moved, length - window]))


def blur(latents: torch.Tensor, sigma: float, reach: int) -> torch.Tensor:
    """Blur latents (B, C, h, w) by a Gaussian of 2 reach + 1 places; each sample keeps its mean and deviation."""
    if not reach or not sigma:
        return latents
    line = torch.arange(-reach, reach + 1, device=latents.device, dtype=latents.dtype)
    line = torch.exp(-(line**2) / (2 * sigma**2))
    line = line / line.sum()
    channels = latents.shape[1]
    padded = F.pad(latents, (reach, reach, reach, reach), mode="replicate")
    rows = F.conv2d(padded, line.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
    smooth = F.conv2d(rows, line.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
    axes = (1, 2, 3)
    spread = latents.std(axes, keepdim=True) / smooth.std(axes, keepdim=True).clamp(min=1e-12)
    return (smooth - smooth.mean(axes, keepdim=True)) * spread + latents.mean(axes, keepdim=True)


class ViewedNetwork:
    """Stands for a model: an evaluation of a large picture is the mean of its windows', mixed with its dilated grids'.

    Everything else is the model's own.

    Args:
        family: the model.
        window: (h, w) of a window, in latents.
        factor: how many times larger the picture is, a whole number: of as many places in each direction one is taken.
        dilated: share of the dilated grids at a network's time, 0 to 1.
        smoothing: the deviation of the Gaussian before they are taken, at a network's time.
        jitter: of the windows at a network's time, from -1 to 1 in both directions.
        cancelled: polled before every part.

    Source: Bar-Tal et al., MultiDiffusion, arXiv:2302.08113, equation 5, for the windows; Du et al., DemoFusion,
        arXiv:2311.16973, section 3.4, for the grids.
    """

    def __init__(
        self,
        family: Family,
        window: tuple[int, int],
        factor: int,
        dilated: Callable[[float], float],
        smoothing: Callable[[float], float],
        jitter: Callable[[float], tuple[float, float]],
        cancelled: Callable[[], bool],
    ):
        self._family, self._window, self._factor = family, window, factor
        self._dilated, self._smoothing, self._jitter, self._cancelled = dilated, smoothing, jitter, cancelled

    def __getattr__(self, name: str) -> Any:
        return getattr(self._family, name)

    def parts(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> int:
        """Count the evaluations of parts that one evaluation of these rows takes."""
        rows, columns = self._starts(latents, 0.0, 0.0)
        windows = len(rows) * len(columns)
        is_dilated = self._factor > 1 and any(self._dilated(time) for time in timesteps.tolist())
        return windows + (self._factor**2 if is_dilated else 0)

    def predict_raw(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """Evaluate the network once in all parts; rows of other times have windows of their own."""
        times = timesteps.tolist()
        if len(set(times)) > 1:
            rows = range(len(times))
            parts = [(latents[i : i + 1], timesteps[i : i + 1], conditioning.rows(i, i + 1)) for i in rows]
            return torch.cat([self.predict_raw(*part) for part in parts])
        seen = self._see_windows(latents, timesteps, conditioning, self._jitter(times[0]))
        share = self._dilated(times[0]) if self._factor > 1 else 0.0
        if not share:
            return seen
        return torch.lerp(seen, self._see_grids(latents, timesteps, conditioning, self._smoothing(times[0])), share)

    def _ask(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        if self._cancelled():
            raise Cancelled
        return self._family.predict_raw(latents, timesteps, conditioning)

    def _starts(self, latents: torch.Tensor, down: float, right: float) -> tuple[list[int], list[int]]:
        height, width = self._window
        return list_windows(latents.shape[-2], height, down), list_windows(latents.shape[-1], width, right)

    def _see_windows(
        self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning, jitter: Sequence[float]
    ) -> torch.Tensor:
        rows, columns = self._starts(latents, *jitter)
        if len(rows) == len(columns) == 1:
            return self._ask(latents, timesteps, conditioning)
        total, count = torch.zeros_like(latents), torch.zeros_like(latents)
        for top in rows:
            for left in columns:
                place = (..., slice(top, top + self._window[0]), slice(left, left + self._window[1]))
                total[place] += self._ask(latents[place], timesteps, conditioning)
                count[place] += 1
        return total / count

    def _see_grids(
        self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning, sigma: float
    ) -> torch.Tensor:
        step = self._factor
        smooth, total = blur(latents, sigma, step - 1), torch.zeros_like(latents)
        for down in range(step):
            for right in range(step):
                place = (..., slice(down, None, step), slice(right, None, step))
                total[place] = self._ask(smooth[place].contiguous(), timesteps, conditioning)
        return total
