"""What a sampler has to say of its run reaches the person: on the picture's figures and on a comparison's cell."""

from __future__ import annotations

from studio.jobs.job import JobStatus
from studio.ui.viewer import ViewerRenderer
from tests.studio.waiting import ended

BASE = {"prompt": "a fox", "seed": 5, "num_inference_steps": 4, "guidance": {"key": "cfg", "guidance_scale": 1.0}}
SHIFTED = {**BASE, "sampler": "time_shift"}


def ran(studio, task, values):
    job = studio.submit(task, values)
    view = ended(job)
    assert view.status is JobStatus.DONE, view.message
    return job, view


def test_a_pictures_figures_tell_how_often_time_was_shifted(studio):
    job, view = ran(studio, "text_to_image", SHIFTED)
    assert view.cells[0].note.startswith("Time-Shift moved the end of a step ")
    assert view.cells[0].note in ViewerRenderer(studio, "t", job)(view)["t-figures"]["html"]


def test_a_cell_of_a_comparison_tells_it(studio):
    _, view = ran(
        studio,
        "compare",
        {"base": BASE, "cells": [{"sampler": "time_shift"}, {"sampler": "ddim"}], "equal": "nfe", "reference": False},
    )
    first, second = (cell.note for cell in view.cells)
    assert first.startswith("Time-Shift moved the end of a step ")
    assert second == ""
