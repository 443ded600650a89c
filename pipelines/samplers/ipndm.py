"""iPNDM: PNDM without a costly start."""

from __future__ import annotations

import dataclasses

from pipelines.core.registry import setting
from pipelines.samplers.pndm import Pndm

__all__ = ["Ipndm", "IpndmSettings"]


@dataclasses.dataclass(frozen=True)
class IpndmSettings:
    order: int = setting(
        4, "How many estimates are used; 1 is DDIM. Untouched, it fits itself to fewer steps.", low=1, high=4, step=1
    )


class Ipndm(Pndm):
    """The improved PNDM: the first steps use the estimates there are, so every step costs one evaluation.

    Source: Zhang & Chen, Fast sampling with exponential integrator, arXiv:2204.13902, appendix (iPNDM).
    Differs: as PNDM here. diffusers' IPNDMScheduler begins at alpha = 0 with an estimate of zero for x0 whatever
    the network says; here the step from pure noise uses the network's estimate.
    """

    start_steps = 0

    def __init__(self, settings: IpndmSettings = IpndmSettings()):
        self.multistep = settings.order

    def nfe(self, num_steps: int) -> int:
        return num_steps
