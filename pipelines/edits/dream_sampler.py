"""DreamSampler: the picture's own unconditional path, its estimate drawn toward the prompt by score distillation."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import ClassVar

from pipelines.core.prediction import Prediction
from pipelines.core.registry import setting
from pipelines.core.sampler import Sampler, State, StepContext, Stepping
from pipelines.core.schedule import Level
from pipelines.edits.base import EditContext, UnpatchedEdit
from pipelines.edits.local_blend import LocalBlend
from pipelines.inversions.base import TARGET

__all__ = ["Distilled", "DreamSampler", "DreamSamplerSettings"]


@dataclasses.dataclass(frozen=True)
class DreamSamplerSettings:
    """The settings of DreamSampler's edit."""

    scale: float = setting(
        1.0,
        "How strongly each step is drawn toward the prompt; the guidance scale isn't used. 1 was measured with 25 "
        "steps; the authors take 0.2 in 200.",
        low=0,
        high=5,
        step=0.05,
    )


class Distilled:
    """Takes the edit's row down by DDIM from an estimate that is distilled, with the noise of the empty prompt.

    x0 = D_empty + abar * s * (D_text - D_empty), x' = alpha' * x0 + sigma' * eps_empty, abar the share of signal in the
    variance. All other rows are answered with the empty prompt.

    Args:
        inner: the sampler of an inversion that comes down by DDIM.
        scale: s.

    Source: Kim et al., DreamSampler: Unifying diffusion sampling and score distillation for image manipulation,
    arXiv:2403.11415, section 3.3 and algorithm 2; as in their code, where the empty prompt is also the source's.
    Differs: the level's own share of signal is taken, where their code's table is shifted by one training step; the
    negative prompt, where there is one, stands in the empty prompt's place on the way down.
    """

    def __init__(self, inner: Sampler, scale: float):
        self.inner, self.scale = inner, scale

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        inner = self.inner.step(state, level, next_level, context)
        try:
            query = next(inner)
            while True:
                answer = yield dataclasses.replace(query, branches=("negative", "positive"))
                empty, text = answer.branches["negative"], answer.branches["positive"]
                query = inner.send(empty)
        except StopIteration as finished:
            plain: State = finished.value
        return self._distill(plain, empty, text, next_level)

    def _distill(self, plain: State, empty: Prediction, text: Prediction, next_level: Level) -> State:
        level, latents = empty.level, plain.latents.clone()
        denoised = latents.clone() if plain.denoised is None else plain.denoised.clone()
        share = level.alpha**2 / (level.alpha**2 + level.sigma**2)
        # The edit's row is the last of an evaluation, of both rows or of its own alone.
        estimate = empty.denoised[-1] + self.scale * share * (text.denoised[-1] - empty.denoised[-1])
        denoised[TARGET] = estimate
        latents[TARGET] = next_level.alpha * estimate + next_level.sigma * empty.noise[-1]
        return dataclasses.replace(plain, latents=latents, denoised=denoised)

    def nfe(self, num_steps: int, ends_clean: bool = True) -> int:
        return self.inner.nfe(num_steps, ends_clean)


class DreamSampler(UnpatchedEdit):
    """Inverts without words and comes back with each estimate drawn toward the prompt; no source prompt is needed.

    Source: as `Distilled`.
    """

    inverts = True
    inverts_wordless = True
    looks_at_source = False
    inversions: ClassVar[tuple[str, ...]] = ("direct", "ddim", "fixed_point")

    def __init__(self, settings: DreamSamplerSettings = DreamSamplerSettings()):
        self.scale = settings.scale

    @contextlib.contextmanager
    def applied(self, context: EditContext) -> Iterator[Sampler]:
        sampler: Sampler = Distilled(context.sampler, self.scale)
        yield sampler if context.mask is None else LocalBlend(sampler, context.mask)
