"""Starts behind the studio's doors: spared steps are told, saved and restored, and count among equal evaluations."""

from __future__ import annotations

import pytest
import torch

from pipelines.core.errors import SettingsError
from pipelines.core.types import Choice, Request, Traits
from pipelines.workflows.compare.request import equal_steps, evaluations
from studio import infotext
from studio.jobs.job import JobStatus
from tests.studio.waiting import ended

TRAITS = Traits("sd", "epsilon", "unet")
BASE = {"prompt": "a fox", "seed": 5, "num_inference_steps": 6, "guidance": {"key": "cfg", "guidance_scale": 1.0}}


def ran(studio, task, values):
    return ended(studio.submit(task, values))


def test_the_spared_steps_are_told_and_a_batch_changes_no_picture(studio):
    start = {"key": "gaussian", "share": 0.3}
    view = ran(studio, "text_to_image", {**BASE, "start": start, "batch_size": 2})
    assert view.status is JobStatus.DONE, view.message
    assert view.cells[0].num_steps == len(view.cells[0].rows) == 4
    alone = ran(studio, "text_to_image", {**BASE, "start": start, "seed": 6})
    difference = view.cells[0].images[1].astype(int) - alone.cells[0].images[0]
    assert abs(difference).max() <= 1
    path = studio.store.get(alone.cells[0].results[0]).path
    assert infotext.read(path).values["start"] == {"key": "gaussian", "share": 0.3}


def test_the_chain_makes_one_picture_and_says_so_of_more(studio):
    view = ran(studio, "text_to_image", {**BASE, "start": {"key": "mcmc", "steps": 2, "draft_steps": 2}})
    assert view.status is JobStatus.DONE and torch.tensor(view.cells[0].images).float().std() > 5
    assert view.cells[0].rows[0].evaluations == 2 + 2 + 1
    with pytest.raises(SettingsError, match="1 picture at a time"):
        studio.submit("text_to_image", {**BASE, "start": "mcmc", "batch_size": 2})


def test_starts_are_an_axis_and_count_among_equal_evaluations(studio):
    cells = {"x": {"field": "start", "values": "noise, optimal transport"}, "reference": False, "equal": "nfe"}
    view = ran(studio, "compare", {"base": BASE, **cells})
    assert view.status is JobStatus.DONE, view.message
    assert [cell.rows[-1].evaluations for cell in view.cells] == [6, 6]
    assert [row["settings"]["num_inference_steps"] for row in view.outcome["rows"]] == [6, 9]
    one = equal_steps(Request(start=Choice("gaussian", {"share": 0.2})), TRAITS, 40, 200)
    assert evaluations(one, TRAITS) == 40 and one.num_inference_steps == 25


def test_another_size_than_the_fitted_one_is_refused(studio):
    view = ran(studio, "text_to_image", {**BASE, "width": 96, "start": "gaussian"})
    assert view.status is JobStatus.FAILED and "another size" in view.message
    with pytest.raises(SettingsError, match="share"):
        studio.submit("text_to_image", {**BASE, "start": {"key": "gaussian", "steps": 3}})
