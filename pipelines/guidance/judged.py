"""A judge looks at the picture on the way, and what it misses counts more from there on."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Generator, Mapping, Sequence

import torch

from pipelines.core.devices import upload
from pipelines.core.prediction import Guidance, Perturbation, Prediction, Query
from pipelines.core.registry import setting
from pipelines.core.schedule import Level
from pipelines.guidance.binding import Judge, place_of
from pipelines.guidance.two_branch import TwoBranchGuidance, guide

__all__ = ["Judged", "JudgedSettings"]


@dataclasses.dataclass(frozen=True)
class JudgedSettings:
    guidance_scale: float = setting(4.0, "How strongly the picture follows the prompt.", low=0, high=30, step=0.1)
    strength: float = setting(
        2.0, "How strongly an object that is missing is added; 0 for not at all.", low=0, high=20, step=0.1
    )
    every: int = setting(2, "Steps from one look to the next.", low=1, high=20, step=1)
    first: float = setting(0.1, "Share of the steps before the first look.", low=0, high=1, step=0.05)
    last: float = setting(0.8, "Share of the steps after which nothing is added.", low=0, high=1, step=0.05)


class Judged(TwoBranchGuidance):
    """Adds s * sum over objects of (1 - p) (O - U), with O of the object's name alone and p its probability in x0_hat.

    Where every object is seen nothing is evaluated beside guidance; else each object that is missing costs one
    evaluation a step. Strength 0 is classifier-free guidance.

    Source: Lv et al., Multimodal LLM-guided semantic correction in text-to-image diffusion (PPAD), arXiv:2505.20053: a
        judge looks at intermediate predictions and corrects what they lack.
    Differs: the shipped detector stands for the language model, so that nothing is downloaded and only prompts that it
        reads are taken; the correction is a sum of predictions, as in composition (Liu et al., arXiv:2206.01714), and
        not a rewritten prompt.
    """

    def __init__(self, settings: JudgedSettings = JudgedSettings()):
        super().__init__(settings.guidance_scale)
        self.strength, self.every = settings.strength, settings.every
        self.first, self.last = settings.first, settings.last
        self.patch: Perturbation | None = None
        self._levels: tuple[Level, ...] = ()
        self._judge: Judge | None = None
        self._prompt = ""
        self._count = 0
        self._missing: torch.Tensor | None = None
        self._looked_at = -1

    def with_levels(self, levels: Sequence[Level]) -> Guidance:
        bound = copy.copy(self)
        bound._levels = tuple(levels)
        return bound

    def further_texts(self, objects: Sequence[str]) -> Mapping[str, str]:
        return {f"object {index}": text for index, text in enumerate(objects)} if self.strength else {}

    def judged_prompts(self, prompt: str) -> Sequence[str]:
        return (prompt,) if self.strength else ()

    def with_judge(self, judge: Judge, prompt: str) -> Guidance:
        bound = copy.copy(self)
        bound._judge, bound._prompt = judge, prompt
        return bound

    def ask(self, query: Query) -> Generator[Query, Prediction, Prediction]:
        prediction = yield query
        place, steps = place_of(query.level, self._levels), len(self._levels) - 1
        is_inside = self.first * steps - 1e-9 <= place <= self.last * steps + 1e-9
        if not self.strength or self._judge is None or not is_inside or not query.level.alpha:
            return prediction
        if self._missing is None or place - self._looked_at >= self.every:
            self._missing, self._looked_at = 1 - self._judge.presence(prediction.denoised, self._prompt), place
        base = prediction.branches.get("negative", prediction)
        raw = prediction.raw
        for index, share in enumerate(self._missing.unbind(1)):
            share = share.where(share >= _SEEN, torch.zeros_like(share))
            if not bool(share.any()):
                continue
            alone = yield dataclasses.replace(query, branches=(f"object {index}",), role=f"object {index}")
            factor = upload(self.strength * share, raw.device, raw.dtype).view(-1, *[1] * (raw.ndim - 1))
            raw = raw + factor * (alone.raw - base.raw)
        return dataclasses.replace(prediction.with_raw(raw), branches=prediction.branches)

    def further_evaluations(self, level: Level) -> int:
        return _MOST_OBJECTS if self.strength else 0

    def blend(self, negative: Prediction, positive: Prediction) -> torch.Tensor:
        return guide(negative.raw, positive.raw, self.guidance_scale)


_MOST_OBJECTS = 2
"""That a prompt which the shipped detector reads can name apart."""

_SEEN = 0.5
"""Probability of being missing below which an object counts as seen."""
