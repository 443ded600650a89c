"""Frequency modulation (FAM): the coarse shapes of a large picture stay those of the small one."""

from __future__ import annotations

import dataclasses

import torch

from pipelines.core.loop import Run
from pipelines.core.registry import setting
from pipelines.core.sampler import State
from pipelines.core.types import Step
from pipelines.second_passes.base import MOST_FACTOR, EnlargeContext, PassStart, enlarge_latents

__all__ = ["FrequencyModulation", "FrequencySettings", "exchange_low_frequencies"]


@dataclasses.dataclass(frozen=True)
class FrequencySettings:
    factor: float = setting(2.0, "How many times wider and higher.", low=1, high=MOST_FACTOR, step=0.25)
    strength: float = setting(
        0.8, "Share of the steps that are run at the new size.", low=0.05, high=1, step=0.05, label="Denoising strength"
    )
    cutoff: float = setting(
        0.5, "Frequencies that stay the small picture's, in parts of its finest; 0 for none.", low=0, high=1, step=0.05
    )


def exchange_low_frequencies(latents: torch.Tensor, others: torch.Tensor, cutoff: float) -> torch.Tensor:
    """Take the frequencies up to a cutoff from other latents.

    Args:
        latents, others: (B, C, h, w).
        cutoff: in parts of the highest frequency of either direction; 0 takes nothing, not even the mean.

    Source: Yang et al., FAM diffusion, arXiv:2411.18552, section 3.2, with a mask K of 0 and 1.
    """
    if not cutoff:
        return latents
    height, width = latents.shape[-2:]
    down = torch.fft.fftfreq(height, device=latents.device).abs()[:, None]
    right = torch.fft.rfftfreq(width, device=latents.device)[None]
    is_low = (down <= cutoff / 2) & (right <= cutoff / 2)
    spectrum = torch.where(is_low, torch.fft.rfft2(others.float()), torch.fft.rfft2(latents.float()))
    return torch.fft.irfft2(spectrum, s=(height, width)).to(latents.dtype)


class FrequencyModulation:
    """Takes the low frequencies of each step's latents from the small picture, enlarged and noised to the same level.

    Cutoff 0 is a latent upscale.

    Source: Yang et al., FAM diffusion: Frequency and attention modulation for high-resolution image generation with
        stable diffusion, arXiv:2411.18552.
    Differs: frequency modulation alone; their attention modulation, which keeps local patterns alike, is not done. The
        mask is the same at each step.
    """

    upscaler = ""
    alone = ""

    def __init__(self, settings: FrequencySettings = FrequencySettings()):
        self.factor, self.strength, self.cutoff = settings.factor, settings.strength, settings.cutoff

    def enlarge(self, latents: torch.Tensor, context: EnlargeContext) -> torch.Tensor:
        return enlarge_latents(latents, context)

    def steer(self, run: Run, start: PassStart) -> Run:
        """Let each step but the last end with the small picture's low frequencies."""
        cutoff = self.cutoff * start.small.shape[-1] / start.enlarged.shape[-1]

        def lead(state: State, step: Step) -> State:
            if not cutoff or step.index + 1 == step.num_steps:
                return state
            noised = step.next_level.alpha * start.enlarged + step.next_level.sigma * start.noise
            return dataclasses.replace(state, latents=exchange_low_frequencies(state.latents, noised, cutoff))

        return dataclasses.replace(run, between=lead)
