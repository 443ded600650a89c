"""The task "edit" through the studio: figures, kept trajectories, odd pictures, and the three doors."""

from __future__ import annotations

import base64
import dataclasses
import errno
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.training.examples import read_index
from pipelines.workflows.edit.canvas import Canvas
from studio.jobs.job import JobStatus
from studio.page.edit.viewer import EditRenderer, edit_figures
from studio.tasks.pictures import read_mask
from tests.studio import edit_runs
from tests.studio.edit_runs import BASE, MASK, PICTURE, finished, noise, png
from tests.studio.task_examples import FOX as FOX_RUN
from tests.studio.task_examples import Example, read_source
from tests.studio.waiting import ended

EXAMPLE = Example(
    {"base": FOX_RUN, "picture": read_source(), "edit": "replace", "source_prompt": "a cat on a blue background"},
    {"base": {**FOX_RUN, "num_inference_steps": 100}},
)
"""For the tests of all tasks."""


EXAMPLES = Path(__file__).resolve().parents[2] / "assets" / "examples"
make_models = edit_runs.make_models


def example(name):
    return next(one for one in read_index(EXAMPLES)["edits"] if one["name"] == name)


# What comes of an edit.


def test_an_inverted_edit_streams_both_ways_and_measures(studio):
    view = finished(studio, edit="replace", base={"seed": 100})
    assert view.status is JobStatus.DONE, view.message
    assert [cell.label for cell in view.cells] == ["Inversion", "Reconstruction", "Edit"]
    up, reconstruction, edit = view.cells
    assert [len(cell.rows) for cell in view.cells] == [len(cell.frames) for cell in view.cells] == [4, 4, 4]
    assert [row.sigma for row in up.rows] == sorted(row.sigma for row in up.rows)
    assert [row.sigma for row in edit.rows] == sorted((row.sigma for row in edit.rows), reverse=True)
    assert reconstruction.figures["psnr"] == pytest.approx(reconstruction.figures["autoencoder_psnr"], abs=1e-6)
    assert 0 < reconstruction.figures["ssim"] <= 1 and edit.figures["evaluations"] == 8
    assert edit.images.shape == reconstruction.images.shape == (1, 32, 32, 3)
    record = studio.store.get(edit.results[0])
    assert record.kind == "edit" and record.metadata["figures"]["edit"]["edit"]["key"] == "replace"
    with Image.open(record.path) as stored:
        assert np.array_equal(np.asarray(stored), edit.images[0])
    json.dumps(view.outcome, allow_nan=False)


@pytest.mark.parametrize("edit", ["inpaint", "image_to_image", "reprompt", "replace", "infedit"])
def test_every_edit_is_exact_outside_a_drawn_mask(studio, edit):
    view = finished(studio, edit=edit, mask=MASK)
    cell = view.cells[-1]
    source, mask = np.asarray(noise()), read_mask(MASK).pixels
    assert np.array_equal(cell.images[0][~mask], source[~mask]) and not np.array_equal(
        cell.images[0][mask], source[mask]
    )
    with Image.open(studio.store.get(cell.results[0]).path) as stored:
        kept = np.array_equal(np.asarray(stored)[~mask], source[~mask])
    assert cell.figures["background_exact"] == float(kept) == 1.0
    # As the picture is, pasted: infinite; before that as the model drew it.
    assert cell.figures["background_psnr"] is None and cell.figures["background_before_paste_psnr"] is not None


def test_a_background_that_is_not_exact_is_not_called_so(studio, monkeypatch):
    def careless(canvas, picture):
        pasted = np.where(canvas.mask[..., None], picture, canvas.pixels)
        pasted[0, 0] ^= 1
        return pasted

    monkeypatch.setattr(Canvas, "paste", careless)
    view = finished(studio, edit="inpaint", mask=MASK)
    assert view.cells[0].figures["background_exact"] == 0
    assert view.cells[0].figures["background_psnr"] > 20
    assert "pasted back" not in edit_figures(view)


def test_outpainting_keeps_the_middle(studio):
    view = finished(studio, edit={"key": "outpaint", "right": 16})
    picture = view.cells[0].images[0]
    assert picture.shape == (32, 48, 3) and np.array_equal(picture[:, :32], np.asarray(noise()))


@pytest.mark.parametrize("edit", ["image_to_image", "inpaint"])
def test_strength_zero_is_the_picture_and_one_runs_every_step(studio, edit):
    none = finished(studio, edit={"key": edit, "strength": 0}, mask=MASK)
    assert none.status is JobStatus.DONE and np.array_equal(none.cells[0].images[0], np.asarray(noise()))
    assert none.cells[0].figures["evaluations"] == 0 and "this strength" in none.cells[0].note
    whole = finished(studio, edit={"key": edit, "strength": 1}, mask=MASK)
    assert len(whole.cells[0].rows) == 4


def test_an_object_is_moved_where_no_step_is_run(studio):
    view = finished(studio, edit={"key": "move", "right": 0.25, "strength": 0}, mask=MASK)
    source, mask = np.asarray(noise()), read_mask(MASK).pixels
    moved = np.roll(mask, 8, axis=1)
    moved[:, :8] = False
    assert np.array_equal(view.cells[0].images[0][moved], np.roll(source, 8, axis=1)[moved])
    assert view.cells[0].figures["background_exact"] == 1 and "the object is moved" in view.cells[0].note


def test_a_cancelled_edit_stops_and_leaves_no_result(studio):
    job = studio.submit(
        "edit",
        {
            "base": {**BASE, "num_inference_steps": 200},
            "picture": PICTURE,
            "source_prompt": "a red fox",
            "edit": "replace",
        },
    )
    view = job.view()
    while not (view.cells and view.cells[0].rows):
        view = job.wait(view.version, 30)
    job.cancel()
    while not view.status.final:
        view = job.wait(view.version, 30)
    assert view.status is JobStatus.CANCELLED and view.cells[2].results == ()
    assert finished(studio, edit="replace").status is JobStatus.DONE


def test_an_edit_that_cannot_be_stored_is_still_shown_and_can_be_taken(studio, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        values = {"base": {**BASE, "width": 32, "height": 32}, "picture": PICTURE, "edit": "image_to_image"}
        job = studio.submit("edit", values)
        view = ended(job)
    assert view.status is JobStatus.FAILED and "full" in view.message
    parts = EditRenderer(studio.store, "e", job)(view)
    assert parts["e-slider"] == {"hidden": None} and "Change to source" in parts["e-figures"]["html"]
    taken = base64.b64decode(parts["e-download"]["src"].removeprefix("data:image/png;base64,"))
    with Image.open(io.BytesIO(taken)) as picture:
        np.testing.assert_array_equal(np.asarray(picture), view.cells[-1].images[0])


def test_an_old_edit_shows_its_stored_picture(studio):
    job = studio.submit(
        "edit", {"base": {**BASE, "width": 32, "height": 32}, "picture": PICTURE, "edit": "image_to_image"}
    )
    ended(job)
    job.let_pictures_go()
    parts = EditRenderer(studio.store, "e", job)(job.view())
    assert set(parts["e-hero"]) == {"file"} and parts["e-picture"] == {"hidden": None}
    assert parts["e-download"] == {**parts["e-hero"], "download": ""}


def test_what_a_stopped_edit_reached_can_be_taken_and_enlarged(studio):
    job = studio.submit(
        "edit", {"base": {**BASE, "width": 32, "height": 32}, "picture": PICTURE, "edit": "image_to_image"}
    )
    view = ended(job)
    cells = tuple(dataclasses.replace(cell, images=None, results=()) for cell in view.cells)
    stopped = dataclasses.replace(view, status=JobStatus.CANCELLED, cells=cells)
    parts = EditRenderer(studio.store, "e", job)(stopped)
    assert parts["e-tools"] == {"hidden": None} and parts["e-download"]["src"].startswith("data:image/png;base64,")
    assert parts["e-download"]["download"].endswith("-stopped.png")


def test_the_shipped_model_changes_a_background_and_the_classifier_sees_it(studio):
    record = example("background-2")
    picture = (EXAMPLES / record["source"]).read_bytes()
    base = {
        "model": "emoji",
        "prompt": record["target_caption"],
        "num_inference_steps": 16,
        "seed": 1,
        "width": 0,
        "height": 0,
        "guidance": {"key": "cfg", "guidance_scale": 7.5},
    }
    view = finished(
        studio,
        base=base,
        picture=picture,
        source_prompt=record["source_caption"],
        edit="replace",
        mask=(EXAMPLES / record["mask"]).read_bytes(),
    )
    reconstruction, edit = view.cells[1].figures, view.cells[2].figures
    assert (
        reconstruction["psnr"] == pytest.approx(reconstruction["autoencoder_psnr"], abs=1e-6)
        and reconstruction["psnr"] > 28
    )
    assert edit["prompt_probability"] > 0.8 and view.outcome["sees"] == "four leaf clover on green"
    assert edit["background_before_paste_psnr"] > 15


def test_only_masked_keeps_the_photograph_and_its_size(studio):
    photograph = noise((96, 80))
    mask = np.zeros((80, 96), bool)
    mask[30:40, 50:70] = True
    edit = {"key": "inpaint", "area": "only masked", "padding": 4, "mask_blur": 2}
    view = finished(studio, edit=edit, mask=mask, picture=png(photograph))
    picture, source = view.cells[0].images[0], np.asarray(photograph)
    outside = np.ones_like(mask)
    outside[25:45, 45:75] = False  # the blur reaches 2.5 of its deviations
    assert picture.shape == source.shape and np.array_equal(picture[outside], source[outside])
    assert not np.array_equal(picture[mask], source[mask])
    assert view.cells[0].figures["background_exact"] == 1 and "around the mask" in view.cells[0].note
    record = studio.store.get(view.cells[0].results[0])
    assert (record.width, record.height) == (96, 80)
    assert record.metadata["request"]["width"] == 32  # what the model drew
