"""A tiny decoder that a person puts beside a model makes its previews, and counts as what it is."""

from __future__ import annotations

import itertools
import shutil

import pytest
import torch
from diffusers import AutoencoderTiny
from model_folders import UNET, loader_of

from pipelines.core.errors import ModelError, ModelFileError
from pipelines.families.tiny_decoders import decode_tiny
from pipelines.models.cache import ModelCache
from pipelines.models.catalog import Catalog
from pipelines.models.catalog_folder import scan
from pipelines.models.entry import CatalogEntry
from pipelines.models.loader import Loader
from pipelines.models.part_loading import loaded_bytes
from pipelines.requests import step_pictures


def tiny_decoder(folder, channels: int = 4, **saving) -> AutoencoderTiny:
    """A random one, which doubles each side twice."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        made = AutoencoderTiny(
            latent_channels=channels,
            encoder_block_out_channels=(8, 8, 8),
            decoder_block_out_channels=(8, 8, 8),
            num_encoder_blocks=(1, 1, 1),
            num_decoder_blocks=(1, 1, 1),
        ).eval()
    made.save_pretrained(folder, **saving)
    return made


LATENTS = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(0))


def test_a_folder_beside_a_models_parts_makes_its_previews_and_is_counted(models):
    loader = loader_of(models)
    with loader.model("one") as model:
        before = loader.cache.used_bytes
        assert model.preview(LATENTS).shape == (1, 3, 8, 8)
    decoder = tiny_decoder(models / "one" / "tiny_vae")
    with loader.model("one") as model:  # put there while the program runs
        expected = (decoder.decode(LATENTS, return_dict=False)[0] / 2 + 0.5).clamp(0, 1)
        assert torch.equal(model.preview(LATENTS), expected) and expected.shape == (1, 3, 32, 32)
        assert loader.cache.used_bytes - before == loaded_bytes(decoder)
        assert not any(weight.requires_grad for weight in model.components["tiny_vae"].parameters())
    assert any(row.label == "tiny_vae" and row.models == ("one",) for row in loader.memory())
    shutil.rmtree(models / "one" / "tiny_vae")
    with loader.model("one") as model:
        assert "tiny_vae" not in model.components and model.preview(LATENTS).shape == (1, 3, 8, 8)


def test_one_for_a_family_serves_its_published_models_and_no_others(models):
    entries = [
        CatalogEntry(name, name, "sd", repository=f"someone/{name}", pipeline="StableDiffusionPipeline")
        for name in ("one", "two")
    ]
    local = CatalogEntry("own", "Own", "sd", pipeline="StableDiffusionPipeline", path=models / "two")
    loader = Loader(ModelCache(10**9), Catalog(models, [*entries, local]), device="cpu")
    tiny_decoder(models / "tiny_vae" / "sd")
    with loader.model("one") as one, loader.model("two") as two, loader.model("own") as own:
        assert one.components["tiny_vae"] is two.components["tiny_vae"]
        assert "tiny_vae" not in own.components  # its latents may be any


def test_a_models_own_goes_before_its_familys(models):
    entry = CatalogEntry("one", "One", "sd", repository="someone/one", pipeline="StableDiffusionPipeline")
    loader = Loader(ModelCache(10**9), Catalog(models, [entry]), device="cpu")
    tiny_decoder(models / "tiny_vae" / "sd", channels=16)
    tiny_decoder(models / "one" / "tiny_vae")
    with loader.model("one") as model:
        assert model.components["tiny_vae"].config.latent_channels == 4


def test_pickles_are_refused(models):
    tiny_decoder(models / "one" / "tiny_vae", safe_serialization=False)
    with pytest.raises(ModelFileError, match="pickles"), loader_of(models).model("one"):
        pass


def test_one_for_other_latents_is_refused_with_what_to_do(models):
    tiny_decoder(models / "one" / "tiny_vae", channels=16)
    with pytest.raises(ModelError, match=r"16 channels.*4.*[Rr]emove"), loader_of(models).model("one"):
        pass


def test_the_folder_of_tiny_decoders_is_no_model(models):
    tiny_decoder(models / "tiny_vae" / "sd")
    shutil.copy(models / "one" / UNET, models / "tiny_vae" / "stray.safetensors")
    assert {entry.label for entry in scan(models)} == {"one", "two", "three", "xl"}


def test_a_decoder_that_makes_pixels_as_channels_lays_them_out():
    made = AutoencoderTiny(
        out_channels=12,
        latent_channels=4,
        encoder_block_out_channels=(4, 4),
        num_encoder_blocks=(1, 1),
        decoder_block_out_channels=(8,),
        num_decoder_blocks=(1,),
    ).eval()
    with torch.no_grad():
        channels, pixels = made.decode(LATENTS).sample, decode_tiny(made, LATENTS)
    assert pixels.shape == (1, 3, 16, 16)
    for color, row, column in itertools.product(range(3), range(2), range(2)):
        assert torch.equal(pixels[0, color, row::2, column::2], channels[0, 4 * color + 2 * row + column])


class TwoWays:
    """A model that paints slowly and sketches at once, by a clock of its own."""

    paints_twice = True

    def __init__(self):
        self.now, self.painted = 0.0, 0

    def paint(self, latents):
        self.now, self.painted = self.now + 0.004, self.painted + 1
        return latents

    def sketch(self, latents):
        return -latents


@pytest.mark.parametrize(("step_seconds", "least", "most"), [(0.03, 9, 13), (1.0, 49, 49)])
def test_sharp_previews_take_three_hundredths_of_a_run_and_the_rest_is_sketched(step_seconds, least, most, monkeypatch):
    model = TwoWays()
    monkeypatch.setattr(step_pictures.time, "thread_time", lambda: model.now)
    painter = step_pictures._Painter(model)
    for step in range(50):
        model.now += step_seconds
        noisy, denoised, is_sharp = painter.paint(LATENTS, LATENTS + 1, False)
        assert torch.equal(noisy, -LATENTS)
        assert torch.equal(denoised, LATENTS + 1 if is_sharp else -LATENTS - 1) and not (step == 0 and is_sharp)
    assert least <= model.painted <= most
    *_, is_sharp = painter.paint(LATENTS, LATENTS, True)
    assert is_sharp  # whatever it has taken so far
    assert 0.004 * (model.painted - 1) <= step_pictures.PREVIEW_SHARE * model.now + 0.004
