"""DualFast: each noise estimate is moved away from an earlier, noisier one."""

from __future__ import annotations

import dataclasses

import torch

from pipelines.core.prediction import Prediction
from pipelines.core.registry import setting
from pipelines.core.sampler import StepContext
from pipelines.samplers.wrapping import Wrapper, with_noise

__all__ = ["DualFast", "DualFastSettings"]


@dataclasses.dataclass(frozen=True)
class DualFastSettings:
    """The settings of DualFast."""

    base: str = setting(
        "dpmpp_2m", "The solver whose noise estimates are changed.", choices=("ddim", "dpmpp_2m", "unipc")
    )
    strength: float = setting(
        0.1, "How far each estimate is moved away from the earlier one; 0 is the base solver.", low=0, high=1, step=0.05
    )
    lookback: int = setting(1, "How many evaluations back the earlier estimate lies.", low=1, high=10, step=1)


class DualFast(Wrapper[tuple["torch.Tensor", ...]]):
    """DualFast takes eps = (1 + c) * eps_t - c * eps_tau with tau an earlier time of the run.

    The network's own error grows with noise in its input, the authors find, so the difference of two estimates
    points away from it. With strength 0, and where no earlier estimate is left, the base solver is unchanged;
    what is kept for later is the network's estimate, not the changed one.

    Source: Yu et al., DualFast, arXiv:2506.13058, the update of the noise estimate inside DDIM, DPM-Solver++ and
    UniPC.
    Differs: c is one number, and tau a fixed number of evaluations back (the oldest there is at the start of a
    run), where the paper chooses both for each model and step.
    """

    empty = ()

    def __init__(self, settings: DualFastSettings = DualFastSettings()):
        super().__init__(settings.base)
        self.strength, self.lookback = settings.strength, settings.lookback

    def modify_prediction(
        self, memory: tuple[torch.Tensor, ...], prediction: Prediction, context: StepContext
    ) -> tuple[tuple[torch.Tensor, ...], Prediction]:
        if self.strength == 0:
            return memory, prediction
        noise = prediction.noise
        noises = (noise, *memory)[: self.lookback]
        if not memory:
            return noises, prediction
        return noises, with_noise(prediction, (1 + self.strength) * noise - self.strength * memory[-1])
