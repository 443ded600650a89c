"""Null-text optimization: the empty prompt's embedding is fitted, step by step, until guidance stays on the path."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch

from pipelines.core.prediction import Conditioning, Query
from pipelines.core.registry import setting
from pipelines.core.sampler import Sampler, State, StepContext, Stepping, interpolate
from pipelines.core.schedule import Level
from pipelines.core.types import Trajectory
from pipelines.inversions.base import SOURCE, pivots, require_gradient
from pipelines.inversions.ddim import DdimInversion

__all__ = ["NullText", "NullTextSettings", "OptimizedNull"]

_RATE, _DECAY = 0.01, 100
"""Adam's rate in the first step, and the steps after which it would be 0."""
_ENOUGH, _MORE = 1e-5, 2e-5
"""The loss that is small enough in the first step, and what is added for each further one."""
_EMBEDDING = "prompt_embeds"


@dataclasses.dataclass(frozen=True)
class NullTextSettings:
    """The settings of null-text inversion."""

    iterations: int = setting(
        10, "Steps of the optimization for each step of the way down; 0 is DDIM inversion.", low=0, high=50, step=1
    )
    strength: float = setting(
        1.0, "Share of the steps that are inverted: less keeps more of the source.", low=0.1, high=1, step=0.05
    )


def _replace_embedding(conditioning: Conditioning, embedding: torch.Tensor, rows: int) -> Conditioning:
    """A conditioning of so many rows, its embedding this one."""
    tensors = {name: tensor[:rows] for name, tensor in conditioning.tensors.items()}
    # One that is optimized stays as it is: whatever is done to it here is done without gradients.
    embedding = embedding if len(embedding) == rows else embedding.expand(rows, *embedding.shape[1:])
    return Conditioning({**tensors, _EMBEDDING: embedding})


class OptimizedNull:
    """DDIM whose negative branch has an embedding fitted in every step, so that the source's row stays on its path.

    Adam minimizes the mean squared distance from the path's next latents to the guided step, over the embedding alone;
    the best iterate is kept and the next step begins with it.

    Args:
        path: latents (1, C, h, w) by ascending level, the picture's own first.
        iterations: of Adam at each step, at most.
        guidance_scale: of the way down.

    Source: Mokady et al., Null-text inversion, arXiv:2211.09794, algorithm 1; rate, decay and the loss that is enough
    are those of the authors' code.
    Differs: there the last iterate is kept; here the best, so that the loss never ends above its start.
    """

    def __init__(self, path: Sequence[torch.Tensor], iterations: int, guidance_scale: float):
        self.path, self.iterations, self.scale = path, iterations, guidance_scale

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        null: torch.Tensor | None = state.memory[0] if state.memory else None
        if self.iterations and self.scale != 1:
            pivot = self.path[len(self.path) - 2 - context.index]
            null = yield from self._optimize(
                state.latents[SOURCE : SOURCE + 1], null, (level, next_level), context, pivot
            )
        replaced = None if null is None else _Replaced(null)
        prediction = yield Query(state.latents, level, conditioning=replaced)
        return State(interpolate(prediction, next_level), prediction.denoised, memory=() if null is None else (null,))

    def _optimize(self, latents, null, levels, context, pivot):  # type: ignore[no-untyped-def]
        """Fit the embedding; a generator of queries that returns it."""
        level, next_level = levels
        first = _First()
        rows = (SOURCE, SOURCE + 1)
        query = Query(latents, level, branches=("positive",), conditioning=first, is_differentiable=True, rows=rows)
        positive = (yield query).raw.detach()
        embedding = (first.negative if null is None else null).detach().clone().requires_grad_()
        optimizer = torch.optim.Adam([embedding], lr=_RATE * max(0.0, 1 - context.index / _DECAY))
        best, least = embedding.detach().clone(), float("inf")
        for iteration in range(self.iterations + 1):
            replaced = _Replaced(embedding)
            negative = yield Query(
                latents, level, branches=("negative",), conditioning=replaced, is_differentiable=True, rows=rows
            )
            with torch.enable_grad():
                guided = negative.with_raw(negative.raw + self.scale * (positive - negative.raw))
                loss = torch.nn.functional.mse_loss(interpolate(guided, next_level), pivot)
            value = loss.item()
            if value < least:
                best, least = embedding.detach().clone(), value
            if value < _ENOUGH + _MORE * context.index or iteration == self.iterations:
                break
            require_gradient(loss, "Null-text inversion")
            (embedding.grad,) = torch.autograd.grad(loss, embedding)
            optimizer.step()
        return best

    def nfe(self, num_steps: int, ends_clean: bool = True) -> int:
        return num_steps * (1 if not self.iterations or self.scale == 1 else self.iterations + 3)


class _First:
    """A query's conditioning: the first row's own; it remembers the negative branch's embedding."""

    negative: torch.Tensor

    def __call__(self, branch: str, conditionings: Mapping[str, Conditioning]) -> Conditioning:
        self.negative = conditionings["negative"].tensors[_EMBEDDING][:1]
        return conditionings[branch].rows(0, 1)


class _Replaced:
    """A query's conditioning: the negative branch's embedding is this one, in as many rows as the query needs."""

    def __init__(self, embedding: torch.Tensor):
        self.embedding = embedding

    def __call__(self, branch: str, conditionings: Mapping[str, Conditioning]) -> Conditioning:
        own = conditionings[branch]
        if branch != "negative":
            return own
        rows = 1 if self.embedding.requires_grad else len(own.tensors[_EMBEDDING])
        return _replace_embedding(own, self.embedding, rows)


class NullText(DdimInversion):
    """Inverts with DDIM at guidance 1, and fits the empty prompt so that any guidance comes back to the source.

    Source: as `OptimizedNull`; 50 steps, guidance 7.5 and 10 iterations are theirs.
    """

    def __init__(self, settings: NullTextSettings = NullTextSettings()):
        self.scale, self.strength, self.iterations = 1.0, settings.strength, settings.iterations

    def denoising(self, trajectory: Trajectory, guidance_scale: float = 1.0) -> Sampler:
        return OptimizedNull(pivots(trajectory), self.iterations, guidance_scale)
