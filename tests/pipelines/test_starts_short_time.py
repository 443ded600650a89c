"""The short diffusion time: its bound is the evidence's, its draw has the noised data's moments, and it is exact on a
Gaussian."""

from __future__ import annotations

import dataclasses
import functools
import itertools

import numpy as np
import pytest
import torch
from gaussian import MEAN, SCHEDULES_OF, VARIANCE, CosineSchedule, grid, last_of, run_of
from test_mixture import MEANS, WEIGHTS, estimate
from test_mixture import VARIANCE as SPREAD

from pipelines.core.errors import ModelFileError, ModelMissingError, SettingsError
from pipelines.core.noise import NoiseSource
from pipelines.core.schedule import FlowSchedule
from pipelines.initializations import INITIALIZATIONS
from pipelines.initializations.base import StartContext
from pipelines.initializations.fitted import (
    DENOISING_GAIN,
    STATISTICS,
    DenoisingGain,
    Statistics,
    load_denoising_gain,
    save_denoising_gain,
    save_statistics,
)
from pipelines.initializations.short_time import (
    accumulate_gain,
    draw_auxiliary_prior,
    estimate_by_gaussian,
    find_shortest_time,
    prior_divergence,
)
from pipelines.samplers import SAMPLERS

SCHEDULE = CosineSchedule()
MIXTURE_MEAN = sum(w * m for w, m in zip(WEIGHTS, MEANS, strict=True))
MIXTURE_VARIANCE = SPREAD + sum(w * (m - MIXTURE_MEAN) ** 2 for w, m in zip(WEIGHTS, MEANS, strict=True))
MOMENTS = Statistics(
    torch.full((1, 1, 1), MIXTURE_MEAN, dtype=torch.float64),
    torch.ones(1, 1, dtype=torch.float64),
    torch.tensor([MIXTURE_VARIANCE], dtype=torch.float64),
    0.0,
)
X = np.linspace(-16, 16, 20_001)  # the narrowest density deviates by 190 of these steps


def normal(x, mean, variance):
    return np.exp(-((x - mean) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)


def noised_mixture(level):
    pairs = zip(WEIGHTS, MEANS, strict=True)
    return sum(w * normal(X, level.alpha * m, level.alpha**2 * SPREAD + level.sigma**2) for w, m in pairs)


def divergence(first, second):
    inside = first > 1e-300
    return np.trapezoid(first[inside] * np.log(first[inside] / second[inside]), X[inside])


def auxiliary(level):
    return normal(X, level.alpha * MIXTURE_MEAN, level.alpha**2 * MIXTURE_VARIANCE + level.sigma**2)


def gain_of(network, lowest, highest, count=400):
    """The gain of a network's estimates (x, alpha, sigma) -> x0 over the mixture, by quadrature."""
    logs, gains = np.linspace(lowest, highest, count), []
    for log in logs:
        level = SCHEDULE.at_sigma_ve(np.exp(-log / 2))
        density = noised_mixture(level)
        truth = estimate(X, level.alpha, level.sigma)
        by_gaussian = estimate_by_gaussian(torch.from_numpy(X).reshape(-1, 1, 1, 1), level, MOMENTS).numpy().ravel()
        # The part of the error that no estimate avoids cancels.
        errors = [(one - truth) ** 2 for one in (by_gaussian, network(X, level.alpha, level.sigma))]
        gains.append(np.trapezoid(density * (errors[0] - errors[1]), X))
    return DenoisingGain(torch.from_numpy(logs), torch.tensor(gains, dtype=torch.float64))


LEVELS = grid(SCHEDULE, 16, high=960, low=40)


def test_the_gain_adds_up_to_the_divergence_of_the_data_from_the_fitted_gaussian():
    first = LEVELS[0]
    gain = gain_of(estimate, 2 * first.lam, 2 * LEVELS[-1].lam)
    begun = divergence(noised_mixture(first), auxiliary(first))
    for level in LEVELS[1:]:
        expected = divergence(noised_mixture(level), auxiliary(level)) - begun
        # The rest is the quadrature's.
        assert accumulate_gain(gain, first, level) == pytest.approx(expected, rel=2e-3, abs=1e-6)


@pytest.mark.parametrize("scale", [1.0, 0.8])
def test_what_two_moments_tell_of_the_noise_is_what_the_gaussian_gains_on_it(scale):
    for level in LEVELS[:6]:
        data = noised_mixture(level)
        expected = divergence(data, normal(X, 0.0, scale**2)) - divergence(data, auxiliary(level))
        assert prior_divergence(level, scale, MOMENTS) == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_the_time_is_the_shortest_whose_evidence_is_not_lower():
    """The bound by its definition: divergence of the prior and gap of the score, of an imperfect network."""

    def worse(x, alpha, sigma):
        return 0.9 * estimate(x, alpha, sigma) + 0.02

    first = LEVELS[0]
    gain = gain_of(worse, 2 * first.lam, 2 * LEVELS[-1].lam)
    gaps = [0.0]
    for before, level in itertools.pairwise(LEVELS):
        logs, errors = np.linspace(2 * before.lam, 2 * level.lam, 40), []
        for log in logs:
            at = SCHEDULE.at_sigma_ve(np.exp(-log / 2))
            wrong = worse(X, at.alpha, at.sigma) - estimate(X, at.alpha, at.sigma)
            errors.append(np.trapezoid(noised_mixture(at) * wrong**2, X))
        gaps.append(gaps[-1] + 0.5 * np.trapezoid(errors, np.exp(logs)))
    with_noise = divergence(noised_mixture(first), normal(X, 0.0, 0.6)) + gaps[-1]
    fitted = [
        divergence(noised_mixture(level), auxiliary(level)) + gaps[-1] - gap
        for level, gap in zip(LEVELS, gaps, strict=True)
    ]
    expected = max(index for index, nats in enumerate(fitted[:-1]) if nats <= with_noise)
    assert 0 < expected < len(LEVELS) - 2  # neither end, or it would say nothing
    assert find_shortest_time(LEVELS, 0.6**0.5, MOMENTS, gain) == expected


def test_more_slack_is_a_shorter_time():
    gain = gain_of(estimate, 2 * LEVELS[0].lam, 2 * LEVELS[-1].lam)
    found = [find_shortest_time(LEVELS, 1.0, MOMENTS, gain, slack) for slack in (0.0, 0.02, 0.1, 50.0)]
    assert found == sorted(found) and found[0] < found[2] and found[3] == len(LEVELS) - 2


def statistics_of(shape=(2, 3, 4), rank=5):
    generator = torch.Generator().manual_seed(0)
    size = shape[0] * shape[1] * shape[2]
    directions, _ = torch.linalg.qr(torch.randn(size, rank, generator=generator, dtype=torch.float64))
    mean = torch.randn(shape, generator=generator, dtype=torch.float64)
    variances = torch.rand(rank, generator=generator, dtype=torch.float64) + 1
    return Statistics(mean, directions, variances, 0.3)


def test_the_draw_is_linear_and_has_the_noised_datas_mean_and_covariance():
    statistics, level = statistics_of(), SCHEDULE.at(500)
    units = torch.eye(24, dtype=torch.float64).reshape(24, 2, 3, 4)
    shift = draw_auxiliary_prior(torch.zeros(1, 2, 3, 4), level, statistics)
    assert torch.allclose(shift[0], level.alpha * statistics.mean)
    root = (draw_auxiliary_prior(units, level, statistics) - shift).flatten(1)
    spread = statistics.directions @ torch.diag(statistics.variances - statistics.rest) @ statistics.directions.T
    data = spread + statistics.rest * torch.eye(24, dtype=torch.float64)
    expected = level.alpha**2 * data + level.sigma**2 * torch.eye(24, dtype=torch.float64)
    assert torch.allclose(root.T @ root, expected, atol=1e-12)
    # The estimate is the textbook's: mu + a S (a^2 S + s^2)^-1 (x - a mu).
    apart = units.flatten(1) - level.alpha * statistics.mean.flatten()
    textbook = statistics.mean.flatten() + apart @ torch.linalg.inv(expected) @ (level.alpha * data)
    assert torch.allclose(estimate_by_gaussian(units, level, statistics).flatten(1), textbook, atol=1e-12)


SHAPE = (1, 3, 3)


@pytest.fixture
def folder(tmp_path):
    flat = torch.zeros(9, 0, dtype=torch.float64)
    save_statistics(Statistics(torch.full(SHAPE, MEAN), flat, torch.zeros(0), VARIANCE), tmp_path / STATISTICS)
    save_denoising_gain(
        DenoisingGain(torch.tensor([-12.0, 0.0, 4.0]), torch.tensor([0.0, 0.0, 0.0])), tmp_path / DENOISING_GAIN
    )
    return tmp_path


def started(folder, noise_schedule=SCHEDULE, seeds=(7,), **settings):
    levels = grid(noise_schedule, 20, clean=True)
    latents = noise_schedule.initial_scale(levels[0]) * NoiseSource(list(seeds))(torch.empty(len(seeds), *SHAPE))
    run = run_of(SAMPLERS["ddim"].build(), levels, noise_schedule, latents, seeds)
    begin = INITIALIZATIONS["short_time"].build(settings).begin
    context = StartContext(run.noise, noise_schedule, "toy", folder)
    return dataclasses.replace(run, begin=functools.partial(begin, context=context))


@pytest.mark.parametrize("noise_schedule", SCHEDULES_OF.values(), ids=SCHEDULES_OF)
def test_on_a_gaussian_one_step_is_enough_and_its_pictures_have_the_datas_moments(folder, noise_schedule):
    run = started(folder, noise_schedule, seeds=range(4000))
    last = last_of(run)
    assert last.num_steps == 1 and last.evaluations == 1
    drawn = run.begin(run.latents, run.levels)
    with pytest.raises(StopIteration) as done:
        next(drawn)
    latents, levels = done.value.value
    assert levels == run.levels[-2:]
    level, count = levels[0], latents.numel()
    variance = level.sigma**2 + level.alpha**2 * VARIANCE
    # Four standard errors of 36,000 numbers.
    assert float(latents.mean()) == pytest.approx(level.alpha * MEAN, abs=4 * (variance / count) ** 0.5)
    assert float(latents.var()) == pytest.approx(variance, rel=4 * (2 / count) ** 0.5)


def test_a_network_that_is_far_better_leaves_all_steps(folder):
    save_denoising_gain(DenoisingGain(torch.tensor([-12.0, 4.0]), torch.tensor([1e6, 1e6])), folder / DENOISING_GAIN)
    last = last_of(started(folder))
    assert last.num_steps == len(started(folder).levels) - 1
    assert INITIALIZATIONS["short_time"].build().nfe(20, started(folder).sampler) == 20


def test_a_flow_models_pure_noise_is_integrated_from_nothing():
    gain = DenoisingGain(torch.tensor([-6.0, 2.0]).double(), torch.tensor([2.0, 2.0]).double())
    schedule = FlowSchedule()
    level = schedule.at(600)
    assert accumulate_gain(gain, schedule.at(1000), level) == pytest.approx((level.alpha / level.sigma) ** 2, rel=1e-6)
    faint = schedule.at(999.99)
    assert accumulate_gain(gain, schedule.at(1000), faint) == pytest.approx((faint.alpha / faint.sigma) ** 2, rel=1e-6)


def test_what_is_missing_broken_or_of_another_size_is_said(folder, tmp_path):
    (folder / DENOISING_GAIN).unlink()
    with pytest.raises(ModelMissingError, match=r"'toy'.*python -m pipelines\.training\.denoising_gain"):
        last_of(started(folder))
    descending = DenoisingGain(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 0.0]))
    save_denoising_gain(descending, folder / DENOISING_GAIN)
    with pytest.raises(ModelFileError, match="no ascending table"):
        last_of(started(folder))
    save_denoising_gain(DenoisingGain(torch.tensor([0.0, 1.0]), torch.tensor([0.5, 2.0])), folder / DENOISING_GAIN)
    assert load_denoising_gain(folder / DENOISING_GAIN).gain.tolist() == [0.5, 2.0]
    with pytest.raises(SettingsError, match="another size"):
        last_of(dataclasses.replace(started(folder), latents=torch.zeros(1, 1, 4, 4)))
