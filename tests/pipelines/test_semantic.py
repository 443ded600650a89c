"""LEDITS++: without concepts the source, each concept by its equation, and what cannot be read is said."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from pipelines.core.errors import PromptError, SettingsError
from pipelines.core.prediction import Prediction, Query
from pipelines.core.sampler import State
from pipelines.core.types import Choice, Traits
from pipelines.edits import EDITS
from pipelines.edits.semantic import Concept, SemanticallyGuided, mask_strongest, read_concepts
from pipelines.families import family_of
from pipelines.inversions.base import SOURCE, TARGET
from pipelines.requests.limits import Limits
from pipelines.workflows.edit.request import Picture
from tests.pipelines.edit_requests import edited, request_of
from tests.pipelines.gaussian import CosineSchedule
from tests.pipelines.tiny_models import tiny_sd, tiny_sd3


@pytest.fixture(scope="module")
def families():
    return [family_of(tiny_sd().components), family_of(tiny_sd3().components)]


@pytest.fixture(scope="module")
def picture():
    return Picture(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("inversion", ["ledits", "ddpm"])
def test_a_concept_of_no_strength_gives_the_source_and_one_of_strength_does_not(families, picture, which, inversion):
    def last(concepts):
        request = request_of(picture, Choice("ledits", {"concepts": concepts}), inversion=inversion)
        return edited(families[which], request)[2][-1]

    idle, acting = last("cat=0"), last("cat=8@0.5")
    source, target = idle.latents
    # Float32, and a batch of other rows than on the way up.
    torch.testing.assert_close(target, source, rtol=0, atol=2e-3)
    assert (acting.latents[TARGET] - source).abs().max() > 10 * (target - source).abs().max()
    assert torch.equal(acting.latents[SOURCE], source)


def test_each_concept_is_added_by_its_equation():
    """One step with a sampler that passes the noise estimate through, answered by random tensors."""
    level, generator = CosineSchedule().at(500.0), torch.Generator().manual_seed(0)
    names = ("negative", "positive", "concept 0", "concept 1")
    raws = {name: torch.randn(2, 3, 4, 4, generator=generator, dtype=torch.float64) for name in names}
    latents = torch.zeros(2, 3, 4, 4, dtype=torch.float64)
    answers = {name: Prediction(raw, latents, level, "epsilon") for name, raw in raws.items()}

    class Through:
        def step(self, state, level, next_level, context):
            prediction = yield Query(state.latents, level)
            return State(prediction.noise, prediction.denoised)

    concepts = (Concept("cat", 5.0, 0.5), Concept("fox", -3.0, 0.75))
    context = type("Context", (), {"index": 0, "num_steps": 4})
    stepping = SemanticallyGuided(Through(), concepts, 0.0).step(State(latents), level, level, context)
    assert next(stepping).branches == ()
    base = {name: answers[name] for name in ("negative", "positive")}
    query = stepping.send(dataclasses.replace(answers["positive"], branches=base))
    assert query.branches == ("concept 0", "concept 1")
    with pytest.raises(StopIteration) as finished:
        stepping.send(dataclasses.replace(answers["concept 1"], branches={name: answers[name] for name in names[2:]}))
    rows = finished.value.value.latents
    first, second = (raws[name][TARGET] - raws["negative"][TARGET] for name in names[2:])
    masks = mask_strongest(first, 0.5), mask_strongest(second, 0.75)
    expected = raws["positive"][TARGET] + 5 * masks[0] * first - 3 * masks[1] * second
    torch.testing.assert_close(rows[TARGET], expected, rtol=0, atol=1e-14)
    assert torch.equal(rows[SOURCE], raws["positive"][SOURCE]) and masks[0].sum() == 8 and masks[1].sum() == 4


def test_concepts_are_read_and_what_cannot_be_is_said(families, picture):
    assert read_concepts("fox=6@0.8, -cat", 5.0, 0.9) == (Concept("fox", 6.0, 0.8), Concept("cat", -5.0, 0.9))
    assert read_concepts(" ; ", 5.0, 0.9) == ()
    for text in ("fox=x", "=3", "fox=31", "fox@1"):
        with pytest.raises(SettingsError, match="cannot be read"):
            read_concepts(text, 5.0, 0.9)
    with pytest.raises(PromptError, match="no concepts"):
        request_of(picture, Choice("ledits", {})).check(Limits(), families[0].traits)
    assert "negative prompt" in EDITS["ledits"].fit(Traits("flux", "flow", "transformer", "embedded"))
