"""A few steps of each kind of training lower the loss, and a resumed run is the unbroken run."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from training_toys import TOY, toy_autoencoder, toy_classifier, toy_denoiser

from pipelines.core.errors import TrainingError
from pipelines.training import dataset
from pipelines.training.autoencoder import build_autoencoder
from pipelines.training.denoiser_networks import build_unet
from pipelines.training.objectives import gradient_l1, learning_rate, min_snr_loss, psnr
from pipelines.training.recipes import RECIPES, find_recipe
from pipelines.training.tokenizer import train_tokenizer
from pipelines.training.trainer import Settings, Trainer


def task_of(kind: str, seed: int, folder):
    if kind == "denoiser":
        return toy_denoiser(seed, folder / "tokenizer")
    return {"autoencoder": toy_autoencoder, "classifier": toy_classifier}[kind](seed)


def loss_of(task) -> float:
    """The mean over steps that training does not reach."""
    task.networks.eval()
    with torch.no_grad():
        return float(np.mean([task.loss(1_000 + step) for step in range(6)]))


@pytest.mark.parametrize("kind", ["autoencoder", "denoiser", "classifier"])
def test_training_lowers_the_loss_and_exports(kind, tmp_path):
    task = task_of(kind, 0, tmp_path)
    before = loss_of(task)
    steps = {"autoencoder": 40, "denoiser": 30, "classifier": 60}[kind]
    task.steps = steps
    trainer = Trainer(task, tmp_path / kind, Settings(steps, ema=0.9, sheet_every=10_000))
    assert trainer.run() == steps
    assert loss_of(task) < 0.8 * before
    assert any((tmp_path / kind / "export").rglob("*.safetensors"))
    with Image.open(tmp_path / kind / "sheets" / f"{steps:07d}.png") as sheet:
        assert sheet.width == 12 * TOY.size


@pytest.mark.parametrize("kind", ["autoencoder", "denoiser", "classifier"])
def test_a_resumed_run_is_bit_for_bit_the_unbroken_one(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "show", lambda self: None)
    unbroken = Trainer(task_of(kind, 0, tmp_path), tmp_path / "unbroken", Settings(4))
    unbroken.run()
    sessions = []
    for seed in range(4):  # each session builds other weights, which the checkpoint replaces
        chosen = seed if sessions else 0
        task = task_of(kind, chosen, tmp_path)
        sessions.append(Trainer(task, tmp_path / "broken", Settings(4, minutes=0)))
        assert sessions[-1].run() == seed + 1
    last = sessions[-1]
    for name, value in unbroken.task.networks.state_dict().items():
        assert torch.equal(value, last.task.networks.state_dict()[name]), name
        assert torch.equal(unbroken.averaged[name], last.averaged[name]), name
    states = [t.task.optimizer.state_dict()["state"] for t in (unbroken, last)]
    assert states[0].keys() == states[1].keys()
    for number, entry in states[0].items():
        for name, value in entry.items():
            assert torch.equal(value, states[1][number][name]), (number, name)


def test_checkpoints_are_no_pickles_and_survive_a_break(tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "show", lambda self: None)
    Trainer(toy_classifier(0), tmp_path, Settings(2)).run()
    folder = tmp_path / "checkpoint"
    assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".json"}
    folder.rename(tmp_path / "checkpoint.old")  # as a break in the middle of the exchange leaves it
    assert Trainer(toy_classifier(0), tmp_path, Settings(2)).step == 2


def test_a_checkpoint_of_other_networks_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "show", lambda self: None)
    Trainer(toy_classifier(0), tmp_path, Settings(1)).run()
    with pytest.raises(TrainingError, match="does not fit this run"):
        Trainer(toy_autoencoder(0), tmp_path, Settings(1))


def test_stopping_writes_a_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "show", lambda self: None)
    trainer = Trainer(toy_classifier(0), tmp_path, Settings(50))
    trainer.stop()
    assert trainer.run() == 1
    assert Trainer(toy_classifier(1), tmp_path, Settings(50)).step == 1


def test_showing_leaves_the_trained_weights(tmp_path):
    trainer = Trainer(toy_autoencoder(0), tmp_path, Settings(3, sheet_every=10_000))
    trainer.run()
    trained = {k: v.clone() for k, v in trainer.task.networks.state_dict().items()}
    assert any(not torch.equal(v, trainer.averaged[k]) for k, v in trained.items())
    trainer.show()
    for name, value in trainer.task.networks.state_dict().items():
        assert torch.equal(value, trained[name]), name


def test_min_snr_weights_are_the_papers():
    noise = torch.zeros(2, 1, 2, 2)
    alphas = torch.tensor([0.95, 0.5])  # SNR 19 and 1
    loss = min_snr_loss(noise + 1, noise, alphas, gamma=5.0)
    assert loss.item() == pytest.approx((5 / 19 + 1) / 2, rel=1e-5)


def test_psnr_and_gradients_are_the_formulas():
    target = torch.zeros(1, 3, 4, 4)
    assert psnr(target + 0.1, target).item() == pytest.approx(20.0, abs=1e-4)
    ramp = torch.arange(4.0).expand(1, 3, 4, 4)
    assert gradient_l1(ramp, target).item() == pytest.approx(1.0)


def test_the_learning_rate_rises_stays_and_falls():
    rates = [learning_rate(step, 100, 2.0, 10, 0.4) for step in range(101)]
    assert rates[0] == pytest.approx(0.2) and rates[9] == rates[50] == 2.0
    assert rates[80] == pytest.approx(1.0) and rates[100] == 0.0
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
    longer = [learning_rate(step, 1_000, 2.0, 10, 0.4) for step in range(60)]
    assert longer == rates[:60]


def test_recipes():
    assert set(RECIPES) == {"cpu", "gpu", "emoji-128"}
    assert RECIPES["cpu"].objects == 71 and RECIPES["cpu"].size == 64
    with pytest.raises(TrainingError, match="'tpu'"):
        find_recipe("tpu")


def test_the_dataset_command_draws_scenes_and_examples(tmp_path, capsys):
    dataset.main(["--run-dir", str(tmp_path), "--count", "4", "--examples", str(tmp_path / "ex")])
    assert "71 objects, 88 pairs held out" in capsys.readouterr().out
    assert (tmp_path / "dataset" / "scenes.png").is_file()
    assert len(list((tmp_path / "ex" / "edits").glob("*.png"))) == 45


def test_a_new_tokenizer_learns_words_and_splits_the_rest(tmp_path):
    tokenizer = train_tokenizer(["a fox on a blue background"] * 9 + ["four-leaf clover"], 700, 16, tmp_path)
    assert tokenizer.tokenize("A blue  fox") == ["a</w>", "blue</w>", "fox</w>"]
    parts = tokenizer.tokenize("zebu é")
    assert len(parts) > 2 and "".join(parts).startswith("zebu</w>")
    read = tokenizer("fox", padding="max_length", truncation=True).input_ids
    assert len(read) == 16 and read[0] == tokenizer.bos_token_id and read[2] == tokenizer.eos_token_id
    assert len(tokenizer) <= 700
    with pytest.raises(TrainingError, match="515"):
        train_tokenizer(["fox"], 300, 16, tmp_path / "small")


@pytest.mark.parametrize(("name", "millions"), [("cpu", (8, 12)), ("gpu", (16, 24))])
def test_the_recipes_networks_have_the_sizes_that_were_meant(name, millions):
    recipe = RECIPES[name]
    unet = build_unet(recipe.denoiser, recipe.autoencoder.latent_channels, 16)
    assert millions[0] < sum(p.numel() for p in unet.parameters()) / 1e6 < millions[1]
    vae = build_autoencoder(recipe.autoencoder, recipe.size)
    latents = vae.encode(torch.zeros(1, 3, recipe.size, recipe.size)).latent_dist.mean
    assert latents.shape == (1, 4, 16, 16)
