"""LML: the noise estimate through a rank-one, damped inverse of its own outer product."""

from __future__ import annotations

import dataclasses

import torch

from pipelines.core.registry import setting
from pipelines.core.sampler import State, StepContext, Stepping
from pipelines.core.schedule import FlowSchedule, Level
from pipelines.samplers.dpmpp import kept_share
from pipelines.samplers.wrapping import SOLVERS, Wrapper

__all__ = ["Lml", "LmlSettings", "damped_direction"]

_STOCHASTIC = {
    "dpmpp_sde",
    "dpmpp_2m_sde",
    "dpmpp_3m_sde",
    "sa_solver",
    "ddpm",
    "euler_a",
    "dpm2_a",
    "lcm",
    "tcd",
    "scm",
}

_BASES = tuple(key for key in SOLVERS if key not in _STOCHASTIC)
"""Their steps are fixed by the estimates; of a stochastic step the authors' code changes nothing."""

_FIRST_ORDER = ("ddim", "euler")
"""Solvers whose step is x' = alpha' * x0_hat + sigma' * eps_hat, so that it has a direction term."""


@dataclasses.dataclass(frozen=True)
class LmlSettings:
    """The settings of LML."""

    base: str = setting("dpmpp_2m", "The solver whose steps are changed.", choices=_BASES)
    kappa: float = setting(
        0.0,
        "Share of the previous estimate in the curvature; 0, the authors', changes nothing.",
        low=0,
        high=1,
        step=0.01,
    )
    damping: float = setting(1e-3, "Large values fade the change out.", low=1e-6, high=1e6, step=1e-3, label="lambda")


def damped_direction(noise: torch.Tensor, previous: torch.Tensor, kappa: float, damping: float) -> torch.Tensor:
    """Compute eps - e * <e, eps> / (lambda + |e|^2) with e = kappa * eps_past + (1 - kappa) * eps, back at the norm of
    eps.

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


@dataclasses.dataclass(frozen=True)
class _Part:
    """A step x' = fixed + factor * value, of which LML changes the value; tensors (B, C, h, w)."""

    value: torch.Tensor
    fixed: torch.Tensor
    factor: float


class Lml(Wrapper["torch.Tensor | None"]):
    """LML runs Levenberg-Marquardt-Langevin around a solver.

    kappa mixes the previous estimate into the vector whose outer product stands for the curvature. At kappa 0,
    the authors' default, that vector is the estimate itself: the formula shortens it and the norm is then restored, so
    it is the identity, and here exactly. At a kappa above 0 with the authors' small lambda it removes nearly all
    that both estimates share and blows the rest up to the old norm. It is offered so that this can be seen.

    What is changed depends on the solver, as in the authors' code: of DDIM's step the direction term, so that
    x' = alpha' * x0_hat + sigma' * LML(eps_hat) and x0_hat stays right; of Euler's step on a flow model the
    velocity; of every other solver's step the whole increment, x' = (sigma' / sigma) * x + LML(D) with the previous
    increment in the place of the previous estimate.

    Source: Wang et al., Unleashing high-quality image generation in diffusion sampling using second-order
    Levenberg-Marquardt-Langevin, arXiv:2505.24222, and its code: DDIM, DPM-Solver++ of orders 1 to 3, flow Euler.
    Differs: the increment's rule serves every other deterministic solver too, for which the authors have none.
    """

    empty = None

    def __init__(self, settings: LmlSettings = LmlSettings()):
        super().__init__(settings.base)
        self.first_order = settings.base in _FIRST_ORDER
        self.kappa, self.damping = settings.kappa, settings.damping

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        end = yield from super().step(state, level, next_level, context)
        if self.kappa == 0:
            return end
        previous: torch.Tensor | None = state.memory[0] if state.memory else None
        part = self._changing_part(state.latents, end, level, next_level, context)
        vector = part.value if previous is None else damped_direction(part.value, previous, self.kappa, self.damping)
        latents = part.fixed + part.factor * vector
        return dataclasses.replace(end, latents=latents, memory=(part.value, end.memory[1]))

    def _changing_part(
        self, latents: torch.Tensor, end: State, level: Level, next_level: Level, context: StepContext
    ) -> _Part:
        """The step as a fixed part and a factor times the vector that LML changes."""
        if not self.first_order or end.denoised is None:
            carried = kept_share(level, next_level, 0.0) * latents
            return _Part(end.latents - carried, carried, 1.0)
        noise = (latents - level.alpha * end.denoised) / level.sigma
        if isinstance(context.noise_schedule, FlowSchedule):
            return _Part(noise - end.denoised, latents, next_level.sigma - level.sigma)
        return _Part(noise, next_level.alpha * end.denoised, next_level.sigma)
