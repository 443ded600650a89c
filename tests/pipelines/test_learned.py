"""Learned schedules: the formula of a run, its gradients, and LD3, AutoDiffusion and Bespoke on the Gaussian."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from pipelines.core.denoiser import Cancelled, Conditioning, Denoiser
from pipelines.core.errors import MethodFitError, SettingsError
from pipelines.core.loop import Run, denoise
from pipelines.core.noise import NoiseSource
from pipelines.core.schedule import CLEAN
from pipelines.core.types import Request
from pipelines.guidance.cfg import Cfg, CfgSettings, Unguided
from pipelines.learning import bespoke, bespoke_descent
from pipelines.learning.auto_diffusion import AutoDiffusionSettings, crossed, evolve, mutated, search
from pipelines.learning.bespoke import BespokeSettings, _starts, fit_bespoke, fitted_rows, normal_matrix, passed
from pipelines.learning.bespoke_descent import descend, inverse_root
from pipelines.learning.cases import Cases, finals
from pipelines.learning.differentiable import factors_of, run_with_gradients
from pipelines.learning.formula import linear_form, require_linear
from pipelines.learning.ld3 import Ld3Settings, fit_ld3, increments_of, times_of
from pipelines.learning.problem import Pictures, Problem, build_teacher_trajectory, relative_error
from pipelines.requests.limits import Limits, check_request
from pipelines.samplers import SAMPLERS
from pipelines.samplers.fitted_factors import FittedFactors, Terms, combined
from pipelines.schedules import SCHEDULES
from pipelines.schedules.learned import learned_levels
from tests.pipelines.gaussian import MEAN, VARIANCE, CosineSchedule, exact, grid, last_of, run_of

COSINE = CosineSchedule()
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


class Smooth:
    """The perfect denoiser of the Gaussian, with its noise estimate differentiable in the time too."""

    prediction_type, max_rows = "epsilon", 0

    def predict_raw(self, latents, timesteps, conditioning):
        angle = (COSINE._low + COSINE._span * timesteps)[:, None, None, None]
        alpha, sigma = angle.cos(), angle.sin()
        return sigma * (latents - alpha * MEAN) / (alpha**2 * VARIANCE + sigma**2)


def problem(key="dpmpp_2m", steps=6, count=8, **settings):
    """A sampler on the Gaussian, whose exact ends are a formula."""

    def pictures(seeds):
        source = NoiseSource(seeds)
        noise = source(torch.empty(len(seeds), 1, 4, 4, dtype=torch.float64))
        levels = [*(COSINE.at(time) for time in np.linspace(1000, 1, 60)), CLEAN]
        path = torch.stack([exact(noise, levels[0], level) for level in levels])
        return Pictures(Cases({"positive": Conditioning()}, noise, tuple(seeds)), path[-1], path, tuple(levels))

    return Problem(
        Smooth(),
        COSINE,
        Unguided(),
        SAMPLERS[key].build(settings),
        steps,
        pictures(range(count)),
        pictures(range(count, 2 * count)),
    )


@pytest.mark.parametrize("key", LINEAR)
def test_a_run_follows_its_formula(key):
    levels = grid(COSINE, 7, high=1000, low=60, clean=True)
    formula = require_linear(SAMPLERS[key].build(), levels, COSINE, "epsilon")
    assert len(formula.asked) == SAMPLERS[key].build().nfe(8) == len(formula.levels)
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
        child = crossed(one, other, rng)
        one, other = mutated(one, 999, 0.5, rng), mutated(child, 999, 0.5, rng)
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


@pytest.mark.parametrize("time", [1000.0, 731.7, 500.0, 44.4, 20.0])
def test_the_long_runs_path_between_its_levels_is_right(time):
    pictures, level = problem().fitted, COSINE.at(time)
    true = exact(pictures.cases.noise, COSINE.at(1000.0), level)
    assert relative_error(passed(pictures, level), true) < 2e-4
    assert torch.equal(passed(pictures, pictures.levels[7]), pictures.path[7])


def test_a_bespoke_solver_is_far_better_than_uniform_on_noise_it_has_not_seen():
    rounds = list(fit_bespoke(problem(), BespokeSettings(tries=4, rounds=0)))
    best = rounds[-1].best
    assert [one.index for one in rounds] == list(range(rounds[-1].total + 1))
    assert best.held_out < 0.2 * rounds[-1].uniform
    losses = [one.best.fitted for one in rounds]
    assert losses == sorted(losses, reverse=True)
    assert [len(row) for row in best.rows] == [2, 3, 4, 5, 6, 7]
    again = problem().error(
        learned_levels(best.times, best.times, COSINE), problem().held_out, FittedFactors(best.rows, best.times)
    )
    assert again == best.held_out


class TwoPeaks:
    """The perfect denoiser of numbers around -1 and 1: curved, so that no row is right for all pictures."""

    prediction_type, max_rows = "epsilon", 0

    def predict_raw(self, latents, timesteps, conditioning):
        angle = (COSINE._low + COSINE._span * timesteps)[:, None, None, None]
        alpha, sigma = angle.cos(), angle.sin()
        spread = alpha**2 * 0.04 + sigma**2
        return sigma * (latents - alpha * torch.tanh(alpha * latents / spread)) / spread


def curved_problem():
    one = problem(steps=4, count=16)
    pictures = [
        build_teacher_trajectory(part.cases, TwoPeaks(), Unguided(), COSINE, steps=100)
        for part in (one.fitted, one.held_out)
    ]
    return dataclasses.replace(one, network=TwoPeaks(), fitted=pictures[0], held_out=pictures[1])


def test_the_descent_comes_closer_than_least_squares():
    one = curved_problem()
    (squares,) = fit_bespoke(one, BespokeSettings(start="uniform", rounds=0))
    *first, last = fit_bespoke(one, BespokeSettings(start="uniform", rounds=60))
    assert last.index == last.total == 60 and len(first) == 60
    assert last.best.fitted < 0.8 * squares.best.fitted and last.best.held_out < 0.9 * squares.best.held_out
    assert (
        all(abs(new - old) > 0 for new, old in zip(last.best.times, squares.best.times, strict=True))
        and last.best.times[0] <= 1000
    )
    assert first[-1].best == squares.best, "nothing is taken over before it was measured on all pictures"
    levels = learned_levels(last.best.times, last.best.times, COSINE)
    assert one.error(levels, one.held_out, FittedFactors(last.best.rows, last.best.times)) == last.best.held_out


def test_least_squares_is_tried_from_the_last_time_and_from_a_little_below_it():
    one = problem(steps=3)
    tried = [found.loss for found in fit_bespoke(one, BespokeSettings(rounds=0))]
    wanted = [
        fitted_rows(one, [first * (1 - (k / 3) ** power) for k in range(3)]).loss
        for first in (1000.0, 970.0)
        for power in (1.0, 1.2, 1.4, 1.7, 2.0)
    ]
    assert tried == pytest.approx(wanted, rel=1e-6)
    *_, last = fit_bespoke(one, BespokeSettings(rounds=0))
    assert last.best.fitted == pytest.approx(min(wanted), rel=1e-6)
    assert [found.loss for found in fit_bespoke(one, BespokeSettings(rounds=0, first_time=0.97))] == tried[5:]


@pytest.mark.parametrize("rounds", [0, 2])
def test_times_are_compared_on_some_pictures_and_their_factors_fitted_to_all(rounds, monkeypatch):
    monkeypatch.setattr(bespoke, "_TRIED_ON", 3)
    one = curved_problem()
    trials = list(fit_bespoke(one, BespokeSettings(rounds=rounds, learning_rate=1e-4)))
    assert [trial.index for trial in trials] == list(range(11 + rounds)) and {trial.total for trial in trials} == {
        10 + rounds
    }
    few = dataclasses.replace(one, fitted=one.fitted.first(3))
    assert len(few.fitted.cases) == 3 == few.fitted.path.shape[1] == len(few.fitted.wanted)
    assert [trial.loss for trial in trials[:10]] == [
        fitted_rows(few, times).loss for times in _starts(BespokeSettings(), one)
    ]
    chosen = min(_starts(BespokeSettings(), one), key=lambda times: fitted_rows(few, times).loss)
    assert trials[10].best.rows == fitted_rows(one, chosen).rows
    assert trials[10].best.fitted == pytest.approx(fitted_rows(one, chosen).loss)


def _descended(one, wanted, rounds, **settings):
    """Error on the held-out pictures after a descent to these ends of the fitted ones."""
    times = (1000.0, 750.0, 500.0, 250.0)
    fit, settings = fitted_rows(one, times), BespokeSettings(rounds=rounds, batch=len(wanted), **settings)
    to = dataclasses.replace(one, fitted=dataclasses.replace(one.fitted, wanted=wanted))
    *_, reached = descend(to, times, fit.rows, [inverse_root(squares) for squares in fit.squares], Terms(), settings)
    levels = learned_levels(reached.times, reached.times, COSINE)
    return one.error(levels, one.held_out, FittedFactors(reached.rows, reached.times))


def test_a_picture_that_goes_astray_does_not_lead_the_descent():
    one = curved_problem()
    astray = one.fitted.wanted.clone()
    astray[0] += 100
    assert _descended(one, astray, 40) < 1.25 * _descended(one, one.fitted.wanted, 40)


def test_a_picture_that_is_already_close_does_not_hold_the_descent_back():
    one, times = problem(steps=4, count=16), (1000.0, 750.0, 500.0, 250.0)
    noise, factors = (
        one.fitted.cases.noise,
        torch.tensor([1.0] * 5 + [2.03] + [2.5] * 10, dtype=torch.float64)[:, None, None, None],
    )
    to = dataclasses.replace(one, fitted=dataclasses.replace(one.fitted, wanted=noise * factors))

    def distance(ends):
        return (ends - to.fitted.wanted).square().flatten(1).mean(1).sqrt().mean().item()

    fit = fitted_rows(to, times)
    *_, reached = descend(
        to,
        times,
        fit.rows,
        [inverse_root(squares) for squares in fit.squares],
        Terms(),
        BespokeSettings(rounds=160, learning_rate=0.02, batch=16),
    )
    solver, levels = FittedFactors(reached.rows, reached.times), learned_levels(reached.times, reached.times, COSINE)
    best = min(distance(noise * factor) for factor in np.linspace(1, 3, 1001))
    assert distance(finals(to.fitted.cases, to.network, to.guidance, solver, levels, COSINE)) < 1.02 * best


@pytest.mark.parametrize(("first", "moves"), [(1000.0, False), (970.0, True)])
def test_a_run_that_begins_at_the_last_time_goes_on_to_and_another_may_move(first, moves):
    one, times = curved_problem(), (first, 700.0, 400.0, 150.0)
    fit = fitted_rows(one, times)
    roots = [inverse_root(squares) for squares in fit.squares]
    *_, last = descend(one, times, fit.rows, roots, Terms(), BespokeSettings(rounds=10, batch=16))
    assert (last.times[0] != pytest.approx(first, abs=1e-9)) is moves and last.times[0] <= 1000


def test_the_mean_of_the_second_half_of_the_rounds_is_found():
    one, times = curved_problem(), (1000.0, 750.0, 500.0, 250.0)
    fit = fitted_rows(one, times)
    roots = [inverse_root(squares) for squares in fit.squares]
    *first, last = descend(one, times, fit.rows, roots, Terms(), BespokeSettings(rounds=6, batch=4, learning_rate=0.1))
    assert all(one.mean is None for one in first)
    for row in range(4):
        wanted = np.mean([reached.rows[row] for reached in (*first[3:], last)], 0)
        assert last.mean.rows[row] == pytest.approx(tuple(wanted), rel=1e-9)
    assert last.rows != last.mean.rows and last.mean.times[0] == 1000 and last.mean.times != last.times


@pytest.mark.parametrize("steepest", [1e-3, 1e9])
def test_steep_rounds_are_shortened(steepest, monkeypatch):
    norms = []

    class Watched(torch.optim.Adam):
        def step(self):
            norms.append(
                torch.cat([one.grad.flatten() for group in self.param_groups for one in group["params"]]).norm().item()
            )
            return super().step()

    monkeypatch.setattr(torch.optim, "Adam", Watched)
    monkeypatch.setattr(bespoke_descent, "_STEEPEST", steepest)
    one = curved_problem()
    _descended(one, one.fitted.wanted, 3)
    assert len(norms) == 3 and (max(norms) > 1.01e-3) is (steepest > 1)


@pytest.mark.parametrize("better", ["last", "mean"])
def test_the_nearer_of_the_last_numbers_and_their_mean_is_taken(better, monkeypatch):
    one, times = curved_problem(), (999.0, 749.0, 499.0, 249.0)
    fit = fitted_rows(one, times)
    roots = [inverse_root(squares) for squares in fit.squares]
    *_, reached = descend(one, times, fit.rows, roots, Terms(), BespokeSettings(rounds=60))
    near = dataclasses.replace(reached, mean=None)
    far = dataclasses.replace(near, rows=tuple(tuple(2 * factor for factor in row) for row in near.rows))
    only = dataclasses.replace(near, mean=far) if better == "last" else dataclasses.replace(far, mean=near)
    monkeypatch.setattr(bespoke, "descend", lambda *given: iter([only]))
    *_, last = fit_bespoke(one, BespokeSettings(start="uniform", rounds=1))
    assert last.best.rows == near.rows


def test_a_squared_error_is_drawn_by_one_that_goes_astray():
    one = curved_problem()
    astray = one.fitted.wanted.clone()
    astray[0] += 100
    squared = _descended(one, astray, 40, loss_power=2.0)
    assert squared > 1.5 * _descended(one, astray, 40)


def test_a_descent_with_nothing_left_to_do_stays_finite():
    one, times = problem(steps=3), (1000.0, 600.0, 300.0)
    fit = fitted_rows(one, times)
    solver, levels = FittedFactors(fit.rows, times), learned_levels(times, times, COSINE)
    reached_already = finals(one.fitted.cases, one.network, one.guidance, solver, levels, COSINE)
    to = dataclasses.replace(one, fitted=dataclasses.replace(one.fitted, wanted=reached_already))
    roots = [inverse_root(squares) for squares in fit.squares]
    start = next(descend(to, times, fit.rows, roots, Terms(), BespokeSettings(rounds=1, learning_rate=1e-4)))
    assert start.loss < 1e-6 and np.isfinite(sum(start.rows, start.times)).all()


def test_a_descent_that_ends_farther_off_is_not_taken():
    *_, last = fit_bespoke(problem(steps=3), BespokeSettings(start="uniform", rounds=3, learning_rate=0.5))
    (squares,) = fit_bespoke(problem(steps=3), BespokeSettings(start="uniform", rounds=0))
    assert last.best == squares.best


def test_a_step_in_whitened_factors_moves_every_combination_alike():
    torch.manual_seed(0)
    known = torch.randn(3, 1000, dtype=torch.float64)
    known[2] = known[0] + 0.05 * known[2]
    root = inverse_root(normal_matrix(list(known)))
    for z in torch.eye(3, dtype=torch.float64):
        assert ((root @ z) @ known).square().mean().sqrt().item() == pytest.approx(1, abs=0.06)


class Guided(Smooth):
    """Two branches on Gaussians of other means, so that the guidance's combination matters."""

    def predict_raw(self, latents, timesteps, conditioning):
        return super().predict_raw(
            latents - conditioning.tensors["shift"][:, None, None, None], timesteps, conditioning
        )


def guided_problem(guidance_scale=3.0):
    one = problem(steps=4)

    def pictures(part):
        count = len(part.cases)
        shifts = {
            name: Conditioning({"shift": torch.full((count,), shift, dtype=torch.float64)})
            for name, shift in (("negative", -0.5), ("positive", 0.4))
        }
        cases = dataclasses.replace(part.cases, conditionings=shifts)
        return build_teacher_trajectory(cases, Guided(), Cfg(CfgSettings(guidance_scale)), COSINE, steps=60)

    return dataclasses.replace(
        one,
        network=Guided(),
        guidance=Cfg(CfgSettings(guidance_scale)),
        fitted=pictures(one.fitted),
        held_out=pictures(one.held_out),
    )


def test_factors_of_the_branches_come_closer_than_those_of_the_guided_estimate():
    fits = {}
    for branches in (False, True):
        *_, last = fit_bespoke(guided_problem(), BespokeSettings(start="uniform", rounds=0, branches=branches))
        fits[branches] = last.best
    assert fits[True].terms == Terms(("negative", "positive")) and fits[False].terms == Terms()
    assert [len(row) for row in fits[True].rows] == [3, 5, 7, 9]
    assert fits[True].held_out < fits[False].held_out
    *_, plain = fit_bespoke(guided_problem(1.0), BespokeSettings(start="uniform", rounds=0))
    assert plain.best.terms == Terms(), "without guidance there is one branch"


def test_a_guided_run_with_factors_of_its_branches_ends_where_the_fit_says():
    one = guided_problem()
    *_, last = fit_bespoke(one, BespokeSettings(start="uniform", rounds=4))
    best, levels = last.best, learned_levels(last.best.times, last.best.times, COSINE)
    solver = FittedFactors(best.rows, best.times, best.terms)
    assert one.error(levels, one.held_out, solver) == best.held_out
    unguided = dataclasses.replace(one, guidance=Cfg(CfgSettings(1.0)))
    with pytest.raises(SettingsError, match="branches negative and positive"):
        unguided.error(levels, one.held_out, solver)


def test_single_ends_give_a_step_more_for_the_evaluations():
    one = guided_problem()
    *_, plain = fit_bespoke(one, BespokeSettings(start="uniform", rounds=0))
    longer = dataclasses.replace(one, num_steps=5)
    *_, last = fit_bespoke(longer, BespokeSettings(start="uniform", rounds=4, single_ends=True))
    best, levels = last.best, learned_levels(last.best.times, last.best.times, COSINE)
    assert best.terms.single == (0, 4) and best.terms.evaluations(5) == 4
    assert [len(row) for row in best.rows] == [2, 4, 6, 8, 9] == [best.terms.count(m) for m in range(5)]
    assert best.held_out < 1e-3 * last.uniform and last.uniform == plain.uniform
    pictures, solver = one.held_out, FittedFactors(best.rows, best.times, best.terms)
    assert longer.error(levels, pictures, solver) == best.held_out
    denoiser = Denoiser(Guided(), one.guidance, pictures.cases.conditionings)
    *_, end = denoise(Run(denoiser, solver, levels, pictures.cases.noise, NoiseSource([0]), COSINE))
    assert end.evaluations == 2 * 4
    assert relative_error(end.latents, pictures.wanted) == best.held_out


@pytest.mark.parametrize(("scale", "steps", "settings"), [(1.0, 4, {}), (3.0, 4, {"branches": False}), (3.0, 2, {})])
def test_single_ends_need_two_branches_and_a_middle(scale, steps, settings):
    with pytest.raises(SettingsError, match="3 steps or more.*single_ends off"):
        next(
            fit_bespoke(
                dataclasses.replace(guided_problem(scale), num_steps=steps),
                BespokeSettings(single_ends=True, **settings),
            )
        )


def test_the_factors_of_one_first_order_step_are_found():
    one = problem("ddim", 2)
    rows = fitted_rows(one, (1000.0, 500.0)).rows
    start, middle = COSINE.at(1000.0), COSINE.at(500.0)
    true = exact(one.fitted.cases.noise, start, middle)
    noise = Smooth().predict_raw(one.fitted.cases.noise, torch.full((8,), 1000.0, dtype=torch.float64), None)
    assert relative_error(combined(rows[0], [one.fitted.cases.noise, noise]), true) < 0.05


def test_fitted_factors_refuse_another_run():
    solver = FittedFactors([[1.0, 0.0], [1.0, 0.0, 0.0]], [1000.0, 500.0])
    for times in ([1000.0, 500.0, 100.0], [1000.0, 400.0]):
        with pytest.raises(SettingsError, match="fitted factors are for 2 steps"):
            last_of(run_of(solver, [*(COSINE.at(time) for time in times), CLEAN], COSINE))


@pytest.mark.parametrize("key", ["heun", "dpmpp_2s"])
def test_factors_are_for_one_evaluation_a_step(key):
    with pytest.raises(MethodFitError, match="one evaluation a step"):
        next(fit_bespoke(problem(key)))


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
