"""Prompt extrapolation of a bespoke solver: it is found, runs as it was fitted, and a kept fit is gone on from."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from pipelines.core.errors import SettingsError
from pipelines.core.prediction import Conditioning
from pipelines.guidance.cfg import Cfg, CfgSettings
from pipelines.learning import bespoke_descent
from pipelines.learning.bespoke import FittedSolver, fit_bespoke
from pipelines.learning.bespoke_descent import descend, inverse_root
from pipelines.learning.bespoke_rows import collect_normal_matrices, fit_rows
from pipelines.learning.bespoke_settings import BespokeSettings
from pipelines.learning.cases import finals
from pipelines.learning.problem import build_teacher_trajectory
from pipelines.samplers.fitted_factors import FittedFactors, Terms
from pipelines.samplers.prompt_extrapolation import extrapolate_prompt
from pipelines.schedules.learned import learned_levels
from tests.pipelines.learned_problems import COSINE, problem
from tests.pipelines.test_learned_bespoke import TwoPeaks


class Prompted(TwoPeaks):
    """Two peaks that the prompt's embeddings move."""

    def predict_raw(self, latents, timesteps, conditioning):
        shift = conditioning.tensors["prompt_embeds"].mean((1, 2))[:, None, None, None]
        return super().predict_raw(latents - shift, timesteps, conditioning)


def prompted_problem(guidance_scale=3.0):
    """Every picture with prompts of its own."""
    one, guidance = problem(steps=3, count=16), Cfg(CfgSettings(guidance_scale))

    def pictures(part, seed):
        count, generator = len(part.cases), torch.Generator().manual_seed(seed)
        prompts = {
            name: Conditioning(
                {"prompt_embeds": mean + 0.3 * torch.randn(count, 3, 2, dtype=torch.float64, generator=generator)}
            )
            for name, mean in (("negative", -0.4), ("positive", 0.4))
        }
        return build_teacher_trajectory(
            dataclasses.replace(part.cases, conditionings=prompts), Prompted(), guidance, COSINE, steps=60
        )

    return dataclasses.replace(
        one, network=Prompted(), guidance=guidance, fitted=pictures(one.fitted, 1), held_out=pictures(one.held_out, 2)
    )


TIMES, ENDS = (1000.0, 650.0, 300.0), Terms(("negative", "positive"), (0, 2))


@pytest.fixture(scope="module")
def farther():
    """Pictures that end where a solver with emphasis ends, and the solver without it."""
    one = prompted_problem()
    fit, levels = fit_rows(one, TIMES, ENDS), learned_levels(TIMES, TIMES, COSINE)
    solver = FittedFactors(fit.rows, TIMES, ENDS, [[0.5], [-0.3, 0.6], [0.8]])

    def pictures(part):
        return dataclasses.replace(
            part, final_latents=finals(part.cases, one.network, one.guidance, solver, levels, COSINE)
        )

    return dataclasses.replace(one, fitted=pictures(one.fitted), held_out=pictures(one.held_out)), fit


def test_emphasis_is_found(farther):
    one, fit = farther
    errors, roots = {}, [inverse_root(squares) for squares in fit.squares]
    for emphasis in (False, True):
        *_, last = descend(
            one,
            TIMES,
            fit.rows,
            roots,
            ENDS,
            BespokeSettings(rounds=120, learning_rate=0.005, batch=16, emphasis=emphasis),
        )
        solver = FittedFactors(last.rows, last.times, ENDS, last.prompt_extrapolation)
        errors[emphasis] = one.error(learned_levels(last.times, last.times, COSINE), one.held_out, solver)
        assert [len(step) for step in last.prompt_extrapolation] == [1, 2, 1] * emphasis
    assert errors[True] < 0.01 * errors[False] and errors[False] < 0.1
    assert (
        all(
            by > 0.1
            for by in (
                last.prompt_extrapolation[0][0],
                last.prompt_extrapolation[1][1],
                last.prompt_extrapolation[2][0],
            )
        )
        and last.prompt_extrapolation[1][0] < -0.1
    )


def test_a_run_with_emphasis_ends_where_the_fit_says(farther):
    one, _ = farther
    *_, last = fit_bespoke(
        one, BespokeSettings(start="uniform", rounds=60, learning_rate=0.01, batch=16, single_ends=True, emphasis=True)
    )
    best, levels = last.best, learned_levels(last.best.times, last.best.times, COSINE)
    assert [len(step) for step in best.prompt_extrapolation] == [1, 2, 1]
    assert (
        one.error(levels, one.held_out, FittedFactors(best.rows, best.times, best.terms, best.prompt_extrapolation))
        == best.held_out
    )
    assert one.error(levels, one.held_out, FittedFactors(best.rows, best.times, best.terms)) > 1.5 * best.held_out


def test_a_fit_goes_on_from_the_kept_one_with_its_emphasis(farther):
    one, fit = farther
    kept = FittedSolver(TIMES, fit.rows, float("inf"), 0.0, ENDS, ((0.3,), (-0.2, 0.4), (0.5,)))
    settings = BespokeSettings(start="kept", rounds=12, learning_rate=0.002, batch=16, single_ends=True)
    trials = list(fit_bespoke(one, settings, previous=kept))
    assert [trial.index for trial in trials] == list(range(13)) and {trial.total for trial in trials} == {12}
    begun, last = trials[0].best, trials[-1].best
    assert (begun.times, begun.rows, begun.prompt_extrapolation) == (kept.times, kept.rows, kept.prompt_extrapolation)
    assert trials[1].loss == pytest.approx(begun.fitted, rel=1e-6), (
        "a first round of all pictures begins where the kept one is"
    )
    assert (
        last.fitted < begun.fitted
        and last.held_out < begun.held_out
        and last.prompt_extrapolation != begun.prompt_extrapolation
    )
    (alone,) = fit_bespoke(one, dataclasses.replace(settings, rounds=0), previous=kept)
    assert alone.best == begun
    for matrix, squares in zip(
        collect_normal_matrices(one, dataclasses.replace(kept, prompt_extrapolation=()).factors()),
        fit.squares,
        strict=True,
    ):
        torch.testing.assert_close(matrix, squares)
    end = finals(
        one.fitted.cases, one.network, one.guidance, kept.factors(), learned_levels(TIMES, TIMES, COSINE), COSINE
    )
    row = torch.tensor(kept.rows[-1], dtype=torch.float64)
    assert (row @ collect_normal_matrices(one, kept.factors())[-1] @ row).item() == pytest.approx(
        end.square().mean().item(), rel=1e-6
    )
    with pytest.raises(SettingsError, match="with single ends, and the fit is to be another"):
        next(fit_bespoke(one, dataclasses.replace(settings, single_ends=False), previous=kept))
    with pytest.raises(SettingsError, match="No bespoke solver is kept"):
        next(fit_bespoke(one, settings))


def test_the_slopes_of_the_emphasis_are_those_of_differences(farther):
    one, fit = farther
    begun = [[0.1], [0.0, 0.2], [0.3]]
    student = bespoke_descent._Student(
        one, TIMES, fit.rows, [inverse_root(squares) for squares in fit.squares], ENDS, begun
    )
    for reached, wanted in zip(student.read_state(0.0).prompt_extrapolation, begun, strict=True):
        assert reached == pytest.approx(wanted)
    assert {id(numbers) for numbers in student.prompt_extrapolation} <= {id(one) for one in student.learned}
    slopes = torch.autograd.grad(student.errors(torch.arange(8)).mean(), student.prompt_extrapolation)
    for numbers, slope in zip(student.prompt_extrapolation, slopes, strict=True):
        for place in range(len(numbers)):
            ends = []
            for side in (1e-5, -2e-5, 1e-5):
                with torch.no_grad():
                    numbers[place] += side
                    ends.append(student.errors(torch.arange(8)).mean().item())
            assert slope[place].item() == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-3, abs=1e-8)


def test_emphasis_of_nothing_changes_nothing(farther):
    (one, fit), levels = farther, learned_levels(TIMES, TIMES, COSINE)
    ends = [
        finals(
            one.fitted.cases, one.network, one.guidance, FittedFactors(fit.rows, TIMES, ENDS, emphasis), levels, COSINE
        )
        for emphasis in ((), [[0.0], [0.0, 0.0], [0.0]], [[0.0], [0.0, 0.0], [1e-3]])
    ]
    assert torch.equal(ends[0], ends[1]) and not torch.equal(ends[0], ends[2])


def test_emphasis_moves_numbers_along_the_line_and_leaves_the_rest():
    def prompt(value, length=2):
        return Conditioning(
            {
                "embeds": torch.full((1, 3, 2), value),
                "common": torch.full((1, 6), 512.3),
                "mask": torch.arange(length)[None],
            }
        )

    first, last = prompt(1.0), prompt(3.0, 3)
    told = extrapolate_prompt(last, first, last, 0.1)
    torch.testing.assert_close(told.tensors["embeds"], torch.full((1, 3, 2), 3.2))
    assert torch.equal(told.tensors["common"], last.tensors["common"]) and torch.equal(
        told.tensors["mask"], last.tensors["mask"]
    )
    torch.testing.assert_close(extrapolate_prompt(first, first, last, -0.5).tensors["embeds"], torch.zeros(1, 3, 2))


@pytest.mark.parametrize(("scale", "settings"), [(1.0, {}), (3.0, {"branches": False}), (3.0, {"rounds": 0})])
def test_emphasis_needs_two_branches_and_rounds(scale, settings):
    with pytest.raises(SettingsError, match=r"two branches.*rounds.*emphasis off"):
        next(fit_bespoke(prompted_problem(guidance_scale=scale), BespokeSettings(emphasis=True, **settings)))
