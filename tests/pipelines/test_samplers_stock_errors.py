"""Where diffusers is wrong, inexact or NaN, and ours is right."""

from __future__ import annotations

import math

import diffusers
import numpy as np
import pytest
import torch

from pipelines.core.denoiser import Denoiser
from pipelines.core.loop import Run
from pipelines.core.prediction import Conditioning
from pipelines.core.sampler import Past
from pipelines.core.schedule import Level
from pipelines.guidance.cfg import Unguided
from pipelines.samplers import SAMPLERS
from pipelines.samplers.dpmpp import exponential_step
from pipelines.samplers.dpmpp_3m import DpmSolver3M
from pipelines.samplers.exponential_adams import adams_step
from pipelines.schedules import SCHEDULES
from tests.pipelines.gaussian import CosineSchedule, GaussianNetwork, exact, falls, grid, last_of, orders, run_of
from tests.pipelines.stock_schedulers import (
    BETAS,
    LATENTS,
    SD,
    STEPS,
    Fixed,
    Levels,
    close,
    latents_mean,
    multistep,
    network_noise,
    ours,
    sigma_levels,
    started,
)


def test_dpmpp_3m_of_diffusers_halves_the_second_derivative():
    class Halved(DpmSolver3M):
        """The weight of the authors' code, to show that nothing else differs."""

        def step(self, state, level, next_level, context):
            asking = super().step(state, level, next_level, context)
            prediction = yield next(asking)
            try:
                asking.send(prediction)
            except StopIteration as done:
                result = done.value
            if len(result.history) < 3 or not math.isfinite(next_level.lam):
                return result
            newest, older, oldest = result.history
            h = next_level.lam - level.lam
            near, far = level.lam - older.level.lam, older.level.lam - oldest.level.lam
            slope = (newest.denoised - older.denoised) / near - (older.denoised - oldest.denoised) / far
            half = -next_level.alpha * ((math.expm1(-h) + h) / h**2 - 0.5) * h**2 * slope / (near + far)
            return type(result)(result.latents - half, result.denoised, result.history)

    scheduler = started(
        diffusers.DPMSolverMultistepScheduler(**BETAS, solver_order=3, lower_order_final=False, euler_at_final=True)
    )
    levels = sigma_levels(scheduler)
    schedule = Levels(levels)
    run = run_of(Halved(), levels, schedule, LATENTS, prediction_type="epsilon")
    close(last_of(run).latents, multistep(scheduler, levels), 1e-6, "dpmpp_3m with the halved weight")


def test_the_halved_weight_costs_an_order_and_ours_keeps_it():
    errors = []
    for count in (40, 80, 160):
        levels = grid(CosineSchedule(), count)
        scheduler = diffusers.DPMSolverMultistepScheduler(**BETAS, solver_order=3, lower_order_final=False)
        scheduler.set_timesteps(count)
        scheduler.sigmas = torch.tensor([level.sigma_ve for level in levels], dtype=torch.float64)
        result = multistep(scheduler, levels[:-1])
        errors.append((result - exact(LATENTS, levels[0], levels[-1])).abs().max().item())
    print("order of diffusers' 3M", falls(errors))
    assert falls(errors)[-1] < 2.5
    assert orders(SAMPLERS["dpmpp_3m"].build, CosineSchedule())[-1] > 2.8


def test_ipndm_after_its_first_step_which_diffusers_takes_from_nothing():
    scheduler = diffusers.IPNDMScheduler()
    scheduler.set_timesteps(STEPS)
    scheduler.alphas, scheduler.betas = scheduler.alphas.double(), scheduler.betas.double()
    levels = [
        Level(float(a), float(b), float(t) * 1000)
        for a, b, t in zip(scheduler.alphas, scheduler.betas, [*scheduler.timesteps, 0], strict=True)
    ]
    assert abs(levels[0].alpha) < 1e-6
    latents, after_first = LATENTS, None
    for time, level in zip(scheduler.timesteps, levels, strict=False):
        denoised = latents_mean(latents, level)
        noise = (latents - level.alpha * denoised) / level.sigma
        velocity = level.alpha * noise - level.sigma * denoised
        latents = scheduler.step(velocity, time, latents, return_dict=False)[0]
        after_first = latents if after_first is None else after_first
    # Without signal the estimate of x0 is the data's mean; diffusers' first step has lost it.
    right = levels[1].alpha * latents_mean(LATENTS, levels[0]) + levels[1].sigma * LATENTS
    assert (after_first - right).abs().max() > 0.05
    start = Level(0.0, 1.0, 1000.0)
    first = run_of(SAMPLERS["ipndm"].build(), [start, levels[1]], Fixed(start), LATENTS)
    torch.testing.assert_close(last_of(first).latents, right, rtol=0, atol=1e-6)


def test_dpmpp_3m_sde_of_diffusers_has_a_wrong_sign():
    """A parabola in lambda for x0 makes the third-order step exact; diffusers misses it by far more than half."""
    lambdas, end = [-0.4, -0.2, 0.0], 0.3
    estimates = [1 + 0.5 * lam + 2 * lam**2 for lam in lambdas]
    levels = [_level(lam) for lam in [*lambdas, end]]
    scheduler = diffusers.DPMSolverMultistepScheduler(**BETAS, solver_order=3, algorithm_type="sde-dpmsolver++")
    scheduler.set_timesteps(3)
    scheduler.sigmas = torch.tensor([level.sigma_ve for level in levels], dtype=torch.float64)
    scheduler._step_index = 2
    one = torch.ones(1, dtype=torch.float64)
    theirs = scheduler.multistep_dpm_solver_third_order_update(
        [value * one for value in estimates], sample=0 * one, noise=0 * one
    ).item()
    v = np.linspace(0, end, 200001)
    data = 1 + 0.5 * (end - v) + 2 * (end - v) ** 2
    right = levels[-1].alpha * 2 * np.trapezoid(np.exp(-2 * v) * data, v)

    history = [Past(level, value * one) for level, value in zip(levels, estimates, strict=False)][::-1]
    mine = adams_step(0 * one, levels[2], levels[3], history, eta=1.0).item()
    assert mine == pytest.approx(right, rel=1e-9)
    assert abs(theirs - right) > 0.05
    first_order = exponential_step(0 * one, levels[2], levels[3], estimates[-1] * one, eta=1.0).item()
    assert abs(theirs - right) > abs(first_order - right) / 2


def _level(lam: float) -> Level:
    sigma = math.exp(-lam)
    return Level(1 / math.sqrt(1 + sigma**2), sigma / math.sqrt(1 + sigma**2), 500 - 100 * lam)


def test_deis_of_third_order_keeps_its_accuracy_at_many_steps():
    def error(count, theirs):
        levels = grid(CosineSchedule(), count)
        if not theirs:
            run = run_of(SAMPLERS["deis"].build({"order": 3}), levels, CosineSchedule())
            return (last_of(run).latents - exact(run.latents, levels[0], levels[-1])).abs().max().item()
        scheduler = diffusers.DEISMultistepScheduler(**BETAS, solver_order=3, lower_order_final=False)
        scheduler.set_timesteps(count)
        scheduler.sigmas = torch.tensor([level.sigma_ve for level in levels], dtype=torch.float32)
        result = multistep(scheduler, levels[:-1])
        return (result - exact(LATENTS, levels[0], levels[-1])).abs().max().item()

    ours_at, theirs_at = error(160, False), error(160, True)
    print(f"deis 3 at 160 steps: ours {ours_at:.1e}, diffusers in its float32 {theirs_at:.1e}")
    assert ours_at < 1e-4
    assert theirs_at > 10 * ours_at


def test_unipc_of_third_order_does_not_need_its_lowered_end():
    def theirs():
        scheduler = diffusers.UniPCMultistepScheduler(
            **BETAS, solver_order=3, lower_order_final=False, use_karras_sigmas=True, final_sigmas_type="sigma_min"
        )
        scheduler.set_timesteps(20)
        latents = LATENTS
        for time, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
            noise = network_noise(latents, SD.at_sigma_ve(float(sigma)))
            latents = scheduler.step(noise, time, latents, return_dict=False)[0]
        return latents

    levels = SCHEDULES["karras"].build().levels(SD, 20)
    sampler = SAMPLERS["unipc"].build({"order": 3, "lower_order_final": False})
    run = run_of(sampler, levels, SD, prediction_type="epsilon")
    assert last_of(run).latents.isfinite().all()
    assert not theirs().isfinite().all()


@pytest.mark.parametrize(
    "settings",
    [
        *({"order": order, "variant": "bh1"} for order in (1, 2, 3)),
        {"order": 2, "lower_order_final": False},
        {"order": 2, "lower_order_final": False, "variant": "bh1"},
    ],
)
def test_unipc_reaches_zero_noise_where_diffusers_has_no_number(settings):
    """The step to zero noise is infinite in lambda: B(h) = h has no value there, nor has a slope over its distance."""
    scheduler = started(
        diffusers.UniPCMultistepScheduler(
            **BETAS,
            solver_order=settings["order"],
            solver_type=settings.get("variant", "bh2"),
            lower_order_final=settings.get("lower_order_final", True),
            final_sigmas_type="zero",
        )
    )
    levels = sigma_levels(scheduler)
    assert levels[-1].sigma == 0
    assert not multistep(scheduler, levels).isfinite().all()
    mine = ours("unipc", settings, levels)
    true = exact(LATENTS, levels[0], levels[-2])
    assert (mine - latents_mean(true, levels[-2])).abs().max() < 0.05


def test_3m_on_a_repeated_last_sigma_is_refused_instead_of_nan():
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **BETAS, solver_order=3, use_karras_sigmas=True, final_sigmas_type="sigma_min"
    )
    scheduler.set_timesteps(20)
    assert scheduler.sigmas[-1] == scheduler.sigmas[-2]
    latents = LATENTS
    for time, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
        noise = network_noise(latents, SD.at_sigma_ve(float(sigma)))
        latents = scheduler.step(noise, time, latents, return_dict=False)[0]
    assert latents.isnan().any()

    levels = SCHEDULES["karras"].build().levels(SD, 20)
    denoiser = Denoiser(GaussianNetwork(SD, "epsilon"), Unguided(), {"positive": Conditioning()})
    run = Run(denoiser, SAMPLERS["dpmpp_3m"].build(), levels, LATENTS, None, SD)
    assert last_of(run).latents.isfinite().all()
