"""Factors of the guidance's branches, and what a fitted solver refuses."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from pipelines.core.denoiser import Denoiser
from pipelines.core.errors import MethodFitError, SettingsError
from pipelines.core.loop import Run, denoise
from pipelines.core.noise import NoiseSource
from pipelines.core.prediction import Conditioning
from pipelines.core.schedule import CLEAN
from pipelines.guidance.cfg import Cfg, CfgSettings
from pipelines.learning.bespoke import fit_bespoke
from pipelines.learning.bespoke_rows import fit_rows
from pipelines.learning.bespoke_settings import BespokeSettings
from pipelines.learning.problem import build_teacher_trajectory, relative_error
from pipelines.samplers.fitted_factors import FittedFactors, Terms, combine
from pipelines.schedules.learned import learned_levels
from tests.pipelines.gaussian import exact, last_of, run_of
from tests.pipelines.learned_problems import COSINE, Smooth, problem


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
    assert relative_error(end.latents, pictures.final_latents) == best.held_out


@pytest.mark.parametrize(("scale", "steps", "settings"), [(1.0, 4, {}), (3.0, 4, {"branches": False}), (3.0, 2, {})])
def test_single_ends_need_two_branches_and_a_middle(scale, steps, settings):
    with pytest.raises(SettingsError, match=r"3 steps or more.*single_ends off"):
        next(
            fit_bespoke(
                dataclasses.replace(guided_problem(scale), num_steps=steps),
                BespokeSettings(single_ends=True, **settings),
            )
        )


def test_the_factors_of_one_first_order_step_are_found():
    one = problem("ddim", 2)
    rows = fit_rows(one, (1000.0, 500.0)).rows
    start, middle = COSINE.at(1000.0), COSINE.at(500.0)
    true = exact(one.fitted.cases.noise, start, middle)
    noise = Smooth().predict_raw(one.fitted.cases.noise, torch.full((8,), 1000.0, dtype=torch.float64), None)
    assert relative_error(combine(rows[0], [one.fitted.cases.noise, noise]), true) < 0.05


def test_fitted_factors_refuse_another_run():
    solver = FittedFactors([[1.0, 0.0], [1.0, 0.0, 0.0]], [1000.0, 500.0])
    for times in ([1000.0, 500.0, 100.0], [1000.0, 400.0]):
        with pytest.raises(SettingsError, match="fitted factors are for 2 steps"):
            last_of(run_of(solver, [*(COSINE.at(time) for time in times), CLEAN], COSINE))


@pytest.mark.parametrize("key", ["heun", "dpmpp_2s"])
def test_factors_are_for_one_evaluation_a_step(key):
    with pytest.raises(MethodFitError, match="one evaluation a step"):
        next(fit_bespoke(problem(key)))
