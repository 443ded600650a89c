"""iPNDM: PNDM without a costly start."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from pipelines.core.registry import setting
from pipelines.core.sampler import PastNoise
from pipelines.core.schedule import Level
from pipelines.samplers.pndm import Pndm, adams_weights

__all__ = ["Ipndm", "IpndmSettings"]


@dataclasses.dataclass(frozen=True)
class IpndmSettings:
    """The settings of iPNDM."""

    order: int = setting(
        4, "How many estimates are used; 1 is DDIM. Untouched, it fits itself to fewer steps.", low=1, high=4, step=1
    )
    distances: str = setting(
        "real",
        "The weights' distances in time: the real ones, or equal ones at any schedule, as diffusers has them.",
        choices=("real", "equal"),
    )


class Ipndm(Pndm):
    """iPNDM is the improved PNDM: the first steps use the estimates there are, so every step costs one evaluation.

    Source: Zhang & Chen, Fast sampling with exponential integrator, arXiv:2204.13902, appendix (iPNDM).
    Differs: as PNDM here. diffusers' IPNDMScheduler begins at alpha = 0 with an estimate of zero for x0 whatever
    the network says; here the step from pure noise uses the network's estimate.
    """

    start_steps = 0

    def __init__(self, settings: IpndmSettings = IpndmSettings()):
        self.multistep, self.equal = settings.order, settings.distances == "equal"

    def combine(self, history: Sequence[PastNoise], next_level: Level) -> torch.Tensor:
        if not self.equal:
            return super().combine(history, next_level)
        terms = (weight * past.noise for weight, past in zip(adams_weights(len(history)), history, strict=True))
        return sum(terms, torch.zeros_like(history[0].noise))

    def nfe(self, num_steps: int, ends_clean: bool = True) -> int:
        return num_steps
