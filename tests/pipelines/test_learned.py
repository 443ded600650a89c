"""Learned schedules: the formula of a run, its gradients, and LD3, AutoDiffusion and Bespoke on the Gaussian."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from pipelines.core.cancelling import Cancelled
from pipelines.core.errors import MethodFitError, SettingsError
from pipelines.core.prediction import Conditioning
from pipelines.core.types import Request
from pipelines.guidance.cfg import Unguided
from pipelines.learning.auto_diffusion import AutoDiffusionSettings, cross, evolve, mutate, search
from pipelines.learning.differentiable import factors_of, run_with_gradients
from pipelines.learning.formula import linear_form, require_linear
from pipelines.learning.ld3 import Ld3Settings, fit_ld3, increments_of, times_of
from pipelines.learning.problem import relative_error
from pipelines.requests.limits import Limits, check_request
from pipelines.samplers import SAMPLERS
from pipelines.schedules import SCHEDULES
from pipelines.schedules.learned import learned_levels
from tests.pipelines.gaussian import grid, last_of, run_of
from tests.pipelines.learned_problems import COSINE, Smooth, problem

LINEAR = (
    "dpmpp_2m",
    "dpmpp_2s",
    "dpmpp_3m",
    "unipc",
    "deis",
    "ddim",
    "heun",
    "lms",
    "dpm2",
    "pndm",
    "ipndm",
    "epsilon_scaling",
    "dualfast",
)


@pytest.mark.parametrize("key", LINEAR)
def test_a_run_follows_its_formula(key):
    levels = grid(COSINE, 7, high=1000, low=60, clean=True)
    formula = require_linear(SAMPLERS[key].build(), levels, COSINE, "epsilon")
    assert len(formula.query_factors) == SAMPLERS[key].build().nfe(8) == len(formula.levels)
    run = run_of(SAMPLERS[key].build(), levels, COSINE, prediction_type="epsilon")
    ends = run_with_gradients(
        torch.from_numpy(formula.flat), formula.levels, Smooth(), Unguided(), {"positive": Conditioning()}, run.latents
    )
    torch.testing.assert_close(ends, last_of(run).latents, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("key", "settings", "words"),
    [
        ("euler_a", {}, "draws fresh noise"),
        ("dpmpp_2m_sde", {}, "draws fresh noise"),
        ("lml", {"kappa": 0.5}, "depend on the picture"),
    ],
)
def test_what_has_no_formula_says_so(key, settings, words):
    with pytest.raises(MethodFitError, match=words):
        require_linear(SAMPLERS[key].build(settings), grid(COSINE, 5, clean=True), COSINE, "epsilon")


@pytest.mark.parametrize("key", ["dpmpp_2m", "unipc", "dpmpp_2s", "pndm"])
def test_gradients_in_the_times_are_those_of_differences(key):
    one, sampler = problem(key), SAMPLERS[key].build()
    times = torch.tensor([1000.0, 800, 610, 400, 190, 40, 1000, 790, 620, 405, 185, 44], dtype=torch.float64)

    def write(values):
        return linear_form(sampler, learned_levels(*np.split(values, 2), COSINE), COSINE, "epsilon")

    def end(values):
        formula = write(values.detach().numpy())
        return (
            run_with_gradients(
                factors_of(values, write),
                formula.levels,
                Smooth(),
                Unguided(),
                one.fitted.cases.conditionings,
                one.fitted.cases.noise,
            )
            .square()
            .mean()
        )

    values = times.clone().requires_grad_()
    end(values).backward()
    for i in (1, 3, 5, 7, 10):
        moved = [times + side * 1e-2 * torch.eye(12, dtype=torch.float64)[i] for side in (1, -1)]
        slope = (end(moved[0]) - end(moved[1])).item() / 2e-2
        assert values.grad[i].item() == pytest.approx(slope, rel=1e-4, abs=1e-10)


@pytest.mark.parametrize("seed", range(5))
def test_times_fall_for_any_theta(seed):
    theta = 4 * torch.randn(12, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    times = times_of(theta, 999.0)
    assert times[0] == 999
    assert (times.diff() < 0).all()
    assert (times > 0).all()
    torch.testing.assert_close(times_of(increments_of(times.tolist(), 999.0), 999.0), times, rtol=0, atol=1.0)


@pytest.mark.parametrize("settings", [{}, {"noise_shift": 0.05}, {"offsets": False}])
def test_ld3_beats_uniform_on_noise_it_has_not_seen(settings):
    rounds = list(fit_ld3(problem(), Ld3Settings(rounds=40, learning_rate=0.02, start="uniform", **settings)))
    first, last = rounds[0], rounds[-1]
    assert [one.index for one in rounds] == list(range(41))
    assert np.mean([one.loss for one in rounds[-5:]]) < 0.75 * np.mean([one.loss for one in rounds[1:4]])
    assert last.best.held_out < 0.75 * last.uniform
    fitted = [one.best.fitted for one in rounds]
    assert fitted == sorted(fitted, reverse=True), "the fitted pictures choose, not those that judge"
    assert first.held_out == pytest.approx(first.uniform, rel=0.05)
    assert all(later < earlier for earlier, later in zip(last.best.times, last.best.times[1:], strict=False))
    if settings.get("offsets", True):
        assert last.best.times != last.best.model_times
    else:
        assert last.best.times == last.best.model_times


def test_ld3_starts_from_the_best_hand_made_schedule():
    errors = {}
    for key in ("uniform", "karras", "dense_high"):
        errors[key] = problem().error(SCHEDULES[key].build().levels(COSINE, 6), problem().fitted)
    start = next(iter(fit_ld3(problem(), Ld3Settings(rounds=1))))
    assert start.held_out <= min(errors.values()) * 1.2


def test_a_fit_stops_when_it_is_told_to():
    stopping = dataclasses.replace(problem(), cancelled=lambda: True)
    with pytest.raises(Cancelled):
        list(fit_ld3(stopping))
    with pytest.raises(Cancelled):
        list(evolve(stopping))


def test_one_step_has_nothing_to_learn():
    for fit in (fit_ld3, evolve):
        with pytest.raises(SettingsError, match="2"):
            list(fit(problem(steps=1)))


def test_search_finds_a_known_subset_and_is_never_worse_than_uniform():
    wanted = (999, 700, 300, 100)

    def error(candidate):
        return sum(abs(a - b) for a, b in zip(candidate, wanted, strict=True)) / 100

    rounds = list(search(error, (999, 749, 499, 249), AutoDiffusionSettings(generations=30)))
    assert rounds[-1].best_error < 0.25 * rounds[0].uniform
    best = [one.best_error for one in rounds]
    assert best == sorted(best, reverse=True)
    assert best[0] <= rounds[0].uniform
    assert len(rounds[0].errors) >= 40


def test_elitism_holds_where_everything_else_is_worse():
    uniform = (999, 749, 499, 249)
    last = list(
        search(lambda one: 0.0 if one == uniform else 1 + sum(one), uniform, AutoDiffusionSettings(generations=3))
    )[-1]
    assert (last.best, last.best_error) == (uniform, 0.0)


def test_moves_keep_a_candidate_whole():
    rng = np.random.default_rng(0)
    one, other = (999, 700, 400, 100), (999, 800, 500, 20)
    for _ in range(200):
        child = cross(one, other, rng)
        one, other = mutate(one, 999, 0.5, rng), mutate(child, 999, 0.5, rng)
        for candidate in (child, one, other):
            assert len(set(candidate)) == 4
            assert list(candidate) == sorted(candidate, reverse=True)
            assert candidate[0] == 999
            assert candidate[-1] >= 0


def test_auto_diffusion_beats_uniform_on_the_gaussian():
    settings = AutoDiffusionSettings(population=20, mutations=10, crossovers=4, generations=5)
    last = list(evolve(problem(), settings))[-1]
    assert last.best_error < 0.8 * last.uniform
    held = problem().error(learned_levels(last.best, last.best, COSINE), problem().held_out)
    assert held == pytest.approx(last.best_error, rel=0.5)


def test_relative_error_is_relative():
    wanted = torch.full((2, 3), 2.0)
    assert relative_error(wanted * 1.1, wanted) == pytest.approx(0.1, rel=1e-5)


@pytest.mark.parametrize(
    ("sampler", "steps", "words"),
    [
        (
            {"key": "unipc", "order": 3},
            2,
            "UniPC: order is 3, for a run of 2 steps. Choose an order up to 2, or at least 3 steps.",
        ),
        ({"key": "lms", "order": 3}, 1, "LMS: order is 3"),
        ({"key": "sa_solver", "predictor_order": 4}, 3, "predictor order is 4"),
    ],
)
def test_an_order_above_the_step_count_is_refused_where_it_was_chosen(sampler, steps, words):
    with pytest.raises(SettingsError, match=words):
        check_request(Request.parse({"prompt": "a", "sampler": sampler, "num_inference_steps": steps}), Limits())
    check_request(Request.parse({"prompt": "a", "sampler": sampler, "num_inference_steps": 4}), Limits())
    check_request(Request.parse({"prompt": "a", "sampler": sampler["key"], "num_inference_steps": steps}), Limits())
