"""The task "compare" through the studio on tiny models, and what it leaves to take away."""

from __future__ import annotations

import base64
import csv
import errno
import io
import json
import os
import re

import numpy as np
import pytest
from PIL import Image

from pipelines.core.errors import MethodFitError, SettingsError
from studio.backend import Studio, StudioSettings
from studio.exports.comparison import comparison_csv, comparison_picture, store_picture, store_table
from studio.jobs.job import Cell, Job, JobStatus
from studio.page.compare.grid import ComparisonGrid, table
from tests.pipelines.tiny_models import tiny_sd
from tests.studio.waiting import ended

BASE = {
    "model": "tiny",
    "prompt": "a red fox",
    "seed": 5,
    "num_inference_steps": 4,
    "width": 32,
    "height": 32,
    "sampler": "dpmpp_2m",
    "schedule": "uniform",
    "guidance": {"key": "cfg", "guidance_scale": 4.0},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    models = tmp_path_factory.mktemp("models")
    for name, seed in (("tiny", 0), ("other", 1)):
        tiny_sd(models / name, seed=seed)
    return models


@pytest.fixture(scope="module")
def studio(folder, tmp_path_factory):
    studio = Studio(
        StudioSettings(outputs=tmp_path_factory.mktemp("outputs"), models=folder, device="cpu", memory_budget=2**30)
    )
    yield studio
    studio.close()


def finished(studio, values, task="compare") -> Job:
    job = studio.submit(task, values)
    ended(job)
    return job


def compare(studio, *cells, **values) -> Job:
    what = {"cells": list(cells)} if cells else {}
    return finished(studio, {"base": BASE, **what, "reference_steps": 6, **values})


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
    assert [cell.note for cell in job.view().cells] == [f"{own} of 8 evaluations." for own in (8, 6, 6, 8)]


def test_equal_evaluations_leave_too_few_steps_for_a_written_order(studio):
    """Four unguided steps cost what two guided ones do: the order of four that was fine for four steps is not for two."""
    base = {**BASE, "guidance": {"key": "cfg", "guidance_scale": 1.0}}
    guided = {"guidance.guidance_scale": 4.0}
    cells = [{**guided, "sampler": {"key": "lms", "order": 4}}, {**guided, "sampler": "lms"}]
    job = compare(studio, *cells, base=base, equal="nfe", reference=False)
    assert [cell.note[:60] for cell in job.view().cells] == [
        "LMS: order is 4, for a run of 2 steps. Choose an order up to",
        "4 of 4 evaluations.",
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


def test_each_model_is_taken_once_though_the_grid_lies_the_other_way(studio, monkeypatch):
    taken, model = [], studio.model
    monkeypatch.setattr(studio, "model", lambda key, job: (taken.append(key), model(key, job))[1])
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
    assert comparison_picture(job).size[0] > 64
    assert len(list(csv.reader(io.StringIO(comparison_csv(job))))) == 3


def test_the_outcome_is_plain_json(studio):
    job = compare(
        studio, {"num_inference_steps": 2}, {"sampler": "dpmpp_2m", "schedule": "karras", "num_inference_steps": 6}
    )
    json.dumps(job.view().outcome, allow_nan=False)
    assert job.request.to_json() == json.loads(json.dumps(job.request.to_json()))


# What is taken away.


@pytest.fixture(scope="module")
def strange(studio):
    """A comparison whose texts would harm a spreadsheet or a page."""
    prompt = '=HYPERLINK("http://x") <b>&'
    return finished(
        studio,
        {
            "base": {**BASE, "prompt": prompt, "negative_prompt": "+1"},
            "reference_steps": 4,
            "cells": [{"num_inference_steps": 2}, {"prompt": "@SUM(A1)"}, {"prompt": "-a, “two”\nlines"}],
        },
    )


def test_the_table_reads_back_and_holds_no_formula(strange):
    head, *lines = list(csv.reader(io.StringIO(comparison_csv(strange))))
    assert head[:7] == ["cell", "label", "steps", "nfe", "seconds", "psnr_db", "ssim"]
    table_rows = [dict(zip(head, line, strict=True)) for line in lines]
    assert [row["prompt"] for row in table_rows] == ['\'=HYPERLINK("http://x") <b>&', "'@SUM(A1)", "'-a, “two”\nlines"]
    assert {row["negative_prompt"] for row in table_rows} == {"'+1"}
    assert [int(row["nfe"]) for row in table_rows] == [4, 8, 8]
    assert all(float(row["psnr_db"]) > 0 for row in table_rows)
    assert not any(value[:1] in "=+@" for row in table_rows for value in row.values() if value)


def test_the_labeled_picture_holds_every_cell(studio):
    job = compare(studio, {"sampler": "heun"}, {"sampler": "ddim"})
    sheet = comparison_picture(job)
    pixels = np.asarray(sheet)
    assert sheet.mode == "RGB" and pixels[0, 0].tolist() == [255, 255, 255]
    for cell in job.view().cells:
        scaled = np.repeat(np.repeat(cell.images[0], 6, 0), 6, 1)  # 32 pixels to 192
        found = [
            (y, x)
            for y, x in np.argwhere((pixels == scaled[0, 0]).all(-1))
            if pixels[y : y + 192, x : x + 192].shape == scaled.shape
            and np.array_equal(pixels[y : y + 192, x : x + 192], scaled)
        ]
        assert found


def test_a_grid_has_its_columns_and_rows_on_the_picture(studio):
    job = finished(
        studio,
        {
            "base": BASE,
            "x": {"field": "steps", "values": "1-3"},
            "y": {"field": "sampler", "values": "heun, ddim"},
            "reference": False,
        },
    )
    assert [(axis["label"], axis["values"]) for axis in job.view().outcome["axes"]] == [
        ("Steps", ["1", "2", "3"]),
        ("Sampler", ["Heun", "DDIM"]),
    ]
    width, height = comparison_picture(job).size
    assert width > 3 * 192 and 2 * 192 < height < 3 * 192 + 200


def test_exports_are_stored_as_results(studio, strange):
    picture, sheet = store_picture(studio.store, strange), store_table(studio.store, strange)
    with Image.open(picture.path) as opened:
        assert opened.format == "PNG" and sheet.path.suffix == ".csv"
    assert sheet.path.read_bytes().startswith(b"\xef\xbb\xbfcell,")
    assert picture.metadata["comparison"] == strange.request.to_json()


def test_a_comparison_without_results_exports_nothing(strange):
    job = Job("compare", strange.request)
    for export in (comparison_csv, comparison_picture):
        with pytest.raises(SettingsError, match="no results yet"):
            export(job)


# The page's grid.


def grid_html(parts):
    return "".join(part["html"] for part in parts.values())


def test_the_grid_escapes_every_text(studio, strange):
    grid = ComparisonGrid(strange, lambda result: f"/results/{result}.png")
    page = grid_html(grid.parts(strange.view(), "t")) + table(strange, strange.view())
    assert "<b>&" not in page.replace("<b>PSNR", "").replace("<b>SSIM", "") and "&lt;b&gt;&amp;" in page
    assert page.count("<img ") == len(strange.view().cells) == page.count('alt="')
    assert page.count("Best ") == 1 or page.count("Best ") == 2


def test_only_changed_pictures_are_encoded_anew(studio, strange, monkeypatch):
    grid = ComparisonGrid(strange, lambda result: None)
    first = grid.parts(strange.view(), "t")
    monkeypatch.setattr("studio.page.compare.grid.picture_url", lambda pixels: pytest.fail("encoded again"))
    assert grid.parts(strange.view(), "t") == first


def test_a_cell_that_could_not_be_stored_says_why_and_shows_its_whole_picture(studio, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    large = {**BASE, "width": 256, "height": 256, "num_inference_steps": 1}
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        job = compare(studio, {"sampler": "ddim"}, {"sampler": "heun"}, base=large, reference=False)
    for place, cell in enumerate(job.view().cells):
        assert cell.results == () and "full" in cell.note
        tile = ComparisonGrid(job, lambda result: None).parts(job.view(), "t")[f"t-tile-{place}"]["html"]
        shown = re.search(r'<img src="data:image/png;base64,([^"]+)"', tile)[1]
        with Image.open(io.BytesIO(base64.b64decode(shown))) as picture:
            np.testing.assert_array_equal(np.asarray(picture), cell.images[0])


def test_an_old_comparisons_pictures_come_from_the_store(studio):
    job = compare(studio, {"sampler": "ddim"}, {"sampler": "heun"}, reference=False)
    job.let_pictures_go()
    parts = ComparisonGrid(job, lambda result: f"kept {result}").parts(job.view(), "t")
    for place, cell in enumerate(job.view().cells):
        assert parts[f"t-tile-{place}"]["data-state"] == "done"
        assert f'<img data-file="kept {cell.results[0]}"' in parts[f"t-tile-{place}"]["html"]


def test_the_grid_stands_before_the_first_step(strange):
    job = Job("compare", strange.request)
    job.set_cells([Cell(label=cell.label, num_steps=4) for cell in strange.request.cells])
    page = grid_html(ComparisonGrid(job, lambda result: None).parts(job.view(), "t"))
    assert page.count('class="sw-tile"') == 3 and "<img" not in page and "aspect-ratio:1/1" in page
