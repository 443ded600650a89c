"""Starts: where a run's first latents come from; plain noise is the loop as it always was."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from gaussian import SCHEDULES_OF, CosineSchedule, grid, last_of, run_of

from pipelines.core.errors import SettingsError
from pipelines.core.loop import denoise
from pipelines.core.prediction import Query
from pipelines.core.schedule import CLEAN, Level
from pipelines.core.types import Choice, Request
from pipelines.initializations import INITIALIZATIONS
from pipelines.initializations.base import StartContext, count_skipped_steps
from pipelines.initializations.fitted import Statistics, load_statistics, save_statistics
from pipelines.initializations.gaussian import gaussian_flow
from pipelines.requests.limits import Limits
from pipelines.samplers import SAMPLERS
from pipelines.workflows.edit.request import EditRequest, Picture

SCHEDULE = CosineSchedule()


def test_plain_noise_is_the_run_without_a_start_bit_for_bit():
    run = run_of(SAMPLERS["dpmpp_2m"].build(), grid(SCHEDULE, 8), SCHEDULE)
    start = INITIALIZATIONS["noise"].build()
    context = StartContext(run.noise, SCHEDULE)
    begun = dataclasses.replace(run, begin=lambda latents, levels: start.begin(latents, levels, context))
    plain, other = list(denoise(run)), list(denoise(begun))
    assert len(plain) == len(other) == 8
    for one, two in zip(plain, other, strict=True):
        assert torch.equal(one.latents, two.latents) and torch.equal(one.denoised, two.denoised)


def test_a_start_may_ask_the_network_and_spare_steps():
    def begin(latents, levels):
        prediction = yield Query(latents, levels[0])
        return latents * 0 + prediction.denoised.mean(), levels[3:]

    run = dataclasses.replace(run_of(SAMPLERS["ddim"].build(), grid(SCHEDULE, 8), SCHEDULE), begin=begin)
    steps = list(denoise(run))
    assert [step.index for step in steps] == [0, 1, 2, 3, 4] and steps[0].num_steps == 5
    assert steps[0].level == run.levels[3] and steps[-1].evaluations == 6
    assert last_of(run).latents.shape == run.latents.shape


def test_a_request_keeps_its_start_and_its_default_is_plain_noise():
    assert Request().start == Choice("noise")
    request = Request.parse({"start": {"key": "noise"}})
    assert Request.parse(request.to_json()) == request


@pytest.mark.parametrize(("count", "share", "skipped_steps"), [(20, 0.25, 5), (1, 0.9, 0), (4, 0.9, 3), (10, 0.0, 0)])
def test_a_start_never_spares_every_step(count, share, skipped_steps):
    assert count_skipped_steps(count, share) == skipped_steps


def test_an_edit_has_no_start():
    request = EditRequest(Request(prompt="a fox", start=Choice("other")), Picture(np.zeros((8, 8, 3), np.uint8)))
    with pytest.raises(SettingsError, match="starts from its picture"):
        request.check(Limits(), None)


# The closed form on a Gaussian.


def statistics_of(shape=(2, 3, 4), rank=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    size = shape[0] * shape[1] * shape[2]
    directions, _ = torch.linalg.qr(torch.randn(size, rank, generator=generator, dtype=torch.float64))
    mean = torch.randn(shape, generator=generator, dtype=torch.float64)
    return Statistics(mean, directions, torch.rand(rank, generator=generator, dtype=torch.float64) * 3 + 0.1, 0.05)


def covariance(statistics):
    rest = torch.eye(statistics.mean.numel(), dtype=torch.float64) * statistics.rest
    along = statistics.directions * (statistics.variances - statistics.rest)
    return rest + along @ statistics.directions.T


def runge_kutta(latents, statistics, low, high, steps=2000):
    """dx / d sigma = sigma (sigma^2 + C)^-1 (x - mu) from `high` to `low`, in latents divided by alpha."""
    values, vectors = torch.linalg.eigh(covariance(statistics))
    state = (latents.flatten(1) - statistics.mean.flatten()) @ vectors

    def slope(log_sigma, state):
        square = math.exp(2 * log_sigma)
        return square / (square + values) * state

    width, place = (math.log(low) - math.log(high)) / steps, math.log(high)
    for _ in range(steps):
        first = slope(place, state)
        second = slope(place + width / 2, state + width / 2 * first)
        third = slope(place + width / 2, state + width / 2 * second)
        fourth = slope(place + width, state + width * third)
        state, place = state + width / 6 * (first + 2 * second + 2 * third + fourth), place + width
    return (state @ vectors.T + statistics.mean.flatten()).reshape(latents.shape)


@pytest.mark.parametrize("noise_schedule", SCHEDULES_OF.values(), ids=SCHEDULES_OF)
def test_the_gaussian_flow_is_the_odes_solution(noise_schedule):
    statistics = statistics_of()
    level, next_level = noise_schedule.at(900), noise_schedule.at(650)
    latents = torch.randn((3, 2, 3, 4), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    moved = gaussian_flow(latents, level, next_level, statistics)
    exact = next_level.alpha * runge_kutta(latents / level.alpha, statistics, next_level.sigma_ve, level.sigma_ve)
    assert (moved - exact).abs().max() < 1e-12
    back = gaussian_flow(moved, next_level, level, statistics)
    assert (back - latents).abs().max() < 1e-12


def test_the_gaussian_flow_begins_at_pure_noise_and_ends_clean():
    statistics = statistics_of()
    noise = torch.randn((20_000, 2, 3, 4), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    clean = gaussian_flow(noise, Level(0.0, 1.0, 1000.0), CLEAN, statistics).flatten(1)
    assert (clean.mean(0) - statistics.mean.flatten()).abs().max() < 0.06
    assert (clean.T.cov() - covariance(statistics)).abs().max() < 0.12


def test_statistics_are_those_of_the_data_and_come_back_from_their_file(tmp_path):
    latents = torch.randn((400, 2, 3, 4), generator=torch.Generator().manual_seed(3)) * torch.linspace(0.2, 2, 4)
    whole = Statistics.of(latents)
    assert torch.allclose(covariance(whole), latents.double().flatten(1).T.cov(), atol=1e-10)
    few = Statistics.of(latents, rank=6)
    assert few.directions.shape == (24, 6)
    assert covariance(few).trace().item() == pytest.approx(covariance(whole).trace().item(), rel=1e-9)
    save_statistics(few, tmp_path / "one.safetensors")
    again = load_statistics(tmp_path / "one.safetensors")
    assert (again.directions.T @ again.directions - torch.eye(6, dtype=torch.float64)).abs().max() < 1e-12
    assert (covariance(again) - covariance(few)).abs().max() < 5e-3
