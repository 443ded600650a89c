"""The model that ships: stock format, right backgrounds, small, no pickles, nothing missing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, StableDiffusionPipeline
from PIL import Image
from safetensors import safe_open

from pipelines.emoji.objects import shipped_catalog
from pipelines.emoji.scenes import BACKGROUNDS, sample_scene
from pipelines.training.latents import encode, pictures_of

ASSETS = Path(__file__).resolve().parents[2] / "assets"
MODEL = ASSETS / "models" / "emoji"


@pytest.fixture(scope="module")
def pipeline():
    loaded = StableDiffusionPipeline.from_pretrained(MODEL)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def test_it_loads_in_float32_with_its_own_schedule(pipeline):
    assert pipeline.unet.dtype == pipeline.vae.dtype == torch.float32
    schedule = pipeline.scheduler.config
    assert (schedule.prediction_type, schedule.beta_schedule) == ("epsilon", "scaled_linear")
    blocks = pipeline.unet.config.down_block_types
    assert sum(kind.startswith("CrossAttn") for kind in blocks) >= 2
    assert len(pipeline.tokenizer) == pipeline.text_encoder.config.vocab_size


@pytest.mark.parametrize("scheduler", [DPMSolverMultistepScheduler, DDIMScheduler])
def test_it_puts_the_right_background(pipeline, scheduler):
    wanted = ["red", "blue", "green", "black", "white", "yellow"]
    objects = ["fox", "star", "penguin", "rocket", "cat face", "house"]
    captions = [f"a {name} on a {color} background" for name, color in zip(objects, wanted, strict=True)]
    pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config)
    drawn = pipeline(
        captions,
        num_inference_steps=15,
        guidance_scale=4.0,
        output_type="np",
        generator=torch.Generator().manual_seed(0),
    ).images
    border = np.concatenate([drawn[:, :3].reshape(6, -1, 3), drawn[:, -3:].reshape(6, -1, 3)], axis=1)
    colors = np.median(border, axis=1) * 255
    names, table = list(BACKGROUNDS), np.array(list(BACKGROUNDS.values()))
    nearest = [names[int(np.abs(table - color).sum(axis=1).argmin())] for color in colors]
    assert sum(a == b for a, b in zip(nearest, wanted, strict=True)) >= 5, nearest


def test_the_preview_is_close_to_the_picture(pipeline):
    preview = json.loads((MODEL / "preview.json").read_text())
    catalog = shipped_catalog()
    images = pictures_of([sample_scene(catalog, 10_000 + i) for i in range(16)], catalog, 64)
    latents = encode(pipeline.vae, images)
    factors, bias = torch.tensor(preview["factors"]), torch.tensor(preview["bias"])
    assert factors.shape == (4, 3) and bias.shape == (3,)
    drawn = torch.einsum("bchw,cd->bdhw", latents, factors) + bias.view(1, 3, 1, 1)
    small = torch.nn.functional.interpolate(images, (16, 16), mode="area")
    error = (drawn - small).square().mean().sqrt()
    assert error < 0.12
    assert error < 0.5 * (small - small.mean()).square().mean().sqrt()


def test_weights_are_half_precision_safetensors():
    networks = ("emoji", "emoji-classifier")  # what was fitted in closed form beside them is float32
    paths = [path for name in networks for path in (ASSETS / "models" / name).rglob("*.safetensors")]
    assert len(paths) >= 4
    for path in paths:
        with safe_open(path, "pt") as weights:
            kinds = {weights.get_slice(key).get_dtype() for key in weights.keys()}  # noqa: SIM118 - it is no mapping
        assert kinds == {"F16"}, path


def test_assets_are_small_and_hold_no_pickle():
    files = [path for path in ASSETS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files if path.suffix == ".safetensors") < 100e6
    assert sum(path.stat().st_size for path in files) < 105e6
    assert max(path.stat().st_size for path in files) < 48e6
    pickles = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".npy", ".npz"}
    assert not [path for path in files if path.suffix in pickles]


def test_the_tokenizer_has_clips_own_files():
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        assert (MODEL / "tokenizer" / name).is_file()


def test_examples_are_whole():
    folder = ASSETS / "examples"
    index = json.loads((folder / "index.json").read_text())
    assert len(index["edits"]) >= 10 and len(index["photographs"]) >= 3
    for record in index["edits"]:
        opened = [np.asarray(Image.open(folder / record[part])) for part in ("source", "target", "mask")]
        assert opened[0].shape == opened[1].shape == (64, 64, 3) and opened[2].shape == (64, 64)
        differs = (opened[0] != opened[1]).any(axis=-1)
        assert differs.any() and not differs[opened[2] == 0].any()
    for record in index["photographs"]:
        assert record["origin"] and record["licence"]
        with Image.open(folder / record["file"]) as photograph:
            assert max(photograph.size) <= 512


def test_the_notice_names_every_source():
    notice = (ASSETS / "NOTICE.md").read_text()
    for source in ("Microsoft", "LobeHub", "Miles Johnson", "CC0", "Permission is hereby granted"):
        assert source in notice
    for path in (ASSETS / "examples" / "photographs").iterdir():
        assert f"`{path.name}`" in notice
