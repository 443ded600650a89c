"""Several models in one run: whose predictions are averaged, and how much each counts at which step."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch

from pipelines.controls.window import StepWindow
from pipelines.core.errors import SettingsError
from pipelines.core.registry import setting
from pipelines.families.base import Family
from pipelines.families.companions import build_weight_name
from pipelines.families.latent_model import LatentModel

__all__ = ["COURSES", "Ensemble", "EnsembleSettings", "EnsembleShares"]

COURSES = ("constant", "fade_out", "fade_in")
"""How much the further models count from the first step to the last: the same, less and less, or more and more."""


@dataclasses.dataclass(frozen=True)
class EnsembleSettings:
    """Settings of a composition: the further models and what each counts."""

    weight: float = setting(1.0, "How much the chosen model itself counts.", low=0, high=4, step=0.05, label="Weight")
    second: str = setting("", "A model of the same latent space.", label="Second model")
    second_weight: float = setting(1.0, "How much the second model counts.", low=0, high=4, step=0.05)
    third: str = setting("", "A third one, or none.", label="Third model")
    third_weight: float = setting(1.0, "How much the third model counts.", low=0, high=4, step=0.05)
    course: str = setting(
        "constant",
        "The further models' weights from the first step to the last. Early steps decide what stands where, late ones "
        "the details.",
        choices=COURSES,
        label="Course",
    )
    reliability: float = setting(
        0.0,
        "Share of the chosen model in the prediction for the negative prompt, which guidance leads away from; 0 takes "
        "that of the weights.",
        low=0,
        high=1,
        step=0.05,
        label="Reliability",
    )
    begin: float = setting(0.0, "Share of the steps after which they join.", low=0, high=1, step=0.05, label="From")
    end: float = setting(1.0, "Share of the steps after which they leave.", low=0, high=1, step=0.05, label="To")


@dataclasses.dataclass(frozen=True)
class EnsembleShares:
    """Gives the network's evaluations each further model's share of the average.

    Attributes:
        settings: of the composition.
        weights: of the further models by key, each above 0.
        rows: for each sample, how far it is composed at all, (B,).
    """

    settings: EnsembleSettings
    weights: Mapping[str, float]
    rows: torch.Tensor

    def at(self, branch: str, step: int, num_steps: int) -> Mapping[str, torch.Tensor]:
        """Return each share, (B,), by the name of its tensor; none where only the first model counts.

        Args:
            branch: its name; the negative one has shares of its own where a reliability is set.
            step: of the run's whole schedule, from 0.
            num_steps: of that schedule.
        """
        factor = self._compute_factor(step, num_steps)
        if not factor:
            return {}
        others = factor * sum(self.weights.values())
        total = self.settings.weight + others
        if branch == "negative" and self.settings.reliability:
            if self.settings.reliability == 1:
                return {}
            total = others / (1 - self.settings.reliability)
        return {build_weight_name(key): self.rows * (factor * one / total) for key, one in self.weights.items()}

    def _compute_factor(self, step: int, num_steps: int) -> float:
        settings = self.settings
        if not StepWindow(settings.begin, settings.end).holds(step, num_steps):
            return 0.0
        progress = step / max(1, num_steps - 1)
        return {"constant": 1.0, "fade_out": 1 - progress, "fade_in": progress}[settings.course]


class Ensemble:
    """Averages the predictions of several models that share a latent space.

    With a reliability b of the first model, guidance of scale s and weights w that sum to 1 it is sum_i s w_i c_i -
    (s - 1) sum_i b_i u_i: what the models say of the prompt and of the negative prompt is averaged apart.

    Source: Nair et al., Unite and conquer, arXiv:2212.00793, whose reliability is the b_i.
    Differs: estimates of x0 are averaged and not of eps, so that models of different kinds go together; weights may
        change over the steps. The authors' published sampler has its b written in as constants, 5/9 and 4/9: nothing
        estimates them there or here.
    """

    def __init__(self, settings: EnsembleSettings = EnsembleSettings()):
        self.settings = settings

    @property
    def weights(self) -> dict[str, float]:
        """Return the further models that count, by key."""
        one = self.settings
        pairs = ((one.second, one.second_weight), (one.third, one.third_weight))
        return {key: weight for key, weight in pairs if key and weight}

    def check(self, model: str) -> None:
        """Check the settings against each other.

        Args:
            model: key of the first model.

        Raises:
            SettingsError: no further model is named, one twice, or their part of the run is empty.
        """
        keys = [key for key in (self.settings.second, self.settings.third) if key]
        if not keys:
            raise SettingsError("No second model is chosen. Choose one of the same latent space, or one model alone.")
        if len({model, *keys}) <= len(keys):
            raise SettingsError("A model is named twice. Choose different ones; how much each counts is its weight.")
        if self.settings.begin >= self.settings.end:
            raise SettingsError(
                f"The further models join at {self.settings.begin:g} and leave at {self.settings.end:g}. Let them "
                "leave later."
            )

    def build(self, family: Family | LatentModel, shares: Sequence[float]) -> EnsembleShares | None:
        """Prepare what the evaluations of a run are given; None for a neutral one.

        Args:
            family: with its companions.
            shares: how far each sample of the run is composed.
        """
        if not self.weights:
            return None
        return EnsembleShares(self.settings, self.weights, torch.tensor(shares, device=family.device))
