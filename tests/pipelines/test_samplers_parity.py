"""Whole runs equal those of diffusers' schedulers at the same levels, with the same noise."""

from __future__ import annotations

import math

import diffusers
import pytest
import torch

from pipelines.core.schedule import CLEAN, FlowSchedule, Level
from pipelines.samplers import SAMPLERS
from pipelines.samplers.exponential_adams import adams_step
from tests.pipelines.gaussian import last_of, run_of
from tests.pipelines.stock_schedulers import (
    BETAS,
    LATENTS,
    SD,
    STEPS,
    close,
    latents_mean,
    multistep,
    network_noise,
    ours,
    replayed,
    sigma_levels,
    started,
    stock_noise,
)

# Deterministic.


@pytest.mark.parametrize("order", [1, 2, 3])
def test_deis(order):
    scheduler = started(diffusers.DEISMultistepScheduler(**BETAS, solver_order=order, lower_order_final=False))
    levels = sigma_levels(scheduler)
    close(ours("deis", {"order": order}, levels), multistep(scheduler, levels), 1e-9, f"deis {order}")


@pytest.mark.parametrize("start", ["heun", "runge-kutta"])
def test_pndm(start):
    scheduler = started(diffusers.PNDMScheduler(**BETAS, skip_prk_steps=start == "heun", steps_offset=1), 10)
    ratio = 1000 // 10
    times = [float(time) for time in scheduler._timesteps[::-1]]
    end = SD.at(0)
    levels = [*(SD.at(time) for time in times), Level(end.alpha, end.sigma, times[-1] - ratio)]
    latents = LATENTS
    for time in scheduler.timesteps:
        latents = scheduler.step(network_noise(latents, SD.at(int(time))), int(time), latents, return_dict=False)[0]
    close(ours("pndm", {"start": start}, levels), latents, 1e-6, f"pndm {start}")


def test_ipndm_at_levels_that_have_signal():
    scheduler = diffusers.IPNDMScheduler()
    scheduler.set_timesteps(STEPS)
    angles = torch.linspace(1.5, 0.05, STEPS + 1, dtype=torch.float64)
    scheduler.alphas, scheduler.betas = angles.cos(), angles.sin()
    levels = [Level(math.cos(angle), math.sin(angle), 600 * angle) for angle in angles.tolist()]
    latents = LATENTS
    for time, level in zip(scheduler.timesteps, levels, strict=False):
        noise = network_noise(latents, level)
        denoised = (latents - level.sigma * noise) / level.alpha
        latents = scheduler.step(level.alpha * noise - level.sigma * denoised, time, latents, return_dict=False)[0]
    close(ours("ipndm", {}, levels), latents, 1e-11, "ipndm")


def test_dpm2():
    scheduler = diffusers.KDPM2DiscreteScheduler(**BETAS, timestep_spacing="linspace")
    levels, latents = _kdpm(scheduler)
    close(ours("dpm2", {}, levels), latents, 1e-6, "dpm2")


def test_dpm2_ancestral(monkeypatch):
    recorded = stock_noise(monkeypatch, "scheduling_k_dpm_2_ancestral_discrete")
    scheduler = diffusers.KDPM2AncestralDiscreteScheduler(**BETAS, timestep_spacing="linspace")
    levels, latents = _kdpm(scheduler, 1)
    close(ours("dpm2_a", {}, levels, replayed(recorded)), latents, 1e-6, "dpm2_a")


def test_dpmpp_2s():
    """diffusers evaluates at the levels it is given, two to a step of ours: the second halfway in lambda."""
    scheduler = diffusers.DPMSolverSinglestepScheduler(**BETAS, solver_order=2, lower_order_final=True)
    scheduler = started(scheduler, 2 * STEPS - 1)
    scheduler.sigmas[1:-1:2] = (scheduler.sigmas[:-2:2] * scheduler.sigmas[2:-1:2]).sqrt()
    assert scheduler.order_list == [1, 2] * (STEPS - 1) + [1]
    levels = sigma_levels(scheduler)
    close(ours("dpmpp_2s", {}, levels[::2] + levels[-1:]), multistep(scheduler, levels), 1e-9, "dpmpp_2s")


@pytest.mark.parametrize(("variant", "end"), [("bh1", "sigma_min"), ("bh2", "sigma_min"), ("bh2", "zero")])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("corrector", [True, False])
def test_unipc(order, variant, end, corrector):
    scheduler = started(
        diffusers.UniPCMultistepScheduler(
            **BETAS,
            solver_order=order,
            solver_type=variant,
            final_sigmas_type=end,
            disable_corrector=[] if corrector else list(range(STEPS)),
        )
    )
    levels = sigma_levels(scheduler)
    settings = {"order": order, "variant": variant, "corrector": corrector}
    close(ours("unipc", settings, levels), multistep(scheduler, levels), 1e-9, f"unipc {order} {variant}")


def test_flow_heun():
    scheduler = diffusers.FlowMatchHeunDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(STEPS)
    levels = [FlowSchedule().at(1000 * sigma) for sigma in dict.fromkeys(scheduler.sigmas.tolist())]
    assert len(levels) == STEPS + 1
    latents = LATENTS
    for time in scheduler.timesteps:
        level = FlowSchedule().at(1000 * float(scheduler.sigmas[scheduler.step_index or 0]))
        denoised = latents_mean(latents, level)
        velocity = (latents - denoised) / level.sigma
        latents = scheduler.step(velocity, time, latents, return_dict=False)[0]
    mine = last_of(run_of(SAMPLERS["flow_heun"].build(), levels, FlowSchedule(), prediction_type="flow")).latents
    close(mine, latents, 1e-6, "flow_heun")  # diffusers rounds the latents to float32 in every step


def _kdpm(scheduler, behind: int = 0):
    """Our levels, and the scheduler's run on x / alpha with two evaluations a step."""
    scheduler.set_timesteps(STEPS)
    sigmas = [float(scheduler.sigmas[0]), *map(float, scheduler.sigmas[1::2])]
    levels = [*(SD.at_sigma_ve(sigma) for sigma in sigmas if sigma > 0), CLEAN]
    assert len(levels) == STEPS + 1
    scaled = LATENTS / levels[0].alpha
    for time in scheduler.timesteps:
        index = scheduler.step_index or 0
        first = scheduler.state_in_first_order
        level = SD.at_sigma_ve(float(scheduler.sigmas[index] if first else scheduler.sigmas_interpol[index - behind]))
        scaled = scheduler.step(network_noise(level.alpha * scaled, level), time, scaled, return_dict=False)[0]
    return levels, scaled


# Stochastic, with the same noise on both sides.


@pytest.mark.parametrize("variance", ["small", "large"])
def test_ddpm(variance, monkeypatch):
    recorded = stock_noise(monkeypatch, "scheduling_ddpm")
    scheduler = diffusers.DDPMScheduler(**BETAS, clip_sample=False, variance_type=f"fixed_{variance}")
    scheduler = started(scheduler, 10)
    levels = [*(SD.at(float(time)) for time in scheduler.timesteps), CLEAN]
    latents = LATENTS
    for time, level in zip(scheduler.timesteps, levels, strict=False):
        latents = scheduler.step(network_noise(latents, level), int(time), latents, return_dict=False)[0]
    assert len(recorded.drawn) == 9
    close(ours("ddpm", {"variance": variance}, levels, replayed(recorded)), latents, 2e-6, f"ddpm {variance}")


@pytest.mark.parametrize("scaling", [10.0, 1.0])
def test_lcm(scaling, monkeypatch):
    """At a scaling of one the last times are low enough for the boundary condition to count."""
    recorded = stock_noise(monkeypatch, "scheduling_lcm")
    scheduler = started(diffusers.LCMScheduler(**BETAS, timestep_scaling=scaling), 40)
    squares = scheduler.alphas_cumprod
    levels = [
        Level(math.sqrt(squares[int(time)]), math.sqrt(1 - squares[int(time)]), float(time))
        for time in scheduler.timesteps
    ]
    assert levels[-1].timestep < 50
    latents = LATENTS
    for time, level in zip(scheduler.timesteps, levels, strict=True):
        latents = scheduler.step(network_noise(latents, level), time, latents, return_dict=False)[0]
    mine = ours("lcm", {"timestep_scaling": scaling}, [*levels, CLEAN], replayed(recorded))
    close(mine, latents, 1e-6, f"lcm {scaling}")


@pytest.mark.parametrize("order", [1, 2])
def test_dpmpp_sde_multistep(order, monkeypatch):
    recorded = stock_noise(monkeypatch, "scheduling_dpmsolver_multistep")
    scheduler = started(
        diffusers.DPMSolverMultistepScheduler(
            **BETAS, solver_order=order, algorithm_type="sde-dpmsolver++", lower_order_final=False, euler_at_final=True
        )
    )
    levels = sigma_levels(scheduler)
    theirs = multistep(scheduler, levels)
    key, settings = ("dpmpp_2m_sde", {}) if order == 2 else ("ddim", {"eta": 1.0})
    close(ours(key, settings, levels, replayed(recorded)), theirs, 1e-6, f"{key} as order {order}")


def with_the_authors_term(latents, level, next_level, estimates, eta=0.0):
    """Our exact step, and the term of third order in h that the authors' code adds to those of two estimates."""
    result = adams_step(latents, level, next_level, estimates, eta)
    if len(estimates) != 2:
        return result
    h, rate = next_level.lam - level.lam, 1 + eta
    term = h**2 / 2 - (h * rate + math.expm1(-rate * h)) / rate**2
    first, second = estimates
    slope = (first.denoised - second.denoised) / (first.level.lam - second.level.lam)
    return result + rate * next_level.alpha * term * slope


@pytest.mark.parametrize(("predictor", "corrector"), [(1, 1), (2, 2), (3, 3), (3, 4), (4, 3)])
def test_sa_solver(predictor, corrector, monkeypatch):
    monkeypatch.setattr("pipelines.samplers.sa_solver.adams_step", with_the_authors_term)
    recorded = stock_noise(monkeypatch, "scheduling_sasolver")
    scheduler = diffusers.SASolverScheduler(
        **BETAS,
        predictor_order=predictor,
        corrector_order=corrector,
        tau_func=lambda time: torch.tensor(0.8 if 200 <= time <= 800 else 0.0),
        algorithm_type="data_prediction",
    )
    scheduler = started(scheduler)
    levels = sigma_levels(scheduler)
    theirs = multistep(scheduler, levels)
    settings = {"tau": 0.8, "predictor_order": predictor, "corrector_order": corrector}
    noisy = zip(recorded.drawn, levels, strict=False)
    recorded.drawn = [noise for noise, level in noisy if 200 <= level.timestep <= 800]
    close(ours("sa_solver", settings, levels, replayed(recorded)), theirs, 3e-7, f"sa_solver {predictor} {corrector}")


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
def test_tcd(gamma, monkeypatch):
    recorded = stock_noise(monkeypatch, "scheduling_tcd")
    scheduler = diffusers.TCDScheduler(**BETAS, timestep_spacing="leading")
    scheduler = started(scheduler, 6)
    levels = [*(SD.at(float(time)) for time in scheduler.timesteps), SD.at(0)]
    latents = LATENTS
    for time, level in zip(scheduler.timesteps, levels, strict=False):
        latents = scheduler.step(network_noise(latents, level), int(time), latents, eta=gamma, return_dict=False)[0]
    recorded.drawn += [torch.zeros_like(LATENTS)]  # ours asks once more where the last level is not clean
    close(ours("tcd", {"gamma": gamma}, levels, replayed(recorded)), latents, 2e-6, f"tcd {gamma}")


def test_scm(monkeypatch):
    recorded = stock_noise(monkeypatch, "scheduling_scm")
    scheduler = diffusers.SCMScheduler(sigma_data=1.0)
    scheduler.set_timesteps(2, max_timesteps=1.57080 - 0.01, intermediate_timesteps=1.3)
    angles = scheduler.timesteps.tolist()
    levels = [*(Level(math.cos(angle), math.sin(angle), 600 * angle) for angle in angles[:-1]), CLEAN]
    latents = LATENTS
    for angle, level in zip(angles, levels[:-1], strict=False):
        noise = network_noise(latents, level)
        denoised = (latents - level.sigma * noise) / level.alpha
        latents = scheduler.step(level.alpha * noise - level.sigma * denoised, angle, latents, return_dict=False)[0]
    close(ours("scm", {}, levels, replayed(recorded)), latents, 1e-6, "scm")
