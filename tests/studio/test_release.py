"""A server that others can reach: pictures are checked and marked before anybody sees them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from tiny_checker import save_checker

from studio.backend import Studio, StudioSettings
from studio.backend.release import UNCHECKED, WITHHELD
from studio.media.watermark import find_watermark
from studio.page.page import build_page
from studio.safety.flags import parse_flags
from studio.safety.protection import Protection
from tests.studio.waiting import ended

SMALL = {"prompt": "a fox", "model": "emoji", "num_inference_steps": 1, "seed": 3}


def build_studio(home, protection, threshold=None):
    if threshold is not None:
        save_checker(home / "models" / "checker", threshold)
    return Studio(StudioSettings(outputs=home / "outputs", models=home / "models", device="cpu", protection=protection))


def make(studio, task="text_to_image", values=SMALL):
    """The job's only cells with pictures, and the stored pictures of its results."""
    view = ended(studio.submit(task, values))
    assert view.status.value == "done", view.message
    results = [result for cell in view.cells for result in cell.results]
    return view.cells, [studio.store.get(result) for result in results]


@pytest.fixture(scope="module")
def marking(tmp_path_factory):
    studio = build_studio(tmp_path_factory.mktemp("marking"), Protection(True, True), threshold=1.1)
    yield studio
    studio.close()


@pytest.fixture(scope="module")
def withholding(tmp_path_factory):
    studio = build_studio(tmp_path_factory.mktemp("withholding"), Protection(True, False), threshold=-1.1)
    yield studio
    studio.close()


def test_pictures_that_pass_are_marked_where_they_are_shown_and_stored(marking, studio):
    (cell,), (record,) = make(marking)
    stored = np.asarray(Image.open(record.path).convert("RGB"))
    assert find_watermark(cell.images[0]) < 1e-6
    assert find_watermark(stored) < 1e-6
    (plain,), _ = make(studio)
    assert find_watermark(plain.images[0]) > 1e-6
    assert np.abs(plain.images[0].astype(int) - cell.images[0]).max() <= 4
    assert WITHHELD not in cell.note


TASKS = {
    "text_to_image": SMALL,
    "compare": {"base": SMALL, "x": {"field": "num_inference_steps", "values": "1, 2"}},
    "animate": {"base": {**SMALL, "model": "emoji"}, "frames": 3, "format": "webp", "keys": [{}, {"prompt": "a cat"}]},
    "quantize": {"base": SMALL, "variants": [{"key": "int8"}], "measure": False},
}


@pytest.mark.parametrize("task", TASKS)
def test_a_flagged_picture_is_shown_as_withheld_and_stored_nowhere(withholding, task):
    cells, records = make(withholding, task, TASKS[task])
    for cell in cells:
        assert WITHHELD in cell.note
        assert not cell.frames
        for picture in cell.images:
            assert np.median(picture) == 96  # the gray of the cover
    for record in records:
        with Image.open(record.path) as image:
            for number in range(getattr(image, "n_frames", 1)):
                image.seek(number)
                assert abs(np.median(np.asarray(image.convert("RGB"))) - 96) <= 2


def test_the_page_says_what_is_done_to_pictures(marking, studio):
    def read_header(one):
        return next(block for block in build_page(one).blocks.values() if block.elem_id == "header").value

    assert "invisible watermark" in read_header(marking) and "safety checker" in read_header(marking)
    assert "watermark" not in read_header(studio)


@pytest.fixture(scope="module")
def unchecking(tmp_path_factory):
    studio = build_studio(tmp_path_factory.mktemp("unchecking"), Protection(True, True))
    yield studio
    studio.close()


def test_a_missing_checker_is_said_at_the_start_and_on_the_page(unchecking):
    assert "stable-diffusion-safety-checker" in unchecking.release.explain_missing()
    assert unchecking.release.describe() == [
        "Pictures made here carry an invisible watermark.",
        "Pictures are not checked: no safety checker is installed.",
    ]


@pytest.mark.parametrize("task", TASKS)
def test_a_missing_checker_is_said_of_every_picture(unchecking, studio, task):
    assert all(cell.note.count(UNCHECKED) == 1 for cell in make(unchecking, task, TASKS[task])[0])
    assert not any(UNCHECKED in cell.note for cell in make(studio, task, TASKS[task])[0])


@pytest.mark.parametrize(
    ("arguments", "protection"),
    [
        ([], Protection(False, False)),
        (["--listen", "--auth", "a:b"], Protection(True, True)),
        (["--share", "--auth", "a:b", "--no-watermark"], Protection(True, False)),
        (["--host", "192.168.1.5", "--auth", "a:b", "--no-safety-checker"], Protection(False, True)),
        (["--watermark"], Protection(False, True)),
    ],
)
def test_both_are_on_where_others_can_reach_the_server(arguments, protection):
    assert parse_flags(arguments, {}).protection == protection


def test_both_are_on_in_a_space():
    assert parse_flags([], {"SYSTEM": "spaces", "SPACE_ID": "a/b"}).protection == Protection(True, True)
