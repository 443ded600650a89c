"""Compositions, their captions both ways, and what is held out of them."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from pipelines.core.errors import TrainingError
from pipelines.emoji.composition_captions import (
    Description,
    describe,
    describe_plainly,
    parse_description,
    pluralize,
)
from pipelines.emoji.compositions import KINDS, RELATIONS, SIZES, countable, sample_composition
from pipelines.emoji.objects import shipped_catalog
from pipelines.emoji.scenes import is_held_out, render

CATALOGUE = shipped_catalog(None)


def said(composition, background=True):
    return Description(
        composition.kind,
        composition.labels,
        composition.count,
        composition.size,
        composition.scene.background if background else None,
    )


def test_the_first_71_objects_stay_those_of_the_64_px_model():
    assert len(CATALOGUE.objects) >= 150
    assert CATALOGUE.objects[:71] == shipped_catalog().objects
    names = [name for item in CATALOGUE.objects for name in item.names]
    assert len(names) == len(set(names))
    assert len({item.file for item in CATALOGUE.objects}) == len(CATALOGUE.objects)


def test_every_picture_of_an_object_is_there():
    for label in CATALOGUE.labels:
        alpha = np.asarray(CATALOGUE.sprite(label, 32).getchannel("A"))
        assert alpha.min() == 0 and alpha.max() == 255, label


def test_plurals_name_one_object_each():
    names = [name for item in CATALOGUE.objects for name in item.names if countable(name)]
    assert len({pluralize(name) for name in names}) == len(names)
    assert [pluralize(name) for name in ("fox", "cherry", "maple leaf", "tropical fish", "tomato", "bus")] == [
        "foxes",
        "cherries",
        "maple leaves",
        "tropical fish",
        "tomatoes",
        "buses",
    ]


def test_captions_are_read_back():
    rng = np.random.default_rng(0)
    named = 0
    for seed in range(3_000):
        composition = sample_composition(CATALOGUE, seed, "all")
        found = parse_description(describe(composition, CATALOGUE, rng), CATALOGUE)
        assert found == said(composition, found.background is not None)
        named += found.background is not None
        assert parse_description(describe_plainly(composition), CATALOGUE) == said(composition)
    assert 0.89 < named / 3_000 < 0.95


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a fox on a blue background", Description("single", ("fox",), 1, None, "blue")),
        ("a tiny fox", Description("single", ("fox",), 1, "small")),
        ("a four leaf clover on red", Description("single", ("four leaf clover",), 1, None, "red")),
        ("two four leaf clovers", Description("count", ("four leaf clover",), 2)),
        ("Three foxes on a teal background", Description("count", ("fox",), 3, None, "teal")),
        ("a star right of a ghost on black", Description("left of", ("ghost", "star"), 2, None, "black")),
        ("a star below a ghost", Description("above", ("ghost", "star"), 2)),
        ("an owl behind a unicorn on pink", Description("in front of", ("unicorn", "owl"), 2, None, "pink")),
    ],
)
def test_captions_of_a_person_are_read(text, wanted):
    assert parse_description(text, CATALOGUE) == wanted


@pytest.mark.parametrize("text", ["a zebrafish", "two zebrafish", "fox left of owl left of star", "five foxes"])
def test_captions_outside_the_grammar_are_refused(text):
    with pytest.raises(TrainingError):
        parse_description(text, CATALOGUE)


def test_no_training_composition_has_a_held_out_pair():
    for seed in range(3_000):
        scene = sample_composition(CATALOGUE, seed).scene
        assert not any(is_held_out(placed.label, scene.background) for placed in scene.objects)


@pytest.mark.parametrize("kind", KINDS)
def test_held_out_compositions_have_only_held_out_pairs(kind):
    for seed in range(40):
        scene = sample_composition(CATALOGUE, seed, "held-out", kind).scene
        assert all(is_held_out(placed.label, scene.background) for placed in scene.objects)


def test_half_of_the_compositions_have_two_different_objects():
    kinds = Counter(sample_composition(CATALOGUE, seed).kind for seed in range(2_000))
    assert set(kinds) == set(KINDS)
    assert sum(kinds[kind] for kind in RELATIONS) >= 1_000


def test_objects_stand_as_their_relation_says():
    for seed in range(200):
        left, right = sample_composition(CATALOGUE, seed, kind="left of").scene.objects
        assert right.x - right.size / 2 >= left.x + left.size / 2 - 1e-9
        upper, lower = sample_composition(CATALOGUE, seed, kind="above").scene.objects
        assert lower.y - lower.size / 2 >= upper.y + upper.size / 2 - 1e-9
        composition = sample_composition(CATALOGUE, seed, kind="in front of")
        back, front = composition.scene.objects
        assert composition.labels == (front.label, back.label)
        assert front.size < back.size and front.y > back.y


def test_what_stands_in_front_hides_little_of_what_is_behind():
    for seed in range(30):
        scene = sample_composition(CATALOGUE, seed, kind="in front of").scene
        back, front = (np.asarray(mask) > 127 for mask in render(scene, CATALOGUE, 128).masks)
        assert (back & front).sum() < 0.35 * back.sum()


def test_counts_show_that_many_of_one_object_apart_from_each_other():
    counts = Counter()
    for seed in range(100):
        placed = sample_composition(CATALOGUE, seed, kind="count").scene.objects
        counts[len(placed)] += 1
        assert len({item.label for item in placed}) == 1 and countable(placed[0].label)
        for number, one in enumerate(placed):
            for other in placed[number + 1 :]:
                # their centers are farther apart than most of a width, so that the drawings hardly touch
                assert max(abs(one.x - other.x), abs(one.y - other.y)) > 0.8 * one.size
    assert set(counts) == {2, 3, 4}


def test_sizes_do_not_overlap_and_are_kept():
    ranges = sorted(SIZES.values())
    assert all(low[1] < high[0] for low, high in pairwise(ranges))
    for seed in range(200):
        composition = sample_composition(CATALOGUE, seed, kind="single")
        low, high = SIZES[composition.size]
        assert low <= composition.scene.objects[0].size <= high


def test_a_composition_depends_on_its_arguments_alone():
    assert sample_composition(CATALOGUE, 7) == sample_composition(CATALOGUE, 7)
    assert len({sample_composition(CATALOGUE, seed) for seed in range(50)}) == 50
    with pytest.raises(TrainingError):
        sample_composition(CATALOGUE, 0, "test")
    with pytest.raises(TrainingError):
        sample_composition(CATALOGUE, 0, kind="beside")
