"""A run begins only from what fits its recipe, and a model is judged only by a judge of its objects."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil

import pytest
from training_toys import TOY, toy_catalog

from pipelines.core.errors import TrainingError
from pipelines.emoji.objects import shipped_catalog
from pipelines.metrics.classifier import load_classifier
from pipelines.training import autoencoder, classifier, denoiser, denoiser_networks, evaluate, fit, noise_level
from pipelines.training.recipes import RECIPES

CPU, GPU = RECIPES["cpu"], RECIPES["gpu"]
PARTS = ("vae", "tokenizer", "unet", "text_encoder")


@pytest.fixture
def no_packages(monkeypatch):
    """The gpu recipe's objects are fetched: a refusal must come before that."""
    for module in (autoencoder, classifier, denoiser, evaluate, noise_level):
        monkeypatch.setattr(module, "catalog_for", lambda recipe: pytest.fail("objects were fetched"))


def test_the_shipped_model_fits_its_recipe_alone():
    fit.require_fit(fit.MODEL, CPU, PARTS)
    with pytest.raises(TrainingError) as refused:
        fit.require_fit(fit.MODEL, GPU, PARTS)
    for fact in (
        r"'gpu'",
        r"vae: factor 4, not 8",
        r"vae: sample_size 64, not 128",
        r"text_encoder: max_position_embeddings 24, not 32",
        r"tokenizer: model_max_length 24, not 32",
    ):
        assert re.search(fact, str(refused.value)), fact


@pytest.mark.parametrize(
    ("change", "part", "fact"),
    [
        ({"size": 128}, "unet", "sample_size 16, not 32"),
        ({"denoiser": dataclasses.replace(CPU.denoiser, tokens=30)}, "text_encoder", "24, not 30"),
        ({"denoiser": dataclasses.replace(CPU.denoiser, tokens=30)}, "tokenizer", "24, not 30"),
        ({"autoencoder": dataclasses.replace(CPU.autoencoder, latent_channels=8)}, "unet", "in_channels 4, not 8"),
        ({"autoencoder": dataclasses.replace(CPU.autoencoder, widths=(16, 96))}, "vae", "factor 4, not 2"),
    ],
)
def test_one_difference_is_enough(change, part, fact):
    with pytest.raises(TrainingError, match=fact):
        fit.require_fit(fit.MODEL, dataclasses.replace(CPU, **change), (part,))


def test_a_broken_or_missing_part_is_named(tmp_path):
    with pytest.raises(TrainingError, match="no 'vae'"):
        fit.require_fit(tmp_path, CPU, ("vae",))
    (tmp_path / "vae").mkdir()
    for text in ("not JSON", "[]", "{}"):
        (tmp_path / "vae" / "config.json").write_text(text)
        with pytest.raises(TrainingError, match=r"'vae'.*cannot be read"):
            fit.require_fit(tmp_path, CPU, ("vae",))


@pytest.mark.parametrize("arguments", [[], ["--fresh"]])
def test_the_denoiser_of_another_recipe_has_no_default_start(tmp_path, no_packages, arguments):
    with pytest.raises(TrainingError, match="'gpu' needs --start"):
        denoiser.main(["--recipe", "gpu", "--run-dir", str(tmp_path), *arguments])


@pytest.mark.parametrize("module", [classifier, noise_level])
def test_neither_has_what_else_needs_an_autoencoder(tmp_path, no_packages, module):
    with pytest.raises(TrainingError, match="'gpu' needs --start"):
        module.main(["--recipe", "gpu", "--run-dir", str(tmp_path)])


@pytest.mark.parametrize("module", [autoencoder, classifier, denoiser, noise_level])
def test_a_start_of_another_recipe_is_refused(tmp_path, no_packages, module):
    fresh = ["--fresh"] if module is denoiser else []
    for more in ([], fresh):
        with pytest.raises(TrainingError, match="factor 4, not 8"):
            module.main(["--recipe", "gpu", "--run-dir", str(tmp_path), "--start", str(fit.MODEL), *more])
    assert not list(tmp_path.iterdir())


def test_a_tokenizer_left_by_another_recipe_is_refused(tmp_path):
    shutil.copytree(fit.MODEL / "tokenizer", tmp_path / "tokenizer")
    longer = dataclasses.replace(CPU, denoiser=dataclasses.replace(CPU.denoiser, tokens=32))
    with pytest.raises(TrainingError, match="model_max_length 24, not 32"):
        denoiser_networks.fresh_networks(longer, toy_catalog(), fit.MODEL, tmp_path / "tokenizer")


def test_evaluate_of_another_recipe_has_no_default_model_and_judge(no_packages):
    with pytest.raises(TrainingError, match="'gpu' needs --model"):
        evaluate.main(["--recipe", "gpu"])
    with pytest.raises(TrainingError, match="'gpu' needs --classifier"):
        evaluate.main(["--recipe", "gpu", "--model", str(fit.MODEL)])
    for option in ("--model", "--candidate"):
        named = {"--model": str(fit.MODEL), "--classifier": str(fit.JUDGE), option: str(fit.MODEL)}
        with pytest.raises(TrainingError, match="factor 4, not 8"):
            evaluate.main(["--recipe", "gpu", *(word for pair in named.items() for word in pair)])


def test_a_judge_of_other_objects_is_refused(monkeypatch, tmp_path):
    judge = load_classifier(fit.JUDGE)
    fit.require_judge(judge, CPU, shipped_catalog())
    with pytest.raises(TrainingError, match=r"71 objects.*\b6\b.*beyond them"):
        fit.require_judge(judge, CPU, toy_catalog())
    with pytest.raises(TrainingError, match="64 px, not 128"):
        fit.require_judge(judge, dataclasses.replace(CPU, size=128), shipped_catalog())
    judge.backgrounds = judge.backgrounds[1:]
    with pytest.raises(TrainingError, match=r"backgrounds.*'red'"):
        fit.require_judge(judge, CPU, shipped_catalog())
    few = dataclasses.replace(CPU, name="few", objects=TOY.objects)
    monkeypatch.setitem(RECIPES, "few", few)
    monkeypatch.setattr(evaluate, "measure", lambda *_: pytest.fail("it was measured"))
    with pytest.raises(TrainingError, match="71 objects"):
        evaluate.main(["--recipe", "few", "--model", str(fit.MODEL), "--classifier", str(fit.JUDGE)])
    assert json.loads((fit.MODEL / "figures.json").read_text())
