"""What needs steps that a run does not have: a written order, and a fitted solver under a start that spares some."""

from __future__ import annotations

import dataclasses

import pytest

from pipelines.core.errors import SettingsError
from pipelines.core.types import Choice, Request
from pipelines.initializations import INITIALIZATIONS
from pipelines.requests.limits import Limits, check_request
from pipelines.requests.text_to_image import resolve
from pipelines.samplers import SAMPLERS
from pipelines.schedules.learned import LearnedSchedules
from pipelines.schedules.learned_file import write_learned
from pipelines.weights.network_identity import network_identity
from pipelines.workflows.convergence import plan_runs, select_feasible
from tests.pipelines.learned_records import fitted
from tests.pipelines.test_convergence import BASE, TRAITS, gaussian_family, parse


def check(sampler, steps, **values):
    check_request(Request.parse({"prompt": "a", "sampler": sampler, "num_inference_steps": steps, **values}), Limits())


ORDERED = [
    (key, field)
    for key, one in SAMPLERS.items()
    for field in dataclasses.fields(one.settings)
    if field.name.endswith("order")
]


@pytest.mark.parametrize(("key", "field"), ORDERED, ids=[f"{key}-{field.name}" for key, field in ORDERED])
def test_a_written_default_is_an_order_like_any_other(key, field):
    written, order = {"key": key, field.name: field.default}, field.default
    with pytest.raises(
        SettingsError, match=f"is {order}, for a run of {order - 1} steps. Choose an order up to {order - 1}"
    ):
        check(written, order - 1)
    check(written, order)
    check(key, 1)
    assert "Untouched, it fits itself to fewer steps." in field.metadata["help"]


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (
            {"key": "gaussian", "share": 0.5},
            "order is 4, for a run of 3 steps that Gaussian-analytic leaves of 6. Choose an order up to 3",
        ),
        ({"key": "optimal_transport", "share": 0.5}, "3 steps that Optimal transport leaves of 6"),
    ],
)
def test_steps_that_a_start_spares_do_not_count(start, words):
    with pytest.raises(SettingsError, match=words):
        check({"key": "lms", "order": 4}, 6, start=start)
    check({"key": "lms", "order": 3}, 6, start=start)
    check({"key": "lms", "order": 4}, 6)


@pytest.mark.parametrize("key", INITIALIZATIONS)
def test_a_start_leaves_what_its_evaluations_say(key):
    start, sampler = INITIALIZATIONS[key].build(), SAMPLERS["ddim"].build()
    for steps in (1, 4, 10, 33):
        if key in ("mcmc", "short_time"):  # what they leave out is known as they run
            assert start.remaining_steps(steps) is None
        else:
            assert sampler.nfe(start.remaining_steps(steps)) == start.nfe(steps, sampler)


def test_a_budget_with_too_few_steps_for_the_order_is_no_point_and_says_why():
    family = gaussian_family()
    asked = parse(base=BASE, samplers=["ddim", {"key": "lms", "order": 4}], evaluations=[3, 6])
    left, impossible = select_feasible(plan_runs(asked, TRAITS, 200), family)
    assert [[(one.series, one.request.num_inference_steps) for one in group] for group in left] == [
        [(0, 3)],
        [(0, 6), (1, 6)],
    ]
    assert [(one.series, one.num_inference_steps) for one in impossible] == [(1, 3)]
    assert "LMS: order is 4, for a run of 3 steps" in impossible[0].reason


@pytest.fixture
def bespoke(tmp_path):
    """A family, and a request for the Bespoke solver that was fitted to it."""
    family, times = gaussian_family(), (999.0, 700.0, 400.0, 90.0)
    family.learned = LearnedSchedules((tmp_path,))
    rows = tuple((1.0,) + (0.1,) * count for count in (1, 2, 3, 4))
    write_learned(
        fitted(method="bespoke", rows=rows, times=times, model_times=times, network=network_identity(family)), tmp_path
    )
    request = Request(
        prompt="a", sampler=Choice("unipc"), schedule=Choice("learned"), num_inference_steps=4, width=32, height=32
    )
    return family, request


@pytest.mark.parametrize(
    ("start", "label"),
    [
        (Choice("gaussian", {"share": 0.5}), "Gaussian-analytic"),
        (Choice("optimal_transport", {"share": 0.5}), "Optimal transport"),
        (Choice("mcmc"), "Denoising MCMC"),
    ],
)
def test_a_bespoke_solver_is_refused_under_a_start_that_spares_its_steps(bespoke, start, label):
    family, request = bespoke
    with pytest.raises(
        SettingsError,
        match=f"The initialization {label} skips steps.*needs all of its 4 steps. Choose the initialization Plain",
    ):
        resolve(request.replace(start=start), family)


def test_a_bespoke_solver_runs_with_all_its_steps(bespoke):
    family, request = bespoke
    assert resolve(request, family).request.schedule.settings["name"]
    assert resolve(request.replace(start=Choice("gaussian", {"share": 0.0})), family).request.start.key == "gaussian"


def test_other_learned_schedules_may_lose_their_first_steps(bespoke, tmp_path):
    family, request = bespoke
    for path in tmp_path.glob("*.json"):
        path.unlink()
    write_learned(fitted(network=network_identity(family)), tmp_path)
    assert resolve(request.replace(start=Choice("gaussian", {"share": 0.5})), family).request.start.key == "gaussian"
