"""Made like AUTOMATIC1111's web UI and Forge: a generator a picture, of the CPU or of CUDA, k-diffusion's times."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from pipelines.compatibility.base import Here
from pipelines.compatibility.noise import CPU, CUDA, GENERATORS, PathNoise, PathSigmas, PictureNoise
from pipelines.compatibility.peer_samplers import HalvedDpm3MSde, Plms
from pipelines.compatibility.scheduler_names import k_diffusion_scheduler
from pipelines.compatibility.sigma_table import SigmaTable, alphas_cumprod_of
from pipelines.compatibility.sigmas import K_DIFFUSION_SIGMAS, peer_sigmas
from pipelines.core.noise import NoiseSource
from pipelines.core.prediction import Guidance
from pipelines.core.registry import setting
from pipelines.core.sampler import Sampler
from pipelines.core.schedule import CLEAN, DiscreteSchedule, Level, NoiseSchedule, Schedule
from pipelines.core.types import Request
from pipelines.guidance.cfg import mix_below_one
from pipelines.prompts.rules import PromptRules
from pipelines.samplers.unipc import UniPc

__all__ = ["A1111", "A1111Cpu", "A1111Gpu", "A1111Settings", "slerp_columns"]

_DROPS_PENULTIMATE = ("dpm2", "dpm2_a", "dpmpp_3m_sde")
_IN_TIMESTEPS = ("ddim", "pndm", "unipc")
"""Samplers that are not k-diffusion's there: their levels are trained time steps, whatever the schedule type says."""

_EMPHASIS = {"Original": "mean", "No norm": "multiply", "Ignore": "ignore", "None": "ignore"}

_ANCESTRAL = ("euler_a", "dpm2_a")
"""Samplers whose noise heeds the eta noise seed delta."""


@dataclasses.dataclass(frozen=True)
class A1111Settings:
    """The settings of the web UI's rules."""

    ensd: int = setting(
        0,
        "Eta noise seed delta: added to the seed of ancestral samplers' noise.",
        low=0,
        high=2**32 - 1,
        step=1,
        label="ENSD",
    )
    clip_skip: int = setting(
        0, "Layer of CLIP that is read: 1 the last, 2 the last but one; 0 as 1.", low=0, high=12, step=1
    )
    emphasis: str = setting(
        "Original", "What weights in a prompt do.", choices=("Original", "No norm", "Ignore", "None")
    )


class A1111(Here):
    """The web UI draws each picture's noise from a generator of its own, which goes on with the steps' noise.

    SDE samplers follow a Brownian path for each picture. Times are fractional, the first latents are the noise times
    sigma, and DPM2, DPM2 a and DPM++ 3M SDE leave out their schedule's last sigma but one. DDIM and PLMS walk every
    floor(1000 / N)-th time step plus one and end at time step 1; UniPC walks equal times to the first trained step.

    Source: AUTOMATIC1111 and contributors, stable-diffusion-webui 1.10, `modules/rng.py`, `modules/sd_samplers_*.py`;
    k-diffusion 0.1.1, with which the samplers were compared (tests/pipelines/test_like_peers.py).
    """

    device = CPU

    def __init__(self, settings: A1111Settings = A1111Settings()):
        self.settings = settings

    def noise_schedule(self, noise_schedule: NoiseSchedule, config: Mapping[str, object]) -> NoiseSchedule:
        if not isinstance(noise_schedule, DiscreteSchedule):
            return noise_schedule
        alphas_cumprod = alphas_cumprod_of(noise_schedule, config).float()
        sigmas = ((1 - alphas_cumprod) / alphas_cumprod) ** 0.5
        return SigmaTable(sigmas, noise_schedule.steps_offset, nearest=False)

    def levels(self, request: Request, schedule: Schedule, noise_schedule: NoiseSchedule) -> list[Level]:
        key, steps = request.sampler.key, request.num_inference_steps
        if not isinstance(noise_schedule, SigmaTable):
            return schedule.levels(noise_schedule, steps)
        if key in _IN_TIMESTEPS:
            times = _strided_times(steps)
            return _uniform_levels(noise_schedule, len(times)) if key == "unipc" else [*map(noise_schedule.at, times)]
        steps += key in _DROPS_PENULTIMATE
        name = k_diffusion_scheduler(request.schedule)
        if not name:
            levels = schedule.levels(noise_schedule, steps)
        else:
            sigmas = peer_sigmas(K_DIFFUSION_SIGMAS, name, request.schedule, noise_schedule, steps)
            levels = [*(noise_schedule.at_sigma_ve(sigma) for sigma in sigmas.tolist()), CLEAN]
        return [*levels[:-2], levels[-1]] if key in _DROPS_PENULTIMATE else levels

    def sampler(self, request: Request, sampler: Sampler, noise_schedule: NoiseSchedule) -> Sampler:
        key = request.sampler.key
        if key == "pndm":
            return Plms()
        if key == "dpmpp_3m_sde":
            return HalvedDpm3MSde(float(getattr(sampler, "eta", 1.0)))
        if key == "unipc" and isinstance(sampler, UniPc):
            order = min(sampler.settings.order, request.num_inference_steps)
            return UniPc(dataclasses.replace(sampler.settings, order=order, lower_order_final=True))
        return sampler

    def guidance(self, guidance: Guidance) -> Guidance:
        return mix_below_one(guidance)

    def prompt_rules(self) -> PromptRules:
        settings = self.settings
        syntax, weighting = ("plain" if settings.emphasis == "None" else "here"), _EMPHASIS[settings.emphasis]
        return PromptRules(syntax, "commas", settings.clip_skip, frozenset({"sd"}), weighting, repeats=True)

    def initial_scale(self, levels: Sequence[Level], noise_schedule: NoiseSchedule) -> float:
        if not isinstance(noise_schedule, SigmaTable):
            return super().initial_scale(levels, noise_schedule)
        # The samplers in time steps take the noise as it is; only theirs end with noise.
        return 1.0 if levels[-1].sigma > 0 else levels[0].sigma

    def noise(
        self, request: Request, shape: tuple[int, int, int], levels: Sequence[Level]
    ) -> tuple[torch.Tensor, NoiseSource]:
        make, like = GENERATORS[self.device], torch.empty(request.batch_size, *shape)
        seeds = [request.seed + i for i in range(request.batch_size)]
        source = PictureNoise([make(seed) for seed in seeds])
        initial = source(like)
        if request.variation_strength:
            second = PictureNoise([make(request.variation_seed + i) for i in range(request.batch_size)])(like)
            initial = slerp_columns(initial, second, request.variation_strength)
        if self.settings.ensd and request.sampler.key in _ANCESTRAL:
            source = PictureNoise([make(seed + self.settings.ensd) for seed in seeds])
        return initial, PathNoise(source, seeds, None, PathSigmas(levels), self.device)


class A1111Cpu(A1111):
    """The web UI with its random numbers from the CPU (RNG: CPU)."""


class A1111Gpu(A1111):
    """The web UI with its random numbers from an NVIDIA GPU, its default, or of its setting NV.

    Differs: see `PhiloxGenerator` for pictures with more numbers than a GPU has threads.
    """

    device = CUDA


def slerp_columns(start: torch.Tensor, end: torch.Tensor, strength: float) -> torch.Tensor:
    """Interpolate (B, C, h, w) on the sphere, each column of height h by itself.

    Source: AUTOMATIC1111, `modules/rng.py`, `slerp`, which takes the norm along the first axis after the channels.
    """
    low, high = (one / torch.linalg.vector_norm(one, dim=-2, keepdim=True) for one in (start, end))
    cosine = (low * high).sum(-2)
    angle = torch.acos(cosine)
    sine = torch.sin(angle)
    rows = []
    for row in range(len(start)):
        if float(cosine[row].mean()) > 0.9995:
            rows.append(start[row] * (1 - strength) + end[row] * strength)
            continue
        first, second = ((torch.sin(one * angle[row]) / sine[row]).unsqueeze(-2) for one in (1 - strength, strength))
        rows.append(first * start[row] + second * end[row])
    return torch.stack(rows)


def _strided_times(steps: int) -> list[float]:
    """Every floor(1000 / N)-th time step plus one, descending; the web UI goes between these."""
    return [float(min(time + 1, 999)) for time in reversed(range(0, 1000, max(1000 // steps, 1)))]


def _uniform_levels(table: SigmaTable, steps: int) -> list[Level]:
    """Equal times from the last to the first trained step, ln(alpha) interpolated.

    Source: Lu et al., `NoiseScheduleVP` of the discrete kind, as UniPC's code takes it.
    """
    total = table.num_train_timesteps
    alphas_cumprod = 1 / (1 + table.sigmas.double().numpy() ** 2)
    levels = []
    for time in np.linspace(1.0, 1 / total, steps + 1) * total - 1:
        alpha = math.exp(float(np.interp(time, np.arange(total), 0.5 * np.log(alphas_cumprod))))
        levels.append(Level(alpha, math.sqrt(1 - alpha**2), float(time)))
    return levels
