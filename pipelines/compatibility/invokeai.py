"""Made like InvokeAI: diffusers' rules, and the steps' noise from a generator of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from pipelines.compatibility.base import Here
from pipelines.compatibility.noise import CPU, CUDA, GENERATORS, PictureNoise
from pipelines.core.noise import NoiseSource, initial_noise
from pipelines.core.prediction import Guidance
from pipelines.core.registry import setting
from pipelines.core.schedule import Level
from pipelines.core.types import Request
from pipelines.guidance.cfg import mix_below_one
from pipelines.prompts.rules import PromptRules

__all__ = ["InvokeAi", "InvokeAiSettings"]

_FLIPPED = 0xFFFFFFFF


@dataclasses.dataclass(frozen=True)
class InvokeAiSettings:
    """The settings of InvokeAI's rules."""

    step_noise: str = setting(CUDA, "Where the steps of stochastic samplers drew their noise.", choices=(CUDA, CPU))
    skipped_layers: int = setting(0, "Layers of CLIP left out at its end, its CLIP skip.", low=0, high=11, step=1)


class InvokeAi(Here):
    """InvokeAI draws a picture's first noise on the CPU, as here, and its steps' with the seed's low bits flipped.

    Source: InvokeAI 4 and 5, `invokeai/app/invocations/denoise_latents.py` (seed ^ 0xFFFFFFFF), `noise.py`.
    """

    def __init__(self, settings: InvokeAiSettings = InvokeAiSettings()):
        self.settings = settings

    def guidance(self, guidance: Guidance) -> Guidance:
        return mix_below_one(guidance)

    def prompt_rules(self) -> PromptRules:
        skipped = self.settings.skipped_layers
        return PromptRules(
            syntax="invokeai",
            clip_skip=skipped and skipped + 1,
            skipping=frozenset({"sd"}),
            weighting="interpolate",
            masks=True,
        )

    def noise(
        self, request: Request, shape: tuple[int, int, int], levels: Sequence[Level]
    ) -> tuple[torch.Tensor, NoiseSource]:
        pictures, make = range(request.batch_size), GENERATORS[self.settings.step_noise]
        first = NoiseSource([request.seed + i for i in pictures])
        variation = NoiseSource([request.variation_seed + i for i in pictures])
        whole = (request.batch_size, *shape)
        initial = initial_noise(first, whole, variation, request.variation_strength)
        return initial, PictureNoise([make((request.seed + i) ^ _FLIPPED) for i in pictures])
