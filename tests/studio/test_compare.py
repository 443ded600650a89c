"""The task "compare" through the studio on tiny models, and what it leaves to take away."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
from PIL import Image

from pipelines.core.errors import MethodFitError, SettingsError
from pipelines.models.device_choice import Acceleration
from pipelines.models.loader import Loader
from pipelines.samplers import SAMPLERS
from studio.backend import Studio, StudioSettings
from studio.exports.comparison import draw_comparison, write_csv
from studio.jobs.job import JobStatus
from studio.page.compare.grid import _format_likeness
from tests.studio import compare_runs
from tests.studio.compare_runs import BASE, compare, finished
from tests.studio.task_examples import FOX as FOX_RUN
from tests.studio.task_examples import Example

EXAMPLE = Example(
    {"base": FOX_RUN, "cells": [{"sampler": "ddim"}, {"sampler": "heun"}], "reference_steps": 4},
    {"cells": [{"sampler": "ddim"}, {"sampler": "heun", "num_inference_steps": 90}]},
)
"""For the tests of all tasks."""

make_models = compare_runs.make_models


def rows(job):
    return job.view().outcome["rows"]


def test_comparing_equals_generating_each_cell_alone(studio):
    cells = [{"sampler": "heun"}, {"sampler": "euler_a"}, {"guidance.guidance_scale": 1.0, "num_inference_steps": 7}]
    job = compare(studio, *cells, reference=False)
    assert job.status is JobStatus.DONE
    alone = [
        {**BASE, "sampler": "heun"},
        {**BASE, "sampler": "euler_a"},
        {**BASE, "guidance": {"key": "cfg", "guidance_scale": 1.0}, "num_inference_steps": 7},
    ]
    for cell, values in zip(job.view().cells, alone, strict=True):
        picture = finished(studio, values, "text_to_image").view().cells[0].images[0]
        assert np.abs(cell.images[0].astype(int) - picture).max() <= 1
        with Image.open(studio.store.get(cell.results[0]).path) as stored:
            assert np.array_equal(np.asarray(stored), cell.images[0])
        assert len(cell.frames) == len(cell.rows) == cell.num_steps


def test_a_stored_cell_carries_its_own_settings(studio):
    job = compare(studio, {"sampler": "heun"}, {"sampler": "ddim"}, reference=False)
    stored = [studio.store.get(row["result"]).metadata["request"]["sampler"]["key"] for row in rows(job)]
    assert stored == ["heun", "ddim"]


def test_equal_evaluations(studio):
    job = compare(
        studio,
        *({"sampler": key} for key in ("dpmpp_2m", "heun", "dpmpp_2s")),
        {"guidance.guidance_scale": 1.0},
        equal="nfe",
        reference=False,
    )
    assert [row["steps"] for row in rows(job)] == [4, 2, 2, 8]
    assert [row["evaluations"] for row in rows(job)] == [8, 6, 6, 8]
    assert [cell.note for cell in job.view().cells] == ["", "6 of 8 evaluations.", "6 of 8 evaluations.", ""]


def test_equal_evaluations_leave_too_few_steps_for_a_written_order(studio):
    """Four unguided steps cost what two guided ones do: an order of four is fine for four steps and not for two."""
    base = {**BASE, "guidance": {"key": "cfg", "guidance_scale": 1.0}}
    guided = {"guidance.guidance_scale": 4.0}
    cells = [{**guided, "sampler": {"key": "lms", "order": 4}}, {**guided, "sampler": "lms"}]
    job = compare(studio, *cells, base=base, equal="nfe", reference=False)
    assert [cell.note[:60] for cell in job.view().cells] == [
        "LMS: order is 4, for a run of 2 steps. Choose an order up to",
        "",
    ]


def test_a_reference_measures_and_is_kept(studio):
    values = {"base": {**BASE, "seed": 77}}
    first = compare(
        studio,
        {"num_inference_steps": 2},
        {"sampler": "dpmpp_2m", "schedule": "karras", "num_inference_steps": 6},
        **values,
    )
    short, same = rows(first)
    assert 0 < short["psnr"] < 60 and 0 < short["ssim"] < 1
    assert same["identical"] and same["psnr"] is None and same["ssim"] == pytest.approx(1)
    assert len(first.view().cells) == 3 and len(first.view().cells[2].rows) == 6
    second = compare(studio, {"num_inference_steps": 2}, {"sampler": "heun"}, **values)
    assert rows(second)[0]["psnr"] == pytest.approx(short["psnr"], abs=0.2)
    assert second.view().cells[2].rows == [] and second.view().cells[2].images is not None


def test_every_distinct_prompt_and_guidance_has_its_reference(studio):
    job = finished(
        studio,
        {
            "base": {**BASE, "seed": 3},
            "x": {"field": "prompt", "values": "a fox | the sea"},
            "y": {"field": "guidance_scale", "values": "1, 4"},
            "reference_steps": 5,
        },
    )
    assert job.status is JobStatus.DONE
    cells = job.view().cells
    assert [cell.label for cell in cells[4:]] == [
        f"Reference · “{prompt}” · guidance scale {scale}" for scale in (1, 4) for prompt in ("a fox", "the sea")
    ]
    assert all(row["psnr"] is not None for row in rows(job))


def test_a_cell_with_a_cache_is_measured_against_the_same_cell_without(studio):
    cells = [{"cache": cache, "num_inference_steps": 6} for cache in ("deepcache", "none", "taylorseer")]
    neutral = {"cache": {"key": "deepcache", "interval": 1}, "num_inference_steps": 6}
    job = compare(studio, *cells, neutral, {"cache": "deepcache", "num_inference_steps": 5}, reference=False)
    figures = [cell.figures.get("uncached_psnr") for cell in job.view().cells]
    assert 5 < figures[0] < 80 and 5 < figures[2] < 80
    assert figures[1] is None and figures[4] is None  # the uncached run itself, and one that has none beside it
    assert figures[3] == float("inf")
    outcome = rows(job)
    assert outcome[0]["uncached_psnr"] == figures[0] and outcome[3]["uncached_psnr"] is None
    assert 0 < outcome[0]["evaluations"] < outcome[1]["evaluations"] == outcome[3]["evaluations"]
    assert next(csv.DictReader(io.StringIO(write_csv(job))))["uncached_psnr_db"]
    assert "dB to the run without cache" in _format_likeness(job.view().cells[0], {})


def test_a_cache_on_compiled_networks_is_refused_before_it_queues(folder, tmp_path):
    settings = StudioSettings(
        models=folder, outputs=tmp_path, device="cpu", memory_budget=2**30, acceleration=Acceleration(compile=True)
    )
    compiling = Studio(settings)
    try:
        with pytest.raises(MethodFitError, match="compiled"):
            compiling.submit("text_to_image", {**BASE, "cache": "deepcache"})
    finally:
        compiling.close()


def test_each_model_is_taken_once_though_the_grid_lies_the_other_way(studio, monkeypatch):
    taken, model = [], Loader.model

    def take(loader, key, *arguments, **settings):
        taken.append(key)
        return model(loader, key, *arguments, **settings)

    monkeypatch.setattr(Loader, "model", take)
    job = finished(
        studio,
        {
            "base": BASE,
            "x": {"field": "steps", "values": "2, 3"},
            "y": {"field": "model", "values": "tiny, other"},
            "reference_steps": 4,
        },
    )
    assert job.status is JobStatus.DONE and taken == ["tiny", "other"]
    assert [(row["settings"]["model"], row["steps"]) for row in rows(job)] == [
        ("tiny", 2),
        ("tiny", 3),
        ("other", 2),
        ("other", 3),
    ]


def test_a_cell_that_cannot_run_loses_only_itself(studio):
    job = compare(studio, {}, {"size": "34x34"}, {"model": "sd15"}, {"sampler": "ddim"})
    cells = job.view().cells
    assert job.status is JobStatus.DONE
    assert [cell.images is not None for cell in cells[:4]] == [True, False, False, True]
    assert "34 pixels" in cells[1].note and rows(job)[1]["problem"] == cells[1].note
    assert cells[2].note and rows(job)[2]["evaluations"] == 0
    assert rows(job)[0]["psnr"] is not None


def test_a_cell_that_breaks_while_all_are_drawn_together_loses_only_itself(studio, monkeypatch):
    """A file that is missing is found before; what only the run finds is a step of one cell."""
    job = compare(studio, {}, {"start": "mcmc"}, {"sampler": "ddim"}, reference=False)
    cells = job.view().cells
    assert [cell.images is not None for cell in cells] == [True, False, True]
    assert "A classifier of its noise levels" in cells[1].note

    step = SAMPLERS["heun"].make.step

    def breaking(self, state, level, next_level, context):
        if context.index == 1:
            raise SettingsError("This sampler broke.")
        return (yield from step(self, state, level, next_level, context))

    monkeypatch.setattr(SAMPLERS["heun"].make, "step", breaking)
    alone = compare(studio, {}, {"sampler": "ddim"}, reference=False).view().cells[0].images
    job = compare(studio, {}, {"sampler": "heun"}, {"sampler": "ddim"}, reference=False)
    cells = job.view().cells
    assert job.status is JobStatus.DONE and cells[1].note == "This sampler broke." and cells[1].images is None
    assert len(cells[0].rows) == len(cells[2].rows) == BASE["num_inference_steps"]
    np.testing.assert_array_equal(cells[0].images, alone)


def test_where_no_cell_can_run_the_job_fails_and_says_why(studio):
    job = compare(studio, {"size": "34x34"}, {"size": "36x34"})
    assert job.status is JobStatus.FAILED and "34 pixels" in job.view().message


def test_a_method_that_does_not_fit_is_refused_before_anything_runs(studio):
    with pytest.raises(MethodFitError, match="Cell 2"):
        studio.submit("compare", {"base": BASE, "cells": [{}, {"sampler": "flow_euler"}]})


def test_the_caps_hold_for_every_cell(studio):
    for cell in (
        {"num_inference_steps": 10**6},
        {"width": 10**5},
        {"prompt": ""},
        {"lora.none": 1.0},
        {"model": "nothing"},
    ):
        with pytest.raises(SettingsError, match="Cell 2"):
            studio.submit("compare", {"base": BASE, "cells": [{}, cell]})


def test_a_stop_keeps_what_is_finished(studio):
    job = studio.submit(
        "compare", {"base": BASE, "cells": [{"num_inference_steps": 2}, {"num_inference_steps": 200, "seed": 9}]}
    )
    view = job.view()
    while not (view.cells and view.cells[0].results):
        view = job.wait(view.version, 30)
    job.cancel()
    while not view.status.final:
        view = job.wait(view.version, 30)
    assert view.status is JobStatus.CANCELLED
    assert view.cells[0].images is not None and view.cells[1].images is None
    assert studio.store.get(view.outcome["rows"][0]["result"]).path.exists()
    assert 0 < len(view.cells[1].rows) < 200
    assert draw_comparison(job).size[0] > 64
    assert len(list(csv.reader(io.StringIO(write_csv(job))))) == 3


def test_the_outcome_is_plain_json(studio):
    job = compare(
        studio, {"num_inference_steps": 2}, {"sampler": "dpmpp_2m", "schedule": "karras", "num_inference_steps": 6}
    )
    json.dumps(job.view().outcome, allow_nan=False)
    assert job.request.to_json() == json.loads(json.dumps(job.request.to_json()))
