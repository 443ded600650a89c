"""The parts of the 128 px model's training, on recipes so small that a step takes milliseconds."""

from __future__ import annotations

import argparse
import copy
import dataclasses

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from training_toys import TOY

from pipelines.core.errors import TrainingError
from pipelines.emoji.compositions import KINDS, SIZES, sample_composition
from pipelines.emoji.objects import Catalog, shipped_catalog
from pipelines.emoji.scenes import is_held_out
from pipelines.metrics.detector import (
    Detection,
    View,
)
from pipelines.training.autoencoder import build_autoencoder
from pipelines.training.command_options import read_sizes
from pipelines.training.composition_autoencoder import (
    CompositionAutoencoderTask,
    normalize_latents,
    prepare_autoencoder,
)
from pipelines.training.composition_denoiser import (
    CompositionDenoiserTask,
    CompositionPool,
    composition_corpus,
)
from pipelines.training.denoiser_networks import build_text_encoder, build_unet
from pipelines.training.muon import Muon, orthogonalize
from pipelines.training.objectives import assign_noise, soft_snr_v_loss
from pipelines.training.tokenizer import train_tokenizer
from pipelines.training.trainer import Settings, Trainer

RECIPE = dataclasses.replace(TOY, denoiser=dataclasses.replace(TOY.denoiser, tokens=32, first=16, fresh=1, batch=4))


def catalog() -> Catalog:
    shipped = shipped_catalog(None)
    return Catalog(shipped.objects[:12], shipped.folder)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train_tokenizer(composition_corpus(catalog(), 200), 700, 32, tmp_path_factory.mktemp("tokenizer"))


def denoiser(tokenizer, folder=None, keep_text=False) -> CompositionDenoiserTask:
    torch.manual_seed(0)
    vae = build_autoencoder(RECIPE.autoencoder, RECIPE.size)
    unet = build_unet(RECIPE.denoiser, 4, RECIPE.size // 2)
    networks = torch.nn.ModuleDict({"unet": unet, "text_encoder": build_text_encoder(RECIPE.denoiser, tokenizer)})
    networks["text_encoder"].requires_grad_(not keep_text)
    return CompositionDenoiserTask(RECIPE, networks, vae, tokenizer, catalog(), latents_file=folder)


def test_a_kept_text_encoder_does_not_learn(tokenizer):
    task = denoiser(tokenizer, keep_text=True)
    before = {name: weight.clone() for name, weight in task.networks["text_encoder"].named_parameters()}
    unet = {name: weight.clone() for name, weight in task.networks["unet"].named_parameters()}
    task.loss(0).backward()
    task.optimizer.step()
    assert all(torch.equal(before[name], now) for name, now in task.networks["text_encoder"].named_parameters())
    assert any(not torch.equal(unet[name], now) for name, now in task.networks["unet"].named_parameters())


def view(*objects, background="blue") -> View:
    return View(tuple(Detection(*item, 1.0) for item in objects), background, 1.0)


def test_orthogonalized_steps_have_singular_values_near_one():
    for shape in ((24, 60), (60, 24)):
        matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        values = torch.linalg.svdvals(orthogonalize(matrix).float())
        # the published coefficients bring them between 0.7 and 1.2, give or take bfloat16
        assert values.min() > 0.6 and values.max() < 1.3


def test_muon_turns_tables_and_vectors_over_to_adam():
    weight, table, vector = (torch.nn.Parameter(torch.zeros(shape)) for shape in ((8, 6), (8, 6), (6,)))
    optimizer = Muon([{"params": [weight, vector]}, {"params": [table], "orthogonal": False}], lr=0.01)
    gradient = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    for parameter in (weight, table):
        parameter.grad = gradient.clone()
    vector.grad = gradient[0].clone()
    optimizer.step()
    # Adam's first step is the sign of the gradient times the rate
    assert torch.allclose(table, -0.01 * gradient.sign(), atol=1e-6)
    assert torch.allclose(vector, -0.01 * gradient[0].sign(), atol=1e-6)
    assert 0.7 < weight.square().mean().sqrt() / (0.2 * 0.01) < 1.3


def test_the_velocity_loss_is_an_x0_loss_of_known_weight():
    generator = torch.Generator().manual_seed(0)
    latents, noise, wrong = (torch.randn(5, 4, 3, 3, generator=generator) for _ in range(3))
    alphas = torch.tensor([0.995, 0.8, 0.5, 0.1, 0.005])
    scale = alphas.view(-1, 1, 1, 1)
    noisy = scale.sqrt() * latents + (1 - scale).sqrt() * noise
    velocity = scale.sqrt() * noise - (1 - scale).sqrt() * latents
    predicted = velocity + 0.1 * wrong
    denoised = scale.sqrt() * noisy - (1 - scale).sqrt() * predicted
    snr = alphas / (1 - alphas)
    error = (denoised - latents).square().mean(dim=(1, 2, 3)) * (snr + 1)
    assert torch.allclose(soft_snr_v_loss(predicted, velocity, alphas, 0.0), error.mean(), rtol=1e-4)
    weighted = (error * snr / (snr + 0.1)).mean()
    assert torch.allclose(soft_snr_v_loss(predicted, velocity, alphas, 0.1), weighted, rtol=1e-4)


def test_assigned_noise_is_the_same_noise_and_nearer():
    generator = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(16, 4, 3, 3, generator=generator) for _ in range(2))
    assigned = assign_noise(latents, noise)
    assert sorted(assigned.sum(dim=(1, 2, 3)).tolist()) == sorted(noise.sum(dim=(1, 2, 3)).tolist())
    assert (assigned - latents).flatten(1).norm(dim=1).sum() < (noise - latents).flatten(1).norm(dim=1).sum()


def test_normalized_latents_are_standard_and_decode_to_the_same():
    torch.manual_seed(0)
    vae = prepare_autoencoder(build_autoencoder(RECIPE.autoencoder, RECIPE.size)).eval()
    images = torch.rand(6, 3, 32, 32)
    normalized = copy.deepcopy(vae)
    normalize_latents(normalized, images)
    with torch.no_grad():
        before, after = (one.encode(images * 2 - 1).latent_dist for one in (vae, normalized))
        assert after.mean.mean(dim=(0, 2, 3)).abs().max() < 1e-4
        assert (after.mean.std(dim=(0, 2, 3)) - 1).abs().max() < 1e-4
        assert torch.allclose(after.std * before.mean.std(dim=(0, 2, 3))[:, None, None], before.std, rtol=1e-3)
        assert torch.allclose(normalized.decode(after.mean).sample, vae.decode(before.mean).sample, atol=1e-4)


def test_the_decoder_alone_leaves_the_latents_as_they_are(tmp_path):
    vae = build_autoencoder(RECIPE.autoencoder, RECIPE.size)
    task = CompositionAutoencoderTask(RECIPE, vae, catalog(), steps=2, decoder=True, pool=16)
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    Trainer(task, tmp_path, Settings(steps=2, sheet_every=10, save_every=10)).run()
    changed = {name.split(".")[0] for name, value in vae.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"decoder", "post_quant_conv"}


def test_autoencoder_learns_from_trained_pairs_alone(monkeypatch):
    import pipelines.training.composition_autoencoder as module

    seen = []

    def recorded(*arguments):
        composition = sample_composition(*arguments)
        seen.append(composition.scene)
        return composition

    monkeypatch.setattr(module, "sample_composition", recorded)
    vae = build_autoencoder(RECIPE.autoencoder, RECIPE.size)
    task = CompositionAutoencoderTask(RECIPE, vae, catalog(), steps=8, pool=300)
    for step in range(5):
        assert torch.isfinite(task.loss(step))
    assert len(seen) > 200
    assert not any(is_held_out(placed.label, scene.background) for scene in seen for placed in scene.objects)


def test_a_resumed_pool_has_the_latents_of_an_unbroken_one(tmp_path):
    vae = build_autoencoder(RECIPE.autoencoder, RECIPE.size).eval()

    def drawn(pool, step):
        return pool.batch(step, 4, np.random.default_rng(step), 0.1)

    file = tmp_path / "latents.safetensors"
    whole = CompositionPool(vae, catalog(), 32, 24, 16, 1, 0)
    kept = CompositionPool(vae, catalog(), 32, 24, 16, 1, 0, file)
    for step in (0, 1, 17, 40):
        first, again = drawn(whole, step), drawn(kept, step)
        assert torch.equal(first[0], again[0]) and first[1:] == again[1:]
    resumed = CompositionPool(vae, catalog(), 32, 24, 16, 1, 0, file)
    assert torch.allclose(drawn(resumed, 40)[0], first[0], atol=2e-3)  # float16, and another order of batches
    assert file.is_file()


def test_single_objects_get_the_share_that_is_asked_for():
    vae = build_autoencoder(RECIPE.autoencoder, RECIPE.size).eval()
    pool = CompositionPool(vae, catalog(), 32, 24, 16, 1, 0, singles=0.6)
    kinds = [pool._draw_composition(number).kind for number in range(1000)]
    # three standard deviations of a share of 0.6 among 1,000
    assert abs(kinds.count("single") / 1000 - 0.6) < 0.047
    assert set(kinds) == set(KINDS)
    with pytest.raises(TrainingError, match=r"0\.1"):
        CompositionPool(vae, catalog(), 32, 24, 16, 1, 0, singles=0.1)


def test_the_further_single_objects_have_the_sizes_that_are_asked_for():
    vae = build_autoencoder(RECIPE.autoencoder, RECIPE.size).eval()
    assert read_sizes("none, large,large") == (None, "large", "large")
    pool = CompositionPool(vae, catalog(), 32, 24, 16, 1, 0, singles=1, sizes=read_sizes("none,large,large"))
    drawn = [pool._draw_composition(number) for number in range(600)]
    assert {composition.size for composition in drawn} == {None, "large"}
    large = [composition for composition in drawn if composition.size == "large"]
    assert abs(len(large) / 600 - 2 / 3) < 0.058  # three standard deviations
    assert all(SIZES["large"][0] <= composition.scene.objects[0].size <= SIZES["large"][1] for composition in large)
    with pytest.raises(argparse.ArgumentTypeError, match="huge"):
        read_sizes("none,huge")


def test_the_denoiser_trains_and_loads_in_the_stock_pipeline(tmp_path, tokenizer):
    trainer = Trainer(denoiser(tokenizer), tmp_path, Settings(steps=3, sheet_every=10, save_every=10))
    trainer.task.sheet_captions = trainer.task.sheet_captions[:1]
    assert trainer.run() == 3
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "export")
    pipeline.set_progress_bar_config(disable=True)
    assert isinstance(pipeline.scheduler, DDIMScheduler)
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    drawn = pipeline("a small fox", num_inference_steps=2, output_type="np").images
    assert drawn.shape == (1, 32, 32, 3) and np.isfinite(drawn).all()
    goes_on = Trainer(denoiser(tokenizer), tmp_path, Settings(steps=4, sheet_every=10, save_every=10))
    assert goes_on.step == 3


def test_reading_the_captions_is_a_part_of_the_loss(tokenizer):
    losses = {}
    for weight in (0.0, 1.0):
        task = denoiser(tokenizer)
        task.shape = dataclasses.replace(task.shape, reading=weight)
        losses[weight] = task.loss(3)
    reader = task.networks["caption_reader"]
    _, captions, compositions = task.compositions.batch(
        3, task.batch, np.random.default_rng([0, 3]), RECIPE.denoiser.empty_captions
    )
    embeds = task.networks["text_encoder"](task._tokenize(captions))[0]
    read = reader.loss(embeds, reader.targets(compositions, captions))
    torch.testing.assert_close(losses[1.0] - losses[0.0], read, atol=1e-5, rtol=1e-5)
    assert read > 1  # of an untrained one
