"""What a clip becomes of a wish: frame counts, sizes, and the models of the catalog."""

from __future__ import annotations

import pytest

from pipelines.core.errors import MethodFitError, SettingsError
from pipelines.families.stock import StockPipeline
from pipelines.models.catalog import published, shipped
from pipelines.models.entry import CatalogEntry
from pipelines.models.video_models import VIDEO_MODELS, plan_clip, video_model
from pipelines.workflows.video import VIDEOS, fitting_videos
from pipelines.workflows.video.base import VideoJob
from tests.pipelines.tiny_models import tiny_sd
from tests.pipelines.tiny_videos import TINY_VIDEOS
from tests.pipelines.video_requests import BASE


@pytest.fixture(scope="module")
def pipes():
    return {"walk": tiny_sd(), **{name: make() for name, make in TINY_VIDEOS.items()}}


def test_a_plan_is_what_the_pipeline_itself_makes(pipes):
    for name, wishes in {"wan": (6, 8, 16), "ltx": (2, 16)}.items():
        pipe = pipes[name]
        entry = CatalogEntry("tiny", "Tiny", "stock", kind="video", pipeline=type(pipe).__name__)
        for wish in wishes:
            plan = plan_clip(entry, wish, 40, 50)
            base = BASE.replace(width=plan.width, height=plan.height, num_inference_steps=1)
            *_, last = (
                fitting_videos(entry)[0]
                .build()
                .run(VideoJob((base,), plan.frames, 8), StockPipeline(pipe), lambda: False)
            )
            assert last.pictures.shape[:3] == (plan.frames, plan.height, plan.width)


@pytest.mark.parametrize(
    ("pipeline", "wish", "made"),
    [
        ("WanPipeline", 8, 9),
        ("WanPipeline", 16, 17),
        ("WanPipeline", 17, 17),
        ("WanPipeline", 19, 17),
        ("WanPipeline", 1, 1),
        ("LTXPipeline", 16, 17),
        ("LTXPipeline", 12, 9),
        ("LTXPipeline", 161, 161),
        ("AnimateDiffPipeline", 13, 13),
        ("StableVideoDiffusionPipeline", 14, 14),
        ("StableDiffusionPipeline", 7, 7),
    ],
)
def test_frames_snap_to_the_nearest_count(pipeline, wish, made):
    entry = CatalogEntry("x", "X", "stock", kind="video" if pipeline in VIDEO_MODELS else "image", pipeline=pipeline)
    plan = plan_clip(entry, wish)
    assert plan.frames == made and bool(plan.notes) == (made != wish)
    assert all(f"{wish} becomes {made}" in note for note in plan.notes)


def test_wans_own_rounding_agrees_with_ours():
    entry = CatalogEntry("x", "X", "stock", kind="video", pipeline="WanPipeline")
    assert [plan_clip(entry, wish).frames for wish in range(2, 100)] == [wish // 4 * 4 + 1 for wish in range(2, 100)]


def test_sizes_snap_to_the_models_grid():
    entry = CatalogEntry("x", "X", "stock", kind="video", pipeline="LTXPipeline")
    plan = plan_clip(entry, 9, 700, 500)
    assert (plan.width, plan.height) == (704, 512) and "multiples of 32" in plan.notes[0]
    assert plan_clip(entry, 9, 5, 704).width == 32
    with pytest.raises(SettingsError, match="is 40"):
        plan_clip(CatalogEntry("x", "X", "stock", kind="video", pipeline="AnimateDiffPipeline"), 40)


@pytest.mark.parametrize(
    "entry", [entry for entry in published() if entry.kind == "video"], ids=lambda entry: entry.key
)
def test_every_video_model_of_the_catalog_is_known_and_has_a_method(entry):
    assert entry.pipeline in VIDEO_MODELS and fitting_videos(entry)
    model = video_model(entry)
    plan = plan_clip(entry, entry.num_frames)
    assert plan.frames == entry.num_frames and not plan.notes
    assert model.frames == entry.num_frames or entry.num_frames


def test_every_known_pipeline_is_in_diffusers_with_the_arguments_it_is_given():
    import inspect

    import diffusers

    for name, model in VIDEO_MODELS.items():
        for cls in filter(None, (name, model.from_picture)):
            accepted = inspect.signature(getattr(diffusers, cls).__call__).parameters
            assert {"num_frames", "width", "height", "generator", "output_type", "callback_on_step_end"} <= set(
                accepted
            ), cls
            assert ("image" in accepted) == (model.first_frame == "needs" or cls == model.from_picture), cls
            assert ("prompt" in accepted) == model.prompt, cls


def test_each_model_gets_the_methods_that_fit_it():
    assert [method.key for method in VIDEOS.fitting(shipped())] == ["walk"]
    still = CatalogEntry("pixart", "PixArt", "stock", pipeline="PixArtSigmaPipeline")
    with pytest.raises(MethodFitError, match="PixArt cannot make clips here"):
        fitting_videos(still)
