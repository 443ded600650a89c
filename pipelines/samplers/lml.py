"""LML: the noise estimate through a rank-one, damped inverse of its own outer product."""

from __future__ import annotations

import dataclasses

import torch

from pipelines.core.denoiser import Prediction
from pipelines.core.registry import setting
from pipelines.core.sampler import StepContext
from pipelines.samplers.wrapping import SOLVERS, Wrapper, with_noise

__all__ = ["Lml", "LmlSettings", "damped_direction"]


_BASES = tuple(key for key in SOLVERS if key not in ("lcm", "tcd"))
"""LML is offered on flow models too, and these two are written in the discrete time of diffusion models."""


@dataclasses.dataclass(frozen=True)
class LmlSettings:
    base: str = setting("dpmpp_2m", "The solver whose noise estimates are changed.", choices=_BASES)
    kappa: float = setting(
        0.0,
        "Share of the previous estimate in the curvature; 0, the authors', changes nothing.",
        low=0,
        high=1,
        step=0.01,
    )
    damping: float = setting(1e-3, "Large values fade the change out.", low=1e-6, high=1e6, step=1e-3, label="lambda")


def damped_direction(noise: torch.Tensor, previous: torch.Tensor, kappa: float, damping: float) -> torch.Tensor:
    """eps - e * <e, eps> / (lambda + |e|^2) with e = kappa * eps_past + (1 - kappa) * eps, back at the norm of eps.

    It is lambda * (lambda * I + e e^T)^-1 eps by Sherman and Morrison, of which only the direction is kept.

    Args:
        noise, previous: (B, ...), the estimates of this evaluation and of the one before.
        kappa, damping: kappa and lambda above.

    Source: Wang et al., Levenberg-Marquardt-Langevin, arXiv:2505.24222, section 3.
    """
    axes = tuple(range(1, noise.ndim))
    curvature = kappa * previous + (1 - kappa) * noise
    share = (curvature * noise).sum(axes, keepdim=True) / (damping + (curvature**2).sum(axes, keepdim=True))
    direction = noise - share * curvature
    size: torch.Tensor = torch.linalg.vector_norm(noise, dim=axes, keepdim=True)
    length: torch.Tensor = torch.linalg.vector_norm(direction, dim=axes, keepdim=True).clamp_min(1e-30)
    return direction * (size / length)


class Lml(Wrapper[torch.Tensor | None]):
    """Levenberg-Marquardt-Langevin around a solver.

    kappa mixes the previous estimate into the vector whose outer product stands for the curvature. At kappa 0,
    the authors' default, that vector is eps itself: the formula shortens eps and the norm is then restored, so
    it is the identity, and here exactly. At a kappa above 0 with the authors' small lambda it removes nearly all
    of eps that both estimates share and blows the rest up to the old norm: at 0.5 the direction that remains is
    almost at a right angle to eps (cosine 0.05). It is offered so that this can be seen.

    Source: Wang et al., Unleashing high-quality image generation in diffusion sampling using second-order
    Levenberg-Marquardt-Langevin, arXiv:2505.24222.
    """

    empty = None

    def __init__(self, settings: LmlSettings = LmlSettings()):
        super().__init__(settings.base)
        self.kappa, self.damping = settings.kappa, settings.damping

    def answered(
        self, memory: torch.Tensor | None, prediction: Prediction, context: StepContext
    ) -> tuple[torch.Tensor | None, Prediction]:
        if self.kappa == 0:
            return memory, prediction
        noise = prediction.noise
        if memory is None or prediction.level.alpha == 0:
            return noise, prediction
        return noise, with_noise(prediction, damped_direction(noise, memory, self.kappa, self.damping))
