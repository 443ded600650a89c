"""Video methods that run a pipeline of diffusers: steps, frames, first frame, settings."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from pipelines.core.cancelling import Cancelled
from pipelines.core.errors import MethodFitError, SettingsError
from pipelines.core.types import LoraChoice
from pipelines.families import family_of
from pipelines.families.stock import StockPipeline
from pipelines.models.entry import CatalogEntry
from pipelines.workflows.video import VIDEOS, fitting_videos
from pipelines.workflows.video.base import ClipStep, VideoJob
from tests.pipelines.network_state import assert_unchanged, broken_at, state_of
from tests.pipelines.tiny_models import tiny_sd
from tests.pipelines.tiny_videos import TINY_VIDEOS
from tests.pipelines.video_requests import BASE, OTHER, made, weights


@pytest.fixture(scope="module")
def sd():
    return family_of(tiny_sd().components)


CASES = {
    "walk": ("walk", 3, 32, False),
    "animatediff": ("animatediff", 4, 32, False),
    "svd": ("svd", 3, 64, True),
    "wan": ("pipeline", 5, 32, False),
    "ltx": ("pipeline", 9, 64, False),
    "ltx-picture": ("pipeline", 9, 64, True),
}
"""Name to method, frames, side, and whether it starts from a picture; at least one row for each line of the table."""


@pytest.fixture(scope="module")
def pipes():
    return {"walk": tiny_sd(), **{name: make() for name, make in TINY_VIDEOS.items()}}


def case(name, pipes):
    """A pipeline, what a method makes of it as the model, the method, and a clip to make."""
    key, frames, side, with_picture = CASES[name]
    pipe = pipes[name.partition("-")[0]]
    pixels = np.random.default_rng(0).integers(0, 256, (80, 96, 3), np.uint8) if with_picture else None
    base = BASE.replace(width=side, height=side, num_inference_steps=2)
    keys = (base, base.replace(**OTHER)) if key == "walk" else (base,)
    model = family_of(pipe.components) if key == "walk" else StockPipeline(pipe)
    settings = {"frames_at_once": 2} if key == "walk" else {}
    return pipe, model, VIDEOS[key].build(settings), VideoJob(keys, frames, 8, pixels)


def network_of(pipe):
    return getattr(pipe, "unet", None) or pipe.transformer


def test_every_method_of_the_table_has_a_case_and_fits_its_model(pipes):
    assert {key for key, *_ in CASES.values()} == set(VIDEOS)
    for name, (key, *_) in CASES.items():
        kind = {"family": "sd"} if key == "walk" else {"family": "stock", "kind": "video"}
        entry = CatalogEntry("tiny", "Tiny", **kind, pipeline=type(pipes[name.partition("-")[0]]).__name__)
        assert fitting_videos(entry)[0].key == key


@pytest.mark.parametrize("name", CASES)
def test_every_video_method_gives_steps_and_all_frames_and_the_same_again(name, pipes):
    _, model, method, job = case(name, pipes)
    steps, frames = made(method, job, model)
    assert [step.index for step in steps] == list(range(method.num_steps(job)))
    assert all(step.noisy.ndim == 4 and step.noisy.shape[-1] == 3 and len(step.noisy) <= 8 for step in steps)
    assert frames.dtype == np.uint8 and frames.shape == (job.frames, job.base.height, job.base.width, 3)
    assert np.array_equal(made(method, job, model)[1], frames)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("end", ["at once", "cancel", "error"])
def test_a_video_method_that_is_left_in_the_middle_leaves_the_model_as_it_was(name, end, pipes):
    pipe, model, method, job = case(name, pipes)
    network, seen = network_of(pipe), []
    with broken_at(network, 0) as calls:
        _, frames = made(method, job, model)
    before, parts = state_of(network), weights(pipe)
    expected, words = (RuntimeError, "broken") if end == "error" else (Cancelled, None)
    # The last call: in the middle of the last step.
    with broken_at(network, len(calls) if end == "error" else 0), pytest.raises(expected, match=words):
        for event in method.run(job, model, lambda: end == "at once" or (end == "cancel" and bool(seen))):
            seen.append(event)
    assert all(isinstance(event, ClipStep) for event in seen) or name == "walk"
    assert len(seen) >= (0 if end == "at once" else 1)
    assert_unchanged(network, before)
    assert weights(pipe).keys() == parts.keys() and all(
        torch.equal(now, parts[key]) for key, now in weights(pipe).items()
    )
    assert np.array_equal(made(method, job, model)[1], frames)


def test_the_first_frame_decides_the_clip(pipes):
    pipe, _, method, job = case("ltx-picture", pipes)
    clips = [
        list(method.run(dataclasses.replace(job, first_frame=pixels), StockPipeline(pipe), lambda: False))[-1].pictures
        for pixels in (None, np.zeros((64, 64, 3), np.uint8), np.full((64, 64, 3), 255, np.uint8))
    ]
    assert not np.array_equal(clips[0], clips[1]) and not np.array_equal(clips[1], clips[2])


def test_settings_reach_the_pipeline(pipes):
    pipe, _, _, job = case("svd", pipes)
    clips = [
        list(VIDEOS["svd"].build(settings).run(job, StockPipeline(pipe), lambda: False))[-1].pictures
        for settings in ({}, {"motion_bucket_id": 255})
    ]
    assert not np.array_equal(*clips)
    stock = StockPipeline(pipe)
    assert VIDEOS["svd"].build().arguments(job, stock)["max_guidance_scale"] > 1
    still = VIDEOS["svd"].build({"motion_bucket_id": 0, "noise_aug_strength": 0}).arguments(job, stock)
    assert (still["motion_bucket_id"], still["noise_aug_strength"], "prompt" in still) == (0, 0, False)
    with pytest.raises(MethodFitError, match="no negative prompt"):
        base = job.base.replace(negative_prompt="blurry")
        VIDEOS["svd"].build().arguments(dataclasses.replace(job, keys=(base,)), stock)


@pytest.mark.parametrize("key", [key for key in VIDEOS if key != "walk"])
def test_what_only_a_walk_reads_is_refused_elsewhere(key):
    method = VIDEOS[key].build()
    with pytest.raises(MethodFitError, match="LoRAs"):
        method.check(VideoJob((BASE.replace(loras=(LoraChoice("neon"),)),), 4, 8))
    with pytest.raises(MethodFitError, match="variation strength"):
        method.check(VideoJob((BASE.replace(variation_strength=0.5),), 4, 8))
    with pytest.raises(SettingsError, match="one prompt and one seed"):
        method.check(VideoJob((BASE, BASE), 4, 8))
