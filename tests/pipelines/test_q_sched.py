"""Q-Sched: what the coefficients do to a step, and that the fit finds those that undo a known fault."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from pipelines.core.errors import MethodFitError, SettingsError
from pipelines.core.prediction import Conditioning
from pipelines.core.schedule import FlowSchedule
from pipelines.guidance.cfg import Unguided
from pipelines.learning.cases import Cases, finals
from pipelines.learning.problem import Pictures, Problem
from pipelines.learning.q_sched import QSchedSettings, fit_q_sched, list_grid, require_corrected
from pipelines.learning.request import PROMPTS
from pipelines.samplers import SAMPLERS
from pipelines.samplers.scaled_steps import ScaledSteps, fade
from pipelines.schedules import SCHEDULES
from pipelines.schedules.learned_file import LearnedSchedule, write_learned
from tests.pipelines.gaussian import CosineSchedule, grid, last_of, run_of
from tests.pipelines.learned_records import REQUEST, fitted, settle

FLOW = FlowSchedule()


class Straight:
    """A velocity field that is wrong by a factor at the first level, as a rounded network may be."""

    prediction_type, max_rows, rows_together = "flow", 0, 1

    def __init__(self, gain=1.0):
        self.gain = gain

    def predict_raw(self, latents, timesteps, conditioning):
        is_first = (timesteps > 900).to(latents.dtype)[:, None, None, None]
        return (1 + (self.gain - 1) * is_first) * (0.3 * latents + latents.sin())


def problem(gain, steps=2):
    noise = torch.randn(4, 1, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sampler, levels = SAMPLERS["flow_euler"].build(), SCHEDULES["uniform"].build().levels(FLOW, steps)

    def pictures(start):
        cases = Cases({"positive": Conditioning()}, noise[start : start + 2], (start, start + 1))
        ends = finals(cases, Straight(), Unguided(), sampler, levels, FLOW)
        return Pictures(cases, ends, ends[None], tuple(levels))

    return Problem(Straight(gain), FLOW, Unguided(), sampler, steps, pictures(0), pictures(2))


def test_the_fit_undoes_a_fault_of_the_first_evaluation_exactly():
    # In a run of two steps the second has coefficients of 1, so c_eps = 1.1 undoes a gain of 1 / 1.1, and nothing else.
    tried = list(fit_q_sched(problem(1 / 1.1), QSchedSettings(points=5, rounds=1)))
    assert len(tried) == 25 and tried[-1].index == tried[-1].total == 24
    assert tried[-1].best == pytest.approx((1.0, 1.1))
    assert tried[-1].best_loss < 1e-12 < 1e-3 < tried[0].loss
    # The held-out pictures confirm it.
    assert tried[-1].held_out < 1e-12 < tried[-1].uniform


def test_a_network_without_a_fault_keeps_coefficients_of_one():
    last = list(fit_q_sched(problem(1.0), QSchedSettings(points=3)))[-1]
    assert last.best == (1.0, 1.0) and last.held_out == last.uniform == 0


def test_coefficients_fade_to_one_as_a_linspace():
    torch.testing.assert_close(
        torch.tensor([fade(0.8, index, 5) for index in range(5)]), torch.linspace(0.8, 1, 5), rtol=0, atol=1e-7
    )
    assert fade(0.8, 0, 1) == 0.8
    assert list_grid((1.0, 1.0), 0.2, 3)[4] == (1.0, 1.0)


def test_a_step_of_euler_is_its_formula():
    levels = SCHEDULES["uniform"].build().levels(FLOW, 2)
    sampler, schedule = ScaledSteps(SAMPLERS["flow_euler"].build(), 0.9, 1.2), FLOW
    latents = torch.randn(1, 1, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ends = finals(Cases({"positive": Conditioning()}, latents, (0,)), Straight(), Unguided(), sampler, levels, schedule)
    first, second, last = (level.sigma for level in levels)

    def velocity(values):
        return 0.3 * values + values.sin()

    middle = 0.9 * latents + (second - first) * 1.2 * velocity(latents)
    torch.testing.assert_close(ends, middle + (last - second) * velocity(middle), rtol=0, atol=1e-12)


@pytest.mark.parametrize("key", ["dpmpp_2m", "heun", "lcm", "euler_a", "unipc", "epsilon_scaling"])
def test_coefficients_of_one_leave_any_solver_alone_and_others_do_not(key):
    schedule = CosineSchedule()
    levels = grid(schedule, 4, clean=True)
    plain, neutral, scaled = (
        last_of(run_of(sampler, levels, schedule))
        for sampler in (
            SAMPLERS[key].build(),
            ScaledSteps(SAMPLERS[key].build(), 1.0, 1.0),
            ScaledSteps(SAMPLERS[key].build(), 0.9, 1.1),
        )
    )
    assert torch.equal(plain.latents, neutral.latents) and plain.evaluations == scaled.evaluations
    assert scaled.latents.isfinite().all() and not torch.equal(plain.latents, scaled.latents)


def test_a_kept_fit_comes_back_and_runs_around_the_sampler(tmp_path):
    record = fitted(method="q_sched", coefficients=(0.95, 1.05), model="emoji+int4-searchFalse")
    assert LearnedSchedule.parse(record.to_json()) == record
    assert write_learned(record, tmp_path).name == "emoji+int4-searchfalse-unipc-4-q-sched.json"
    odd = dataclasses.replace(record, model="_My Model (v2)")
    assert write_learned(odd, tmp_path).name == "my-model-v2-unipc-4-q-sched.json"
    solver = settle(REQUEST.replace(model=record.model), tmp_path).solver(SAMPLERS["unipc"].build())
    assert isinstance(solver, ScaledSteps) and (solver.sample, solver.output) == (0.95, 1.05)
    for wrong in ((), (1.0,), (1.0, math.nan)):
        with pytest.raises(SettingsError, match="coefficients that do not belong"):
            LearnedSchedule.parse(dataclasses.replace(record, coefficients=wrong).to_json())


def test_what_cannot_be_corrected_is_refused_before_a_model_is_loaded():
    with pytest.raises(MethodFitError, match="few steps, 2 to 12, and this one has 25"):
        require_corrected(QSchedSettings(), 25, PROMPTS)
    with pytest.raises(SettingsError, match="cannot judge by this prompt"):
        require_corrected(QSchedSettings(score="adherence"), 4, ("two philosophers arguing about rain",))
    require_corrected(QSchedSettings(score="adherence"), 4, PROMPTS)
