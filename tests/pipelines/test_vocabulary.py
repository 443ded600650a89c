"""The words that a shipped model was trained on."""

from __future__ import annotations

import re

import pytest

from pipelines.emoji.captions import caption
from pipelines.emoji.objects import shipped_catalog
from pipelines.emoji.scenes import sample_scene
from pipelines.emoji.vocabulary import shipped_vocabulary


@pytest.mark.parametrize(
    ("model", "things"), [("emoji", 71), ("emoji-128", 152), ("emoji-128-flow", 152), ("emoji-128-motion", 152)]
)
def test_a_vocabulary_names_what_the_model_draws_and_no_stranger(model, things):
    known = shipped_vocabulary(model)
    assert len(known.subjects) == things and known.subjects["fox"] == "a fox"
    assert {"fox", "blue", "background", "left"} <= known.words and "napoleon" not in known.words
    assert ("foxes" in known.words, "above" in known.words) == (model != "emoji",) * 2
    assert ("bouncing" in known.words) == (model == "emoji-128-motion")


def test_every_word_of_a_training_caption_is_known():
    import numpy as np

    catalog, rng = shipped_catalog(), np.random.default_rng(5)
    words = shipped_vocabulary("emoji").words
    for seed in range(300):
        said = caption(sample_scene(catalog, seed, "all"), catalog, rng)
        assert set(re.findall(r"[\w'-]+", said.lower())) <= words, said


def test_another_model_may_know_any_word():
    assert shipped_vocabulary("sd15") is None
