"""From a Request to the decoded picture it is the stock pipeline's at the same seed, with our levels and initial noise.

What `test_families_parity` takes from the stock scheduler (levels, scale of the first latents) is ours here, through
`resolve` and `build_run`, as every door of the studio makes a run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler
from tiny_models import tiny_flux, tiny_sd, tiny_sd3, tiny_sdxl

from pipelines.core.loop import denoise
from pipelines.core.types import Choice, Request
from pipelines.families import family_of
from pipelines.requests.encoding import decode, to_uint8
from pipelines.requests.text_to_image import build_run, resolve

STEPS, SEED, SCALE, TOKENS = 8, 3, 5.0, 16
TOLERANCE = 2.5e-6
"""Largest difference of a color in [0, 1]: float32 gives 4e-7 to 1.3e-6, a slip by one time step at least 3.5e-6."""


class TrailingFlow(DPMSolverMultistepScheduler):
    """Its own update on FLUX's times, i / N shifted, where its own grid would begin a thousandth below full noise."""

    def set_timesteps(self, num_inference_steps, device=None, mu=None, timesteps=None):
        super().set_timesteps(num_inference_steps, device=device)
        times = torch.arange(num_inference_steps, 0, -1, dtype=torch.float64) / num_inference_steps
        shift = float(np.exp(mu))
        sigmas = shift * times / (1 + (shift - 1) * times)
        self.timesteps = (sigmas * self.config.num_train_timesteps).float()
        self.sigmas = torch.cat([sigmas, sigmas.new_zeros(1)]).float()


def leading(**settings) -> Choice:
    return Choice("uniform", {"spacing": "leading", **settings})


@dataclasses.dataclass(frozen=True)
class Case:
    """A family's stock pipeline, how it is called, and the request that asks for the same."""

    make: Callable[[], Any]
    sampler: str
    schedule: Choice
    scheduler: Callable[[Any], Any] | None = None
    arguments: dict = dataclasses.field(default_factory=lambda: {"negative_prompt": "blurry", "guidance_scale": SCALE})

    @property
    def request(self) -> Request:
        return Request(
            prompt="a red fox",
            negative_prompt=self.arguments.get("negative_prompt", ""),
            sampler=Choice(self.sampler),
            schedule=self.schedule,
            guidance=Choice("cfg", {"guidance_scale": SCALE}),
            num_inference_steps=STEPS,
            width=32,
            height=32,
            seed=SEED,
            batch_size=2,
        )


FLOW = {"max_sequence_length": TOKENS}
CASES = {
    "sd-ddim": Case(
        tiny_sd,
        "ddim",
        leading(final="first"),
        lambda config: DDIMScheduler.from_config(config, clip_sample=False, set_alpha_to_one=False),
    ),
    "sd-dpmpp_2m": Case(
        tiny_sd,
        "dpmpp_2m",
        Choice("uniform"),
        lambda config: DPMSolverMultistepScheduler.from_config(config, timestep_spacing="trailing"),
    ),
    "sdxl-euler": Case(
        tiny_sdxl,
        "euler",
        leading(),
        lambda config: EulerDiscreteScheduler.from_config(config, timestep_spacing="leading"),
    ),
    # The times i / N of FLUX's pipeline, which SD3's call takes too; its own default spaces them from 1 to a
    # thousandth.
    "sd3-flow_euler": Case(
        tiny_sd3,
        "flow_euler",
        Choice("shift"),
        None,
        {
            "negative_prompt": "blurry",
            "guidance_scale": SCALE,
            "sigmas": np.linspace(1, 1 / STEPS, STEPS).tolist(),
            **FLOW,
        },
    ),
    "flux-flow_euler": Case(tiny_flux, "flow_euler", Choice("shift"), None, {"guidance_scale": SCALE, **FLOW}),
    "flux-dpmpp_2m": Case(
        tiny_flux,
        "dpmpp_2m",
        Choice("shift"),
        lambda config: TrailingFlow(use_flow_sigmas=True, prediction_type="flow_prediction"),
        {"guidance_scale": SCALE, **FLOW},
    ),
}


def stock_pictures(case: Case, pipe) -> torch.Tensor:
    request = case.request
    generators = [torch.Generator().manual_seed(SEED + i) for i in range(request.batch_size)]
    return pipe(
        request.prompt,
        width=request.width,
        height=request.height,
        num_inference_steps=STEPS,
        generator=generators,
        num_images_per_prompt=request.batch_size,
        output_type="pt",
        **case.arguments,
    ).images


def latents_of(run) -> torch.Tensor:
    return list(denoise(run))[-1].latents


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max())


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_picture_of_a_request_is_the_stock_pipelines(case):
    pipe = case.make()
    if case.scheduler is not None:
        pipe.scheduler = case.scheduler(pipe.scheduler.config)
    # Made before the call, so that nothing of the stock run's levels can reach it.
    family = family_of(case.make().components)
    family.max_sequence_length = TOKENS
    expected = stock_pictures(case, pipe)
    request = resolve(case.request, family)
    latents = latents_of(build_run(request, family))
    ours = family.decode(latents)
    assert difference(ours, expected) < TOLERANCE
    assert np.abs(decode(family, latents).astype(int) - to_uint8(expected).astype(int)).max() <= 1
    for index in range(STEPS):
        run = build_run(request, family)
        levels = [
            dataclasses.replace(level, timestep=level.timestep + (i == index)) for i, level in enumerate(run.levels)
        ]
        slip = difference(family.decode(latents_of(dataclasses.replace(run, levels=levels))), expected)
        assert slip > TOLERANCE
    louder = dataclasses.replace(run, latents=run.latents * 1.001)
    assert difference(family.decode(latents_of(louder)), expected) > TOLERANCE
