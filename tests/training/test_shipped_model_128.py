"""The 128 px model that ships: stock format, strictly held out, and a card that says what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderTiny, DPMSolverMultistepScheduler, StableDiffusionPipeline
from safetensors import safe_open

from pipelines.core.loop import denoise
from pipelines.core.types import Choice, Request
from pipelines.emoji.compositions import sample_composition
from pipelines.emoji.objects import shipped_catalog
from pipelines.emoji.scenes import BACKGROUNDS
from pipelines.families import family_of
from pipelines.metrics.detector import load_detector
from pipelines.models.catalog import Catalog
from pipelines.requests.text_to_image import build_run, resolve
from pipelines.training.card import figure_table
from pipelines.training.composition_measures import COMPOSITION_FLOORS
from pipelines.training.exchange import FILES, fingerprint
from pipelines.training.fit import PARTS, require_fit
from pipelines.training.history import History, history_of
from pipelines.training.latents import pictures_of
from pipelines.training.recipes import find_recipe
from pipelines.training.tiny_decoder import measure_tiny_decoder

ASSETS = Path(__file__).resolve().parents[2] / "assets"
MODEL, JUDGE = ASSETS / "models" / "emoji-128", ASSETS / "models" / "emoji-128-detector"


@pytest.fixture(scope="module")
def pipeline():
    loaded = StableDiffusionPipeline.from_pretrained(MODEL)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def test_it_fits_its_recipe_and_loads_in_float32(pipeline):
    require_fit(MODEL, find_recipe("emoji-128"), PARTS)
    assert pipeline.unet.dtype == pipeline.vae.dtype == pipeline.text_encoder.dtype == torch.float32
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    assert len(pipeline.tokenizer) == pipeline.text_encoder.config.vocab_size


def test_its_weights_saw_no_held_out_pair():
    assert history_of(MODEL) == History(0)


def test_the_card_says_what_was_measured_of_these_files():
    figures = json.loads((MODEL / "figures.json").read_text())
    assert figures["model"] == fingerprint(MODEL, FILES)
    assert figures["judge"] == fingerprint(JUDGE, ("config.json", "model.safetensors"))
    card = (MODEL / "README.md").read_text()
    assert figure_table(figures, history_of(MODEL), COMPOSITION_FLOORS) in card
    assert "## Limits" in card


def test_files_are_half_precision_and_small():
    for path in (*MODEL.rglob("*.safetensors"), *JUDGE.rglob("*.safetensors")):
        assert path.stat().st_size < 48e6
        with safe_open(path, "pt") as weights:
            assert {weights.get_slice(key).get_dtype() for key in weights.keys()} == {"F16"}, path  # noqa: SIM118 - it is no mapping
    assert sum(path.stat().st_size for path in (ASSETS / "models").rglob("*.safetensors")) < 100e6


def test_the_judge_reads_fresh_renderings():
    detector, catalog = load_detector(JUDGE), shipped_catalog(None)
    assert detector.labels == catalog.labels and detector.backgrounds == tuple(BACKGROUNDS)
    drawn = [sample_composition(catalog, 800_000_000 + seed, "all") for seed in range(40)]
    right = 0
    for item, view in zip(drawn, detector.read(pictures_of([one.scene for one in drawn], catalog, 128)), strict=True):
        wanted = sorted(placed.label for placed in item.scene.objects), item.scene.background
        right += (sorted(seen.label for seen in view.objects), view.background) == wanted
    assert right >= 39


def test_the_studio_draws_what_the_stock_pipeline_draws(pipeline):
    request = Request(
        prompt="a duck in front of a castle on a pink background",
        sampler=Choice("dpmpp_2m"),
        schedule=Choice("uniform"),
        guidance=Choice("cfg", {"guidance_scale": 4.0}),
        num_inference_steps=5,
        width=128,
        height=128,
        seed=3,
    )
    family = family_of(pipeline.components)
    *_, last = denoise(build_run(resolve(request, family), family))
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config, timestep_spacing="trailing")
    expected = pipeline(
        request.prompt,
        num_inference_steps=5,
        guidance_scale=4.0,
        generator=torch.Generator().manual_seed(3),
        output_type="pt",
    ).images
    # a slip of one time step changes colors by several hundredths
    assert (family.decode(last.latents) - expected).abs().max() < 1e-3


def test_every_tab_may_offer_it():
    entry = Catalog(entries=None, folder=ASSETS / "nowhere")["emoji-128"]
    assert entry.defaults["width"] == entry.defaults["height"] == 128
    assert entry.size_bytes < 48e6 and entry.licence == "mit"


def test_the_tiny_decoder_paints_as_the_decoder_does(pipeline):
    tiny = AutoencoderTiny.from_pretrained(MODEL / "tiny_vae", dtype=torch.float32).eval()
    assert measure_tiny_decoder(tiny, pipeline.vae, shipped_catalog(), 128, count=8)["psnr"] > 30
