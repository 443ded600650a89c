"""The parts of the 128 px model's training, on recipes so small that a step takes milliseconds."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from training_toys import TOY

from pipelines.emoji.composition_captions import Description, parse_description
from pipelines.emoji.compositions import sample_composition
from pipelines.emoji.objects import Catalog, shipped_catalog
from pipelines.emoji.scenes import BACKGROUNDS, is_held_out
from pipelines.metrics.composition_adherence import adherence, description_probability
from pipelines.metrics.detector import (
    Detection,
    Detector,
    DetectorNetwork,
    Scores,
    View,
    load_detector,
    save_detector,
)
from pipelines.training.autoencoder import build_autoencoder
from pipelines.training.composition_autoencoder import (
    CompositionAutoencoderTask,
    normalize_latents,
    prepare_autoencoder,
)
from pipelines.training.composition_denoiser import CompositionDenoiserTask, CompositionPool, composition_corpus
from pipelines.training.composition_measures import is_shown, named_compositions
from pipelines.training.denoiser import build_text_encoder, build_unet
from pipelines.training.detector import DetectorTask, detector_loss, detector_targets
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


def denoiser(tokenizer, folder=None) -> CompositionDenoiserTask:
    torch.manual_seed(0)
    vae = build_autoencoder(RECIPE.autoencoder, RECIPE.size)
    unet = build_unet(RECIPE.denoiser, 4, RECIPE.size // 2)
    networks = torch.nn.ModuleDict({"unet": unet, "text_encoder": build_text_encoder(RECIPE.denoiser, tokenizer)})
    return CompositionDenoiserTask(RECIPE, networks, vae, tokenizer, catalog(), kept=folder)


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
        assert torch.equal(first[0], again[0]) and first[1] == again[1]
    resumed = CompositionPool(vae, catalog(), 32, 24, 16, 1, 0, file)
    assert torch.allclose(drawn(resumed, 40)[0], first[0], atol=2e-3)  # float16, and another order of batches
    assert file.is_file()


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


def scores_of(detections: dict[tuple[int, int], tuple[int, float, float, float]], background: int) -> Scores:
    presence = torch.full((1, 8, 8), -6.0)
    label, place = torch.full((1, 12, 8, 8), -5.0), torch.zeros(1, 3, 8, 8)
    for (row, column), (number, right, down, size) in detections.items():
        presence[0, row, column] = 4.0
        label[0, number, row, column] = 5.0
        place[0, :, row, column] = torch.tensor([right, down, size])
    backgrounds = torch.full((1, len(BACKGROUNDS)), -5.0)
    backgrounds[0, background] = 5.0
    return Scores(presence, label.log_softmax(1), place, backgrounds.log_softmax(-1))


class Answers(torch.nn.Module):
    """A network that answers what it is given."""

    def __init__(self, scores: Scores):
        super().__init__()
        self.weight, self.scores = torch.nn.Parameter(torch.zeros(1)), scores

    def forward(self, images: torch.Tensor) -> Scores:
        return self.scores


def test_peaks_become_objects_with_their_places_and_sizes():
    labels = catalog().labels
    scores = scores_of({(3, 5): (2, 0.25, -0.5, 0.4), (4, 1): (7, 0.0, 0.0, 0.3)}, 4)
    (view,) = Detector(Answers(scores), labels, tuple(BACKGROUNDS), 32).read(torch.rand(1, 3, 32, 32))
    assert [item.label for item in view.objects] == [labels[7], labels[2]]
    second = view.objects[1]
    assert (second.x, second.y) == ((5.5 + 0.25) / 8, (3.5 - 0.5) / 8)
    assert second.size == pytest.approx(0.4) and view.background == tuple(BACKGROUNDS)[4]


def test_perfect_scores_have_no_loss_and_their_reading_is_what_is_said():
    for seed in range(30):
        composition = sample_composition(catalog(), seed, "all")
        targets = detector_targets([composition], catalog().labels)
        found = {(int(row[1]), int(row[2])): (int(row[3]), *row[4:].tolist()) for row in targets}
        background = list(BACKGROUNDS).index(composition.scene.background)
        scores = scores_of(found, background)
        assert detector_loss(scores, targets, torch.tensor([background])) < 0.3
        (view,) = Detector(Answers(scores), catalog().labels, tuple(BACKGROUNDS), 32).read(torch.rand(1, 3, 32, 32))
        said = Description(
            composition.kind, composition.labels, composition.count, composition.size, composition.scene.background
        )
        assert is_shown(view, said)


def view(*objects, background="blue") -> View:
    return View(tuple(Detection(*item, 1.0) for item in objects), background, 1.0)


FOX, STAR = ("fox", 0.25, 0.3, 0.4), ("star", 0.75, 0.7, 0.4)


@pytest.mark.parametrize(
    ("text", "seen", "right"),
    [
        ("a fox left of a star on a blue background", view(FOX, STAR), True),
        ("a fox right of a star", view(FOX, STAR), False),
        ("a fox above a star", view(FOX, STAR), True),
        ("a fox below a star", view(FOX, STAR), False),
        ("a fox left of a star", view(FOX, STAR, ("star", 0.5, 0.5, 0.2)), False),
        ("a fox left of a star on red", view(FOX, STAR), False),
        ("a fox left of a star", view(FOX, ("fox", 0.75, 0.7, 0.4)), False),
        ("two foxes", view(FOX, ("fox", 0.75, 0.7, 0.4)), True),
        ("three foxes", view(FOX, ("fox", 0.75, 0.7, 0.4)), False),
        ("a fox", view(("fox", 0.5, 0.5, 0.6)), True),
        ("a small fox", view(("fox", 0.5, 0.5, 0.6)), False),
        ("a small fox", view(("fox", 0.5, 0.5, 0.3)), True),
        ("a large fox", view(("fox", 0.5, 0.5, 0.9)), True),
        ("a star in front of a fox", view(("fox", 0.4, 0.4, 0.62), ("star", 0.7, 0.7, 0.42)), True),
        ("a fox in front of a star", view(("fox", 0.4, 0.4, 0.62), ("star", 0.7, 0.7, 0.42)), False),
    ],
)
def test_what_a_picture_shows_is_told_from_what_it_does_not(text, seen, right):
    assert is_shown(seen, parse_description(text, shipped_catalog(None))) is right


def test_a_detector_is_kept_and_loaded(tmp_path):
    torch.manual_seed(0)
    detector = Detector(DetectorNetwork(12, 12, (8, 16, 24)), catalog().labels, tuple(BACKGROUNDS), 64)
    save_detector(detector, tmp_path)
    images = torch.rand(2, 3, 64, 64)
    first, again = detector.scores(images), load_detector(tmp_path).scores(images)
    assert torch.allclose(first.presence, again.presence, atol=0.05)
    images.requires_grad_(True)
    detector.scores(images).presence.sum().backward()
    assert images.grad.abs().sum() > 0


def test_the_detector_trains_on_all_pairs(tmp_path):
    torch.manual_seed(0)
    task = DetectorTask(DetectorNetwork(12, 12, (8, 16, 24)), None, catalog(), 128, steps=2, pool=96)
    task.batch = 8
    Trainer(task, tmp_path, Settings(steps=2, sheet_every=10, save_every=10)).run()
    assert load_detector(tmp_path / "export").labels == catalog().labels


def test_measured_captions_name_their_background_and_keep_to_their_split():
    for split in ("train", "held-out"):
        for composition, text, description in named_compositions(catalog(), 20, split, "single"):
            assert description == parse_description(text, catalog()) and description.background
            pair = composition.labels[0], composition.scene.background
            assert is_held_out(*pair) == (split == "held-out")


def test_adherence_is_high_for_what_is_there_and_low_for_what_is_not():
    detector = Detector(DetectorNetwork(12, 12, (8, 16, 24)), catalog().labels, tuple(BACKGROUNDS), 64)
    for seed in range(30):
        composition = sample_composition(catalog(), seed, "all")
        rows = detector_targets([composition], catalog().labels)
        found = {(int(row[1]), int(row[2])): (int(row[3]), *row[4:].tolist()) for row in rows}
        scores = scores_of(found, list(BACKGROUNDS).index(composition.scene.background))
        said = Description(
            composition.kind, composition.labels, composition.count, composition.size, composition.scene.background
        )
        assert description_probability(detector, scores, said) > 0.6
        other = next(label for label in catalog().labels if label not in said.labels)
        turned = said.labels[::-1] if len(said.labels) == 2 else (other,)
        assert description_probability(detector, scores, dataclasses.replace(said, labels=turned)) < 0.1
        elsewhere = "red" if said.background != "red" else "blue"
        assert description_probability(detector, scores, dataclasses.replace(said, background=elsewhere)) < 0.1


def test_adherence_is_differentiable():
    torch.manual_seed(0)
    detector = Detector(DetectorNetwork(12, 12, (8, 16, 24)), catalog().labels, tuple(BACKGROUNDS), 64)
    for text in ("a fox left of a panda on a blue background", "two foxes", "a small fox", "a fox behind a panda"):
        images = torch.rand(1, 3, 64, 64, requires_grad=True)
        probability = adherence(detector, images, text, catalog())
        assert 0 <= probability.item() <= 1
        probability.log().sum().backward()
        assert images.grad.abs().sum() > 0
