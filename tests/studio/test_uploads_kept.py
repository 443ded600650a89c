"""What is kept of an upload: as much as its job can show, and not for ever."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from pipelines.workflows.edit.request import EditRequest, Picture, pixels_kept
from studio.tasks import TASKS
from studio.ui.running_tab import ReadyForms
from tests.studio.waiting import ended

LARGE = (3000, 2000)


def encoded(picture: Image.Image) -> str:
    stream = io.BytesIO()
    picture.save(stream, "PNG", compress_level=1)
    return base64.b64encode(stream.getvalue()).decode()


@pytest.fixture(scope="module")
def large() -> Image.Image:
    """Red on the left, blue on the right."""
    picture = Image.new("RGB", LARGE, "red")
    ImageDraw.Draw(picture).rectangle((LARGE[0] // 2, 0, *LARGE), fill="blue")
    return picture


@pytest.fixture(scope="module")
def mask() -> Image.Image:
    mask = Image.new("L", LARGE)
    ImageDraw.Draw(mask).rectangle((1200, 800, 1799, 1199), fill=255)
    return mask


def test_a_picture_is_scaled_to_what_it_may_have_and_a_small_one_is_the_same_object(large):
    picture = Picture(np.asarray(large))
    kept = picture.within(2**20)
    assert 0.99 * 2**20 < kept.size[0] * kept.size[1] <= 2**20 and kept.size == (1254, 836)
    assert kept.pixels[0, 0].tolist() == [255, 0, 0] and kept.pixels[-1, -1].tolist() == [0, 0, 255]
    assert kept.notes == ("The picture of 3000 × 2000 pixels was scaled to 1254 × 836.",)
    assert kept.within(2**20) is kept and picture.within(6_000_000) is picture


def test_a_mask_keeps_its_share_and_its_place(mask):
    kept = Picture(np.asarray(mask) > 127).within(2**20).pixels
    assert kept.dtype == bool and kept.mean() == pytest.approx(0.04, abs=1e-3)
    rows, columns = np.nonzero(kept)
    assert (columns.mean() / kept.shape[1], rows.mean() / kept.shape[0]) == pytest.approx((0.5, 0.5), abs=2e-3)


def test_what_is_kept_is_twice_the_picture_and_at_least_a_megapixel():
    assert pixels_kept(64, 64) == 2**20 and pixels_kept(1024, 1024) == 2 * 2**20


def test_an_edit_keeps_a_small_copy_of_a_large_upload_from_the_start(studio, large, mask):
    values = {"base": {"prompt": "a fox", "num_inference_steps": 1}, "picture": encoded(large), "mask": encoded(mask)}
    job = studio.submit("edit", {**values, "edit": "inpaint"})
    assert job.request.picture.size == job.request.mask.size == (1254, 836)
    view = ended(job)
    assert view.status.value == "done", view.message
    assert "3000 × 2000 pixels was scaled" in view.cells[-1].note
    assert job.request.picture.pixels.nbytes + job.request.mask.pixels.nbytes <= 4 * 2**20


def test_a_model_whose_size_is_known_only_when_it_runs_keeps_no_more_either(studio, large, monkeypatch):
    kept = iter([10**9, 2**18])  # when it is asked for, and when it runs
    monkeypatch.setattr(EditRequest, "count_pixels_kept", lambda request, width, height: next(kept))
    request = {"prompt": "a fox", "num_inference_steps": 1}
    job = studio.submit("edit", {"base": request, "picture": encoded(large)})
    view = ended(job)
    assert view.status.value == "done", view.message
    assert job.request.picture.size[0] * job.request.picture.size[1] <= 2**18


def test_a_first_frame_is_kept_small_too(studio, large):
    values = {"base": {"model": "ltx-video", "prompt": "a fox"}, "format": "webp", "first_frame": encoded(large)}
    request = TASKS["animate"].parse(values, studio)
    assert request.first_frame.size == (1254, 836)
    assert "3000 × 2000 pixels was scaled" in " ".join(request.notes)


def read(side: int) -> tuple[dict, dict]:
    return {}, {"picture": Image.new("RGBA", (side, side)), "mask": np.zeros((side, side), bool), "base": {}}


def test_forms_that_were_never_posted_are_forgotten_by_bytes():
    ready = ReadyForms()
    words = [ready.keep(read(4000)) for _ in range(5)]  # 80 MB each
    for word in words[:2]:
        with pytest.raises(KeyError):
            ready.take([word])
    assert [ready.take([word])[1]["mask"].shape for word in words[2:]] == [(4000, 4000)] * 3


def test_a_form_larger_than_all_may_be_together_is_kept_until_the_next():
    ready = ReadyForms()
    word = ready.keep(({}, {"picture": np.zeros((300, 2**20), bool)}))
    assert ready.take([word]) and ready.keep(({}, {}))


def test_forms_are_forgotten_by_time_and_by_number():
    now = [0.0]
    ready = ReadyForms(lambda: now[0])
    old = ready.keep(({}, {}))
    now[0] = 299.0
    late = ready.keep(({}, {}))
    now[0] = 302.0
    with pytest.raises(KeyError):
        ready.take([old])
    assert ready.take([late]) == ({}, {})
    words = [ready.keep(({}, {"number": number})) for number in range(65)]
    with pytest.raises(KeyError):
        ready.take([words[0]])
    assert ready.take([words[1]])[1] == {"number": 1}
