"""The task "compare_edits": one picture, several edits, each as it comes out alone, and why the others cannot."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pipelines.core.errors import SettingsError
from pipelines.edits import EDITS
from studio.cli.main import main
from studio.jobs.job import JobStatus
from studio.page.edit.every_way import describe_edit, list_refused
from studio.tasks.compare_edits import format_figure
from tests.studio import edit_runs
from tests.studio.edit_runs import BASE, MASK, PICTURE, finished
from tests.studio.task_examples import FOX as FOX_RUN
from tests.studio.task_examples import Example, read_source
from tests.studio.waiting import ended

EXAMPLE = Example(
    {
        "base": FOX_RUN,
        "picture": read_source(),
        "edits": ["image_to_image", "refine", "inpaint"],
        "source_prompt": "a cat on a blue background",
    },
    {"base": {**FOX_RUN, "num_inference_steps": 100}},
)
"""For the tests of all tasks."""

make_models = edit_runs.make_models


def compared(studio, **values):
    base = {**BASE, "width": 32, "height": 32}
    job = studio.submit("compare_edits", {"base": base, "picture": PICTURE, "source_prompt": "a red fox", **values})
    return ended(job)


def test_each_picture_is_the_one_that_the_edit_makes_alone(studio):
    methods = ["image_to_image", "replace", "infedit", "inpaint"]
    view = compared(studio, edits=methods, mask=MASK, edit={"key": "replace", "cross_until": 0.2})
    assert view.status is JobStatus.DONE, view.message
    for cell, key in zip(view.cells, methods, strict=True):
        edit = {"key": key, "cross_until": 0.2} if key == "replace" else key
        alone = finished(studio, edit=edit, mask=MASK).cells[-1]
        assert np.array_equal(cell.images, alone.images), key
        assert cell.label == EDITS[key].label
        assert cell.figures["background_exact"] == 1.0 and cell.figures["background_psnr"] is None
        assert describe_edit(cell).count("outside the mask: identical") == 1
        # With the inversion's four evaluations, also where an earlier cell had made it.
        assert cell.figures["evaluations"] == alone.figures["evaluations"] + 4 * (key == "replace")
        record = studio.store.get(cell.results[0])
        assert record.kind == "compare_edits" and record.metadata["figures"]["edit"]["edit"]["key"] == key


def test_every_edit_is_run_on_each_inversion_and_one_without_any_once(studio):
    view = compared(studio, edits=["reprompt", "image_to_image"], inversions=["direct", "ddim", "edict"])
    labels = [cell.label for cell in view.cells]
    assert labels == [
        "Plain re-prompting · Direct Inversion",
        "Plain re-prompting · DDIM inversion",
        "Plain re-prompting · EDICT",
        "Image to image",
    ]
    assert [row["inversion"] and row["inversion"]["key"] for row in view.outcome["rows"]] == [
        "direct",
        "ddim",
        "edict",
        None,
    ]
    assert len({cell.images.tobytes() for cell in view.cells}) == 3  # Direct Inversion changes the source's row alone


def test_a_table_tells_equal_pixels_from_an_unknown_figure():
    figures = {"background_psnr": None, "source_ssim": None, "source_psnr": 20.12346}
    names = ("background_psnr", "source_ssim", "source_psnr", "prompt_probability")
    assert [format_figure(figures, name) for name in names] == ["inf", "", 20.1235, ""]


def test_what_cannot_run_stands_last_with_its_reason_and_stops_nothing(studio):
    view = compared(studio, edits=["inpaint", "flow_edit", "replace", "image_to_image"], source_prompt="a very red fox")
    assert view.status is JobStatus.DONE, view.message
    plain, inpaint, flow, replace = view.cells
    assert plain.images is not None and replace.images is None and inpaint.images is None
    assert "as many words" in replace.note and "needs a mask" in inpaint.note and "does not fit" in flow.note
    assert [bool(row["problem"]) for row in view.outcome["rows"]] == [False, True, True, True]
    refused = list_refused(view.cells[1:])
    assert "3 methods" in refused and "needs a mask" in refused and list_refused([]) == ""
    assert "to the source" in describe_edit(plain) and describe_edit(replace) == ""


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"edits": ["nothing"]}, "Unknown edit"),
        ({"edits": []}, "Give a list"),
        ({"edits": 3}, "Give a list"),
        ({"edits": [3]}, "Give a list"),
        ({"inversions": "magic"}, "Unknown inversion"),
        ({"edits": [{"key": "image_to_image", "strength": 3}]}, "strength"),
        ({"edits": ["inpaint", "outpaint"], "edit": {"key": "outpaint", "right": 0}}, "None of the 2"),
        ({"edits": "all", "inversions": "all"}, "At most 36"),
        ({"picture": None}, "no picture"),
        ({"others": 1}, "others"),
    ],
)
def test_what_is_wrong_is_said_before_it_is_queued(studio, values, said):
    with pytest.raises(SettingsError, match=said):
        compared(studio, **values)


def test_a_stop_keeps_what_is_finished(studio):
    base = {**BASE, "width": 32, "height": 32, "num_inference_steps": 60}
    values = {"base": base, "picture": PICTURE, "source_prompt": "a fox", "edits": "image_to_image, reprompt, masactrl"}
    job = studio.submit("compare_edits", values)
    while not job.view().cells or job.view().cells[0].images is None:
        job.wait(job.view().version, 1)
    job.cancel()
    view = ended(job)
    assert view.status is JobStatus.CANCELLED and view.cells[0].results and view.cells[2].images is None
    assert len(view.outcome["rows"]) == 3


@pytest.mark.parametrize("name", ["sheet.png", "table.csv"])
def test_the_command_writes_a_sheet_or_a_table(tmp_path, name):
    source = tmp_path / "source.png"
    Image.new("RGB", (64, 64), "green").save(source)
    out = tmp_path / name
    arguments = [
        "a fox on a blue background",
        "--picture",
        str(source),
        "--source-prompt",
        "a cat on a blue background",
    ]
    methods = ["--edit", "image_to_image,strength=0.5", "--edit", "reprompt", "--edit", "inpaint", "--steps", "2"]
    folder = ["--outputs-folder", str(tmp_path / "outputs")]
    assert main([*folder, "compare_edits", *arguments, *methods, "--seed", "1", "--out", str(out)]) == 0
    if name.endswith(".csv"):
        lines = out.read_text().splitlines()
        assert lines[0].startswith("edit,inversion,evaluations") and len(lines) == 4
        assert lines[2].startswith("reprompt,direct,6,") and "needs a mask" in lines[3]
    else:
        with Image.open(out) as sheet:
            assert sheet.size[0] > 500
