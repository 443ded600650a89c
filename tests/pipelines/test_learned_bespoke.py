"""Bespoke solvers on the Gaussian: least squares, and the descent that goes on from there."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from pipelines.guidance.cfg import Unguided
from pipelines.learning import bespoke, bespoke_descent
from pipelines.learning.bespoke import fit_bespoke
from pipelines.learning.bespoke_descent import descend, inverse_root
from pipelines.learning.bespoke_rows import fit_rows, interpolate_path, normal_matrix
from pipelines.learning.bespoke_settings import BespokeSettings, list_starting_times
from pipelines.learning.cases import finals
from pipelines.learning.problem import build_teacher_trajectory, relative_error
from pipelines.samplers.fitted_factors import FittedFactors, Terms
from pipelines.schedules.learned import learned_levels
from tests.pipelines.gaussian import exact
from tests.pipelines.learned_problems import COSINE, problem


@pytest.mark.parametrize("time", [1000.0, 731.7, 500.0, 44.4, 20.0])
def test_the_long_runs_path_between_its_levels_is_right(time):
    pictures, level = problem().fitted, COSINE.at(time)
    true = exact(pictures.cases.noise, COSINE.at(1000.0), level)
    assert relative_error(interpolate_path(pictures, level), true) < 2e-4
    assert torch.equal(interpolate_path(pictures, pictures.levels[7]), pictures.path[7])


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
        fit_rows(one, [first * (1 - (k / 3) ** power) for k in range(3)]).loss
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
    assert len(few.fitted.cases) == 3 == few.fitted.path.shape[1] == len(few.fitted.final_latents)
    assert [trial.loss for trial in trials[:10]] == [
        fit_rows(few, times).loss for times in list_starting_times(BespokeSettings(), one)
    ]
    chosen = min(list_starting_times(BespokeSettings(), one), key=lambda times: fit_rows(few, times).loss)
    assert trials[10].best.rows == fit_rows(one, chosen).rows
    assert trials[10].best.fitted == pytest.approx(fit_rows(one, chosen).loss)


def _descended(one, wanted, rounds, **settings):
    """Error on the held-out pictures after a descent to these ends of the fitted ones."""
    times = (1000.0, 750.0, 500.0, 250.0)
    fit, settings = fit_rows(one, times), BespokeSettings(rounds=rounds, batch=len(wanted), **settings)
    to = dataclasses.replace(one, fitted=dataclasses.replace(one.fitted, final_latents=wanted))
    *_, reached = descend(to, times, fit.rows, [inverse_root(squares) for squares in fit.squares], Terms(), settings)
    levels = learned_levels(reached.times, reached.times, COSINE)
    return one.error(levels, one.held_out, FittedFactors(reached.rows, reached.times))


def test_a_picture_that_goes_astray_does_not_lead_the_descent():
    one = curved_problem()
    astray = one.fitted.final_latents.clone()
    astray[0] += 100
    assert _descended(one, astray, 40) < 1.25 * _descended(one, one.fitted.final_latents, 40)


def test_a_picture_that_is_already_close_does_not_hold_the_descent_back():
    one, times = problem(steps=4, count=16), (1000.0, 750.0, 500.0, 250.0)
    noise, factors = (
        one.fitted.cases.noise,
        torch.tensor([1.0] * 5 + [2.03] + [2.5] * 10, dtype=torch.float64)[:, None, None, None],
    )
    to = dataclasses.replace(one, fitted=dataclasses.replace(one.fitted, final_latents=noise * factors))

    def distance(ends):
        return (ends - to.fitted.final_latents).square().flatten(1).mean(1).sqrt().mean().item()

    fit = fit_rows(to, times)
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
    fit = fit_rows(one, times)
    roots = [inverse_root(squares) for squares in fit.squares]
    *_, last = descend(one, times, fit.rows, roots, Terms(), BespokeSettings(rounds=10, batch=16))
    assert (last.times[0] != pytest.approx(first, abs=1e-9)) is moves and last.times[0] <= 1000


def test_the_mean_of_the_second_half_of_the_rounds_is_found():
    one, times = curved_problem(), (1000.0, 750.0, 500.0, 250.0)
    fit = fit_rows(one, times)
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
    _descended(one, one.fitted.final_latents, 3)
    assert len(norms) == 3 and (max(norms) > 1.01e-3) is (steepest > 1)


@pytest.mark.parametrize("better", ["last", "mean"])
def test_the_nearer_of_the_last_numbers_and_their_mean_is_taken(better, monkeypatch):
    one, times = curved_problem(), (999.0, 749.0, 499.0, 249.0)
    fit = fit_rows(one, times)
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
    astray = one.fitted.final_latents.clone()
    astray[0] += 100
    squared = _descended(one, astray, 40, loss_power=2.0)
    assert squared > 1.5 * _descended(one, astray, 40)


def test_a_descent_with_nothing_left_to_do_stays_finite():
    one, times = problem(steps=3), (1000.0, 600.0, 300.0)
    fit = fit_rows(one, times)
    solver, levels = FittedFactors(fit.rows, times), learned_levels(times, times, COSINE)
    reached_already = finals(one.fitted.cases, one.network, one.guidance, solver, levels, COSINE)
    to = dataclasses.replace(one, fitted=dataclasses.replace(one.fitted, final_latents=reached_already))
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
