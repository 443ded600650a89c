"""Fitting a schedule as a job: rounds come one by one, the result is kept and runs, and wrong requests are refused."""

from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from pipelines.core.errors import MethodFitError, SettingsError, StepwiseError, UnknownMethodError
from pipelines.schedules.learned_file import find_all
from studio.backend import Studio, StudioSettings
from studio.cli.main import main
from studio.jobs.job import JobStatus
from studio.page.compare.learn_plot import EMPTY, learn_view
from studio.tasks.schedules_folder import get_schedules_folder
from tests.studio.task_examples import FOX as FOX_RUN
from tests.studio.task_examples import Example
from tests.studio.waiting import ended

EXAMPLE = Example(
    {
        "base": {**FOX_RUN, "num_inference_steps": 2},
        "learner": {"key": "bespoke", "start": "uniform", "tries": 1, "rounds": 1},
        "pictures": {"fitted": 2, "held_out": 2, "teacher_steps": 10},
    },
    {},
    has_results=False,
)
"""For the tests of all tasks."""


BASE = {"num_inference_steps": 2, "sampler": "unipc", "guidance": {"key": "cfg", "guidance_scale": 1.0}}
BASE |= {"width": 32, "height": 32}  # a quarter of the work
SMALL = {"fitted": 2, "held_out": 2, "teacher_steps": 10}
SETTINGS = {"base": BASE, "learner": {"key": "ld3", "rounds": 2, "batch": 2, "start": "uniform"}, "pictures": SMALL}


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studio")
    studio = Studio(StudioSettings(outputs=folder / "outputs", models=folder / "models", device="cpu"))
    yield studio
    studio.close()


def test_a_fit_is_a_job_whose_result_runs(studio):
    view = ended(studio.submit("learn", SETTINGS))
    assert view.status is JobStatus.DONE, view.message
    assert [row["round"] for row in view.outcome["curve"]] == [0, 1, 2]
    assert [len(cell.rows) for cell in view.cells] == [3]
    assert view.cells[0].num_steps == 3
    name, schedule = view.outcome["name"], view.outcome["schedule"]
    assert (
        find_all(get_schedules_folder(studio))[name].to_json()
        == find_all(get_schedules_folder(studio))[name].parse(schedule).to_json()
    )
    assert set(schedule["held_out"]) == {
        "uniform",
        "fitted",
    }  # the held-out pictures judge, and two rounds need not please them
    assert all(0 < error < 1 for error in schedule["held_out"].values())
    values = {**BASE, "prompt": "a fox on a blue background", "schedule": "learned"}
    run = ended(studio.submit("text_to_image", values))
    assert run.status is JobStatus.DONE, run.message
    assert [row.timestep for row in run.cells[0].rows] == pytest.approx(schedule["model_times"])
    for change in ({"num_inference_steps": 3}, {"sampler": "dpmpp_2m"}):
        with pytest.raises(SettingsError, match="No schedule has been fitted for") as refused:
            studio.submit("text_to_image", {**values, **change})
        assert "2 steps of unipc on emoji" in str(refused.value)


def test_a_solver_with_single_ends_says_what_it_costs_and_runs_at_that(studio):
    base = {**BASE, "num_inference_steps": 3, "guidance": {"key": "cfg", "guidance_scale": 4.0}}
    learner = {"key": "bespoke", "rounds": 1, "batch": 2, "start": "uniform", "single_ends": True}
    view = ended(studio.submit("learn", {**SETTINGS, "base": base, "learner": learner}))
    assert view.status is JobStatus.DONE, view.message
    schedule = view.outcome["schedule"]
    assert (schedule["num_inference_steps"], schedule["evaluations"], list(schedule["single"])) == (3, 2, [0, 2])
    run = ended(studio.submit("text_to_image", {**base, "prompt": "a fox on a blue background", "schedule": "learned"}))
    assert run.status is JobStatus.DONE, run.message
    assert [row.evaluations for row in run.cells[0].rows] == [1, 3, 4]


def test_a_kept_solver_is_gone_on_from_and_one_that_is_not_is_refused(studio):
    base = {**BASE, "num_inference_steps": 4, "guidance": {"key": "cfg", "guidance_scale": 4.0}}
    first = {"key": "bespoke", "rounds": 0, "start": "uniform", "single_ends": True}
    go_on = {**first, "start": "kept", "rounds": 2, "batch": 2, "learning_rate": 1e-3, "emphasis": True}
    early = ended(studio.submit("learn", {**SETTINGS, "base": base, "learner": go_on}))
    assert early.status is JobStatus.FAILED and "4 steps of unipc" in early.message
    begun = ended(studio.submit("learn", {**SETTINGS, "base": base, "learner": first}))
    assert begun.status is JobStatus.DONE, begun.message
    view = ended(studio.submit("learn", {**SETTINGS, "base": base, "learner": go_on}))
    assert view.status is JobStatus.DONE, view.message
    assert view.outcome["curve"][0]["held_out"] == pytest.approx(
        begun.outcome["schedule"]["held_out"]["fitted"], abs=1e-5
    )
    named = ended(
        studio.submit("learn", {**SETTINGS, "base": base, "learner": {**go_on, "kept": begun.outcome["name"]}})
    )
    assert named.outcome["curve"] == view.outcome["curve"]
    unknown = ended(studio.submit("learn", {**SETTINGS, "base": base, "learner": {**go_on, "kept": "emoji-none"}}))
    assert unknown.status is JobStatus.FAILED and "emoji-none" in unknown.message
    schedule = view.outcome["schedule"]
    assert schedule["told"]["settings"]["start"] == "kept" and [len(step) for step in schedule["emphasis"]] == [
        1,
        2,
        2,
        1,
    ]
    assert "single-emphasis" in view.outcome["name"] and len(view.outcome["curve"]) == 3
    run = ended(
        studio.submit(
            "text_to_image",
            {
                **base,
                "prompt": "a fox on a blue background",
                "schedule": {"key": "learned", "name": view.outcome["name"]},
            },
        )
    )
    assert run.status is JobStatus.DONE and [row.evaluations for row in run.cells[0].rows] == [1, 3, 5, 6], run.message


def test_an_evolution_reports_its_population_and_stops(studio):
    learner = {"key": "auto_diffusion", "population": 3, "mutations": 2, "crossovers": 1, "generations": 500}
    job = studio.submit("learn", {**SETTINGS, "learner": learner})
    view = job.view()
    while len(view.outcome.get("curve", ())) < 2 and not view.status.final:
        view = job.wait(view.version, 5)
    job.cancel()
    view = ended(job)
    assert view.status is JobStatus.CANCELLED
    assert len(view.outcome["curve"][0]["population"]) == 3
    assert "name" not in view.outcome


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"base": {**BASE, "num_inference_steps": 1}}, "1 step has nothing to learn"),
        ({"base": {**BASE, "guidance": {"key": "apg"}}}, "choose Classifier-free guidance"),
        ({"base": 3}, "base of a fit is '3'"),
        ({"pictures": {"fitted": 1}}, "fitted is 1"),
        ({"pictures": {"many": 1}}, "'many'"),
        ({"learner": {"key": "ld3", "rounds": 0}}, "rounds is 0"),
        ({"prompts": [1]}, "prompts of a fit"),
        ({"prompts": ["a"] * 2049}, "at most 2048"),
        ({"extra": 1}, "'extra'"),
        ({"learner": "magic"}, "Unknown learner 'magic'"),
        ({"base": {**BASE, "model": "none"}}, "none"),
    ],
)
def test_what_cannot_be_fitted_is_refused_at_once(studio, changes, words):
    with pytest.raises(SettingsError, match=words):
        studio.submit("learn", {**SETTINGS, **changes})


def test_a_sampler_with_fresh_noise_is_refused_with_the_reason(studio):
    view = ended(studio.submit("learn", {**SETTINGS, "base": {**BASE, "sampler": "euler_a"}}))
    assert view.status is JobStatus.FAILED
    assert "deterministic samplers only" in view.message


def test_the_command_fits_and_copies(tmp_path):
    (tmp_path / "prompts.txt").write_text("a fox\n\na red apple\n")
    flags = [
        "--outputs-folder",
        str(tmp_path / "o"),
        "--models-folder",
        str(tmp_path / "m"),
        "learn",
        "--steps",
        "2",
        "--sampler",
        "ddim",
        "--guidance",
        "cfg,guidance_scale=1",
        "--learner",
        "ld3,rounds=1,batch=2,start=uniform",
        "--prompts",
        str(tmp_path / "prompts.txt"),
        "--out",
        str(tmp_path / "fit.json"),
    ]
    for name, value in SMALL.items():
        flags += ["--pictures", f"{name}={value}"]
    assert main(flags) == 0
    assert json.loads((tmp_path / "fit.json").read_text())["sampler"] == {"key": "ddim", "eta": 0.0}
    assert main([*flags[:4], "learn", "--steps", "1"]) == 2
    assert issubclass(MethodFitError, StepwiseError) and issubclass(UnknownMethodError, SettingsError)


CURVE = [
    {"round": 0, "loss": 0.4, "held_out": 0.41},
    {"round": 1, "loss": 0.3},
    {"round": 2, "loss": 0.2, "held_out": 0.25},
]


def test_the_plot_shows_every_round_and_the_result():
    svg = learn_view({"curve": CURVE, "learner": "ld3"})
    picture = ElementTree.fromstring(re.search(r"<svg.*?</svg>", svg, re.DOTALL).group())
    assert len(picture.find(".//polyline").get("points").split()) == 3
    assert [title.text for title in picture.iter("title")] == ["0.4100 in round 0", "0.2500 in round 2"]
    heights = [float(pair.split(",")[1]) for pair in picture.find(".//polyline").get("points").split()]
    assert heights == sorted(heights)
    schedule = {"held_out": {"fitted": 0.25, "uniform": 0.5}, "times": [999.0, 400.4], "num_inference_steps": 2}
    told = learn_view({"curve": CURVE, "name": "<b>", "schedule": schedule})
    assert "&lt;b&gt;" in told and "0.2500" in told and "999, 400" in told
    evolved = learn_view({"curve": [{"round": 0, "loss": 0.4, "population": [0.4, 0.6, math.inf]}]})
    assert evolved.count("<circle") == 2 and "population" in evolved
    assert learn_view({}) == learn_view({"curve": [{"round": 0, "loss": math.nan}]}) == EMPTY
