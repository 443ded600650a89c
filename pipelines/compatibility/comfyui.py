"""Made like ComfyUI: one generator a batch, float32 sigmas with whole time steps, its formulas."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import torch

from pipelines.compatibility.base import Here, with_setting
from pipelines.compatibility.noise import CPU, CUDA, GENERATORS, BatchNoise, PathNoise, PathSigmas, Rows
from pipelines.compatibility.peer_samplers import (
    ComfyDeis,
    EqualAdams,
    HalvedDpm3MSde,
    PeerSaSolver,
    PlainLcm,
    SigmaAdams,
    UnequalAdams,
)
from pipelines.compatibility.scheduler_names import comfyui_scheduler
from pipelines.compatibility.sigma_table import SigmaTable, alphas_cumprod_of
from pipelines.compatibility.sigmas import COMFYUI_SIGMAS, peer_sigmas
from pipelines.core.errors import SettingsError
from pipelines.core.noise import NoiseSource
from pipelines.core.prediction import Guidance
from pipelines.core.registry import setting
from pipelines.core.sampler import Sampler
from pipelines.core.schedule import CLEAN, DiscreteSchedule, Level, NoiseSchedule, Schedule
from pipelines.core.types import Request
from pipelines.guidance.cfg import mix_below_one
from pipelines.prompts.rules import PromptRules
from pipelines.samplers.unipc import UniPc

__all__ = ["ComfyUi", "ComfyUiSettings"]

_CPU_NEWER = "CPU, from 0.7"
_DROPS_PENULTIMATE = ("dpm2", "dpm2_a", "unipc")
_UNIPC_END = 0.001
"""Where UniPC's last step ends there, since lambda is infinite at 0."""


@dataclasses.dataclass(frozen=True)
class ComfyUiSettings:
    """The settings of ComfyUI's rules."""

    batch_index: int = setting(0, "Which picture of its batch it is, from 0.", low=0, high=4095, step=1)
    batch_total: int = setting(
        0, "Pictures that were drawn at once; 0 for as many as are made now.", low=0, high=4096, step=1
    )
    step_noise: str = setting(
        CUDA,
        "Where ancestral samplers drew their noise. From version 0.7 on the CPU's begins at seed + 1.",
        choices=(CUDA, CPU, _CPU_NEWER),
    )
    path_noise: str = setting(
        CPU, "Where SDE samplers drew theirs: those whose names end in _gpu on the GPU.", choices=(CPU, CUDA)
    )
    clip_skip: int = setting(
        0,
        "The layer of CLIPSetLastLayer without its sign: 1 the last, 2 the last but one; 0 for no such node.",
        low=0,
        high=12,
        step=1,
    )
    whole_schedule: bool = setting(
        False,
        "Whether dpm_2, dpm_2_ancestral and uni_pc keep the last sigma but one: SamplerCustom does, KSampler not.",
    )


class ComfyUi(Here):
    """ComfyUI draws a whole batch's noise from one generator of the CPU; steps draw anew with the same seed.

    SDE samplers follow one Brownian path for the batch. Times are whole, sigmas float32. dpm_2, dpm_2_ancestral and
    uni_pc make their schedule for one step more and leave out its last sigma but one, where KSampler makes it.

    Source: ComfyUI 0.3.64, `comfy/sample.py`, `comfy/samplers.py`, `comfy/k_diffusion/sampling.py`. All combinations of
    its schedulers with the samplers of `PROVEN` were compared with that version (tests/pipelines/test_like_peers.py).
    """

    def __init__(self, settings: ComfyUiSettings = ComfyUiSettings()):
        self.settings = settings

    def noise_schedule(self, noise_schedule: NoiseSchedule, config: Mapping[str, object]) -> NoiseSchedule:
        if not isinstance(noise_schedule, DiscreteSchedule):
            return noise_schedule
        alphas_cumprod = alphas_cumprod_of(noise_schedule, config)
        sigmas = ((1 - alphas_cumprod) / alphas_cumprod) ** 0.5
        return SigmaTable(sigmas, noise_schedule.steps_offset, nearest=True)

    def check(self, request: Request) -> None:
        if request.variation_strength:
            raise SettingsError(
                "ComfyUI has no variation seed. Set the variation strength to 0, or Made like to Stepwise."
            )
        self._rows(request)

    def levels(self, request: Request, schedule: Schedule, noise_schedule: NoiseSchedule) -> list[Level]:
        drops = request.sampler.key in _DROPS_PENULTIMATE and not self.settings.whole_schedule
        steps = request.num_inference_steps + drops
        name = comfyui_scheduler(request.schedule)
        if not isinstance(noise_schedule, SigmaTable) or not name:
            levels = schedule.levels(noise_schedule, steps)
        else:
            sigmas = peer_sigmas(COMFYUI_SIGMAS, name, request.schedule, noise_schedule, steps)
            levels = [*(noise_schedule.at_sigma_ve(sigma) for sigma in sigmas.tolist()), CLEAN]
        levels = [*levels[:-2], levels[-1]] if drops else levels
        if request.sampler.key == "unipc" and levels[-1].sigma == 0 and isinstance(noise_schedule, SigmaTable):
            levels[-1] = noise_schedule.at_sigma_ve(_UNIPC_END)
        return levels

    def sampler(self, request: Request, sampler: Sampler, noise_schedule: NoiseSchedule) -> Sampler:
        key, settings = request.sampler.key, request.sampler.settings
        if key == "unipc" and isinstance(sampler, UniPc):
            order = min(sampler.settings.order, max(request.num_inference_steps - 1, 1))
            return UniPc(dataclasses.replace(sampler.settings, order=order, lower_order_final=True))
        if key == "ipndm":
            return EqualAdams() if settings.get("distances") == "equal" else UnequalAdams()
        makers = {"lms": SigmaAdams, "deis": ComfyDeis, "lcm": PlainLcm}
        if key == "sa_solver" and isinstance(noise_schedule, SigmaTable):
            times = torch.tensor([0.8, 0.2]) * (noise_schedule.num_train_timesteps - 1)
            highest, least = noise_schedule.between(times).tolist()
            return PeerSaSolver((highest, least))
        if key == "dpmpp_3m_sde":
            return HalvedDpm3MSde(float(getattr(sampler, "eta", 1.0)))
        return makers[key]() if key in makers else sampler

    def initial_scale(self, levels: Sequence[Level], noise_schedule: NoiseSchedule) -> float:
        if not isinstance(noise_schedule, SigmaTable):
            return super().initial_scale(levels, noise_schedule)
        highest, first = float(noise_schedule.sigmas[-1]), levels[0].sigma_ve
        whole = first > highest or math.isclose(highest, first, rel_tol=1e-5)
        return 1.0 if whole else levels[0].sigma

    def noise(
        self, request: Request, shape: tuple[int, int, int], levels: Sequence[Level]
    ) -> tuple[torch.Tensor, NoiseSource]:
        settings, rows = self.settings, self._rows(request)
        initial = BatchNoise(GENERATORS[CPU](request.seed), rows)(torch.empty(rows.wanted, *shape))
        device = CUDA if settings.step_noise == CUDA else CPU
        steps = BatchNoise(GENERATORS[device](request.seed + (settings.step_noise == _CPU_NEWER)), rows)
        return initial, PathNoise(steps, (request.seed,), rows, PathSigmas(levels), settings.path_noise)

    def guidance(self, guidance: Guidance) -> Guidance:
        return mix_below_one(guidance)

    def prompt_rules(self) -> PromptRules:
        return PromptRules(
            "comfyui",
            "words",
            self.settings.clip_skip,
            frozenset({"sd", "sd2", "sdxl"}),
            "interpolate",
            True,
            zeros=False,
        )

    def one_of_batch(self, request: Request, index: int) -> Request:
        rows = self._rows(request)
        return with_setting(request.replace(batch_size=1), batch_index=rows.first + index, batch_total=rows.total)

    def _rows(self, request: Request) -> Rows:
        first, wanted = self.settings.batch_index, request.batch_size
        total = self.settings.batch_total or first + wanted
        if first + wanted > total:
            raise SettingsError(
                f"Picture {first + wanted - 1} is asked of a batch of {total}. Choose a lower batch index, fewer "
                "pictures, or a larger batch total."
            )
        return Rows(first, wanted, total)
