"""Which axis of a video pipeline's latents counts frames is known by its class: their lengths may be equal."""

from __future__ import annotations

import types

import diffusers
import pytest
import torch
from PIL import Image

from pipelines.families.stock import StockStep
from pipelines.families.stock_video import StockVideo
from pipelines.models.video_models import VIDEO_MODELS
from tests.pipelines.tiny_videos import tiny_svd


@pytest.mark.parametrize("frames", [3, 4, 5])  # its latents have four channels
def test_the_strip_of_stable_video_shows_its_frames(frames):
    pipe = tiny_svd()
    pipe.set_progress_bar_config(disable=True)
    events = StockVideo(pipe).run(
        {
            "image": Image.new("RGB", (64, 64), "teal"),
            "num_frames": frames,
            "width": 64,
            "height": 64,
            "num_inference_steps": 2,
            "generator": torch.Generator().manual_seed(0),
            "output_type": "latent",
        }
    )
    *steps, result = events
    assert torch.equal(steps[-1].latents, result.output.frames[0]) and len(steps[-1].latents) == frames
    assert StockVideo(pipe).preview(StockStep(0, 1, None, 0.0)) is None


def stock(pipeline: str, channels: int) -> StockVideo:
    pipe = object.__new__(getattr(diffusers, pipeline))
    object.__setattr__(pipe, "vae", types.SimpleNamespace(config={"latent_channels": channels}))
    return StockVideo(pipe)


@pytest.mark.parametrize("pipeline", VIDEO_MODELS)
@pytest.mark.parametrize("frames", [4, 5])
def test_every_known_pipeline_shows_frames_and_not_channels(pipeline, frames):
    first = pipeline.startswith(("CogVideoX", "StableVideo"))
    clip = torch.randn(frames, 4, 2, 3)
    latents = clip[None] if first else clip.transpose(0, 1)[None]
    assert torch.equal(stock(pipeline, 4)._unpack(latents, {}), clip)


def test_a_layout_that_is_unknown_shows_nothing():
    assert stock("WanPipeline", 16)._unpack(torch.randn(1, 5, 2, 2, 16), {}) is None
