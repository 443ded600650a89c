"""A learned schedule chosen on the page runs, and what is saved says which one it was."""

from __future__ import annotations

import pytest
import torch

from pipelines.core.errors import SettingsError
from pipelines.schedules.learned_file import SHIPPED, find_all
from studio.jobs.job import JobStatus
from tests.studio.page_forms import built, read_after
from tests.studio.waiting import ended

NAME = next(
    name
    for name, one in find_all(SHIPPED).items()
    if one.model == "emoji" and one.num_inference_steps == 6 and one.sampler.key == "dpmpp_2m"
)
SINGLE = next(name for name, one in find_all(SHIPPED).items() if one.single)
PROMPT = "a fox on a blue background"


def saved(studio, view, cell=0):
    return studio.store.get(view.cells[cell].results[0]).metadata["request"]


@pytest.fixture(scope="module")
def page(studio):
    return built(studio).tabs["text_to_image"]


@pytest.mark.parametrize("settings", [{}, {"name": NAME}])
def test_the_shipped_schedule_is_picked_on_the_page_and_named_in_the_saved_settings(studio, page, settings):
    draft = {
        "model": "emoji",
        "schedule": {"key": "learned", **settings},
        "num_inference_steps": 6,
        "prompt": PROMPT,
        "seed_mode": "fixed",
    }
    values = read_after(page, page.form.updates(draft, "emoji"))
    view = ended(studio.submit("text_to_image", values))
    assert view.status is JobStatus.DONE, view.message
    times = find_all(SHIPPED)[NAME].model_times
    assert [row.timestep for row in view.cells[0].rows] == pytest.approx(times)
    assert saved(studio, view)["schedule"] == {"key": "learned", "name": NAME}


def test_what_was_not_fitted_is_refused_on_the_page_with_what_is(studio, page):
    draft = {"model": "emoji", "schedule": "learned", "num_inference_steps": 9, "prompt": PROMPT}
    with pytest.raises(SettingsError, match=r"9 steps of dpmpp_2m on the model emoji.*6 steps of dpmpp_2m on emoji"):
        studio.submit("text_to_image", read_after(page, page.form.updates(draft, "emoji")))


def test_other_weights_under_the_shipped_models_key_are_refused(studio):
    with studio.loader.model("emoji") as family, torch.no_grad():
        parameter = next(family.network.parameters())
        kept = parameter.clone()
        parameter.add_(0.01)
        try:
            view = ended(
                studio.submit("text_to_image", {"prompt": PROMPT, "num_inference_steps": 6, "schedule": "learned"})
            )
        finally:
            parameter.copy_(kept)
    assert view.status is JobStatus.FAILED
    assert (
        "other weights than the model emoji has now. Fit it again with `python -m studio learn --model emoji"
        in view.message
    )


def test_a_comparison_at_equal_evaluations_finds_the_schedule_of_the_steps_it_ends_with(studio):
    base = {"prompt": PROMPT, "num_inference_steps": 12, "guidance": {"key": "cfg", "guidance_scale": 1.0}}
    cells = [{}, {"guidance.guidance_scale": 4.0, "schedule": "learned"}]  # 12 evaluations are 7 steps with single ends
    view = ended(studio.submit("compare", {"base": base, "cells": cells, "equal": "nfe", "reference": False}))
    assert view.status is JobStatus.DONE, view.message
    assert [len(cell.rows) for cell in view.cells] == [12, 7], [cell.note for cell in view.cells]
    assert [cell.rows[-1].evaluations for cell in view.cells] == [12, 12]
    assert saved(studio, view, 1)["schedule"]["name"] == SINGLE
