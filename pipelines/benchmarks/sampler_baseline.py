"""diffusers' own DPM-Solver++(2M) on the benchmark's pictures: what the studio is measured against."""

from __future__ import annotations

import torch
from diffusers import DPMSolverMultistepScheduler

from pipelines.benchmarks.sampler_runs import GUIDANCE_SCALE, ROWS, Bench
from pipelines.core.denoiser import Denoiser
from pipelines.core.gradients import no_grad
from pipelines.guidance.cfg import Cfg, CfgSettings

__all__ = ["stock_dpm_solver"]


@no_grad
def stock_dpm_solver(bench: Bench, num_steps: int, spacing: str) -> torch.Tensor:
    """Compute the final latents of diffusers' DPMSolverMultistepScheduler, made from the shipped model's scheduler.

    Args:
        bench: the pictures, of which every one starts from the same noise as with our samplers.
        num_steps: evaluations.
        spacing: "linspace" is that scheduler's default, "leading" what the shipped model's configuration says.
    """
    scheduler = DPMSolverMultistepScheduler.from_config(
        bench.family.components["scheduler"].config, timestep_spacing=spacing
    )
    ends = []
    for part in bench.cases.parts(ROWS):
        denoiser = Denoiser(bench.network, Cfg(CfgSettings(guidance_scale=GUIDANCE_SCALE)), part.conditionings)
        scheduler.set_timesteps(num_steps)
        latents = part.noise * scheduler.init_noise_sigma
        for time in scheduler.timesteps:
            raw = denoiser.predict(latents, bench.family.noise_schedule.at(float(time))).raw
            latents = scheduler.step(raw, time, latents).prev_sample
        ends.append(latents)
    return torch.cat(ends)
