"""Dual-Conditional Inversion: each step of DDIM inversion refined by descent, its noise drawn toward the picture."""

from __future__ import annotations

import dataclasses

import torch

from pipelines.core.prediction import Prediction, Query
from pipelines.core.registry import setting
from pipelines.core.sampler import Sampler, State, StepContext, Stepping, interpolate
from pipelines.core.schedule import Level
from pipelines.inversions.base import require_gradient
from pipelines.inversions.ddim import DdimInversion, ReverseDdim

__all__ = ["DualConditional", "DualConditionalSettings", "RefinedStep"]


@dataclasses.dataclass(frozen=True)
class DualConditionalSettings:
    """The settings of Dual-Conditional Inversion."""

    iterations: int = setting(
        5, "Steps of the refinement for each step of the way up; 0 is DDIM inversion.", low=0, high=50, step=1
    )
    pull: float = setting(
        2.0,
        "How far the noise estimate is drawn toward the picture's own latents; 0 leaves it.",
        low=0,
        high=10,
        step=0.1,
    )
    rate: float = setting(0.001, "Rate of the descent.", low=0.0001, high=0.1, step=0.0001)
    strength: float = setting(
        1.0, "Share of the steps that are inverted: less keeps more of the source.", low=0.1, high=1, step=0.05
    )


def draw_toward(noise: torch.Tensor, reference: torch.Tensor, pull: float) -> torch.Tensor:
    """Compute eps + pull * (ref - eps) / |ref - eps|, the norm over everything.

    Source: Li et al., DCI, arXiv:2506.02560, reference-guided noise correction.
    """
    difference = (reference - noise).detach()
    return noise + pull * difference / torch.linalg.vector_norm(difference)


class RefinedStep:
    """Takes a step of DDIM inversion, then moves the latents until they agree with the noise predicted at themselves.

    AdamW minimizes |x' - up(x, eps(x'))|^2 over x', up being the step from x with that noise.

    Args:
        iterations, pull, rate: as in the settings.

    Source: Li et al., DCI: Dual-conditional inversion for boosting diffusion-based image editing, arXiv:2506.02560,
    algorithm 1; 5 iterations, pull 2 and rate 0.001 are the paper's. The published code, read, takes the picture's
    latents as the reference at every level, and 10 iterations.
    Differs: no loss counts as small enough to stop early.
    """

    def __init__(self, iterations: int, pull: float, rate: float):
        self.iterations, self.pull, self.rate = iterations, pull, rate

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        picture: torch.Tensor = state.memory[0] if context.index else state.latents
        guess = yield from ReverseDdim().step(state, level, next_level, context)
        latents, denoised = guess.latents.clone().requires_grad_(), guess.denoised
        optimizer = torch.optim.AdamW([latents], lr=self.rate)
        for _ in range(self.iterations):
            prediction = yield Query(latents, next_level, is_differentiable=True)
            with torch.enable_grad():  # of a network that predicts v, the noise is computed here
                require_gradient(prediction.noise, "Dual-Conditional Inversion")
                noise = draw_toward(prediction.noise, picture, self.pull)
                loss = torch.nn.functional.mse_loss(latents, self._go_up(state.latents, noise, level, next_level))
            (latents.grad,) = torch.autograd.grad(loss, latents)
            optimizer.step()
            denoised = prediction.denoised.detach()
        return State(latents.detach(), denoised, memory=(picture,))

    @staticmethod
    def _go_up(latents: torch.Tensor, noise: torch.Tensor, level: Level, next_level: Level) -> torch.Tensor:
        return interpolate(Prediction(noise, latents, level, "epsilon"), next_level)

    def nfe(self, num_steps: int, ends_clean: bool = True) -> int:
        return (1 + self.iterations) * num_steps


class DualConditional(DdimInversion):
    """Inverts under the source prompt and the picture itself, at guidance 1.

    Source: as `RefinedStep`; the authors edit with the source prompt in the negative prompt's place.
    """

    replaces_negative = True

    def __init__(self, settings: DualConditionalSettings = DualConditionalSettings()):
        self.scale, self.strength, self.settings = 1.0, settings.strength, settings

    def noising(self) -> Sampler:
        return RefinedStep(self.settings.iterations, self.settings.pull, self.settings.rate)
