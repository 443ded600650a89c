"""What is taken away of a comparison, and the grid that the page shows of it."""

from __future__ import annotations

import base64
import csv
import errno
import io
import os
import re

import numpy as np
import pytest
from PIL import Image

from pipelines.core.errors import SettingsError
from studio.exports.comparison import draw_comparison, store_picture, store_table, write_csv
from studio.jobs.job import Cell, Job
from studio.page.compare.grid import ComparisonGrid, build_table
from tests.studio import compare_runs
from tests.studio.compare_runs import BASE, compare, finished

make_models = compare_runs.make_models


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
    head, *lines = list(csv.reader(io.StringIO(write_csv(strange))))
    assert head[:7] == ["cell", "label", "steps", "nfe", "seconds", "psnr_db", "ssim"]
    table_rows = [dict(zip(head, line, strict=True)) for line in lines]
    assert [row["prompt"] for row in table_rows] == ['\'=HYPERLINK("http://x") <b>&', "'@SUM(A1)", "'-a, “two”\nlines"]
    assert {row["negative_prompt"] for row in table_rows} == {"'+1"}
    assert [int(row["nfe"]) for row in table_rows] == [4, 8, 8]
    assert all(float(row["psnr_db"]) > 0 for row in table_rows)
    assert not any(value[:1] in "=+@" for row in table_rows for value in row.values() if value)


def test_the_labeled_picture_holds_every_cell(studio):
    job = compare(studio, {"sampler": "heun"}, {"sampler": "ddim"})
    sheet = draw_comparison(job)
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
    width, height = draw_comparison(job).size
    assert width > 3 * 192 and 2 * 192 < height < 3 * 192 + 200


def test_exports_are_stored_as_results(studio, strange):
    picture, sheet = store_picture(studio.store, strange), store_table(studio.store, strange)
    with Image.open(picture.path) as opened:
        assert opened.format == "PNG" and sheet.path.suffix == ".csv"
    assert sheet.path.read_bytes().startswith(b"\xef\xbb\xbfcell,")
    assert picture.metadata["comparison"] == strange.request.to_json()


def test_a_comparison_without_results_exports_nothing(strange):
    job = Job("compare", strange.request)
    for export in (write_csv, draw_comparison):
        with pytest.raises(SettingsError, match="no results yet"):
            export(job)


# The page's grid.


def grid_html(parts):
    return "".join(part["html"] for part in parts.values())


def test_the_grid_escapes_every_text(studio, strange):
    grid = ComparisonGrid(strange.request, lambda result: f"/results/{result}.png")
    page = grid_html(grid.build_parts(strange.view(), "t")) + build_table(strange, strange.view())
    assert "<b>&" not in page.replace("<b>PSNR", "").replace("<b>SSIM", "") and "&lt;b&gt;&amp;" in page
    assert page.count("<img ") == len(strange.view().cells) == page.count('alt="')
    assert page.count("Best ") == 1 or page.count("Best ") == 2


def test_only_changed_pictures_are_encoded_anew(studio, strange, monkeypatch):
    grid = ComparisonGrid(strange.request, lambda result: None)
    first = grid.build_parts(strange.view(), "t")
    monkeypatch.setattr("studio.page.compare.grid.encode_picture_url", lambda pixels: pytest.fail("encoded again"))
    assert grid.build_parts(strange.view(), "t") == first


def test_a_cell_that_could_not_be_stored_says_why_and_shows_its_whole_picture(studio, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    large = {**BASE, "width": 256, "height": 256, "num_inference_steps": 1}
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        job = compare(studio, {"sampler": "ddim"}, {"sampler": "heun"}, base=large, reference=False)
    for place, cell in enumerate(job.view().cells):
        assert cell.results == () and "full" in cell.note
        tile = ComparisonGrid(job.request, lambda result: None).build_parts(job.view(), "t")[f"t-tile-{place}"]["html"]
        shown = re.search(r'<img src="data:image/png;base64,([^"]+)"', tile)[1]
        with Image.open(io.BytesIO(base64.b64decode(shown))) as picture:
            np.testing.assert_array_equal(np.asarray(picture), cell.images[0])


def test_an_old_comparisons_pictures_come_from_the_store(studio):
    job = compare(studio, {"sampler": "ddim"}, {"sampler": "heun"}, reference=False)
    job.let_pictures_go()
    parts = ComparisonGrid(job.request, lambda result: f"kept {result}").build_parts(job.view(), "t")
    for place, cell in enumerate(job.view().cells):
        assert parts[f"t-tile-{place}"]["data-state"] == "done"
        assert f'<img data-file="kept {cell.results[0]}"' in parts[f"t-tile-{place}"]["html"]


def test_the_grid_stands_before_the_first_step(strange):
    job = Job("compare", strange.request)
    job.set_cells([Cell(label=cell.label, num_steps=4) for cell in strange.request.cells])
    page = grid_html(ComparisonGrid(job.request, lambda result: None).build_parts(job.view(), "t"))
    assert page.count('class="sw-tile"') == 3 and "<img" not in page and "aspect-ratio:1/1" in page
