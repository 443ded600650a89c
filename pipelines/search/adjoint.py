"""AdjointDPM: the reward's gradient through a run of any length, in the memory of one evaluation."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch

from pipelines.core.denoiser import Denoiser
from pipelines.core.errors import MethodFitError, SettingsError
from pipelines.core.gradients import no_grad
from pipelines.core.sampler import interpolate
from pipelines.core.schedule import Level
from pipelines.core.types import Request
from pipelines.guidance import GUIDANCE
from pipelines.guidance.projected import Projected
from pipelines.samplers import SAMPLERS
from pipelines.search.ascent import AscentSettings, ascend, require_ascent
from pipelines.search.base import BACKWARD, Candidate, Judged, Problem

__all__ = ["Adjoint", "AdjointSettings", "adjoint_of_run", "walk"]


@dataclasses.dataclass(frozen=True)
class AdjointSettings(AscentSettings):
    """Settings of the search."""


@no_grad
def walk(denoiser: Denoiser, latents: torch.Tensor, levels: Sequence[Level]) -> list[torch.Tensor]:
    """Walk first-order steps; returns the latents at each level, N + 1 of (B, C, h, w)."""
    states, denoiser.num_steps = [latents], len(levels) - 1
    for index, (level, next_level) in enumerate(pairwise(levels)):
        denoiser.step = index
        states.append(interpolate(denoiser.predict(states[-1], level), next_level))
    return states


def adjoint_of_run(
    denoiser: Denoiser, states: Sequence[torch.Tensor], levels: Sequence[Level], adjoint: torch.Tensor
) -> torch.Tensor:
    """Carry a gradient with respect to the last latents back to the first.

    In y = x / alpha and s = sigma / alpha the run is dy/ds = eps(x, s), and its adjoint da/ds = -a^T d eps / dy. The
    first-order step of the one has as its transpose the first-order step of the other, a + h a^T d eps / dy at the
    step's own latents; that is what is computed here, so the gradient is exactly that of the run.

    Args:
        denoiser: of the run.
        states: the latents at each level, as `walk` returns them.
        levels: N + 1.
        adjoint: d reward / d x at the last level, (B, C, h, w).

    Source: Pan et al., AdjointDPM: adjoint sensitivity method for gradient backpropagation of diffusion probabilistic
    models, arXiv:2307.10711.
    Differs: latents of the forward run are kept, a small tensor a step, where they integrate them backward again; the
    solver is of first order.
    """
    steps = len(levels) - 1
    for index in range(steps - 1, -1, -1):
        denoiser.step = index
        with torch.enable_grad():
            latents = states[index].detach().requires_grad_(True)
            following = interpolate(denoiser.predict(latents, levels[index]), levels[index + 1])
            (adjoint,) = torch.autograd.grad(following, latents, adjoint)
    return adjoint


def _require_forgetful(request: Request) -> None:
    """Refuse a guidance whose step depends on earlier ones: the steps are walked again, last first, each alone.

    Raises:
        MethodFitError: it is one.
    """
    key, guidance = request.guidance.key, GUIDANCE.build(request.guidance)
    remembers = key in ("adaptive", "residual", "linear") or (isinstance(guidance, Projected) and guidance.momentum)
    if remembers and guidance.guidance_scale > 1:
        label = GUIDANCE[key].label
        raise MethodFitError(
            f"AdjointDPM takes each step's gradient alone, and {label} remembers earlier steps. Choose another guidance"
            f"{', or a momentum of 0' if key == 'apg' else ''}."
        )


class Adjoint:
    """Gradient ascent from noise to noise, the gradient through the whole run by its adjoint.

    Source: Pan et al., AdjointDPM, arXiv:2307.10711; the ascent is that of Eyring et al., ReNO, arXiv:2406.04312.
    Differs: see `adjoint_of_run`. A step's evaluation is run again for its gradient, and the backward pass counts as
    two, so that a gradient costs four times a picture.
    """

    def __init__(self, settings: AdjointSettings):
        self.settings = settings

    def check(self, request: Request) -> None:
        require_ascent(request, "AdjointDPM")
        _require_forgetful(request)
        first_order = {method.key for method in SAMPLERS.group("first order")}
        if request.sampler.key not in first_order or request.sampler.settings.get("eta"):
            raise SettingsError(
                "AdjointDPM differentiates first-order steps without noise. Choose the sampler DDIM with eta 0, or "
                "Flow Euler for a flow model."
            )

    def least(self, cost: float, num_steps: int) -> float:
        return (2 + BACKWARD) * cost

    def search(self, problem: Problem) -> Iterator[list[Candidate]]:
        def gradient(noise: torch.Tensor) -> tuple[torch.Tensor, Judged]:
            run = problem.run((noise, problem.builder.draw(0, 1)[1]))
            states = walk(run.denoiser, run.latents, run.levels)
            forward = run.denoiser.evaluations
            with torch.enable_grad():
                last = states[-1].detach().requires_grad_(True)
                images = problem.builder.decode_with_gradients(last)
                rewards = problem.builder.score(images)
                adjoint = problem.gradient(rewards.sum(), last)
            slope = adjoint_of_run(run.denoiser, states, run.levels, adjoint)
            problem.count(BACKWARD * forward)
            scale = float(run.latents.norm()) / float(noise.norm())  # of the noise in the first latents
            return slope.cpu() * scale, problem.judge_images(images)

        return ascend(problem, self.settings, gradient, self.least(problem.cost, problem.num_steps))
