"""The chain of Denoising MCMC on the Gaussian, with a classifier whose readings are known."""

from __future__ import annotations

import dataclasses
import functools

import pytest
import torch
from gaussian import MEAN, SCHEDULES_OF, VARIANCE, grid, last_of, run_of

from pipelines.core.noise import NoiseSource
from pipelines.initializations import INITIALIZATIONS
from pipelines.initializations.base import StartContext
from pipelines.initializations.fitted import NOISE_LEVEL
from pipelines.samplers import SAMPLERS

SHAPE = (1, 100, 100)
"""One picture of ten thousand pixels, each a chain of its own."""

STEP_SIZE = 0.8


class Reading:
    """Reads `first` in the chain's first state and `then` in all others, a trifle less every time."""

    shape = SHAPE

    def __init__(self, first: float, then: float):
        self.first, self.then, self.read = first, then, 0

    def sigma(self, latents):
        self.read += 1
        return torch.tensor([self.first if self.read == 1 else self.then * (1 - 1e-6 * self.read)])


def started(tmp_path, monkeypatch, kind, first, then, **settings):
    (tmp_path / NOISE_LEVEL).touch()
    monkeypatch.setattr(
        "pipelines.initializations.noise_classifier.load_noise_classifier", lambda path: Reading(first, then)
    )
    noise_schedule = SCHEDULES_OF[kind]
    latents = NoiseSource([7])(torch.empty(1, *SHAPE, dtype=torch.float64))
    run = run_of(SAMPLERS["dpmpp_2m"].build(), grid(noise_schedule, 40, clean=True), noise_schedule, latents)
    start = INITIALIZATIONS["mcmc"].build({"step_size": STEP_SIZE, **settings})
    context = StartContext(run.noise, noise_schedule, "toy", tmp_path)
    return dataclasses.replace(run, begin=functools.partial(start.begin, context=context))


def begun(run):
    """The latents and the levels with which the sampler begins."""
    asking = run.begin(run.latents, run.levels)
    query = next(asking)
    while True:
        try:
            query = asking.send(run.denoiser.predict(query.latents, query.level))
        except StopIteration as done:
            return done.value


def unadjusted(sigma: float) -> tuple[float, float]:
    """The marginal's variance of x0 + sigma * eps, and the chain's, v / (1 - eta / (4 * v))."""
    variance = VARIANCE + sigma**2
    return variance, variance / (1 - STEP_SIZE / (4 * variance))


@pytest.mark.parametrize("kind", SCHEDULES_OF)
@pytest.mark.parametrize("sigma", [0.7, 1.0])
def test_the_chains_states_have_the_unadjusted_algorithms_variance(tmp_path, monkeypatch, kind, sigma):
    run = started(tmp_path, monkeypatch, kind, sigma, sigma, steps=40)
    latents, levels = begun(run)
    state = latents / levels[0].alpha
    assert levels[0].sigma_ve == pytest.approx(sigma, rel=1e-3)
    assert state.mean().item() == pytest.approx(MEAN, abs=0.05)
    assert state.var().item() == pytest.approx(unadjusted(sigma)[1], rel=0.04)


@pytest.mark.parametrize("kind", SCHEDULES_OF)
def test_every_step_is_at_the_level_that_was_read_last(tmp_path, monkeypatch, kind):
    run = started(tmp_path, monkeypatch, kind, 3.0, 0.9, steps=40, noise=3.0)
    latents, levels = begun(run)
    assert (latents / levels[0].alpha).var().item() == pytest.approx(unadjusted(0.9)[1], rel=0.04)


@pytest.mark.parametrize("kind", SCHEDULES_OF)
def test_the_finished_pictures_keep_what_the_chain_has_too_much(tmp_path, monkeypatch, kind):
    """The exact solution keeps standardized values: the data's variance times the chain's over its level's."""
    last = last_of(started(tmp_path, monkeypatch, kind, 1.0, 1.0, steps=40))
    variance, chains = unadjusted(1.0)
    assert last.next_level.sigma == 0
    assert last.latents.mean().item() == pytest.approx(MEAN, abs=0.03)
    assert last.latents.var().item() == pytest.approx(VARIANCE * chains / variance, rel=0.05)
