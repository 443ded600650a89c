"""Contextualized Vendi score guidance: each picture is led away from those before it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch

from pipelines.core.gradients import no_grad
from pipelines.core.registry import setting
from pipelines.core.sampler import State
from pipelines.core.types import Request, Step
from pipelines.search.base import Candidate, Problem, SearchSettings
from pipelines.search.particles import steer

__all__ = ["Vendi", "VendiSettings", "vendi_gradient", "vendi_score"]


@dataclasses.dataclass(frozen=True)
class VendiSettings(SearchSettings):
    """Settings of the search."""

    scale: float = setting(0.3, "Length of a move, in parts of the noise; 0 for Best of N.", low=0, high=3, step=0.05)
    every: int = setting(2, "Steps from one move to the next.", low=1, high=50, step=1)
    memory: int = setting(16, "Pictures before that count, the latest of them.", low=1, high=64, step=1)
    context: str = setting(
        "", "Id of a result of the gallery that pictures shall stay like; empty for none.", label="Stay like"
    )


def vendi_score(rows: torch.Tensor) -> torch.Tensor:
    """Compute how many different ones there are among vectors: exp of the entropy of their kernel's eigenvalues.

    Args:
        rows: (n, d), float64; the kernel is the cosine.

    Returns:
        A scalar from 1, where all point the same way, to n, where they are orthogonal.

    Source: Friedman & Dieng, The Vendi score, arXiv:2210.02410, definition 3.1.
    """
    unit = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12)
    values = torch.linalg.eigvalsh(unit @ unit.T / len(rows)).clamp(min=1e-12)
    return torch.exp(-(values * values.log()).sum())


def vendi_gradient(picture: torch.Tensor, memory: torch.Tensor, context: torch.Tensor | None) -> torch.Tensor:
    """Compute the gradient of VS(memory and x) - 2 VS(context and x) with respect to x.

    Args:
        picture: x, (C, h, w).
        memory: (m, C, h, w).
        context: (k, C, h, w); None for none.

    Source: Hemmat et al., c-VSG, arXiv:2406.04551, equation 5.
    """
    moved = picture.detach().double().clone().requires_grad_(True)
    with torch.enable_grad():
        value = vendi_score(torch.cat([memory.double(), moved[None]]).flatten(1))
        if context is not None:
            value = value - 2 * vendi_score(torch.cat([context.double(), moved[None]]).flatten(1))
        (gradient,) = torch.autograd.grad(value, moved)
    return gradient.to(picture)


class _Apart:
    """Steers one run of one picture: away from those before it, towards the context."""

    def __init__(self, settings: VendiSettings, memory: list[torch.Tensor], context: torch.Tensor | None):
        self.settings, self.memory, self.context = settings, memory, context
        self.judged: list[Candidate] = []

    def __call__(self, state: State, step: Step) -> State:
        done, sigma = step.index + 1, step.next_level.sigma
        if not self.settings.scale or done % self.settings.every or not sigma:
            return state
        if not self.memory and self.context is None:
            return state
        like = step.denoised[:1]
        memory = torch.cat(self.memory) if self.memory else like[:0]
        gradient = vendi_gradient(step.denoised[0], memory.to(like), self.context)
        size = gradient.square().mean().sqrt()
        if not float(size):
            return state
        return dataclasses.replace(state, latents=state.latents + self.settings.scale * sigma * gradient / size)


class Vendi:
    """Makes pictures one after the other, each led away from those before; keeps the one that the reward likes best.

    For a set of different pictures of one prompt: the strip shows them all. Scale 0 is Best of N, one at a time.

    Source: Hemmat et al., Improving geo-diversity of generated images with contextualized Vendi score guidance,
        arXiv:2406.04551, algorithm 1.
    Differs: the kernel is the cosine of estimates of x0 as they are, and not of features; a move follows the direction
        of the gradient with respect to the estimate, its length that of the noise, so that it costs no evaluation.
    """

    def __init__(self, settings: VendiSettings):
        self.settings = settings

    def check(self, request: Request) -> None:
        """Accept any request."""

    def least(self, cost: float, num_steps: int) -> float:
        return cost

    @no_grad
    def search(self, problem: Problem) -> Iterator[list[Candidate]]:
        name = self.settings.context.strip()
        context = problem.builder.encode_result(name) if name else None
        memory: list[torch.Tensor] = []
        first = 0
        while problem.affordable():
            run = problem.run(problem.builder.draw(first, 1))
            steering = _Apart(self.settings, memory[-self.settings.memory :], context)
            latents = yield from steer(run, steering)
            judged = problem.judge(latents)
            is_plain = not self.settings.scale or (not memory and context is None)
            names = [f"picture {first + 1}, seed {problem.request.seed + first} led away from {len(memory)}"]
            yield judged.name_by_seed(problem.request, first) if is_plain else judged.name(names)
            memory.append(latents.detach())
            first += 1
