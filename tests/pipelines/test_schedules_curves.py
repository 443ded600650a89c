"""Schedules that crowd their steps: beta, quadratic, the published tables, and typed lists."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipelines.core.errors import SettingsError
from pipelines.core.schedule import CLEAN, DiscreteSchedule
from pipelines.schedules import SCHEDULES
from pipelines.schedules.align_your_steps import TABLES
from pipelines.schedules.beta import beta_cdf, beta_quantiles
from tests.pipelines.schedule_models import FLOW, OF, SD


@pytest.mark.parametrize("name", OF)
def test_alpha_crowds_low_noise_and_beta_high(name):
    def shares(**settings):
        levels = SCHEDULES["beta"].build(settings).levels(OF[name], 12)
        return np.array([level.timestep for level in levels]) / levels[0].timestep

    low, high = shares(alpha=0.4, beta=1), shares(alpha=1, beta=0.4)
    # I_x(a, 1) = x^a, so the quantile of a share is its 1 / a-th power; the other one is its mirror.
    np.testing.assert_allclose(low, (np.arange(12, -1, -1) / 12) ** 2.5, atol=1e-12)
    np.testing.assert_allclose(high, 1 - low[::-1], atol=1e-9)


@pytest.mark.parametrize(
    ("a", "b", "quantile"),
    [
        (1, 1, lambda p: p),
        (0.5, 0.5, lambda p: np.sin(np.pi * p / 2) ** 2),
        (2, 1, np.sqrt),
        (1, 3, lambda p: 1 - (1 - p) ** (1 / 3)),
    ],
)
def test_beta_quantiles_where_they_have_a_formula(a, b, quantile):
    shares = np.linspace(0, 1, 41)
    np.testing.assert_allclose(beta_quantiles(shares, a, b), quantile(shares), atol=1e-12)


def test_beta_distribution_of_the_paper_is_symmetric_and_integrates_its_density():
    x = np.linspace(0.01, 0.99, 99)
    np.testing.assert_allclose(beta_cdf(x, 0.6, 0.6) + beta_cdf(1 - x, 0.6, 0.6), 1, atol=1e-13)
    places = np.linspace(0.2, 0.7, 200001)
    density = (places * (1 - places)) ** -0.4 * math.gamma(1.2) / math.gamma(0.6) ** 2
    assert np.trapezoid(density, places) == pytest.approx(float(np.diff(beta_cdf([0.2, 0.7], 0.6, 0.6))[0]), abs=1e-10)


def test_a_flat_beta_is_uniform():
    times = [level.timestep for level in SCHEDULES["beta"].build({"alpha": 1, "beta": 1}).levels(SD, 9)[:-1]]
    np.testing.assert_allclose(times, 999 * np.arange(9, 0, -1) / 9, rtol=1e-12)


def test_quadratic_crowds_low_and_its_mirror_high():
    def times(key, **settings):
        return np.array([level.timestep for level in SCHEDULES[key].build(settings).levels(SD, 12)])

    assert (np.diff(np.diff(times("quadratic"))) > 0).all()
    assert (np.diff(np.diff(times("dense_high"))) < 0).all()
    np.testing.assert_allclose(times("quadratic"), 999 * (np.arange(12, -1, -1) / 12) ** 2)
    np.testing.assert_allclose(times("dense_high"), 999 - times("quadratic")[::-1], atol=1e-9)
    np.testing.assert_allclose(times("quadratic", power=1), times("dense_high", power=1), atol=1e-9)


@pytest.mark.parametrize(("table", "name"), [("sd1", "StableDiffusionSigmas"), ("sdxl", "StableDiffusionXLSigmas")])
def test_align_your_steps_is_the_published_table(table, name):
    from diffusers.schedulers import AysSchedules

    schedule = SCHEDULES["align_your_steps"].build({"table": table})
    ten, twenty = ([level.sigma_ve for level in schedule.levels(SD, count)] for count in (10, 20))
    np.testing.assert_allclose(ten, AysSchedules[name], atol=5e-4)
    np.testing.assert_allclose(twenty[::2], ten, rtol=1e-9)
    np.testing.assert_allclose(twenty[1:19:2], np.sqrt(np.multiply(ten[:9], ten[1:10])), rtol=2e-5)


def test_align_your_steps_times_are_the_published_ones():
    from diffusers.schedulers import AysSchedules

    times = [level.timestep for level in SCHEDULES["align_your_steps"].build({"table": "sdxl"}).levels(SD, 10)[:-1]]
    np.testing.assert_allclose(times, AysSchedules["StableDiffusionXLTimesteps"], atol=1.5)


def test_the_video_table_fits_a_video_models_noise_only():
    from diffusers.schedulers import AysSchedules

    with pytest.raises(SettingsError, match="begins at a noise of 700"):
        SCHEDULES["align_your_steps"].build({"table": "svd"}).levels(SD, 10)
    video = DiscreteSchedule(1 / (1 + np.geomspace(0.002, 700, 1000) ** 2))
    levels = SCHEDULES["align_your_steps"].build({"table": "svd"}).levels(video, 10)
    sigmas = [level.sigma_ve for level in levels]
    np.testing.assert_allclose(sigmas, AysSchedules["StableDiffusionVideoSigmas"], rtol=1e-6)
    assert len(TABLES["svd"]) == 11


def test_typed_times_are_the_levels():
    levels = SCHEDULES["hand_typed"].build({"values": "999, 850 736;12.5"}).levels(SD, 4)
    assert levels == [*(SD.at(time) for time in (999, 850, 736, 12.5)), CLEAN]
    sigmas = SCHEDULES["hand_typed"].build({"values": "14.615 3 0.5 0", "unit": "sigmas"}).levels(SD, 3)
    assert [level.sigma_ve for level in sigmas] == pytest.approx([14.615, 3, 0.5, 0])
    flow = SCHEDULES["hand_typed"].build({"values": "1 0.8 0.3", "unit": "sigmas"}).levels(FLOW, 3)
    assert [level.sigma for level in flow] == pytest.approx([1, 0.8, 0.3, 0])
    lowest = SCHEDULES["hand_typed"].build({"values": "14.6 3 0.0292", "unit": "sigmas"}).levels(SD, 3)
    assert lowest[2].timestep == pytest.approx(0, abs=0.2)


def test_no_list_is_no_other_schedule():
    for model in (SD, FLOW):
        with pytest.raises(SettingsError, match=r"The list of levels is empty. Type 5 time steps from high to low"):
            SCHEDULES["hand_typed"].build({"values": " , "}).levels(model, 5)


@pytest.mark.parametrize(
    ("values", "unit", "words"),
    [
        ("999 500 700", "time steps", "has 700 after 500. Type the numbers from high to low"),
        ("999 500 500", "time steps", "has 500 twice"),
        ("1200 500 20", "time steps", "has 1200. This model's go from 0 to 999"),
        ("999 500 -3", "time steps", "has -3. This model's"),
        ("80 5 1", "sigmas", r"has 80. This model's go from 0.02917 to 14.61"),
        ("14 5 0.005", "sigmas", r"has 0.005. This model's go from 0.02917 to 14.61"),
        ("1003 500 20", "time steps", "has 1003. This model's go from 0 to 999"),
        ("999 500", "time steps", "has 2 time steps for 3 steps. Set the steps to 2"),
        ("999 cat 500", "time steps", "holds 'cat', which is not a number"),
        ("999 nan 500", "time steps", "holds 'nan'"),
        ("inf 999 500", "time steps", "holds 'inf'"),
        ("1 " * 1001, "sigmas", "more than 1000 numbers"),
    ],
)
def test_a_list_that_cannot_be_meant_gets_one_clear_sentence(values, unit, words):
    with pytest.raises(SettingsError, match=words):
        SCHEDULES["hand_typed"].build({"values": values, "unit": unit}).levels(SD, 3)
