"""The classifier reads renderings right, judges captions, and gives gradients."""

from __future__ import annotations

import shutil

import pytest
import torch

from pipelines.core.errors import ModelFileError, ModelMissingError, SettingsError, TrainingError
from pipelines.emoji.objects import shipped_catalog
from pipelines.emoji.scenes import Placed, Scene, sample_scene
from pipelines.metrics.classifier import SHIPPED, load_classifier, save_classifier
from pipelines.training.latents import pictures_of
from pipelines.training.measures import classifier_accuracy, judged

CATALOGUE = shipped_catalog()
FOX = Scene((Placed("fox", 0.5, 0.5, 0.8),), "blue", 3)
PAIR = Scene((Placed("fox", 0.25, 0.5, 0.46), Placed("owl", 0.75, 0.5, 0.46)), "teal", 4)


@pytest.fixture(scope="module")
def classifier():
    return load_classifier()


def test_it_reads_fresh_renderings(classifier):
    objects, backgrounds = classifier_accuracy(classifier, CATALOGUE, 200)
    assert objects >= 0.98 and backgrounds >= 0.99


def test_it_names_objects_sides_and_background(classifier):
    alone, pair = classifier.read(pictures_of([FOX, PAIR], CATALOGUE, 64))
    assert (alone.labels, alone.background) == (("fox",), "blue")
    assert alone.objects[0].side is None and alone.objects[0].probability > 0.9
    assert pair.labels == ("fox", "owl") and [seen.side for seen in pair.objects] == ["left", "right"]
    assert pair.background == "teal" and pair.background_probability > 0.9


def test_another_size_is_read_as_well(classifier):
    reading = classifier.read(pictures_of([PAIR], CATALOGUE, 128))[0]
    assert reading.labels == ("fox", "owl")


def test_adherence_tells_right_from_wrong(classifier):
    images = pictures_of([FOX, PAIR], CATALOGUE, 64)
    for caption, low, high in (
        ("a fox on a blue background", 1, 0),
        ("a fox", 1, 0),
        ("a fox left of an owl", 0, 1),
        ("an owl right of a fox on a teal background", 0, 1),
    ):
        probability = classifier.adherence(images, caption)
        assert probability.shape == (2,)
        assert probability[1 - low] > 0.9 and probability[1 - high] < 0.1, caption
    for wrong in ("a fox on a red background", "an owl left of a fox", "a koala on a blue background"):
        assert classifier.adherence(images, wrong).max() < 0.1


def test_adherence_gives_gradients_to_the_picture(classifier):
    images = pictures_of([FOX], CATALOGUE, 64).requires_grad_(True)
    classifier.adherence(images, "a koala on a blue background").log().sum().backward()
    assert images.grad is not None and images.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in classifier.network.parameters())


def test_judged_follows_the_readings(classifier):
    scenes = [sample_scene(CATALOGUE, seed, "all") for seed in range(30)]
    images = pictures_of(scenes, CATALOGUE, 64)
    assert judged(classifier, images, scenes).mean() > 0.97
    assert judged(classifier, images, scenes[1:] + scenes[:1])[:, 0].mean() < 0.1


def test_what_it_does_not_know_is_refused(classifier):
    images = pictures_of([FOX], CATALOGUE, 64)
    with pytest.raises(TrainingError, match="zebra"):
        classifier.adherence(images, "a zebra")
    with pytest.raises(SettingsError, match="'mauve'"):
        classifier.truth_probability(images, ("fox",), "mauve")
    with pytest.raises(SettingsError, match=r"\(3, 64, 64\)"):
        classifier.read(images[0])


def test_missing_and_broken_files_are_named(tmp_path, classifier):
    with pytest.raises(ModelMissingError):
        load_classifier(tmp_path / "nowhere")
    broken = shutil.copytree(SHIPPED, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelFileError):
        load_classifier(broken)


def test_saving_and_loading_keeps_the_answers(tmp_path, classifier):
    images = pictures_of([FOX, PAIR], CATALOGUE, 64)
    twin = load_classifier(SHIPPED)
    save_classifier(twin, tmp_path)
    twin.network.float()
    again = load_classifier(tmp_path)
    assert torch.equal(again.scores(images).alone, classifier.scores(images).alone)
