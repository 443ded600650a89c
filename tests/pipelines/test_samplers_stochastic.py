"""Stochastic samplers: the variance of what they make, exactly, and what they are without noise.

On a Gaussian every step is affine in the latents and in the fresh noise, so one run whose rows each carry one
unit of one draw gives the response to every draw, and from these the variance without any sampling error.
"""

from __future__ import annotations

import math

import pytest
import torch

from pipelines.core.loop import Run
from pipelines.core.noise import NoiseSource
from pipelines.core.schedule import CLEAN, FlowSchedule, Level
from pipelines.samplers import SAMPLERS
from tests.pipelines.gaussian import (
    MEAN,
    SCHEDULES_OF,
    VARIANCE,
    CosineSchedule,
    exact,
    falls,
    grid,
    last_of,
    run_of,
)


class OneDrawARow(NoiseSource):
    """Draw j is one in row j and zero elsewhere."""

    def __init__(self):
        super().__init__([])
        self.draws = 0

    def __call__(self, like):
        unit = torch.zeros_like(like)
        unit[self.draws] = 1
        self.draws += 1
        return unit


def moments(sampler, levels, noise_schedule, most_draws: int) -> tuple[float, float]:
    """(mean, variance) of a run that starts from the exact marginal at levels[0]."""
    start = levels[0]
    latents = torch.full((most_draws + 2, 1, 1, 1), start.alpha * MEAN, dtype=torch.float64)
    latents[-1] += math.sqrt(start.alpha**2 * VARIANCE + start.sigma**2)
    run = run_of(sampler, levels, noise_schedule, latents)
    source = OneDrawARow()
    rows = last_of(Run(run.denoiser, run.sampler, levels, latents, source, noise_schedule)).latents.flatten()
    assert source.draws <= most_draws
    base = rows[-2]
    return base.item(), ((rows - base) ** 2).sum().item()


def variance_errors(key, settings, kind, counts):
    """Relative errors of the variance at the end of runs of so many steps."""
    errors = []
    for count in counts:
        levels = grid(SCHEDULES_OF[kind], count, high=950, low=200)
        end = levels[-1]
        mean, variance = moments(SAMPLERS[key].build(settings), levels, SCHEDULES_OF[kind], 2 * count)
        assert mean == pytest.approx(end.alpha * MEAN, abs=0.03)
        errors.append(abs(variance / (end.alpha**2 * VARIANCE + end.sigma**2) - 1))
    return errors


WEAK_ORDERS = [
    ("ddim", {"eta": 1.0}, 1),
    ("ddpm", {}, 1),
    ("ddpm", {"variance": "large"}, 1),
    ("dpm2_a", {}, 2),
    ("dpmpp_sde", {}, 2),
    ("dpmpp_2m_sde", {}, 2),
    ("dpmpp_2m_sde", {"eta": 0.5}, 2),
    ("dpmpp_3m_sde", {}, 2.6),
    ("sa_solver", {"noise_from": 1, "noise_to": 0}, 2),
]
"""A sampler, its settings and the order of its variance; the lower order of 3M's first steps holds it below three."""


@pytest.mark.parametrize("kind", ["diffusion", "flow"])
@pytest.mark.parametrize(("key", "settings", "order"), WEAK_ORDERS)
def test_variance_converges_to_the_marginals(key, settings, order, kind):
    errors = variance_errors(key, settings, kind, (40, 80))
    print(f"weak order of {key} {settings}, {kind}: {falls(errors)[-1]:.2f}, error at 80 steps {errors[-1]:.1e}")
    assert falls(errors)[-1] == pytest.approx(order, abs=0.3)
    assert errors[-1] < (0.04 if order == 1 else 0.002)


@pytest.mark.parametrize(
    ("key", "settings", "same", "as_settings"),
    [
        ("dpm2_a", {"eta": 0}, "dpm2", {}),
        ("dpmpp_sde", {"eta": 0}, "dpmpp_2s", {}),
        ("dpmpp_2m_sde", {"eta": 0}, "dpmpp_2m", {}),
        ("dpmpp_3m_sde", {"eta": 0}, "dpmpp_3m", {}),
        ("tcd", {"gamma": 0}, "ddim", {}),
        ("sa_solver", {"tau": 0, "predictor_order": 1, "corrector_order": 0}, "dpmpp_1", {}),
        ("lms", {"order": 1}, "euler", {}),
        ("deis", {"order": 1}, "ddim", {}),
    ],
)
def test_neutral_settings_are_the_base_sampler_bit_for_bit(key, settings, same, as_settings):
    levels = grid(CosineSchedule(), 9)
    if key != "tcd":
        levels = [Level(0.0, 1.0, 1000.0), *levels, CLEAN]
    runs = [
        run_of(SAMPLERS[name].build(values), levels, PureNoise(), prediction_type="v_prediction")
        for name, values in ((key, settings), (same, as_settings))
    ]
    assert torch.equal(last_of(runs[0]).latents, last_of(runs[1]).latents)


class PureNoise(CosineSchedule):
    """The cosine schedule with no signal at its last time."""

    def at(self, timestep):
        return Level(0.0, 1.0, 1000.0) if timestep == 1000 else super().at(timestep)


@pytest.mark.parametrize("kind", ["diffusion", "flow"])
def test_ddpm_with_the_small_variance_is_ddim_with_full_noise(kind):
    levels = grid(SCHEDULES_OF[kind], 10, clean=True)
    ddpm, ddim = (
        last_of(run_of(SAMPLERS[key].build(settings), levels, SCHEDULES_OF[kind], seeds=(7,))).latents
        for key, settings in (("ddpm", {}), ("ddim", {"eta": 1.0}))
    )
    torch.testing.assert_close(ddpm, ddim, rtol=0, atol=1e-12)


def test_ddpm_with_the_large_variance_adds_more():
    levels = [CosineSchedule().at(600.0), CosineSchedule().at(400.0)]
    (_, small), (_, large) = (
        moments(SAMPLERS["ddpm"].build({"variance": name}), levels, CosineSchedule(), 1) for name in ("small", "large")
    )
    ratio = (levels[0].sigma / levels[1].sigma) ** 2
    first, second = levels
    beta = 1 - (first.alpha / second.alpha) ** 2
    assert large - small == pytest.approx(beta - beta / ratio, abs=1e-12)


@pytest.mark.parametrize("schedule", [CosineSchedule(), FlowSchedule()])
def test_a_full_step_from_pure_noise_makes_the_next_marginals_own_noise(schedule):
    """Without signal x0_hat is the data's mean, so what the step adds is all of the variance there is."""
    levels = [Level(0.0, 1.0, 1000.0), schedule.at(700.0)]
    noise_schedule = schedule if isinstance(schedule, FlowSchedule) else PureNoise()
    for key in ("ddpm", "dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde", "euler_a", "dpm2_a", "scm"):
        sampler = SAMPLERS[key].build()
        mean, variance = moments(sampler, levels, noise_schedule, 2)
        assert mean == pytest.approx(levels[1].alpha * MEAN, abs=1e-12)
        assert variance == pytest.approx(levels[1].sigma ** 2, abs=1e-12), key


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
def test_tcd_reaches_the_next_level_however_far_it_goes_past(gamma):
    """With the exact estimate of a point x0 (no data variance) x' is alpha' x0 and noise of sigma' in all."""
    level, next_level = CosineSchedule().at(800.0), CosineSchedule().at(500.0)
    run = run_of(SAMPLERS["tcd"].build({"gamma": gamma}), [level, next_level], CosineSchedule())
    latents = torch.zeros(3, 1, 1, 1, dtype=torch.float64)
    latents[2] = level.sigma
    run.denoiser.network.predict_raw = lambda x, timesteps, conditioning: torch.zeros_like(x)
    result = last_of(Run(run.denoiser, run.sampler, run.levels, latents, OneDrawARow(), CosineSchedule())).latents
    assert (result**2).sum().item() == pytest.approx(next_level.sigma**2, rel=1e-12)


def test_sa_solver_adds_noise_in_its_interval_only():
    levels = grid(CosineSchedule(), 10, high=950, low=50)
    source = OneDrawARow()
    latents = torch.zeros(12, 1, 1, 1, dtype=torch.float64)
    run = run_of(SAMPLERS["sa_solver"].build({"noise_from": 0.6, "noise_to": 0.3}), levels, CosineSchedule(), latents)
    last_of(Run(run.denoiser, run.sampler, levels, latents, source, CosineSchedule()))
    assert source.draws == sum(300 <= level.timestep <= 600 for level in levels[:-1])


def test_scm_is_lcm_without_its_boundary_scalings():
    levels = grid(CosineSchedule(), 4, clean=True)
    scm = last_of(run_of(SAMPLERS["scm"].build(), levels, CosineSchedule(), seeds=(5,))).latents
    nearly = SAMPLERS["lcm"].build({"timestep_scaling": 100})
    lcm = last_of(run_of(nearly, levels, CosineSchedule(), seeds=(5,))).latents
    torch.testing.assert_close(scm, lcm, rtol=0, atol=1e-3)


def test_the_exact_solution_has_the_marginals():
    start, end = CosineSchedule().at(900.0), CosineSchedule().at(100.0)
    one = exact(torch.tensor(start.alpha * MEAN + math.sqrt(start.alpha**2 * VARIANCE + start.sigma**2)), start, end)
    assert one.item() == pytest.approx(end.alpha * MEAN + math.sqrt(end.alpha**2 * VARIANCE + end.sigma**2))
