"""The task "animate" through the studio: every tiny model, files, odd wishes, and the three doors."""

from __future__ import annotations

import base64
import errno
import io
import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from pipelines.core.errors import SettingsError
from pipelines.workflows.video.base import ClipStep
from studio.jobs.job import Cell, Job, JobStatus
from studio.jobs.view import SHARP_STEPS
from studio.media.clips import SUFFIXES, encode_clip, strip
from studio.page.video.viewer import ClipRenderer
from studio.tasks.runs import animate
from tests.studio import clip_runs
from tests.studio.clip_runs import MODELS, finished, frames_of, values
from tests.studio.task_examples import FOX as FOX_RUN
from tests.studio.task_examples import Example
from tests.studio.waiting import ended

EXAMPLE = Example({"base": FOX_RUN, "keys": [{"seed": 9}], "frames": 5, "format": "webp"}, {"frames": 24})
"""For the tests of all tasks."""

make_models = clip_runs.make_models


# Every model and every file.


@pytest.mark.parametrize("model", MODELS)
def test_every_model_makes_a_clip_and_stops_when_told(studio, model):
    view = finished(studio, model=model)
    assert view.status is JobStatus.DONE, view.message
    frames, side = MODELS[model]
    (cell,) = view.cells
    record = studio.store.get(cell.results[0])
    assert frames_of(record.path).shape == (frames, side, side, 3)
    assert (record.kind, record.width, record.height) == ("video", side, side)
    assert record.metadata["animate"]["frames"] == frames and record.metadata["request"]["seed"] == 5
    assert len(cell.rows) == cell.num_steps and len(cell.images) == min(8, frames)
    assert cell.frames[-1].strip.shape[0] == min(8, frames)
    job = studio.submit("animate", values(model=model, base={"num_inference_steps": 50}))
    while not (seen := job.view()).status.final and not any(one.rows for one in seen.cells):
        job.wait(seen.version, 5)
    job.cancel()
    while not job.status.final:
        job.wait(job.view().version, 5)
    assert job.status is JobStatus.CANCELLED and not job.view().cells[0].results
    assert np.array_equal(
        frames_of(studio.store.get(finished(studio, model=model).cells[0].results[0]).path), frames_of(record.path)
    )


def test_frames_of_a_walk_come_as_they_are_finished(studio):
    job = studio.submit(
        "animate", values(frames=12, method={"key": "walk", "frames_at_once": 2}, base={"num_inference_steps": 8})
    )
    seen, view = set(), job.view()
    while not view.status.final:
        view = job.wait(view.version, 5)
        seen |= {cell.frames[-1].finished for cell in view.cells if cell.frames}
    assert view.status is JobStatus.DONE and len(seen) >= 3, seen


@pytest.mark.parametrize("format", SUFFIXES)
def test_each_format_holds_the_frames_their_time_and_the_settings(studio, format):
    view = finished(studio, format=format, frames=6, fps=12)
    record = studio.store.get(view.cells[0].results[0])
    assert record.path.suffix == SUFFIXES[format]
    if format == "mp4":
        import av

        data = record.path.read_bytes()
        assert data.index(b"moov") < data.index(b"mdat")
        with av.open(str(record.path)) as clip:
            video = clip.streams.video[0]
            assert (video.codec_context.name, video.codec_context.pix_fmt, video.width) == ("h264", "yuv420p", 32)
            assert video.frames == 6 and float(video.duration * video.time_base) == pytest.approx(0.5)
            assert "Seed: 5" in clip.metadata["comment"]
        return
    with Image.open(record.path) as clip:
        total = 0
        for number in range(clip.n_frames):
            clip.seek(number)
            clip.load()
            total += clip.info["duration"]
        assert clip.n_frames == 6 and total == 500
    assert "Seed: 5" in record.parameters


def test_a_clip_that_cannot_be_stored_is_still_shown_and_can_be_taken(studio, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        job = studio.submit("animate", values(frames=5, fps=8, format="webp"))
        view = ended(job)
    assert view.status is JobStatus.FAILED and "full" in view.message
    parts = ClipRenderer(studio, "v", job)(view)
    assert parts["v-strip"]["src"].startswith("data:image/webp")
    assert parts["v-hero"] == {"src": parts["v-download"]["src"], "hidden": None}
    taken = base64.b64decode(parts["v-download"]["src"].removeprefix("data:image/webp;base64,"))
    with Image.open(io.BytesIO(taken)) as clip:
        assert clip.n_frames == 5
    kept = finished(studio, frames=5, fps=8, format="webp")
    assert kept.cells[0].clip == b""  # a stored one is not held twice


def test_an_mp4_of_odd_sides_is_padded_and_keeps_its_colors():
    import av

    frames = np.zeros((3, 33, 47, 3), np.uint8)
    frames[..., 0], frames[..., 1] = 220, 40
    with av.open(io.BytesIO(encode_clip(frames, 10, "mp4"))) as clip:
        decoded = list(clip.decode(video=0))
    assert len(decoded) == 3 and (decoded[0].width, decoded[0].height) == (48, 34)
    shown = decoded[0].reformat(format="rgb24", src_colorspace="ITU709").to_ndarray()
    assert np.abs(shown[10, 10].astype(int) - (220, 40, 0)).max() <= 4


def test_without_pyav_an_mp4_says_the_command_and_webp_still_works(studio, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(SettingsError, match=r"pip install -r requirements-video\.txt"):
        studio.submit("animate", values(format="mp4"))
    assert finished(studio, format="webp").status is JobStatus.DONE


def test_a_strip_is_one_small_picture():
    frames = np.random.default_rng(0).integers(0, 256, (8, 30, 52, 3), np.uint8)
    with Image.open(io.BytesIO(strip(frames))) as sheet:
        assert sheet.height == 96 and sheet.width == 8 * 166 + 7 * 4


def test_a_clips_sharp_preview_stands_until_the_next_or_until_it_is_old():
    job = Job("animate", SimpleNamespace())
    job.set_cells([Cell()])
    clip = animate._Clip(SimpleNamespace(frames=4), job, SimpleNamespace())

    def show(index, size, first=0):
        small = np.full((4, size, size, 3), index, np.uint8)
        clip._record(ClipStep(first, index, 30, small, small, 1.0, 1.0, 1.0, 1.0, 4))
        frame = job.view().cells[0].frames[-1]
        return int(frame.denoised[0, 0, 0, 0]), int(frame.strip[0, 0, 0, 0]) if first == 0 else None

    assert [show(0, 2), show(1, 16), show(2, 2), show(4, 2)] == [(0, 0), (1, 1), (1, 1), (1, 1)]
    assert show(1 + SHARP_STEPS, 2)[0] == 1 + SHARP_STEPS  # too old: the sketch of now says more
    assert show(11, 16)[0] == 11
    assert show(12, 2, first=4)[0] == 12  # other frames of the clip
