"""The flow transformer that ships: stock format, strictly held out, and a card that says what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusion3Pipeline
from safetensors import safe_open

from pipelines.core.loop import denoise
from pipelines.core.types import Choice, Request
from pipelines.families import family_of
from pipelines.families.preview import read_factors
from pipelines.models.catalog import Catalog
from pipelines.models.files import part_folder
from pipelines.requests.text_to_image import build_run, resolve
from pipelines.training.card import figure_table
from pipelines.training.composition_measures import COMPOSITION_FLOORS
from pipelines.training.exchange import FLOW_FILES, fingerprint
from pipelines.training.fit import require_fit
from pipelines.training.history import History, history_of
from pipelines.training.measures import load_pipeline
from pipelines.training.recipes import find_recipe

ASSETS = Path(__file__).resolve().parents[2] / "assets"
MODEL, JUDGE = ASSETS / "models" / "emoji-128-flow", ASSETS / "models" / "emoji-128-detector"
SIBLING = ASSETS / "models" / "emoji-128"


@pytest.fixture(scope="module")
def pipeline():
    return load_pipeline(MODEL)


def test_it_fits_its_recipe_and_loads_in_float32(pipeline):
    require_fit(MODEL, find_recipe("emoji-128"), ("vae", "tokenizer", "text_encoder", "transformer"))
    assert type(pipeline) is StableDiffusion3Pipeline and pipeline.text_encoder_3 is None
    parts = (pipeline.transformer, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2)
    assert {part.dtype for part in parts} == {torch.float32}
    assert len(pipeline.tokenizer) == pipeline.text_encoder.config.vocab_size
    assert 7.5e6 < sum(weight.numel() for weight in pipeline.transformer.parameters()) < 20e6


def test_its_autoencoder_is_the_unets_and_stands_once(pipeline):
    assert not (MODEL / "vae").exists() and part_folder(MODEL, "vae") == SIBLING / "vae"
    stock = StableDiffusion3Pipeline.from_pretrained(
        MODEL, vae=AutoencoderKL.from_pretrained(SIBLING, subfolder="vae"), text_encoder_3=None, tokenizer_3=None
    )
    assert (stock.vae.decoder.conv_in.weight == pipeline.vae.decoder.conv_in.weight).all()


def test_its_weights_saw_no_held_out_pair():
    assert history_of(MODEL) == History(0)


def test_the_card_says_what_was_measured_of_these_files():
    figures = json.loads((MODEL / "figures.json").read_text())
    assert figures["model"] == fingerprint(MODEL, FLOW_FILES)
    assert figures["judge"] == fingerprint(JUDGE, ("config.json", "model.safetensors"))
    card = (MODEL / "README.md").read_text()
    assert figure_table(figures, history_of(MODEL), COMPOSITION_FLOORS) in card
    assert "## Limits" in card


def test_files_are_half_precision_and_all_weights_stay_below_100_megabytes():
    for path in MODEL.rglob("*.safetensors"):
        assert path.stat().st_size < 48e6
        with safe_open(path, "pt") as weights:
            assert {weights.get_slice(key).get_dtype() for key in weights.keys()} == {"F16"}, path  # noqa: SIM118 - it is no mapping
    assert sum(path.stat().st_size for path in ASSETS.rglob("*.safetensors")) < 100e6


def test_the_studio_draws_what_the_stock_pipeline_draws(pipeline):
    family = family_of(pipeline.components | {"preview": read_factors(MODEL)})
    assert family.max_sequence_length == 0
    request = Request(
        prompt="a duck in front of a castle on a pink background",
        sampler=Choice("flow_euler"),
        schedule=Choice("uniform"),
        guidance=Choice("cfg", {"guidance_scale": 4.0}),
        num_inference_steps=5,
        width=128,
        height=128,
        seed=3,
    )
    run = build_run(resolve(request, family), family)
    *_, last = denoise(run)
    expected = pipeline(
        request.prompt,
        sigmas=[level.sigma for level in run.levels[:-1]],
        guidance_scale=4.0,
        generator=torch.Generator().manual_seed(3),
        output_type="pt",
        max_sequence_length=0,
    ).images
    assert (family.decode(last.latents) - expected).abs().max() < 1e-3


def test_every_tab_may_offer_it():
    entry = Catalog(entries=None, folder=ASSETS / "nowhere")["emoji-128-flow"]
    assert entry.defaults["width"] == entry.defaults["height"] == 128
    assert entry.family == "sd3" and entry.size_bytes < 48e6 and entry.licence == "mit"
