"""Denoising MCMC: a chain in the space of latents and noise levels, and its least noisy state to start from."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch

from pipelines.core.errors import SettingsError
from pipelines.core.prediction import Prediction, Query
from pipelines.core.registry import setting
from pipelines.core.sampler import Sampler, interpolate
from pipelines.core.schedule import Level, NoiseSchedule
from pipelines.initializations.base import Beginning, StartContext
from pipelines.initializations.fitted import NOISE_LEVEL, fitted_file, require_shape

if TYPE_CHECKING:
    from pipelines.initializations.noise_classifier import NoiseClassifier

__all__ = ["DenoisingMcmc", "McmcSettings", "langevin_step"]


@dataclasses.dataclass(frozen=True)
class McmcSettings:
    steps: int = setting(10, "Steps of the chain, one evaluation each.", low=1, high=100, step=1)
    step_size: float = setting(
        0.8,
        "Of the chain's steps; it must stay below four times the noise's square.",
        low=0.01,
        high=8,
        step=0.05,
        label="step size",
    )
    noise: float = setting(
        1.0, "Noise (sigma) of the chain's first state; more lets it wander further.", low=0.1, high=5, step=0.1
    )
    draft_steps: int = setting(
        4,
        "DDIM steps that make the rough picture from which the chain sets out.",
        low=1,
        high=20,
        step=1,
        label="draft steps",
    )


def langevin_step(latents: torch.Tensor, score: torch.Tensor, step_size: float, noise: torch.Tensor) -> torch.Tensor:
    """Compute x' = x + eta / 2 * score + sqrt(eta) * z, the unadjusted Langevin algorithm.

    On N(0, v) its stationary variance is v / (1 - eta / (4 * v)), and it diverges from eta = 4 * v on.

    Source: Kim & Ye, arXiv:2209.14593, the x step of Denoising Langevin Gibbs.
    """
    return latents + step_size / 2 * score + step_size**0.5 * noise


class DenoisingMcmc:
    """Takes Langevin-Gibbs steps in (x, sigma), then the schedule from the smallest sigma that the chain has seen.

    A step moves x at its noise level and then asks the classifier which level x now has. The chain lives in latents
    divided by alpha, x0 + sigma * eps, whatever the model's own form; the prompt guides it as it guides the sampler.

    Source: Kim & Ye, Denoising MCMC for accelerating diffusion-based generative models, arXiv:2209.14593, with the
    authors' likeliest level in place of a drawn one, and their 10 steps of size 0.8.
    Differs: the authors carry one chain from picture to picture, so that its beginning is paid for once; here every
    picture has a chain of its own, or a picture would depend on those before it. It sets out from a few DDIM steps
    and fresh noise, as theirs does at first. Theirs walks pictures in [0, 1], of a standard deviation of about a
    quarter; latents have about one, so that the same step is shorter here.
    """

    most_pictures: ClassVar[int] = 1

    def __init__(self, settings: McmcSettings = McmcSettings()):
        if settings.step_size >= 4 * settings.noise**2:
            raise SettingsError(
                f"Denoising MCMC: at noise {settings.noise:g} the step size {settings.step_size:g} makes the chain "
                f"diverge. Choose one below {4 * settings.noise**2:g}, or more noise."
            )
        self.settings = settings

    def begin(self, latents: torch.Tensor, levels: Sequence[Level], context: StartContext) -> Beginning:
        from pipelines.initializations.noise_classifier import (
            load_noise_classifier,  # late: PyTorch is imported with it
        )

        if len(latents) != 1:
            raise SettingsError(
                "Denoising MCMC ends each picture's chain at its own noise level, so it makes one picture at a time, "
                f"and {len(latents)} are asked for. Choose 1 picture."
            )
        classifier = load_noise_classifier(fitted_file(context, NOISE_LEVEL))
        require_shape(context, classifier.shape, latents)
        draft = yield from self._draft(latents, levels)
        first = draft + self.settings.noise * context.noise(draft)
        state, sigma = yield from self._run_chain(first, classifier, context)
        level = context.noise_schedule.at_sigma_ve(sigma)
        lower_levels = [later for later in levels if later.sigma_ve < level.sigma_ve]
        return level.alpha * state, [level, *(lower_levels or levels[-1:])]

    def _draft(self, latents: torch.Tensor, levels: Sequence[Level]) -> Generator[Query, Prediction, torch.Tensor]:
        """A rough picture, by DDIM over a few of the levels."""
        count = min(self.settings.draft_steps, len(levels) - 1)
        draft_levels = [levels[round(place * (len(levels) - 1) / count)] for place in range(count)]
        for place, level in enumerate(draft_levels):
            prediction = yield Query(latents, level)
            if place + 1 < count:
                latents = interpolate(prediction, draft_levels[place + 1])
        return prediction.denoised

    def _run_chain(
        self, state: torch.Tensor, classifier: NoiseClassifier, context: StartContext
    ) -> Generator[Query, Prediction, tuple[torch.Tensor, float]]:
        """(x0 + sigma * eps, sigma): the chain's state of least noise."""
        sigma = least = _estimate_sigma(state, classifier, context.noise_schedule)
        best = state
        for _ in range(self.settings.steps):
            level = context.noise_schedule.at_sigma_ve(sigma)
            prediction = yield Query(level.alpha * state, level)
            score = -prediction.noise / sigma
            state = langevin_step(state, score, self.settings.step_size, context.noise(state))
            sigma = _estimate_sigma(state, classifier, context.noise_schedule)
            if sigma < least:
                best, least = state, sigma
        return best, least

    def list_files(self, num_steps: int) -> Sequence[str]:
        return (NOISE_LEVEL,)

    def remaining_steps(self, num_steps: int) -> None:
        """The chain decides, picture by picture."""

    def nfe(self, num_steps: int, sampler: Sampler, ends_clean: bool = True) -> int:
        """Return an upper bound: the chain may skip the sampler's first steps."""
        return min(self.settings.draft_steps, num_steps) + self.settings.steps + sampler.nfe(num_steps, ends_clean)


def _estimate_sigma(state: torch.Tensor, classifier: NoiseClassifier, noise_schedule: NoiseSchedule) -> float:
    """The classifier's sigma, no lower and no higher than the model was trained for."""
    low, high = noise_schedule.at(1).sigma_ve, noise_schedule.at(noise_schedule.num_train_timesteps - 1).sigma_ve
    return min(max(float(classifier.sigma(state)[0]), low), high)
