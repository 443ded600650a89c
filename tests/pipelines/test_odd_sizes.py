"""Pictures whose latents are not divisible by what a UNet halves: as diffusers makes them, with every method."""

from __future__ import annotations

import re

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from pipelines.caches import CACHES
from pipelines.core.denoiser import Denoiser
from pipelines.core.errors import PromptError, SettingsError
from pipelines.core.loop import Run, denoise
from pipelines.core.noise import NoiseSource
from pipelines.core.schedule import CLEAN
from pipelines.core.types import Choice, Request
from pipelines.edits.local_blend import WordMaps
from pipelines.guidance import GUIDANCE
from pipelines.models.cache import ModelCache
from pipelines.models.catalog import SHIPPED_128, Catalog
from pipelines.models.loader import Loader
from pipelines.requests.text_to_image import build_run, resolve
from pipelines.samplers import SAMPLERS

SIZE = {"width": 136, "height": 104}
"""Latents of 17 by 13 on the larger shipped model, which halves them three times."""


EXTRAS = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


@pytest.fixture(scope="module")
def larger(tmp_path_factory):
    loader = Loader(ModelCache(2**31, 2**28), Catalog(tmp_path_factory.mktemp("models")), device="cpu")
    with loader.model("emoji-128") as family:
        yield family


def draw(family, **changes):
    values = {"model": "emoji-128", "num_inference_steps": 3, "seed": 3, **SIZE, **changes}
    request = Request(prompt="a red fox and a blue whale", negative_prompt="a green frog", **values)
    *_, last = denoise(build_run(resolve(request, family), family))
    return last.latents


def finish(family, **changes):
    latents = draw(family, **changes)
    assert latents.shape[-2:] == (13, 17) and latents.isfinite().all()
    return latents


def test_a_picture_is_the_stock_pipelines(larger):
    scheduler = DDIMScheduler.from_pretrained(SHIPPED_128, subfolder="scheduler", clip_sample=False)
    parts = {name: larger.components[name] for name in ("unet", "vae", "text_encoder", "tokenizer")}
    pipeline = StableDiffusionPipeline(**parts, scheduler=scheduler, **EXTRAS)
    pipeline.set_progress_bar_config(disable=True)
    noise = NoiseSource([3])(torch.empty(1, *larger.latent_shape(SIZE["width"], SIZE["height"])))
    asked = {"num_inference_steps": 2, "guidance_scale": 3.0, "latents": noise, "output_type": "latent"}
    stock = pipeline("a red fox", **asked, **SIZE).images
    schedule = larger.noise_schedule
    levels = [*(schedule.at(float(time)) for time in scheduler.timesteps), schedule.at(0)]
    if scheduler.config.set_alpha_to_one:
        levels[-1] = CLEAN
    conditionings = larger.encode_prompts("a red fox", "", 1, tuple(SIZE.values()))
    denoiser = Denoiser(larger, GUIDANCE.build(Choice("cfg", {"guidance_scale": 3.0})), conditionings)
    *_, last = denoise(Run(denoiser, SAMPLERS["ddim"].build({}), levels, noise, NoiseSource([3]), schedule))
    assert (last.latents - stock).abs().max() < 1e-5 * stock.abs().max()


METHODS = [("guidance", key) for key in GUIDANCE] + [("cache", key) for key in CACHES]


@pytest.mark.slow
@pytest.mark.parametrize(("field", "key"), METHODS)
def test_every_guidance_and_cache_runs(larger, field, key):
    table = GUIDANCE if field == "guidance" else CACHES
    if table[key].fit(larger.traits):
        pytest.skip("it does not fit this model")
    change, plain = {field: Choice(key)}, finish(larger)
    try:
        finish(larger, **change)
    except (SettingsError, PromptError) as error:  # fitted to other steps, or words that it asks for: at any size
        with pytest.raises(type(error), match=re.escape(str(error))):
            draw(larger, width=128, height=128, **change)
    assert torch.equal(finish(larger), plain), "the network is as it was"


@pytest.mark.parametrize(("shape", "levels"), [((17, 13), 4), ((11, 7), 3), ((16, 16), 4)])
def test_local_blend_knows_the_grid_of_every_level(shape, levels):
    height, width = shape
    for _ in range(levels):
        blend = WordMaps((1,), (1,), shape)
        maps = torch.rand(2, 2, height * width, 4)
        blend.add(maps)
        mask = blend.mask()
        assert mask is not None and mask.shape == (1, 1, *shape)
        height, width = -(-height // 2), -(-width // 2)


@pytest.mark.parametrize("shape", [(64, 64), (128, 128), (90, 52)])
def test_local_blend_finds_the_place_in_maps_that_are_all_fine(shape):
    height, width = shape
    place = torch.zeros(shape)
    place[: height // 4, width // 2 :] = 1
    maps = place.reshape(1, 1, -1, 1).repeat(2, 2, 1, 3)
    blend = WordMaps((1,), (1,), shape)
    blend.add(maps)
    mask = blend.mask()[0, 0]
    assert mask[place.bool()].all() and mask.float().mean() < 3 * place.mean()
    coarse = WordMaps((1,), (1,), (64, 64))
    coarse.add(torch.eye(2).repeat_interleave(128, 1)[:1].reshape(1, 1, 256, 1).repeat(2, 2, 1, 3))
    alone = coarse.mask()
    coarse.add(1 - torch.ones(2, 2, 64 * 64, 3) * 0.5)
    assert torch.equal(coarse.mask(), alone), "coarse maps go before means of fine ones"
