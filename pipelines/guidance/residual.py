"""Residual guidance: the negative prompt is asked once, and its answer is carried through the later evaluations."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch

from pipelines.core.errors import SettingsError
from pipelines.core.prediction import Prediction
from pipelines.core.registry import setting
from pipelines.core.schedule import Level
from pipelines.guidance.two_branch import TwoBranchGuidance, guide

__all__ = ["Residual", "ResidualSettings", "residual_output"]


@dataclasses.dataclass(frozen=True)
class ResidualSettings:
    guidance_scale: float = setting(
        1.4, "How strongly the picture follows the prompt; 1 switches guidance off.", low=0, high=30, step=0.1
    )
    delta: float = setting(1.0, "Factor on the carried prediction; less is gentler.", low=0, high=1, step=0.05)
    refresh: int = setting(
        0,
        "Evaluations after which the negative prompt is asked again; 0 never, 1 is classifier-free guidance.",
        low=0,
        high=50,
        step=1,
    )


def residual_output(origin: torch.Tensor, prediction: Prediction) -> torch.Tensor:
    """Compute what a network would say whose estimate of x0 is `origin`, (B, C, h, w), of its own prediction type.

    Args:
        origin: the estimate, (B, C, h, w).
        prediction: of the same latents at a level with noise; its output is not read.
    """
    latents, alpha, sigma = prediction.latents, prediction.level.alpha, prediction.level.sigma
    if prediction.prediction_type == "epsilon":
        return (latents - alpha * origin) / sigma
    if prediction.prediction_type == "v_prediction":
        return (alpha * latents - origin) / sigma
    if prediction.prediction_type == "flow":
        return (latents - origin) / sigma
    return origin


class Residual(TwoBranchGuidance):
    """Guides by delta * R + w (C - delta * R): R is what the negative prompt would say if its estimate of x0 stayed.

    N steps take N + 1 evaluations; where a picture is given as the origin, as live mode does, N.

    Source: Kodaira et al., StreamDiffusion, arXiv:2312.12491, section 3.2: one-time-negative, and self-negative where
        the origin is the input picture.
    Differs: the combination is of the network's own output, as in classifier-free guidance, so that it serves models
        that predict v or a flow, too; on models that predict eps that is the paper's.
    """

    def __init__(self, settings: ResidualSettings = ResidualSettings()):
        super().__init__(settings.guidance_scale)
        self.delta, self.refresh = settings.delta, settings.refresh
        self._origin: torch.Tensor | None = None
        self._evaluations = 0

    def starting_from(self, origin: torch.Tensor) -> Residual:
        """Make the same guidance with the clean latents of an input picture, (B, C, h, w), as what it leads away
        from."""
        guidance = Residual(ResidualSettings(self.guidance_scale, self.delta, self.refresh))
        guidance._origin = origin
        return guidance

    def plan(self, level: Level) -> tuple[str, ...]:
        is_due = self._origin is None or bool(self.refresh and self._evaluations % self.refresh == 0)
        return super().plan(level) if is_due else ("positive",)

    def plans(self, answers: int) -> list[tuple[str, ...]]:
        """Name the branches of each answer: both at the first one, and where the negative prompt is asked again."""
        if self.guidance_scale <= 1:
            return [("positive",)] * answers
        asked = [index == 0 or bool(self.refresh and index % self.refresh == 0) for index in range(answers)]
        return [("negative", "positive") if is_due else ("positive",) for is_due in asked]

    def combine(self, branches: Mapping[str, Prediction]) -> Prediction:
        positive = branches["positive"]
        if self.guidance_scale <= 1:
            return positive
        self._evaluations += 1
        if "negative" in branches:
            negative = branches["negative"]
            self._origin = negative.denoised
            return positive.with_raw(guide(negative.raw, positive.raw, self.guidance_scale))
        return positive.with_raw(self._lead_away(positive))

    def _lead_away(self, positive: Prediction) -> torch.Tensor:
        if self._origin is None or self._origin.shape != positive.latents.shape:
            raise SettingsError(
                "Residual guidance carries a prediction of one size from step to step, and this run changes its size. "
                "Choose Classifier-free guidance."
            )
        if positive.level.sigma == 0:
            return positive.raw
        residual = self.delta * residual_output(self._origin.to(positive.latents), positive)
        return guide(residual, positive.raw, self.guidance_scale)
