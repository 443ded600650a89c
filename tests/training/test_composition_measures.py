"""The detector of objects, and how well a picture keeps to its caption."""

from __future__ import annotations

import dataclasses

import pytest
import torch

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
from pipelines.training.composition_measures import is_shown, named_compositions
from pipelines.training.detector import DetectorTask, detector_loss, detector_targets
from pipelines.training.trainer import Settings, Trainer


def catalog() -> Catalog:
    shipped = shipped_catalog(None)
    return Catalog(shipped.objects[:12], shipped.folder)


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


def view(*objects, background="blue") -> View:
    return View(tuple(Detection(*item, 1.0) for item in objects), background, 1.0)


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


def test_the_detector_may_see_more_single_objects_of_some_sizes():
    task = DetectorTask(DetectorNetwork(12, 12, (8, 16, 24)), None, catalog(), 128, singles=1.0, sizes=("large",))
    drawn = [task._sample(seed) for seed in range(20)]
    assert all(item.kind == "single" and item.size == "large" for item in drawn)
    usual = DetectorTask(DetectorNetwork(12, 12, (8, 16, 24)), None, catalog(), 128)
    assert [usual._sample(seed) for seed in range(9)] == [
        sample_composition(catalog(), seed, "all") for seed in range(9)
    ]


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
