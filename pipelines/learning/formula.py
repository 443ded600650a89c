"""A sampler's whole run written out: each question and the end as fixed combinations of the network's answers.

Almost every solver is linear in the latents and in the network's outputs, with factors that depend on the noise
levels only. So running the sampler itself on basis vectors instead of pictures tells these factors, and the run can
be repeated with gradients without a line changed in any sampler.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
import torch

from pipelines.core.denoiser import Denoiser
from pipelines.core.errors import MethodFitError
from pipelines.core.loop import Run, denoise
from pipelines.core.noise import NoiseSource
from pipelines.core.prediction import Conditioning
from pipelines.core.sampler import Sampler
from pipelines.core.schedule import Level, NoiseSchedule
from pipelines.guidance.cfg import Unguided

__all__ = ["Formula", "linear_form", "require_linear"]


@dataclasses.dataclass(frozen=True)
class Formula:
    """Describes a run of M questions. The basis is the initial latents and, after it, the M answers.

    Attributes:
        asked: (M, M + 1); row m has the factors of question m's latents, none for answers that come later.
        levels: M noise levels, as the network and the guidance are given them.
        end: (M + 1,), the factors of the final latents.
    """

    query_factors: np.ndarray
    levels: tuple[Level, ...]
    end: np.ndarray

    @property
    def flat(self) -> np.ndarray:
        """All numbers that depend on the schedule in one vector: `asked`, the network's times, `end`."""
        return np.concatenate([self.query_factors.ravel(), [level.timestep for level in self.levels], self.end])


class _Basis(Unguided):
    """A network and a guidance in one that note every question and answer with the next basis vector."""

    max_rows = 0
    rows_together = 1

    def __init__(self, prediction_type: str):
        self.prediction_type = prediction_type
        self.query_factors: list[np.ndarray] = []
        self.levels: list[Level] = []

    def plan(self, level: Level) -> tuple[str, ...]:
        self.levels.append(level)
        return super().plan(level)

    def predict_raw(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        self.query_factors.append(latents.flatten().numpy().copy())
        answer = torch.zeros(latents.numel(), dtype=latents.dtype)
        answer[len(self.query_factors)] = 1
        return answer.reshape(latents.shape)


class _NoNoise(NoiseSource):
    """Stands for the source of fresh noise of a run that must not draw any."""

    def __init__(self) -> None:
        super().__init__(())

    def __call__(self, like: torch.Tensor) -> torch.Tensor:
        raise MethodFitError(
            "A schedule can be learned for deterministic samplers only, and this one draws fresh noise "
            "with these settings. Choose another sampler, or set its share of fresh noise to 0."
        )


def linear_form(
    sampler: Sampler, levels: Sequence[Level], noise_schedule: NoiseSchedule, prediction_type: str
) -> Formula:
    """Return the formula of a run over these levels, in float64.

    Args:
        sampler: linear; `require_linear` tells.
        levels: N + 1, descending.
        noise_schedule: of the model.
        prediction_type: what the network's answers are.

    Raises:
        MethodFitError: the sampler draws noise.
    """
    basis, size = _Basis(prediction_type), sampler.nfe(len(levels) - 1, levels[-1].sigma == 0) + 1
    start = torch.zeros(1, 1, 1, size, dtype=torch.float64)
    start[..., 0] = 1
    denoiser = Denoiser(basis, basis, {"positive": Conditioning()})
    *_, last = denoise(Run(denoiser, sampler, levels, start, _NoNoise(), noise_schedule))
    count = len(basis.query_factors)
    query_factors = np.stack(basis.query_factors)[:, : count + 1]
    return Formula(query_factors, tuple(basis.levels), last.latents.flatten().numpy()[: count + 1])


class _Curved:
    """A network that is not linear, on four numbers, to try a formula on."""

    max_rows = 0
    rows_together = 1

    def __init__(self, prediction_type: str):
        self.prediction_type = prediction_type

    def predict_raw(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        return torch.tanh(latents.roll(1, -1) + 0.001 * timesteps[:, None, None, None])


def _combine(factors: Iterable[float], tensors: Iterable[torch.Tensor]) -> torch.Tensor:
    """The sum of the tensors times their factors; factors without a tensor count for nothing."""
    return torch.stack([float(factor) * tensor for factor, tensor in zip(factors, tensors, strict=False)]).sum(0)


def require_linear(
    sampler: Sampler, levels: Sequence[Level], noise_schedule: NoiseSchedule, prediction_type: str
) -> Formula:
    """Return the run's formula, if a run of the sampler really follows it.

    Raises:
        MethodFitError: it draws noise, or its factors depend on the latents.
    """
    formula = linear_form(sampler, levels, noise_schedule, prediction_type)
    network = _Curved(prediction_type)
    start = torch.tensor([1.0, -0.7, 0.4, 0.1], dtype=torch.float64).reshape(1, 1, 2, 2)
    denoiser = Denoiser(network, Unguided(), {"positive": Conditioning()})
    *_, last = denoise(Run(denoiser, sampler, levels, start, _NoNoise(), noise_schedule))
    tensors = [start]
    for factors, level in zip(formula.query_factors, formula.levels, strict=True):
        latents = _combine(factors, tensors)
        tensors.append(network.predict_raw(latents, torch.tensor([level.timestep]), Conditioning()))
    end = _combine(formula.end, tensors)
    if not torch.allclose(end, last.latents, rtol=1e-6, atol=1e-8):
        raise MethodFitError(
            "A schedule can be learned for samplers whose factors depend on the noise levels only; this "
            "one's depend on the picture. Choose another sampler."
        )
    return formula
