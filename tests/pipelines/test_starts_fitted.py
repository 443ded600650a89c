"""Starts that were fitted to data: the transport keeps the measure, the chain its variance; each needs its file."""

from __future__ import annotations

import dataclasses
import functools

import pytest
import torch
from gaussian import MEAN, SCHEDULES_OF, VARIANCE, CosineSchedule, exact, grid, last_of, run_of

from pipelines.core.errors import ModelFileError, ModelMissingError, SettingsError
from pipelines.core.loop import denoise
from pipelines.core.noise import NoiseSource
from pipelines.initializations import INITIALIZATIONS
from pipelines.initializations.base import StartContext
from pipelines.initializations.fitted import (
    NOISE_LEVEL,
    STATISTICS,
    TRANSPORT,
    Statistics,
    Transport,
    fitted_folder,
    load_statistics,
    load_transport,
    save_statistics,
    save_transport,
)
from pipelines.initializations.mcmc import langevin_step
from pipelines.initializations.noise_classifier import (
    NoiseClassifier,
    NoiseLevelNetwork,
    load_noise_classifier,
    save_noise_classifier,
)
from pipelines.initializations.optimal_transport import cells, fit_transport, masses
from pipelines.samplers import SAMPLERS

SCHEDULE = CosineSchedule()
SHAPE = (1, 3, 3)


def started(key, folder, noise_schedule=SCHEDULE, steps=20, sampler="dpmpp_2m", seeds=(0,), **settings):
    """A run of a start on the Gaussian, all of whose levels can be reached."""
    levels = grid(noise_schedule, steps, clean=True)
    latents = NoiseSource([7])(torch.empty(1, *SHAPE)).repeat(len(seeds), 1, 1, 1)
    run = run_of(SAMPLERS[sampler].build(), levels, noise_schedule, latents, seeds)
    context = StartContext(run.noise, noise_schedule, "toy", folder)
    return dataclasses.replace(
        run, begin=functools.partial(INITIALIZATIONS[key].build(settings).begin, context=context)
    )


@pytest.fixture
def folder(tmp_path):
    flat = torch.zeros(9, 0, dtype=torch.float64)
    save_statistics(Statistics(torch.full(SHAPE, MEAN), flat, torch.zeros(0), VARIANCE), tmp_path / STATISTICS)
    points = MEAN + VARIANCE**0.5 * torch.randn((6, *SHAPE), generator=torch.Generator().manual_seed(1))
    save_transport(Transport(points, torch.zeros(6)), tmp_path / TRANSPORT)
    torch.manual_seed(0)
    network = NoiseLevelNetwork(1, 40)
    save_noise_classifier(NoiseClassifier(network, 0.05, 10.0, SHAPE), tmp_path / NOISE_LEVEL)
    return tmp_path


# The Gaussian-analytic start.


@pytest.mark.parametrize("noise_schedule", SCHEDULES_OF.values(), ids=SCHEDULES_OF)
def test_the_gaussian_start_spares_steps_and_is_exact_on_a_gaussian(folder, noise_schedule):
    run = started("gaussian", folder, noise_schedule, share=0.5)
    last = last_of(run)
    assert last.num_steps == 11 and last.evaluations == 11  # 10 of 21 are spared: half, rounded to even
    latents, levels = begin_of(run)
    assert levels == run.levels[10:]
    assert (latents - exact(run.latents, run.levels[0], run.levels[10])).abs().max() < 1e-6


def begin_of(run):
    """(latents, levels) of a start that asks the network nothing."""
    with pytest.raises(StopIteration) as done:
        next(run.begin(run.latents, run.levels))
    return done.value.value


def test_no_step_spared_is_plain_noise_and_needs_no_file(tmp_path):
    for key in ("gaussian", "optimal_transport"):
        run = started(key, tmp_path, share=0.0)
        assert torch.equal(last_of(run).latents, last_of(dataclasses.replace(run, begin=None)).latents)


# Optimal transport.


def test_the_transport_gives_every_point_the_same_share_of_the_noise():
    generator = torch.Generator().manual_seed(0)
    points = torch.randn((12, 1, 3, 3), generator=generator) * torch.linspace(0.3, 2, 12)[:, None, None, None]
    transport = fit_transport(points, generator, steps=200, batch=1024)
    received = masses(transport, 24_000, generator) * 12
    assert received.min() > 0.9 and received.max() < 1.1
    unfitted = masses(Transport(points, torch.zeros(12)), 24_000, generator) * 12
    assert unfitted.max() > 2


def test_no_other_assignment_of_the_same_masses_is_closer():
    """Optimality: exchanging the targets of any two noises never brings both together nearer."""
    generator = torch.Generator().manual_seed(5)
    transport = Transport(torch.randn((8, 2, 3, 3), generator=generator), torch.randn(8, generator=generator))
    noise = torch.randn((40, 2, 3, 3), generator=generator)
    where = transport.points[cells(noise, transport)].flatten(1)
    likeness = noise.flatten(1) @ where.T
    own = likeness.diagonal()
    assert (own[:, None] + own[None] - likeness - likeness.T).min() > -1e-4


def test_the_transport_start_leaves_the_last_steps_and_keeps_the_noise(folder):
    run = started("optimal_transport", folder, steps=19, share=0.25)
    latents, levels = begin_of(run)
    assert levels == run.levels[5:] and last_of(run).num_steps == 15
    noise = (latents - levels[0].sigma * run.latents) / levels[0].alpha
    points = started_points(folder)
    assert (noise.flatten(1) - points).abs().amax(1).min() < 1e-5


def started_points(folder):
    return load_transport(folder / TRANSPORT).points.flatten(1)


# Denoising MCMC.


@pytest.mark.parametrize("step_size", [0.2, 0.8])
def test_the_chains_variance_is_the_unadjusted_algorithms_own(step_size):
    variance, generator = 0.7, torch.Generator().manual_seed(0)
    state = torch.randn(40_000, generator=generator, dtype=torch.float64)
    for _ in range(120):
        noise = torch.randn(len(state), generator=generator, dtype=torch.float64)
        state = langevin_step(state, -state / variance, step_size, noise)
    assert state.var().item() == pytest.approx(variance / (1 - step_size / (4 * variance)), rel=0.03)


class Knowing:
    """A classifier that knows the noise level: on the toy, the spread of x0 + sigma * eps tells it."""

    shape = SHAPE

    def sigma(self, latents):
        return (latents.double() - MEAN).square().mean(dim=(1, 2, 3)).sub(VARIANCE).clamp(min=0.04).sqrt()


@pytest.mark.parametrize("noise_schedule", SCHEDULES_OF.values(), ids=SCHEDULES_OF)
def test_the_chain_starts_the_schedule_at_its_least_noise(folder, noise_schedule, monkeypatch):
    monkeypatch.setattr("pipelines.initializations.noise_classifier.load_noise_classifier", lambda path: Knowing())
    run = started("mcmc", folder, noise_schedule, steps=10, draft_steps=3)
    *_, last = steps = list(denoise(run))
    assert last.next_level.sigma == 0 and last.latents.isfinite().all()
    assert steps[0].evaluations == 3 + 10 + 1
    assert steps[0].level.sigma_ve <= 3
    bound = INITIALIZATIONS["mcmc"].build({"draft_steps": 3}).nfe(11, run.sampler)
    assert last.evaluations <= bound == 3 + 10 + 11


def test_a_chain_that_would_diverge_and_a_batch_are_refused(folder):
    with pytest.raises(SettingsError, match="diverge"):
        INITIALIZATIONS["mcmc"].build({"noise": 0.4, "step_size": 0.8})
    with pytest.raises(SettingsError, match="one picture at a time"):
        last_of(started("mcmc", folder, seeds=(0, 1)))


def test_the_classifier_comes_back_from_its_file(folder, tmp_path):
    classifier = load_noise_classifier(folder / NOISE_LEVEL)
    latents = torch.randn((5, *SHAPE), generator=torch.Generator().manual_seed(2))
    assert classifier.sigma(latents).shape == (5,) and classifier.shape == SHAPE
    save_noise_classifier(classifier, tmp_path / "two.safetensors")
    assert torch.equal(load_noise_classifier(tmp_path / "two.safetensors").sigma(latents), classifier.sigma(latents))
    assert classifier.nearest(classifier.sigmas).tolist() == list(range(40))


# What is missing, broken or of another model.


@pytest.mark.parametrize(("key", "settings"), [("gaussian", {}), ("optimal_transport", {}), ("mcmc", {})])
def test_a_model_without_fitted_files_is_told_the_command(key, settings, tmp_path):
    for place in (None, tmp_path):
        with pytest.raises(ModelMissingError, match=r"'toy'.*python -m pipelines"):
            last_of(started(key, place, **settings))


@pytest.mark.parametrize(
    ("key", "name"), [("gaussian", STATISTICS), ("optimal_transport", TRANSPORT), ("mcmc", NOISE_LEVEL)]
)
def test_broken_files_and_other_sizes_are_refused(key, name, folder, tmp_path):
    large = torch.zeros(1, 1, 4, 4)
    run = dataclasses.replace(started(key, folder), latents=large)
    with pytest.raises(SettingsError, match="another size"):
        last_of(run)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / name).write_bytes(b"no tensors")
    with pytest.raises(ModelFileError, match="broken"):
        last_of(started(key, tmp_path / "broken"))


def test_fitted_files_lie_beside_the_shipped_model_or_in_the_models_folder(tmp_path):
    assert fitted_folder("emoji", tmp_path).parent.name == "models"
    assert fitted_folder("org/some-model", tmp_path) == tmp_path / "starts" / "org--some-model"


def test_the_shipped_files_are_of_the_shipped_models_latents():
    folder = fitted_folder("emoji", None)
    assert load_statistics(folder / STATISTICS).mean.shape == (4, 16, 16)
    transport = load_transport(folder / TRANSPORT)
    assert transport.points.shape[1:] == (4, 16, 16)
    received = masses(transport, 16 * len(transport.points), torch.Generator().manual_seed(3))
    assert (received > 0).float().mean() > 0.99


def test_the_shipped_classifier_reads_the_noise_of_the_models_latents():
    """On the transport's points, which are latents of the data; the card has the figures on thousands of others."""
    folder = fitted_folder("emoji", None)
    classifier, points = load_noise_classifier(folder / NOISE_LEVEL), load_transport(folder / TRANSPORT).points
    generator = torch.Generator().manual_seed(4)
    for sigma in (0.6, 1.0, 3.0, 9.0):
        read = classifier.sigma(points + sigma * torch.randn(points.shape, generator=generator))
        assert (read / sigma).log().abs().median() < 0.06
