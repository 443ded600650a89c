"""Noise levels and time-step schedules."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from pipelines.core.errors import SettingsError
from pipelines.core.schedule import CLEAN
from pipelines.core.types import Traits
from pipelines.samplers import SAMPLERS
from pipelines.schedules import SCHEDULES
from pipelines.schedules.karras import karras_ramp
from pipelines.schedules.shift import shift_times
from tests.pipelines.gaussian import last_of, run_of
from tests.pipelines.schedule_models import BETAS, FLOW, OF, SD

TRAITS = {"sd": Traits("sd", "epsilon", "unet"), "flow": Traits("sd3", "flow", "transformer")}
GENERAL = [method for method in SCHEDULES.values() if method.key not in ("learned", "hand_typed")]
"""All but the learned ones, which are for one run each (test_learned.py), and what a person has to type."""
FITTING = [(name, method.key) for name in OF for method in GENERAL if not method.fit(TRAITS[name])]


@pytest.mark.parametrize(("name", "key"), FITTING)
@pytest.mark.parametrize("count", [1, 2, 5, 25, 100])
def test_levels_descend_from_noise_to_clean(name, key, count):
    levels = SCHEDULES[key].build().levels(OF[name], count)
    assert len(levels) == count + 1
    assert levels[-1] == CLEAN
    assert all(later.sigma_ve < earlier.sigma_ve for earlier, later in itertools.pairwise(levels))
    assert levels[0].timestep == pytest.approx(999 if name == "sd" or key == "uniform_lambda" else 1000)


@pytest.mark.parametrize("time", [0, 1, 250, 999, 0.5, 333.25])
def test_levels_of_a_diffusion_model_preserve_variance(time):
    level = SD.at(time)
    assert level.alpha**2 + level.sigma**2 == pytest.approx(1, abs=1e-14)
    back = SD.at_sigma_ve(level.sigma_ve)
    assert back.timestep == pytest.approx(time, abs=1e-9)
    assert math.exp(-level.lam) == pytest.approx(level.sigma_ve)


def test_ends_have_infinite_lambda():
    assert CLEAN.lam == math.inf
    assert FLOW.at(1000).lam == -math.inf
    assert FLOW.at_sigma_ve(math.inf) == FLOW.at(1000)


@pytest.mark.parametrize(
    ("spacing", "count"), [("leading", 10), ("leading", 25), ("trailing", 10), ("trailing", 7), ("linspace", 10)]
)
def test_uniform_times_are_those_of_diffusers(spacing, count):
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1, timestep_spacing=spacing
    )
    scheduler.set_timesteps(count)
    levels = SCHEDULES["uniform"].build({"spacing": spacing}).levels(SD, count)
    assert [level.timestep for level in levels[:-1]] == scheduler.timesteps.tolist()
    for level in levels[:-1]:
        assert level.alpha**2 == pytest.approx(scheduler.alphas_cumprod[int(level.timestep)].item(), rel=2e-5)


@pytest.mark.parametrize("count", [4, 28])
def test_shifted_flow_levels_are_those_of_diffusers(count):
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / count, count))
    levels = SCHEDULES["shift"].build().levels(FLOW, count)
    np.testing.assert_allclose([level.sigma for level in levels], scheduler.sigmas.numpy(), atol=1e-6)


def test_karras_levels_are_those_of_diffusers():
    from diffusers import EulerDiscreteScheduler

    scheduler = EulerDiscreteScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        timestep_spacing="linspace",
        use_karras_sigmas=True,
    )
    scheduler.set_timesteps(12)
    levels = SCHEDULES["karras"].build().levels(SD, 12)
    np.testing.assert_allclose([level.sigma_ve for level in levels], scheduler.sigmas.numpy(), rtol=2e-4)
    np.testing.assert_allclose([level.timestep for level in levels[:-1]], scheduler.timesteps.numpy(), atol=0.05)


def test_karras_with_rho_one_is_uniform_in_sigma():
    steps = np.diff(karras_ramp(0.1, 10, 20, 1.0))
    np.testing.assert_allclose(steps, steps[0])


def test_neutral_shift_changes_nothing_and_the_ends_stay():
    assert shift_times(0.3, 1.0) == 0.3
    for shift in (0.5, 1, 3, 10):
        assert shift_times(0.0, shift) == 0
        assert shift_times(1.0, shift) == pytest.approx(1)


def test_first_ends_at_the_first_trained_level():
    levels = SCHEDULES["uniform"].build({"spacing": "leading", "final": "first"}).levels(SD, 10)
    assert levels[-1].alpha ** 2 == pytest.approx(1 - BETAS[0])


def test_too_many_steps_say_so():
    with pytest.raises(SettingsError, match="fewer steps"):
        SCHEDULES["uniform"].build({"spacing": "linspace"}).levels(SD, 1500)


def test_leading_does_not_fit_flow():
    with pytest.raises(SettingsError, match="flow"):
        SCHEDULES["uniform"].build({"spacing": "leading"}).levels(FLOW, 10)


PAIRS = [
    (name, schedule.key, sampler.key)
    for name in OF
    for schedule in GENERAL
    if not schedule.fit(TRAITS[name])
    for sampler in SAMPLERS.fitting(TRAITS[name])
]


def test_every_schedule_works_with_every_sampler():
    assert len(PAIRS) > 350
    for name, schedule, sampler in PAIRS:
        levels = SCHEDULES[schedule].build().levels(OF[name], 4)
        form = "flow" if name == "flow" else "epsilon"
        last = last_of(run_of(SAMPLERS[sampler].build(), levels, OF[name], prediction_type=form))
        assert last.latents.isfinite().all(), (name, schedule, sampler)


@pytest.mark.parametrize("count", [1, 2, 7, 10, 50, 200])
@pytest.mark.parametrize(("name", "key"), FITTING)
def test_any_number_of_steps_to_the_cap(name, key, count):
    assert len(SCHEDULES[key].build().levels(OF[name], count)) == count + 1


def test_exponential_levels_are_those_of_diffusers_and_uniform_in_lambda():
    from diffusers import EulerDiscreteScheduler

    scheduler = EulerDiscreteScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        timestep_spacing="linspace",
        use_exponential_sigmas=True,
    )
    scheduler.set_timesteps(12)
    levels = SCHEDULES["exponential"].build().levels(SD, 12)
    np.testing.assert_allclose([level.sigma_ve for level in levels], scheduler.sigmas.numpy(), rtol=2e-5)
    np.testing.assert_allclose(np.diff([level.lam for level in levels[:-1]]), levels[1].lam - levels[0].lam, rtol=1e-9)


def test_exponential_flow_levels_are_those_of_diffusers():
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(use_exponential_sigmas=True)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1e-3, 9))
    levels = SCHEDULES["exponential"].build().levels(FLOW, 9)
    np.testing.assert_allclose([level.sigma for level in levels], scheduler.sigmas.numpy(), rtol=1e-5)


def test_ends_of_the_exponential_schedule_can_be_chosen():
    levels = SCHEDULES["exponential"].build({"sigma_min": 0.1, "sigma_max": 5}).levels(SD, 6)
    assert levels[0].sigma_ve == pytest.approx(5)
    assert levels[-2].sigma_ve == pytest.approx(0.1)


@pytest.mark.parametrize(("low", "high"), [(0.1, 5.0), (0.1, 0.0), (0.0, 5.0)])
@pytest.mark.parametrize("key", ["karras", "exponential", "uniform_lambda"])
@pytest.mark.parametrize("name", OF)
def test_ends_that_were_chosen_are_the_ends_on_every_model(name, key, low, high):
    if SCHEDULES[key].fit(TRAITS[name]):
        return
    chosen, own = (
        SCHEDULES[key].build(ends).levels(OF[name], 6) for ends in ({"sigma_min": low, "sigma_max": high}, {})
    )
    assert chosen[0].sigma_ve == pytest.approx(high or own[0].sigma_ve)
    assert chosen[-2].sigma_ve == pytest.approx(low or own[-2].sigma_ve)


@pytest.mark.parametrize("key", ["karras", "exponential", "uniform_lambda"])
@pytest.mark.parametrize(
    ("name", "ends", "words"),
    [
        ("sd", {"sigma_max": 100}, "sigma max is 100. This model's noise goes from 0.02917 to 14.61. Choose"),
        ("sd", {"sigma_min": 0.01}, "sigma min is 0.01. This model's noise goes from 0.02917"),
        ("sd", {"sigma_min": 5, "sigma_max": 3}, "the lowest noise, 5, is not below the highest, 3. Choose a smaller"),
        ("flow", {"sigma_min": 5, "sigma_max": 3}, "the lowest noise, 5, is not below the highest, 3"),
        ("flow", {"sigma_min": 1e-4}, "sigma min is 0.0001. This model's noise goes from 0.001001 to any above"),
    ],
)
def test_ends_that_cannot_be_are_refused_with_the_reason(name, key, ends, words):
    if SCHEDULES[key].fit(TRAITS[name]):
        return
    with pytest.raises(SettingsError, match=words):
        SCHEDULES[key].build(ends).levels(OF[name], 6)


@pytest.mark.parametrize("count", [2, 9, 40])
def test_uniform_in_lambda_has_equal_steps_of_lambda_on_a_flow(count):
    levels = SCHEDULES["uniform_lambda"].build().levels(FLOW, count)
    steps = np.diff([level.lam for level in levels[:-1]])
    np.testing.assert_allclose(steps, steps[0], rtol=1e-9)
    assert (levels[0].sigma, levels[-2].sigma) == (pytest.approx(1 - 1e-3), pytest.approx(1e-3))
    assert "choose that" in SCHEDULES["uniform_lambda"].fit(TRAITS["sd"])


def test_a_flow_has_no_first_training_level_to_end_at():
    with pytest.raises(SettingsError, match=r"first training level is the clean end itself. Choose 'zero'"):
        SCHEDULES["uniform"].build({"final": "first"}).levels(FLOW, 10)


@pytest.mark.parametrize("count", [2, 7])
def test_a_flows_linspace_ends_at_its_lowest_time_and_its_trailing_one_step_above_the_end(count):
    for spacing, end in (("linspace", 1.0), ("trailing", 1000 / count)):
        times = [level.timestep for level in SCHEDULES["uniform"].build({"spacing": spacing}).levels(FLOW, count)]
        np.testing.assert_allclose(times, [*np.linspace(1000, end, count), 0])
