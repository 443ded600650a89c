"""The motion adapter that ships: stock format, on the shipped UNet, with a card that says what was measured."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AnimateDiffPipeline, DPMSolverMultistepScheduler, MotionAdapter
from safetensors import safe_open

from pipelines.core.types import Choice, Request
from pipelines.emoji.objects import shipped_catalog
from pipelines.metrics.detector import load_detector
from pipelines.models.cache import ModelCache
from pipelines.models.catalog import Catalog
from pipelines.models.loader import Loader
from pipelines.training.card import figure_table
from pipelines.training.exchange import fingerprint
from pipelines.training.history import history_of
from pipelines.training.latents import encode
from pipelines.training.motion_measures import MOTION_FLOORS, load_motion_pipeline, measure_clips
from pipelines.workflows.video import VIDEOS
from pipelines.workflows.video.base import VideoJob

ASSETS = Path(__file__).resolve().parents[2] / "assets"
MODEL, BASE, JUDGE = (ASSETS / "models" / name for name in ("emoji-128-motion", "emoji-128", "emoji-128-detector"))
ADAPTER = MODEL / "motion_adapter"


def test_the_card_says_what_was_measured_of_these_files():
    figures = json.loads((MODEL / "figures.json").read_text())
    assert figures["model"] == fingerprint(MODEL, ("motion_adapter",))
    assert figures["judge"] == fingerprint(JUDGE, ("config.json", "model.safetensors"))
    card = (MODEL / "README.md").read_text()
    assert figure_table(figures, history_of(BASE), MOTION_FLOORS) in card and "## Limits" in card


def test_only_the_adapter_is_in_its_folder_and_in_half_precision():
    assert [path.relative_to(MODEL).as_posix() for path in MODEL.rglob("*.safetensors")] == [
        "motion_adapter/diffusion_pytorch_model.safetensors"
    ]
    with safe_open(ADAPTER / "diffusion_pytorch_model.safetensors", "pt") as weights:
        assert {weights.get_slice(key).get_dtype() for key in weights.keys()} == {"F16"}  # noqa: SIM118 - no mapping


@pytest.mark.parametrize("given", [False, True], ids=["", "from a first frame"])
def test_the_studio_draws_the_clip_of_the_stock_pipeline(given):
    prompt, frames = "a rocket moving up on a purple background", 3
    stock = AnimateDiffPipeline.from_pretrained(
        BASE, motion_adapter=MotionAdapter.from_pretrained(ADAPTER), dtype=torch.float32
    )
    stock.scheduler = DPMSolverMultistepScheduler.from_config(stock.scheduler.config, timestep_spacing="trailing")
    pixels = np.random.default_rng(3).integers(0, 256, (128, 128, 3), np.uint8) if given else None
    latents = torch.randn(1, 8, frames, 16, 16, generator=torch.Generator().manual_seed(7))

    def give(_, index, time, values):
        if given:
            values["latents"][:, :, 0] = first
        return values

    if given:
        first = encode(stock.vae, torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255)
        latents[:, :, 0] = first
    expected = stock(
        prompt,
        num_frames=frames,
        num_inference_steps=2,
        guidance_scale=4.0,
        latents=latents,
        callback_on_step_end=give,
        output_type="np",
    ).frames[0]
    base = Request(
        model="emoji-128-motion",
        prompt=prompt,
        sampler=Choice("dpmpp_2m"),
        schedule=Choice("uniform"),
        guidance=Choice("cfg", {"guidance_scale": 4.0}),
        num_inference_steps=2,
        width=128,
        height=128,
        seed=7,
    )
    loader = Loader(ModelCache(10**9, clock=time.monotonic), Catalog(ASSETS / "nowhere"), device="cpu")
    with loader.model("emoji-128-motion") as model:
        *_, last = VIDEOS["animatediff"].build().run(VideoJob((base,), frames, 8, pixels), model, lambda: False)
    assert last.pictures.shape == (frames, 128, 128, 3)
    assert (
        np.abs(last.pictures.astype(int) - np.rint(expected * 255).astype(int)).max() <= 1
    )  # rounding to whole colors


@pytest.mark.slow
def test_most_of_a_few_clips_go_where_they_should():
    pipeline = load_motion_pipeline(MODEL)
    with torch.autocast("cpu", torch.bfloat16):
        figures = measure_clips(pipeline, load_detector(), shipped_catalog(None), count=14, steps=15)
    # of 14 clips; the card's figure is that of 100
    measured = json.loads((MODEL / "figures.json").read_text())["direction"]
    assert figures["direction"] >= measured - 0.3 and figures["kept"] >= 0.6
