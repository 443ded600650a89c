"""The probability that a picture shows what its prompt says, as a shipped judge sees it."""

from __future__ import annotations

import dataclasses

import torch

from pipelines.core.errors import SettingsError, TrainingError
from pipelines.core.registry import setting
from pipelines.emoji import captions
from pipelines.emoji.composition_captions import parse_description
from pipelines.emoji.objects import shipped_catalog
from pipelines.metrics.composition_adherence import adherence
from pipelines.rewards.base import RewardSources, Score

__all__ = ["Adherence", "AdherenceSettings"]

_FLOOR = 1e-9  # of a probability whose logarithm is taken
DETECTOR, CLASSIFIER = "detector", "classifier"
PROBABILITY, LOGARITHM = "probability", "logarithm"


@dataclasses.dataclass(frozen=True)
class AdherenceSettings:
    """Settings of the reward."""

    judge: str = setting(
        DETECTOR,
        "The detector reads the prompts of Emoji 128, the classifier those of Emoji.",
        choices=(DETECTOR, CLASSIFIER),
    )
    measure: str = setting(
        PROBABILITY, "The logarithm has a slope where the probability has none.", choices=(PROBABILITY, LOGARITHM)
    )


class Adherence:
    """The probability of objects, their places and the background together, or its logarithm.

    Source: none; the judges are this project's own, `pipelines.metrics`.
    """

    def __init__(self, settings: AdherenceSettings):
        self.settings = settings

    def check(self, prompt: str, sources: RewardSources) -> None:
        try:
            if self.settings.judge == DETECTOR:
                parse_description(prompt, shipped_catalog(None))
            else:
                captions.parse(prompt, shipped_catalog())
        except TrainingError as error:
            raise SettingsError(
                f"The {self.settings.judge} cannot judge by this prompt: {str(error).rstrip('.')}. Write it as "
                "'a cat face left of a rose on a blue background', or choose another reward."
            ) from error

    def load(self, prompt: str, sources: RewardSources) -> Score:
        from pipelines.metrics.classifier import load_classifier  # late: likewise
        from pipelines.metrics.detector import load_detector  # late: PyTorch is imported with it

        self.check(prompt, sources)
        if self.settings.judge == DETECTOR:
            detector = load_detector(device=sources.device)
            return lambda images: self._measure(adherence(detector, images, prompt))
        classifier = load_classifier(device=sources.device)
        return lambda images: self._measure(classifier.adherence(images, prompt))

    def _measure(self, probability: torch.Tensor) -> torch.Tensor:
        probability = probability.float().cpu()
        return probability if self.settings.measure == PROBABILITY else probability.clamp_min(_FLOOR).log()
