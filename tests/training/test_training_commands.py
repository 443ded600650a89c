"""The training commands from end to end on a toy recipe: what they print and write, and how they go on."""

from __future__ import annotations

import contextlib
import io
import json
import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file
from training_toys import TOY, toy_catalog

from pipelines.core.errors import TrainingError
from pipelines.emoji.objects import shipped_catalog
from pipelines.metrics.classifier import load_classifier
from pipelines.training import autoencoder, classifier, denoiser, denoiser_networks, evaluate, measures
from pipelines.training.card import FLOORS, GENERATED, figure_table
from pipelines.training.history import FRESH
from pipelines.training.latents import pictures_of
from pipelines.training.measures import generated_accuracy, judged, load_pipeline, named_captions
from pipelines.training.recipes import RECIPES
from pipelines.training.tokenizer import caption_corpus
from pipelines.training.trainer import Trainer

MAINS = {"autoencoder": autoencoder.main, "denoiser": denoiser.main, "classifier": classifier.main}


@pytest.fixture(autouse=True, scope="module")
def toy_recipe():
    """The toy recipe by its name, with a short corpus, few pictures on the denoiser's sheet and few steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RECIPES, "toy", TOY)
        patch.setattr(denoiser_networks, "caption_corpus", lambda catalog: caption_corpus(catalog, 200))
        patch.setattr(denoiser, "SHEET_CAPTIONS", denoiser.SHEET_CAPTIONS[:2])
        patch.setattr(measures, "STEPS", 6)
        yield


def command(kind: str, folder, *more: str) -> str:
    """Run a command for two steps; returns what it printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        MAINS[kind](["--recipe", "toy", "--run-dir", str(folder), "--steps", "2", *more])
    return printed.getvalue()


def beginning(kind: str, start) -> list[str]:
    return {"autoencoder": [], "classifier": ["--start", str(start)], "denoiser": ["--fresh", "--start", str(start)]}[
        kind
    ]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder in which the three commands ran one after the other, and what each printed."""
    folder = tmp_path_factory.mktemp("made")
    start = folder / "autoencoder" / "export"
    printed = {kind: command(kind, folder, *beginning(kind, start)) for kind in MAINS}
    return SimpleNamespace(folder=folder, start=start, printed=printed)


@pytest.mark.parametrize("kind", MAINS)
def test_a_command_prints_its_loss_and_writes_checkpoint_and_sheet(made, kind):
    found = re.search(r"step 2/2  loss (\S+)  [\d.]+ samples/s", made.printed[kind])
    assert found and 0 < float(found.group(1)) < math.inf
    facts = json.loads((made.folder / kind / "checkpoint" / "facts.json").read_text())
    assert (facts["step"], facts["steps"]) == (2, 2)
    with Image.open(made.folder / kind / "sheets" / "0000002.png") as sheet:
        assert sheet.width == 12 * TOY.size and np.ptp(np.asarray(sheet)) > 50


def test_the_exports_load_again(made):
    vae = AutoencoderKL.from_pretrained(made.start / "vae")
    found = re.search(r"held-out scenes: (\S+) dB; scaling factor (\S+)", made.printed["autoencoder"])
    assert float(found.group(2)) == pytest.approx(vae.config.scaling_factor, abs=1e-4)
    assert float(found.group(1)) == pytest.approx(
        autoencoder.held_out_psnr(vae.float(), toy_catalog(), TOY.size, 64), abs=0.1
    )
    export = made.folder / "denoiser" / "export"
    pipeline = StableDiffusionPipeline.from_pretrained(export)
    assert pipeline.text_encoder.config.max_position_embeddings == TOY.denoiser.tokens
    assert torch.equal(pipeline.vae.encoder.conv_in.weight, vae.encoder.conv_in.weight)
    assert np.array(json.loads((export / "preview.json").read_text())["factors"]).shape == (4, 3)
    judge = load_classifier(made.folder / "classifier" / "export")
    assert (judge.labels, judge.size) == (toy_catalog().labels, TOY.size)


@pytest.mark.parametrize("kind", MAINS)
def test_the_export_is_the_checkpoints_average(made, kind):
    averaged = load_file(made.folder / kind / "checkpoint" / "averaged.safetensors")
    where = {
        "autoencoder": "vae/diffusion_pytorch_model",
        "classifier": "model",
        "denoiser": "unet/diffusion_pytorch_model",
    }[kind]
    exported = load_file(made.folder / kind / "export" / f"{where}.safetensors")
    prefix = "unet." if kind == "denoiser" else ""
    for name, value in exported.items():
        assert torch.equal(value, averaged[prefix + name].half()), name


@pytest.mark.parametrize("precision", [[], ["--bf16"]], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("kind", MAINS)
def test_a_command_goes_on_bit_for_bit(made, tmp_path, monkeypatch, kind, precision):
    monkeypatch.setattr(Trainer, "show", lambda self: None)
    arguments = [*beginning(kind, made.start), *precision]
    assert "step 2/2" in command(kind, tmp_path / "unbroken", *arguments)
    for step in (1, 2):
        printed = command(kind, tmp_path / "broken", *arguments, "--minutes", "0")
        assert f"step {step}/2" in printed and printed.count("loss") == 1
    unbroken, broken = (
        {
            name: load_file(tmp_path / run / kind / "checkpoint" / f"{name}.safetensors")
            for name in ("networks", "averaged", "optimizer")
        }
        for run in ("unbroken", "broken")
    )
    for part, tensors in unbroken.items():
        assert tensors.keys() == broken[part].keys()
        assert all(torch.equal(value, broken[part][name]) for name, value in tensors.items()), part


@pytest.mark.parametrize("kind", MAINS)
def test_bfloat16_computes_in_it_and_keeps_float32_weights(made, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(Trainer, "show", lambda self: None)
    command(kind, tmp_path, *beginning(kind, made.start), "--bf16")
    coarse, fine = (load_file(run / kind / "checkpoint" / "networks.safetensors") for run in (tmp_path, made.folder))
    assert {value.dtype for value in coarse.values() if value.is_floating_point()} == {torch.float32}
    assert all(value.isfinite().all() for value in coarse.values())
    assert any(not torch.equal(value, fine[name]) for name, value in coarse.items())
    # rounding turns a few of Adam's first steps round; other data or weights would turn half
    apart = torch.cat([(value - fine[name]).flatten() for name, value in coarse.items()]).abs()
    assert apart.median() < 2e-4


def test_going_on_from_an_export_begins_with_its_weights(made, tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "show", lambda self: None)
    export = made.folder / "denoiser" / "export"
    _, tokenizer, networks = denoiser_networks.load_networks(TOY, export)
    command("denoiser", tmp_path, "--start", str(export))
    command("autoencoder", tmp_path, "--start", str(export))
    trained = load_file(tmp_path / "denoiser" / "checkpoint" / "networks.safetensors")
    begun = networks.state_dict()
    assert trained.keys() == begun.keys() and len(tokenizer) <= TOY.denoiser.vocabulary
    largest = max(float((trained[name] - value).abs().max()) for name, value in begun.items())
    # two warming steps move a weight by a rate's fraction; fresh weights are a tenth and more apart
    assert 0 < largest < 2 * TOY.denoiser.learning_rate
    vae = load_file(tmp_path / "autoencoder" / "checkpoint" / "networks.safetensors")
    begun = AutoencoderKL.from_pretrained(export / "vae", dtype=torch.float32).state_dict()
    assert max(float((vae[name] - value).abs().max()) for name, value in begun.items()) < 0.01


def test_a_folder_that_lacks_a_part_is_refused(made, tmp_path):
    with pytest.raises(TrainingError, match="no 'tokenizer'"):
        denoiser_networks.load_networks(TOY, made.start)
    with pytest.raises(TrainingError, match="no 'vae'"):
        denoiser_networks.fresh_networks(TOY, toy_catalog(), tmp_path, tmp_path / "tokenizer")


def test_evaluate_measures_a_toy_model(made, capsys):
    model, judge = made.folder / "denoiser" / "export", made.folder / "classifier" / "export"
    evaluate.main(
        [
            "--recipe",
            "toy",
            "--model",
            str(model),
            "--classifier",
            str(judge),
            "--captions",
            "2",
            "--run-dir",
            str(made.folder),
        ]
    )
    figures = json.loads((model / "figures.json").read_text())
    assert set(FLOORS) <= set(figures) and figures["captions"] == 2
    assert all(0 <= figures[name] <= 1 for name in GENERATED) and figures["seconds"] > 0
    assert figure_table(figures, FRESH) in (model / "README.md").read_text()
    assert f"| {figures['psnr']:.4g} dB |" in capsys.readouterr().out
    with Image.open(made.folder / "sheets" / "evaluate-2.png") as sheet:
        assert sheet.width == 12 * TOY.size


def test_generated_accuracy_fixes_the_noise_by_the_captions_number(made):
    pipeline = load_pipeline(made.folder / "denoiser" / "export")
    judge = load_classifier(made.folder / "classifier" / "export")
    cases = named_captions(toy_catalog(), 26, "train", 1)  # one more than a batch
    right, images = generated_accuracy(pipeline, judge, cases)
    assert right.shape == (26, 2) and images.shape == (26, 3, TOY.size, TOY.size)
    assert (right == judged(judge, images, [scene for scene, _ in cases])).all()
    alone = pipeline(
        cases[25][1],
        num_inference_steps=measures.STEPS,
        guidance_scale=4.0,
        output_type="pt",
        generator=torch.Generator().manual_seed(25),
    ).images[0]
    assert torch.allclose(images[25], alone, atol=1e-3)
    assert (images[25] - images[24]).abs().max() > 0.05


def test_generated_accuracy_gives_each_caption_its_own_truth():
    catalog, judge = shipped_catalog(), load_classifier()
    cases = named_captions(catalog, 30, "train", 1)
    scenes = {text: scene for scene, text in cases}

    def painter(captions, **_):
        """Draws what the caption says; every fifth picture on another background."""
        images = pictures_of([scenes[text] for text in captions], catalog, 64)
        images[::5] = 1 - images[::5]
        return SimpleNamespace(images=images)

    right, images = generated_accuracy(painter, judge, cases)
    spoiled = np.arange(30) % 5 == 0
    assert len(images) == 30 and right[~spoiled].mean() > 0.97
    assert right[spoiled, 1].mean() < 0.3
