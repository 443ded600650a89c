"""The formulas of the searches, in float64 where they are exact."""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise

import pytest
import torch
from gaussian import MEAN, SCHEDULES_OF, VARIANCE, grid, run_of

from pipelines.core.denoiser import Denoiser
from pipelines.core.loop import denoise
from pipelines.core.noise import NoiseSource
from pipelines.core.prediction import Conditioning, Prediction
from pipelines.core.registry import parse_settings
from pipelines.core.sampler import Past, State
from pipelines.core.schedule import CLEAN, FlowSchedule, Level
from pipelines.core.types import Choice, Request
from pipelines.guidance.cfg import Unguided
from pipelines.samplers import SAMPLERS
from pipelines.search.adjoint import adjoint_of_run, walk
from pipelines.search.ascent import log_norm_density
from pipelines.search.beam import keep_beams
from pipelines.search.doit import drift
from pipelines.search.find import policy_gradient
from pipelines.search.fk_steering import log_potentials, resample
from pipelines.search.particles import is_stochastic, select_rows
from pipelines.search.paths import find_level, noise_again
from pipelines.search.reno import finish_with_gradients
from pipelines.search.rollover import fresh_share, sde_step
from pipelines.search.vendi import vendi_gradient, vendi_score
from pipelines.search.zero_order import neighbor

FLOW = FlowSchedule()


@pytest.mark.parametrize("key", list(SAMPLERS))
def test_a_sampler_is_called_stochastic_exactly_where_its_noise_changes_the_run(key):
    """By default, and with each share of noise that it has set to nothing."""
    names = {field.name for field in dataclasses.fields(SAMPLERS[key].settings)}
    settings = [{}, *({name: 0.0} for name in ("eta", "tau", "gamma") if name in names)]
    schedule = SCHEDULES_OF["diffusion"]
    for values in settings:
        sampler = SAMPLERS[key].build(values)
        ends = []
        for seed in (1, 2):
            run = run_of(sampler, grid(schedule, 4, high=900, low=100), schedule, seeds=(seed,))
            *_, step = denoise(run)
            ends.append(step.latents)
        assert is_stochastic(Request(sampler=Choice(key, values))) == (not torch.equal(*ends)), values


def moments_of(num_steps: int, diffusion: float, path: str) -> tuple[float, float]:
    """Mean and variance at t = 0.05 of the SDE from the exact marginal at t = 0.95, of Gaussian data.

    A step is affine in x and its fresh noise, so both follow without a draw.
    """
    levels = grid(FLOW, num_steps, high=950, low=50)
    mean, variance = levels[0].alpha * MEAN, levels[0].alpha ** 2 * VARIANCE + levels[0].sigma ** 2
    network = run_of(SAMPLERS["flow_euler"].build(), levels, FLOW, prediction_type="flow").denoiser
    for level, next_level in pairwise(levels):
        spread = fresh_share(level, next_level, diffusion, path)
        pair = torch.tensor([mean, mean + 1.0], dtype=torch.float64).reshape(1, 1, 1, 2)
        first, second = sde_step(network.predict(pair, level), next_level, spread, torch.zeros_like(pair)).flatten()
        mean, variance = first.item(), (second - first).item() ** 2 * variance + spread**2
    return mean, variance


@pytest.mark.parametrize("path", ["linear", "variance-preserving"])
@pytest.mark.parametrize("diffusion", [0.0, 1.0, 3.0])
def test_the_flow_s_sde_has_the_ode_s_moments_for_every_diffusion(diffusion, path):
    exact = 0.95 * MEAN, 0.95**2 * VARIANCE + 0.05**2
    errors = [
        max(abs(found - true) for found, true in zip(moments_of(steps, diffusion, path), exact, strict=True))
        for steps in (200, 400, 800)
    ]
    assert errors[-1] < 0.002
    assert 1.7 < errors[0] / errors[1] < 2.3  # first order
    assert 1.7 < errors[1] / errors[2] < 2.3


def test_a_step_of_the_sde_is_exact_for_a_single_datum_at_any_length():
    datum, noise = torch.full((1, 1, 2, 2), 0.3, dtype=torch.float64), torch.randn(1, 1, 2, 2, dtype=torch.float64)
    level, next_level = FLOW.at(900), FLOW.at(300)
    latents = level.alpha * datum + level.sigma * noise
    spread = fresh_share(level, next_level, 3.0, "variance-preserving")
    assert 0 < spread <= next_level.sigma
    after = sde_step(Prediction(noise - datum, latents, level, "flow"), next_level, spread, torch.zeros_like(datum))
    kept = math.sqrt(next_level.sigma**2 - spread**2)
    assert torch.allclose(after, next_level.alpha * datum + kept * noise, atol=1e-14)
    assert fresh_share(level, CLEAN, 3.0, "linear") == 0


class CurvedNetwork:
    """A small network with weights of its own."""

    max_rows, rows_together = 0, 1

    def __init__(self, prediction_type: str):
        self.prediction_type = prediction_type
        generator = torch.Generator().manual_seed(5)
        self.weights = [torch.randn(4, 4, 3, 3, generator=generator, dtype=torch.float64) / 6 for _ in range(2)]

    def predict_raw(self, latents, timesteps, conditioning):
        hidden = torch.tanh(torch.conv2d(latents, self.weights[0], padding=1) + timesteps[:, None, None, None] / 1000)
        return torch.conv2d(hidden, self.weights[1], padding=1)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "flow"])
def test_the_adjoint_equals_autograd_through_the_whole_run_in_float64(prediction_type):
    schedule = FLOW if prediction_type == "flow" else SCHEDULES_OF["diffusion"]
    levels = [*grid(schedule, 7, high=900, low=50), CLEAN]
    denoiser = Denoiser(CurvedNetwork(prediction_type), Unguided(), {"positive": Conditioning()})
    latents = torch.randn(2, 4, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    wanted = torch.randn(2, 4, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    states = walk(denoiser, latents, levels)
    adjoint = adjoint_of_run(denoiser, states, levels, 2 * (states[-1] - wanted))
    start = latents.clone().requires_grad_(True)
    run = dataclasses.replace(run_of(SAMPLERS["ddim"].build(), levels, schedule, start), denoiser=denoiser)
    last = finish_with_gradients(run)
    (expected,) = torch.autograd.grad((last - wanted).square().sum(), start)
    assert torch.allclose(states[-1], last.detach(), rtol=1e-13, atol=1e-13)
    assert torch.allclose(adjoint, expected, rtol=1e-11, atol=1e-11)
    assert expected.abs().max() > 0.01


def test_the_norm_s_density_is_largest_at_the_root_of_d_minus_one_and_its_slope_is_the_pull_of_an_ascent():
    noise = torch.randn(1, 4, 3, 3, dtype=torch.float64).requires_grad_(True)
    d = noise[0].numel()
    (slope,) = torch.autograd.grad(log_norm_density(noise).sum(), noise)
    assert torch.allclose(slope, ((d - 1) / noise.norm() ** 2 - 1) * noise, rtol=1e-12)
    unit = (noise / noise.norm()).detach()
    best = (unit * math.sqrt(d - 1)).requires_grad_(True)
    (still,) = torch.autograd.grad(log_norm_density(best).sum(), best)
    assert still.abs().max() < 1e-12
    assert log_norm_density(best) > max(log_norm_density(best * 0.99), log_norm_density(best * 1.01))


def test_the_potentials_are_those_of_the_paper_and_the_difference_telescopes():
    rewards = torch.tensor([[0.1, 0.9], [0.5, 0.2], [0.3, 0.4]], dtype=torch.float64)
    running = {"max": torch.full((2,), -math.inf, dtype=torch.float64)}
    running |= {name: torch.zeros(2, dtype=torch.float64) for name in ("sum", "difference")}
    totals = dict.fromkeys(running, 0)
    for now in rewards:
        for name in running:
            gain, running[name] = log_potentials(now, running[name], 10.0, name)
            totals[name] = totals[name] + gain
    assert torch.allclose(totals["difference"], 10 * rewards[-1])
    assert torch.allclose(totals["max"], 10 * rewards.cummax(dim=0).values.sum(dim=0))
    assert torch.allclose(totals["sum"], 10 * rewards.cumsum(dim=0).sum(dim=0))


def test_resampling_gives_each_particle_its_share_of_places_and_leaves_equal_ones():
    weights = torch.tensor([0.86, 0.08, 0.04, 0.02], dtype=torch.float64)
    draws = torch.arange(1000, dtype=torch.float64) / 1000
    places = torch.tensor([[resample(weights.log(), draw).count(row) for row in range(4)] for draw in draws]).double()
    assert torch.allclose(places.mean(dim=0), 4 * weights, atol=0.005)
    assert ((places - 4 * weights).abs() < 1).all()  # floor or ceil
    for constant in (0.0, -1e6, 3.7):
        assert resample(torch.full((4,), constant), torch.tensor(0.99)) == [0, 1, 2, 3]


def test_particles_take_with_them_what_their_sampler_and_their_guidance_remember():
    run = run_of(SAMPLERS["ddim"].build(), grid(FLOW, 2), FLOW, torch.zeros(3, 1, 2, 2), seeds=(0, 1, 2))
    rows = torch.arange(3.0)[:, None, None, None].expand(3, 1, 2, 2)
    run.denoiser.guidance.momentum = rows.clone()
    state = State(rows, rows + 10, (Past(FLOW.at(500), rows + 20),), (rows + 30, 7, {"x": rows + 40}))
    chosen = select_rows(state, run, [2, 2, 0])
    expected = rows[[2, 2, 0]]
    held = [chosen.latents, chosen.denoised - 10, chosen.history[0].denoised - 20, chosen.memory[0] - 30]
    assert all(torch.equal(one, expected) for one in [*held, chosen.memory[2]["x"] - 40])
    assert torch.equal(run.denoiser.guidance.momentum, expected)
    assert chosen.memory[1] == 7
    assert chosen.history[0].level == FLOW.at(500)
    assert select_rows(state, run, [0, 1, 2]) is state


def test_a_neighbor_is_unit_normal_and_noising_again_reaches_the_marginal():
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(1, 1, 300, 300, generator=generator, dtype=torch.float64) for _ in range(2))
    for distance in (0.0, 0.5, 3.0):
        assert neighbor(first, second, distance).std().item() == pytest.approx(1, abs=0.01)  # 90,000 draws
    assert torch.equal(neighbor(first, second, 0.0), first)
    level, target = FLOW.at(200), FLOW.at(900)
    clean = torch.full_like(first, 0.4)
    noisy = noise_again(level.alpha * clean + level.sigma * first, level, target, second)
    assert noisy.mean().item() == pytest.approx(target.alpha * 0.4, abs=0.01)
    assert noisy.std().item() == pytest.approx(target.sigma, rel=0.01)
    levels = [*grid(FLOW, 10, high=1000, low=100), CLEAN]
    assert find_level(levels, 0.11, 1, 11) == 10
    assert find_level(levels, 0.0, 1, 11) == 11


def test_the_policy_gradient_is_that_of_the_clipped_objective():
    generator = torch.Generator().manual_seed(3)
    before = torch.randn(1, 2, 3, 3, generator=generator, dtype=torch.float64)
    draws = before + torch.randn(5, 2, 3, 3, generator=generator, dtype=torch.float64)
    advantages = torch.tensor([1.0, -0.5, 0.3, -1.2, 0.4], dtype=torch.float64)
    mean = (before + 0.3 * torch.randn(1, 2, 3, 3, generator=generator, dtype=torch.float64)).requires_grad_(True)
    log_ratio = ((draws - before).square() - (draws - mean).square()).flatten(1).mean(dim=1) / 2
    ratio = log_ratio.exp()
    objective = torch.minimum(ratio * advantages, ratio.clamp(0.95, 1.05) * advantages).mean()
    (expected,) = torch.autograd.grad(objective, mean)
    found = policy_gradient(draws, mean.detach(), before, advantages, 0.05)
    assert torch.allclose(found, expected * draws[0].numel(), rtol=1e-10)  # the ratio is per number, its slope not
    assert ((ratio > 1.05) | (ratio < 0.95)).any()


def test_the_drift_is_the_tilted_mean_of_a_gaussian_and_nothing_for_equal_rewards():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(200_000, 1, 1, 2, generator=generator, dtype=torch.float64)
    rewards = noise @ torch.tensor([0.5, -0.2], dtype=torch.float64)
    # exp(b n) tilts N(0, 1) to N(b, 1): Doob's drift is b; of 200,000 draws to two digits.
    assert torch.allclose(
        drift(noise, rewards.flatten(), 1.0).flatten(), torch.tensor([0.5, -0.2]).double(), atol=0.015
    )
    for count in (3, 4, 7):
        assert not drift(noise[:count], torch.full((count,), 0.3), 10.0).any()


def test_the_vendi_score_counts_what_is_different_and_its_gradient_leads_apart():
    assert float(vendi_score(torch.eye(5, dtype=torch.float64)[:, :5])) == pytest.approx(5)
    assert float(vendi_score(torch.ones(4, 7, dtype=torch.float64))) == pytest.approx(1, abs=1e-9)
    half = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]], dtype=torch.float64)
    assert float(vendi_score(half)) == pytest.approx(2)
    memory, picture = torch.randn(3, 2, 3, 3, dtype=torch.float64), torch.randn(2, 3, 3, dtype=torch.float64)
    gradient = vendi_gradient(picture, memory, None)
    around = [vendi_score(torch.cat([memory, (picture + sign * 1e-5 * gradient)[None]]).flatten(1)) for sign in (1, -1)]
    assert float(around[0] - around[1]) / 2e-5 == pytest.approx(float(gradient.square().sum()), rel=1e-4)
    context = vendi_gradient(picture, memory[:0], memory)
    assert torch.allclose(context, -2 * gradient, atol=1e-9)


def test_beams_keep_the_best_and_part_them_evenly():
    assert keep_beams([0.1, 0.9, 0.5, 0.7], 2) == [1, 1, 3, 3]
    assert keep_beams([0.5, 0.5, 0.5, 0.5], 2) == [0, 0, 1, 1]
    assert keep_beams([0.3, 0.9], 2) == [0, 1]


def test_sources_of_noise_are_selected_and_joined_without_touching_the_first():
    source, like = NoiseSource([4, 5]), torch.empty(2, 1, 2, 2)
    joined = NoiseSource.cat([source.select([1]), NoiseSource([9]), source.select([0, 0])])
    drawn, first = joined(torch.empty(4, 1, 2, 2)), source(like)
    assert torch.equal(drawn[0], first[1])
    assert torch.equal(drawn[2], first[0])
    assert torch.equal(drawn[2], drawn[3])


def test_a_run_s_rest_counts_its_steps_from_where_it_begins():
    run = run_of(SAMPLERS["ddim"].build(), grid(FLOW, 6), FLOW)
    rest = dataclasses.replace(run, levels=run.levels[4:], first=4)
    seen = []
    for _ in denoise(dataclasses.replace(rest, between=lambda state, step: seen.append(run.denoiser.step) or state)):
        pass
    assert seen == [4, 5]
    assert run.denoiser.num_steps == 6
    assert parse_settings(SAMPLERS["ddim"].settings, {}).eta == 0
    assert isinstance(run.levels[0], Level)
