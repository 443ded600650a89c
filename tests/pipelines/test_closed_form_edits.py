"""DreamSampler and TIME: without strength the plain path, by their equations, and what does not fit is refused."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from pipelines.core.denoiser import Denoiser
from pipelines.core.errors import MethodFitError, PromptError
from pipelines.core.loop import Run, denoise
from pipelines.core.noise import NoiseSource
from pipelines.core.prediction import Conditioning
from pipelines.core.schedule import FlowSchedule
from pipelines.core.types import Choice
from pipelines.edits.dream_sampler import Distilled
from pipelines.edits.time_concept import align_tokens, solve_transform
from pipelines.edits.words import split_words
from pipelines.families import family_of
from pipelines.guidance.cfg import Unguided
from pipelines.inversions.base import SOURCE, TARGET
from pipelines.requests.limits import Limits
from pipelines.samplers.ddim import Ddim, DdimSettings
from pipelines.workflows.edit.request import Picture
from tests.pipelines.edit_requests import edited, request_of
from tests.pipelines.gaussian import CosineSchedule
from tests.pipelines.test_paired_edits import SPREAD, TwoGaussians
from tests.pipelines.tiny_models import tiny_sd

EMPTY_MEAN, TEXT_MEAN = 0.1, 0.9
WORDS_APART = (("a rose", (1, 2)), ("a tulip", (1, 3)))


@pytest.fixture(scope="module")
def family():
    return family_of(tiny_sd().components)


@pytest.fixture(scope="module")
def picture():
    return Picture(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))


def drawn(sampler, schedule, levels, latents, kind):
    means = {"negative": [EMPTY_MEAN] * 2, "positive": [TEXT_MEAN] * 2}
    conditionings = {
        name: Conditioning({"mean": torch.tensor(mean, dtype=torch.float64)}) for name, mean in means.items()
    }
    denoiser = Denoiser(TwoGaussians(schedule, kind), Unguided(), conditionings)
    return list(denoise(Run(denoiser, sampler, levels, latents, NoiseSource([0]), schedule)))[-1]


@pytest.mark.parametrize("scale", [0.0, 0.7])
@pytest.mark.parametrize("kind", ["epsilon", "flow"])
def test_dream_sampler_goes_by_its_equation_and_without_scale_is_unconditional_ddim(kind, scale):
    schedule = FlowSchedule() if kind == "flow" else CosineSchedule()
    levels = [schedule.at(time) for time in (900.0, 600.0, 300.0, 100.0, 0.0)]
    start = torch.linspace(-1, 2, 4, dtype=torch.float64).reshape(1, 1, 2, 2).repeat(2, 1, 1, 1)
    step = drawn(Distilled(Ddim(DdimSettings()), scale), schedule, levels, start, kind)

    x = start[TARGET]
    for level, after in itertools.pairwise(levels):
        total = level.alpha**2 * SPREAD + level.sigma**2
        gain = level.alpha * SPREAD / total
        empty = EMPTY_MEAN + gain * (x - level.alpha * EMPTY_MEAN)
        noise = (x - level.alpha * EMPTY_MEAN) * level.sigma / total
        text = TEXT_MEAN + gain * (x - level.alpha * TEXT_MEAN)
        share = level.alpha**2 / (level.alpha**2 + level.sigma**2)
        x = after.alpha * (empty + scale * share * (text - empty)) + after.sigma * noise
    torch.testing.assert_close(step.latents[TARGET], x, rtol=0, atol=1e-14)
    assert torch.equal(step.latents[TARGET], step.latents[SOURCE]) is (scale == 0)
    assert step.evaluations == 2 * 4


def test_dream_sampler_inverts_without_words_and_comes_back_to_the_source_at_no_scale(family, picture):
    def last(scale, source="a red fox"):
        request = request_of(picture, Choice("dream_sampler", {"scale": scale}), source=source, negative_prompt="")
        return edited(family, request)[2][-1]

    idle, acting, wordless = last(0.0), last(2.0), last(2.0, source="")
    assert torch.equal(acting.latents, wordless.latents)  # the source prompt is not looked at
    assert torch.equal(acting.latents[SOURCE], idle.latents[SOURCE])  # Direct Inversion's path
    assert not torch.equal(acting.latents[TARGET], idle.latents[TARGET])
    assert acting.evaluations == 8


def test_dream_sampler_refuses_inversions_that_do_not_come_back_by_ddim(picture):
    for key in ("edict", "ddpm", "null_text"):
        with pytest.raises(MethodFitError, match=r"does not go with .* Choose one of: Direct Inversion, DDIM"):
            request_of(picture, "dream_sampler", inversion=key).check(Limits(), None)
    request_of(picture, "dream_sampler", inversion="fixed_point").check(Limits(), None)


# TIME.


def random_embeddings(rows=40, width=32):
    generator = torch.Generator().manual_seed(3)
    return tuple(torch.randn(rows, width, generator=generator, dtype=torch.float64) for _ in range(2))


def test_time_solves_its_normal_equations_and_equal_embeddings_change_nothing():
    old, new = random_embeddings()
    weight = torch.randn(24, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    changed = weight @ solve_transform(old, new, 0.1)
    left = changed @ (0.1 * torch.eye(32, dtype=torch.float64) + old.T @ old)
    right = 0.1 * weight + (new @ weight.T).T @ old
    torch.testing.assert_close(left, right, rtol=0, atol=1e-11)
    few = old[:5]  # fewer tokens than dimensions: only lambda makes it solvable
    for rows in (old, few):
        identity = torch.eye(32, dtype=torch.float64)
        torch.testing.assert_close(solve_transform(rows, rows, 0.1), identity, rtol=0, atol=1e-12)


def test_times_transform_of_the_text_is_its_change_of_every_key_and_value(family):
    """The authors change the weights of all cross-attention layers; here the text alone is changed."""
    network = family.network
    width = network.config.cross_attention_dim
    generator = torch.Generator().manual_seed(5)
    old, new = (torch.randn(9, width, generator=generator, dtype=torch.float64) for _ in range(2))
    text = torch.randn(1, 7, width, generator=generator, dtype=torch.float64)
    latents = torch.randn(1, network.config.in_channels, 8, 8, generator=generator, dtype=torch.float64)
    kept = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    try:
        network.double()
        with torch.no_grad():
            plain = network(latents, 500, text).sample
            ours = network(latents, 500, text @ solve_transform(old, new, 0.1).T).sample
            inverse = torch.linalg.inv(0.1 * torch.eye(width, dtype=torch.float64) + old.T @ old)
            for name, layer in network.named_modules():
                if name.endswith(("attn2.to_k", "attn2.to_v")):
                    targets = new @ layer.weight.T
                    layer.weight.copy_((0.1 * layer.weight + targets.T @ old) @ inverse)
            theirs = network(latents, 500, text).sample
    finally:
        network.float().load_state_dict(kept)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)
    assert (ours - plain).abs().max() > 1e-6


def test_a_concept_that_is_assumed_already_is_plain_re_prompting_and_another_changes_the_edits_row_alone(
    family, picture
):
    def last(edit, inversion):
        return edited(family, request_of(picture, edit, inversion=inversion))[2][-1].latents

    for inversion in ("direct", "ddim", "edict"):
        plain = last("reprompt", inversion)
        assumed = last(Choice("time", {"concept": "a cat", "destination": " a cat"}), inversion)
        changed = last(Choice("time", {"concept": "cat", "destination": "green cat"}), inversion)
        assert torch.equal(assumed, plain)
        assert torch.equal(changed[SOURCE], plain[SOURCE]) or inversion == "edict"
        assert (changed[TARGET] - plain[TARGET]).abs().max() > 1e-3


def test_words_of_the_concept_find_their_place_in_the_destination_or_are_refused(picture):
    assert align_tokens(
        *(
            dataclasses.replace(split_words(text), ids=ids)
            for text, ids in (("a rose", (1, 2)), ("a blue rose", (1, 7, 2)))
        )
    ).tolist() == [0, 1, 3, 4]
    with pytest.raises(PromptError, match="must hold all words"):
        align_tokens(*(dataclasses.replace(split_words(text), ids=ids) for text, ids in WORDS_APART))
    for texts in ({}, {"concept": "rose"}, {"destination": "a blue rose"}):
        with pytest.raises(PromptError, match="nothing to change"):
            request_of(picture, Choice("time", texts)).check(Limits(), None)


@pytest.mark.parametrize(
    ("concept", "destination", "holds"),
    [
        ("a rose", "a blue rose", True),
        ("A Rose,", "a blue ROSE, in a vase", True),
        ("rose", "blue-rose", True),
        ("a rose", "a blue tulip", False),
        ("rose vase", "vase rose", False),
        ("the the", "the", False),
    ],
)
def test_words_that_do_not_correspond_are_refused_before_the_model_is_needed(picture, concept, destination, holds):
    request = request_of(picture, Choice("time", {"concept": concept, "destination": destination}))
    if holds:
        return request.check(Limits(), None)
    with pytest.raises(PromptError, match="must hold all words"):
        request.check(Limits(), None)
