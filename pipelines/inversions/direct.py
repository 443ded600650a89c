"""Direct Inversion: the inverted path itself is the source's row while the edit is drawn."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from pipelines.core.registry import setting
from pipelines.core.sampler import Sampler, State, StepContext, Stepping
from pipelines.core.schedule import Level
from pipelines.core.types import Trajectory
from pipelines.inversions.base import SOURCE, pivots
from pipelines.inversions.ddim import DdimInversion
from pipelines.samplers.ddim import Ddim, DdimSettings

__all__ = ["DirectInversion", "DirectInversionSettings", "Pinned"]


@dataclasses.dataclass(frozen=True)
class DirectInversionSettings:
    strength: float = setting(
        1.0, "Share of the steps that are inverted: less keeps more of the source.", low=0.1, high=1, step=0.05
    )


class Pinned:
    """A sampler whose source row is put back onto the inverted path after every step; the others go on as they are.

    Args:
        inner: the sampler of all rows.
        path: latents (1, C, h, w) by ascending level, the picture's own first.

    Source: Ju et al., Direct Inversion, arXiv:2310.01506, algorithm 1.
    Differs: the paper adds the difference to the path, which rounds; here the row is overwritten, which is exact.
    """

    def __init__(self, inner: Sampler, path: Sequence[torch.Tensor]):
        self.inner, self.path = inner, path

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        next_state = yield from self.inner.step(state, level, next_level, context)
        latents = next_state.latents.clone()
        latents[SOURCE] = self.path[len(self.path) - 2 - context.index][0]
        return dataclasses.replace(next_state, latents=latents)

    def nfe(self, num_steps: int, ends_clean: bool = True) -> int:
        return self.inner.nfe(num_steps, ends_clean)


class DirectInversion(DdimInversion):
    """Runs DDIM inversion at guidance 1, then DDIM at any guidance with the source's row pinned to the path.

    An edit that looks at the source's row (prompt-to-prompt) sees the true source at every level. One that does
    not (plain re-prompting) is the same as with DDIM inversion, beside an exact reconstruction.

    Source: Ju et al., Direct Inversion, arXiv:2310.01506, section 4.
    """

    holds_source = True

    def __init__(self, settings: DirectInversionSettings = DirectInversionSettings()):
        self.scale, self.strength = 1.0, settings.strength

    def denoising(self, trajectory: Trajectory, guidance_scale: float = 1.0) -> Sampler:
        return Pinned(Ddim(DdimSettings()), pivots(trajectory))
