"""Cyclic one-way diffusion: what is kept spreads into what is drawn, round after round, and not the other way."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Generator, Iterator
from typing import ClassVar

import torch

from pipelines.core.errors import SettingsError
from pipelines.core.prediction import Prediction, Query
from pipelines.core.registry import setting
from pipelines.core.sampler import Sampler, State, StepContext, Stepping
from pipelines.core.schedule import Level
from pipelines.edits.base import EditContext, UnpatchedEdit
from pipelines.inversions.base import SOURCE, TARGET
from pipelines.inversions.unasked import take_edit
from pipelines.samplers.ddim import ancestral_step

__all__ = ["Cyclic", "CyclicDiffusion", "CyclicSettings", "renoise"]

_LAST_OVERWRITE = 0.4
_LAST_ETA = 0.1


@dataclasses.dataclass(frozen=True)
class CyclicSettings:
    """The settings of cyclic one-way diffusion."""

    cycles: int = setting(
        10, "Rounds of noising and denoising: more blend what is drawn into what is kept.", low=0, high=50, step=1
    )
    high: float = setting(
        0.7, "Where each round begins, and the edit: share of the noise levels.", low=0.2, high=0.95, step=0.05
    )
    low: float = setting(0.5, "Where each round ends, as such a share.", low=0.1, high=0.9, step=0.05)


def renoise(latents: torch.Tensor, level: Level, higher: Level, noise: torch.Tensor) -> torch.Tensor:
    """Noise latents from one level to a higher one: x' = r x + sqrt(sigma'^2 - r^2 sigma^2) n, r = alpha' / alpha.

    Args:
        latents, noise: (B, C, h, w); the second unit normal.
        level, higher: theirs, and that of the result.
    """
    ratio = higher.alpha / level.alpha
    return ratio * latents + math.sqrt(max(0.0, higher.sigma**2 - (ratio * level.sigma) ** 2)) * noise


class Cyclic:
    """Draws the edit's row between two noise levels again and again, with the source's path put back where it is kept.

    Args:
        inner: the sampler of (source, edit) of an inversion, whose source row comes back down its path.
        fill: (1, C, 1, 1), what the part that may change is, beneath its noise, at the first level.
        noise: (1, C, h, w), unit normal, of that.
        mask: (1, 1, h, w) bool, true where it may change.
        rounds: how many, where each ends (it begins at the first level), and where the source is put back for the last
            time, both as shares of the steps that are run.

    Source: Wang et al., Diffusion in diffusion: cyclic one-way diffusion for text-vision-conditioned generation,
    arXiv:2306.08247, algorithm 1; eta 1 in the rounds and 0.1 after them, where the source is put back once more.
    """

    def __init__(
        self,
        inner: Sampler,
        fill: torch.Tensor,
        noise: torch.Tensor,
        mask: torch.Tensor,
        rounds: tuple[int, float, float],
    ):
        self.inner, self.fill, self.noise, self.mask = inner, fill, noise, mask
        self.cycles, self.low, self.last = rounds
        self._path: list[tuple[Level, torch.Tensor]] = []

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        end, last = self._find_places(context.num_steps)
        if context.index == 0:
            self._path = []
            fresh = level.alpha * self.fill + level.sigma * self.noise
            edit = self.put_back(fresh, state.latents[SOURCE : SOURCE + 1])
            state = dataclasses.replace(state, latents=torch.cat([state.latents[:TARGET], edit]))
        if context.index < end:
            self._path.append((level, state.latents[SOURCE : SOURCE + 1]))
        plain, answer = yield from self._ask(state, level, next_level, context)
        is_round = context.index < end
        edit = self._move(answer, level, next_level, 1.0 if is_round else _LAST_ETA, context)
        seed = plain.latents[SOURCE : SOURCE + 1]
        if is_round or context.index + 1 == last:
            edit = self.put_back(edit, seed)
        if context.index + 1 == end:
            self._path.append((next_level, seed))
            for _ in range(self.cycles):
                edit = yield from self._run_round(edit, context)
        latents = torch.cat([plain.latents[:TARGET], edit])
        denoised = plain.denoised
        if denoised is not None:
            denoised = torch.cat([denoised[:TARGET], answer.denoised[-1:]])
        return dataclasses.replace(plain, latents=latents, denoised=denoised)

    def put_back(self, edit: torch.Tensor, seed: torch.Tensor) -> torch.Tensor:
        """Return the edit's row with the source's where it is kept."""
        return torch.where(self.mask, edit, seed)

    def nfe(self, num_steps: int, ends_clean: bool = True) -> int:
        return self.inner.nfe(num_steps, ends_clean) + self.cycles * self._find_places(num_steps)[0]

    def _find_places(self, num_steps: int) -> tuple[int, int]:
        """The numbers of steps after which a round ends, and the source is put back for the last time."""
        end = min(num_steps - 1, max(1, num_steps - round(self.low * num_steps)))
        return max(1, end), num_steps - round(self.last * num_steps)

    def _ask(
        self, state: State, level: Level, next_level: Level, context: StepContext
    ) -> Generator[Query, Prediction, tuple[State, Prediction]]:
        """The inner sampler's step, and the last prediction that it was given."""
        inner = self.inner.step(state, level, next_level, context)
        try:
            query = next(inner)
            while True:
                answer = yield query
                query = inner.send(answer)
        except StopIteration as finished:
            plain: State = finished.value
        return plain, answer

    def _run_round(self, edit: torch.Tensor, context: StepContext) -> Generator[Query, Prediction, torch.Tensor]:
        (highest, _), (lowest, _) = self._path[0], self._path[-1]
        edit = renoise(edit, lowest, highest, context.noise(edit))
        for (level, _), (next_level, seed) in zip(self._path, self._path[1:], strict=False):
            answer = yield Query(edit, level, rows=(TARGET, TARGET + 1), conditioning=take_edit)
            edit = self.put_back(self._move(answer, level, next_level, 1.0, context), seed)
        return edit

    def _move(
        self, answer: Prediction, level: Level, next_level: Level, eta: float, context: StepContext
    ) -> torch.Tensor:
        """A step of the edit's row, which is the last of an evaluation of both rows or of its own alone."""
        own = Prediction(answer.raw[-1:], answer.latents[-1:], level, answer.prediction_type)
        return ancestral_step(own, level, next_level, eta, context)


class CyclicDiffusion(UnpatchedEdit):
    """Keeps what is not masked, and lets the prompt draw the rest around it so that both belong together.

    The masked part begins as noise around the mean of what is kept, at the first level of a round.

    Source: as `Cyclic`; 10 rounds between 0.5 and 0.7 of the noise levels, of 10 steps, guidance 7.5.
    Differs: the authors paste what is kept onto a plain background first; here the picture is inverted as it is, and of
    the path only what is kept is used. What is not masked is, in the end, the source's pixels.
    """

    inverts = True
    masked = True
    looks_at_source = False
    inversions: ClassVar[tuple[str, ...]] = ("direct", "ddim", "fixed_point")

    def __init__(self, settings: CyclicSettings = CyclicSettings()):
        self.settings, self.strength = settings, settings.high

    def require_settings(self) -> None:
        if self.settings.low >= self.settings.high:
            raise SettingsError(
                f"A round goes from {self.settings.high:g} down to {self.settings.low:g} of the noise levels. Choose "
                "an end below its beginning."
            )

    @contextlib.contextmanager
    def applied(self, context: EditContext) -> Iterator[Sampler]:
        settings, mask = self.settings, context.drawn_mask
        kept = torch.where(mask, torch.zeros_like(context.image_latents), context.image_latents)
        mean = kept.sum(dim=(2, 3), keepdim=True) / (mask.numel() - mask.sum()).clamp(min=1)
        rounds = settings.cycles, settings.low / settings.high, _LAST_OVERWRITE / settings.high
        yield Cyclic(context.sampler, mean, context.noise, mask, rounds)
