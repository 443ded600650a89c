"""Stochastic inversions: a noised path of the picture, and the noise that a stochastic sampler needs to follow it."""

from __future__ import annotations

import dataclasses
import math

import torch

from pipelines.core.prediction import Query
from pipelines.core.registry import setting
from pipelines.core.sampler import Past, Sampler, State, StepContext, Stepping
from pipelines.core.schedule import Level
from pipelines.core.types import Traits, Trajectory
from pipelines.inversions.base import SOURCE, pivots
from pipelines.samplers.ddim import fresh_noise
from pipelines.samplers.dpmpp import exponential_step, two_step_data

__all__ = [
    "CycleDiffusion",
    "CycleDiffusionSettings",
    "DdpmInversion",
    "DdpmInversionSettings",
    "FollowedPath",
    "FollowedSolver",
    "LeditsInversion",
    "LeditsInversionSettings",
    "NoisedPath",
    "fits_noise_maps",
]


@dataclasses.dataclass(frozen=True)
class DdpmInversionSettings:
    """The settings of edit-friendly DDPM inversion."""

    source_guidance_scale: float = setting(
        3.5, "Guidance by the source prompt while the noise is read off.", low=0, high=15, step=0.1
    )
    strength: float = setting(
        0.65, "Share of the steps that are run: less keeps more of the source.", low=0.1, high=1, step=0.05
    )


@dataclasses.dataclass(frozen=True)
class CycleDiffusionSettings:
    """The settings of CycleDiffusion's DPM-Encoder."""

    source_guidance_scale: float = setting(
        1.0, "Guidance by the source prompt while the noise is read off.", low=0, high=15, step=0.1
    )
    eta: float = setting(
        0.1, "Share of fresh noise in each step: 0 leaves the picture behind, 1 is DDPM.", low=0.05, high=1, step=0.05
    )
    strength: float = setting(
        0.8, "Share of the steps that are run: less keeps more of the source.", low=0.1, high=1, step=0.05
    )


@dataclasses.dataclass(frozen=True)
class LeditsInversionSettings:
    """The settings of LEDITS++'s inversion."""

    source_guidance_scale: float = setting(
        3.5, "Guidance by the source prompt while the noise is read off.", low=0, high=15, step=0.1
    )
    strength: float = setting(
        0.85, "Share of the steps that are run: less keeps more of the source.", low=0.1, high=1, step=0.05
    )


def fits_noise_maps(traits: Traits) -> str | None:
    """Say why not, or return None."""
    return "it runs through its own pipeline only" if traits.backbone == "pipeline" else None


class NoisedPath:
    """Noises a picture to every level, without the network, and asks what the network sees there.

    x_i = alpha_i z0 + sigma_i e_i, with e_i of unit variance. Independent e_i make neighboring levels differ more than
    a sampler's would; dependent ones, e_{i+1} = rho e_i + sqrt(1 - rho^2) n with rho = sqrt(sigma_i^2 - s^2) / sigma_i,
    have the joint distribution of DDIM's own posterior q(x_i | x_{i+1}, z0), here drawn from the clean end.

    Args:
        eta: share of fresh noise of the sampler that follows, from which s comes.
        is_independent: whether each level has noise of its own.

    Source: Huberman-Spiegelglas et al., arXiv:2304.06140, equation 4 for independent noise; Wu and De la Torre,
    arXiv:2210.05559, section 3.1 for the posterior.
    Differs: CycleDiffusion draws the posterior's path from the noisy end down; the two have one distribution.
    """

    def __init__(self, eta: float, is_independent: bool):
        self.eta, self.is_independent = eta, is_independent

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        clean, noise = state.memory or (state.latents / level.alpha, None)
        fresh = context.noise(state.latents)
        rho = 0.0
        if noise is not None and not self.is_independent:
            s = fresh_noise(next_level, level, self.eta)
            rho = math.sqrt(max(0.0, level.sigma**2 - s**2)) / level.sigma
        noise = fresh if rho == 0 else rho * noise + math.sqrt(1 - rho**2) * fresh
        latents = next_level.alpha * clean + next_level.sigma * noise
        prediction = yield Query(latents, next_level)
        return State(latents, prediction.denoised, memory=(clean, noise))

    def nfe(self, num_steps: int, ends_clean: bool = True) -> int:
        return num_steps


class FollowedPath:
    """Samples with the noise that leads the source along its path: x' = mu(x) + (x'_source - mu(x_source)).

    mu is the mean of a DDIM step with this eta. The bracket is sigma_t z_t of the papers; where a step adds no noise,
    as the last one to a clean picture, it is what the network's estimate of the source misses.

    Args:
        trajectory: of `NoisedPath`; its estimates are those of the source prompt.
        eta: as of the path.

    Source: Huberman-Spiegelglas et al., arXiv:2304.06140, equations 3 and 5; Wu and De la Torre, arXiv:2210.05559,
    algorithm 1.
    Differs: the source's row is overwritten by its path, which is exact; the published code of the former sets the last
    noise to zero, which is not.
    """

    def __init__(self, trajectory: Trajectory, eta: float):
        self.path, self.estimates, self.eta = pivots(trajectory), [step.denoised for step in trajectory.steps], eta

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        prediction = yield Query(state.latents, level)
        place = len(self.path) - 1 - context.index
        before, after, estimate = self.path[place], self.path[place - 1], self.estimates[place - 1]
        s = fresh_noise(level, next_level, self.eta)
        kept = math.sqrt(max(0.0, next_level.sigma**2 - s**2))
        source_noise = (before - level.alpha * estimate) / level.sigma
        missing = after - (next_level.alpha * estimate + kept * source_noise)
        latents = next_level.alpha * prediction.denoised + kept * prediction.noise + missing
        latents[SOURCE] = after[0]
        return State(latents, prediction.denoised)

    def nfe(self, num_steps: int, ends_clean: bool = True) -> int:
        return num_steps


class FollowedSolver(FollowedPath):
    """Samples as `FollowedPath`, with the mean of a step of SDE-DPM-Solver++(2M) in the place of DDPM's.

    Both rows have a past of their own: the source's is that of its path.

    Source: Brack et al., LEDITS++, arXiv:2311.16711, equations 4 to 6; Lu et al., arXiv:2211.01095, section 4.
    Differs: the source's row is overwritten by its path; diffusers' pipeline reconstructs only where the schedule ends
    before the clean picture (`final_sigmas_type="sigma_min"`).
    """

    def __init__(self, trajectory: Trajectory):
        super().__init__(trajectory, 1.0)

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        prediction = yield Query(state.latents, level)
        place = len(self.path) - 1 - context.index
        before, after, estimate = self.path[place], self.path[place - 1], self.estimates[place - 1]
        source_past, past = state.memory or ((), ())
        missing = after - _solver_mean(before, estimate, level, next_level, source_past)
        latents = _solver_mean(state.latents, prediction.denoised, level, next_level, past) + missing
        latents[SOURCE] = after[0]
        memory = (Past(level, estimate),), (Past(level, prediction.denoised),)
        return State(latents, prediction.denoised, memory=memory)


def _solver_mean(
    latents: torch.Tensor, denoised: torch.Tensor, level: Level, next_level: Level, past: tuple[Past, ...]
) -> torch.Tensor:
    """The mean of a step of SDE-DPM-Solver++(2M)."""
    return exponential_step(latents, level, next_level, two_step_data(denoised, level, next_level, past), 1.0)


class _NoiseMaps:
    """What both methods share: one path up, and the way down along it."""

    source_guidance: float
    eta: float
    is_independent: bool
    is_random = True
    replaces_negative = False
    is_wordless = False
    holds_source = True

    def guidance_scale(self, edit_scale: float) -> float:
        return self.source_guidance

    def start(self, image_latents: torch.Tensor) -> torch.Tensor:
        return image_latents

    def noising(self) -> Sampler:
        return NoisedPath(self.eta, self.is_independent)

    def denoising(self, trajectory: Trajectory, guidance_scale: float = 1.0) -> Sampler:
        return FollowedPath(trajectory, self.eta)

    def forked(self, latents: torch.Tensor) -> torch.Tensor:
        return latents.repeat_interleave(2, dim=0)

    def visible(self, latents: torch.Tensor) -> torch.Tensor:
        return latents


class DdpmInversion(_NoiseMaps):
    """Inverts with independent noise at every level, whose noise maps hold the picture's layout.

    Source: Huberman-Spiegelglas, Kulikov, Michaeli, An edit friendly DDPM noise space, arXiv:2304.06140, section 3;
    100 steps of which 36 are skipped, guidance 3.5 and 15 are theirs.
    Differs: as `FollowedPath`.
    """

    def __init__(self, settings: DdpmInversionSettings = DdpmInversionSettings()):
        self.source_guidance, self.strength = settings.source_guidance_scale, settings.strength
        self.eta, self.is_independent = 1.0, True


class CycleDiffusion(_NoiseMaps):
    """Encodes a picture as the noise of a stochastic sampler: the DPM-Encoder.

    Source: Wu and De la Torre, A latent space of stochastic diffusion models, arXiv:2210.05559, algorithm 1; eta 0.1,
    strength 0.8 and source guidance 1 are diffusers' defaults for it.
    Differs: as `NoisedPath` and `FollowedPath`.
    """

    def __init__(self, settings: CycleDiffusionSettings = CycleDiffusionSettings()):
        self.source_guidance, self.strength = settings.source_guidance_scale, settings.strength
        self.eta, self.is_independent = settings.eta, False


class LeditsInversion(_NoiseMaps):
    """Inverts with independent noise at every level, for a second-order stochastic solver with few steps.

    Source: Brack et al., LEDITS++: Limitless image editing using text-to-image models, arXiv:2311.16711, section 3.1;
    30 steps of which 15 % are skipped and guidance 3.5 are theirs.
    Differs: as `FollowedSolver`.
    """

    def __init__(self, settings: LeditsInversionSettings = LeditsInversionSettings()):
        self.source_guidance, self.strength = settings.source_guidance_scale, settings.strength
        self.eta, self.is_independent = 1.0, True

    def denoising(self, trajectory: Trajectory, guidance_scale: float = 1.0) -> Sampler:
        return FollowedSolver(trajectory)
