"""The convergence view's core: budgets, families of samplers, and errors that fall at the solver's order."""

from __future__ import annotations

import dataclasses
import math
import time

import pytest
import torch
from tiny_models import tiny_sd

from pipelines.core.errors import SettingsError, UnknownMethodError
from pipelines.core.loop import denoise
from pipelines.core.prediction import Conditioning, Query
from pipelines.core.sampler import State, interpolate
from pipelines.core.types import Choice, Request, Traits
from pipelines.families import family_of
from pipelines.requests.limits import Limits, check_request
from pipelines.requests.text_to_image import resolve
from pipelines.samplers import SAMPLERS
from pipelines.workflows.convergence import (
    ConvergenceRequest,
    Settled,
    plan_runs,
    reference_run,
    relative_error,
    sampler_label,
    select_feasible,
    walked,
)

TRAITS = Traits("sd", "epsilon", "unet")
BASE = {"prompt": "a fox", "guidance": {"key": "cfg", "guidance_scale": 1.0}, "width": 32, "height": 32}


def read(values):
    request = Request.parse(values)
    check_request(request, Limits())
    return request


def parse(**values):
    return ConvergenceRequest.parse({"base": BASE, **values}, read, lambda model: TRAITS)


def test_a_family_of_samplers_is_chosen_by_its_name():
    asked = parse(samplers="all first order, UniPC")
    assert [one.key for one in asked.samplers] == ["dpmpp_1", "ddim", "euler", "unipc"]  # no flow sampler
    assert ConvergenceRequest.parse(asked.to_json(), Request.parse, lambda model: TRAITS) == asked
    with pytest.raises(UnknownMethodError, match="first order"):
        parse(samplers="all zeroth order")


def test_every_sampler_is_in_a_family():
    assert [method.key for method in SAMPLERS.values() if not method.groups] == []


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"evaluations": "0, 4"}, "from 1"),
        ({"evaluations": "4, 4000"}, "400"),
        ({"evaluations": "x"}, "not a number"),
        ({"reference_steps": 5}, "20"),
        ({"reference_steps": 5000}, "999"),
        ({"samplers": "nonesuch"}, "nonesuch"),
        ({"samplers": ""}, "no values"),
        ({"color": 1}, "color"),
        ({"base": 3}, "object"),
    ],
)
def test_what_cannot_be_is_refused(values, word):
    with pytest.raises(SettingsError, match=word):
        parse(**values)


def test_every_budget_takes_the_most_steps_that_it_pays_for_and_no_point_twice():
    groups = plan_runs(parse(samplers=["ddim", "heun"], evaluations=[1, 4, 5]), TRAITS, 200)
    points = [[(one.series, one.request.num_inference_steps, one.evaluations) for one in group] for group in groups]
    assert points == [[(0, 1, 1), (1, 1, 1)], [(0, 4, 4), (1, 2, 3)], [(0, 5, 5), (1, 3, 5)]]


def test_a_budget_below_one_step_is_left_out():
    guided = {**BASE, "guidance": {"key": "cfg", "guidance_scale": 4.0}}
    asked = parse(base=guided, samplers=["ddim"], evaluations=[1, 2])
    assert [len(group) for group in plan_runs(asked, TRAITS, 200)] == [0, 1]


def typed(times):
    return Choice("hand_typed", {"values": " ".join(map(str, times))})


def test_only_the_points_that_the_schedule_serves_are_left_and_the_others_are_told():
    family = gaussian_family()
    asked = parse(
        base={**BASE, "schedule": typed(range(900, 300, -100)).to_json()},
        samplers=["ddim", "heun"],
        evaluations=[4, 6, 11],
    )
    left, impossible = select_feasible(plan_runs(asked, TRAITS, 200), family)
    assert [[(one.series, one.request.num_inference_steps) for one in group] for group in left] == [
        [],
        [(0, 6)],
        [(1, 6)],
    ]
    assert [(one.series, one.num_inference_steps) for one in impossible] == [(0, 4), (1, 2), (1, 3), (0, 11)]
    assert all("The list has 6 time steps" in one.reason for one in impossible)
    with pytest.raises(
        SettingsError, match=r"None of the 2 planned runs is possible with this schedule. The first: The list has 6"
    ):
        select_feasible(plan_runs(dataclasses.replace(asked, evaluations=(4,)), TRAITS, 200), family)
    assert select_feasible(plan_runs(parse(samplers=["ddim"], evaluations=[4]), TRAITS, 200), family)[1] == []


class SlowSampler:
    """Euler whose arithmetic takes 40 ms a step, before its question and after the answer."""

    def step(self, state, level, next_level, context):
        time.sleep(0.02)
        prediction = yield Query(state.latents, level)
        time.sleep(0.02)
        return State(interpolate(prediction, next_level), prediction.denoised)

    def nfe(self, num_steps):
        return num_steps


def test_the_samplers_own_seconds_are_not_the_networks():
    family = gaussian_family()
    resolved = resolve(Request.parse(BASE).replace(num_inference_steps=5), family)
    resolved = dataclasses.replace(resolved, sampler=SlowSampler())
    (done,) = walked([Settled(0, resolved.request, 5, resolved)], family, lambda: False)
    assert 0.2 <= done.own_seconds <= done.step.seconds
    assert 0 < done.network_seconds < done.own_seconds
    assert done.network_seconds + done.own_seconds == pytest.approx(done.step.seconds)


def gaussian_family():
    """A tiny family whose network is the perfect denoiser of N(0.7, 0.3)."""
    family = family_of(tiny_sd().components)

    def predict(latents, timesteps, conditioning: Conditioning):
        rows = []
        for row, timestep in zip(latents, timesteps.tolist(), strict=True):
            level = family.noise_schedule.at(timestep)
            rows.append(level.sigma * (row - level.alpha * 0.7) / (level.alpha**2 * 0.3 + level.sigma**2))
        return torch.stack(rows)

    family.predict_raw = predict
    return family


def test_errors_fall_at_the_solvers_order():
    family = gaussian_family()
    asked = parse(samplers=["ddim", "dpmpp_2m"], evaluations=[12, 24], reference_steps=400)
    base = {**BASE, "schedule": {"key": "karras"}}
    asked = ConvergenceRequest(Request.parse(base), asked.samplers, asked.evaluations, asked.reference_steps)
    *_, last = denoise(reference_run(asked, family, lambda: False))
    errors = {}
    for group in select_feasible(plan_runs(asked, family.traits, 200), family)[0]:
        for done in walked(group, family, lambda: False):
            errors[done.point.series, done.point.evaluations] = relative_error(done.step.latents, last.latents)
            assert done.network_seconds > 0 and done.own_seconds > 0
            assert done.step.evaluations == done.point.evaluations
    falls = [math.log2(errors[series, 12] / errors[series, 24]) for series in (0, 1)]
    assert 0.8 < falls[0] < 1.2 and 1.6 < falls[1] < 2.6
    assert errors[1, 24] < errors[0, 24] / 3


def test_an_error_is_relative_to_the_latents_size():
    wanted = torch.full((1, 4), 2.0)
    assert relative_error(wanted * 1.1, wanted) == pytest.approx(0.1)
    assert relative_error(wanted, wanted) == 0


def test_a_label_says_the_settings():
    assert sampler_label(Choice("ddim")) == "DDIM"
    assert sampler_label(Choice("ddim", {"eta": 0.5})) == "DDIM (eta 0.5)"
