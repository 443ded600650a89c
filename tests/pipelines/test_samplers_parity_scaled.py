"""Whole runs equal those of diffusers' schedulers that walk x / alpha, as k-diffusion does."""

from __future__ import annotations

import math

import diffusers
import pytest
import torch

from pipelines.core.schedule import CLEAN
from tests.pipelines.stock_schedulers import (
    BETAS,
    LATENTS,
    SD,
    STEPS,
    Replayed,
    close,
    network_noise,
    ours,
    replayed,
    started,
    stock_noise,
)


def walked(scheduler, level_of):
    """Our levels, and the scheduler's run of x / alpha; `level_of` says where an evaluation is, of the scheduler."""
    sigmas = list(dict.fromkeys(scheduler.sigmas.tolist()))  # those of two evaluations a step stand there twice
    levels = [*(SD.at_sigma_ve(sigma) for sigma in sigmas if sigma > 0), CLEAN]
    assert len(levels) == STEPS + 1
    scaled = LATENTS / levels[0].alpha
    for time in scheduler.timesteps:
        level = level_of(scheduler)
        scheduler.scale_model_input(scaled, time)  # LMS warns where nobody asks; `network_noise` scales by itself
        scaled = scheduler.step(network_noise(level.alpha * scaled, level), time, scaled, return_dict=False)[0]
    return levels, scaled


def own_level(scheduler):
    """An evaluation at the scheduler's own place."""
    return SD.at_sigma_ve(float(scheduler.sigmas[scheduler.step_index or 0]))


def test_heun():
    levels, theirs = walked(started(diffusers.HeunDiscreteScheduler(**BETAS)), own_level)
    close(ours("heun", {}, levels), theirs, 1e-12, "heun")


def test_lms(monkeypatch):
    from scipy import integrate

    # Its weights come from a quadrature that stops at one part in ten thousand.
    quad = integrate.quad
    monkeypatch.setattr(integrate, "quad", lambda *arguments, **named: quad(*arguments, **{**named, "epsrel": 1e-12}))
    levels, theirs = walked(started(diffusers.LMSDiscreteScheduler(**BETAS)), own_level)
    close(ours("lms", {}, levels), theirs, 1e-9, "lms")


def test_euler_ancestral(monkeypatch):
    recorded = stock_noise(monkeypatch, "scheduling_euler_ancestral_discrete")
    levels, theirs = walked(started(diffusers.EulerAncestralDiscreteScheduler(**BETAS)), own_level)
    assert len(recorded.drawn) == STEPS
    close(ours("euler_a", {}, levels, replayed(recorded)), theirs, 1e-6, "euler_a")


@pytest.mark.parametrize("seed", [0, 1])
def test_dpmpp_sde(seed):
    """Both noises of a step have one joint law; diffusers' second is made of ours as by a Brownian tree."""
    generator = torch.Generator().manual_seed(seed)
    drawn = []

    def tree(sigma, end):
        middle = float(sigma) ** 0.5 * float(end) ** 0.5
        drawn.append(torch.randn(LATENTS.shape, generator=generator, dtype=torch.float64))
        if len(drawn) % 2:
            return drawn[-1]  # the half step's
        # x / alpha keeps (end / middle)^2 of what it was: dx = 2 x dln(sigma) + ..., the reverse equation.
        whole = end * math.sqrt(1 - (end / sigma) ** 2)
        carried = (end / middle) ** 2 * middle * math.sqrt(1 - (middle / sigma) ** 2)
        return (carried * drawn[-2] + math.sqrt(whole**2 - carried**2) * drawn[-1]) / whole

    scheduler = started(diffusers.DPMSolverSDEScheduler(**BETAS))
    scheduler.noise_sampler = tree

    def level_of(scheduler):
        place = scheduler.step_index or 0
        if scheduler.state_in_first_order:
            return SD.at_sigma_ve(float(scheduler.sigmas[place]))
        return SD.at_sigma_ve(math.sqrt(float(scheduler.sigmas[place - 1]) * float(scheduler.sigmas[place])))

    levels, theirs = walked(scheduler, level_of)
    close(ours("dpmpp_sde", {}, levels, Replayed(drawn)), theirs, 1e-9, "dpmpp_sde")
