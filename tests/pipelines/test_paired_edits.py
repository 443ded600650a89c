"""InfEdit and FlowEdit: exact on Gaussians, the picture itself for equal prompts, and a guidance for each row."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pipelines.core.denoiser import Denoiser
from pipelines.core.errors import MethodFitError, PromptError, SettingsError
from pipelines.core.loop import Run, denoise
from pipelines.core.noise import NoiseSource
from pipelines.core.prediction import Conditioning, Prediction
from pipelines.core.schedule import FlowSchedule
from pipelines.core.types import Choice
from pipelines.edits import EDITS
from pipelines.edits.paired import Ddcm, DifferenceFlow, RowGuidance
from pipelines.families import family_of
from pipelines.guidance.cfg import Cfg, CfgSettings, Unguided
from pipelines.inversions.base import SOURCE, TARGET
from pipelines.requests.limits import Limits
from pipelines.workflows.edit.request import Picture
from tests.pipelines.edit_requests import BASE, WORDS, edited, request_of
from tests.pipelines.gaussian import CosineSchedule
from tests.pipelines.network_state import assert_unchanged, state_of
from tests.pipelines.tiny_models import tiny_sd, tiny_sd3

SPREAD = 0.3
MEANS = (0.7, -0.4)


class TwoGaussians:
    """The perfect denoiser of Gaussians of one variance whose means are the conditionings."""

    max_rows, rows_together = 0, 1

    def __init__(self, schedule, prediction_type):
        self.schedule, self.prediction_type = schedule, prediction_type

    def predict_raw(self, latents, timesteps, conditioning):
        level = self.schedule.at(timesteps[0].item())
        means = conditioning.tensors["mean"].view(-1, 1, 1, 1)
        rest = latents - level.alpha * means
        total = level.alpha**2 * SPREAD + level.sigma**2
        denoised, noise = means + level.alpha * SPREAD * rest / total, level.sigma * rest / total
        return noise - denoised if self.prediction_type == "flow" else noise


def on_gaussians(sampler, schedule, levels, latents, kind):
    means = torch.tensor(MEANS, dtype=torch.float64)
    denoiser = Denoiser(TwoGaussians(schedule, kind), Unguided(), {"positive": Conditioning({"mean": means})})
    *_, step = denoise(Run(denoiser, sampler, levels, latents, NoiseSource([0]), schedule))
    return step


def picture_latents():
    return torch.linspace(-1, 2, 4, dtype=torch.float64).reshape(1, 1, 2, 2)


@pytest.mark.parametrize("draws", [1, 3])
@pytest.mark.parametrize("steps", [2, 7])
def test_flow_edit_moves_a_gaussian_by_the_difference_of_the_means(steps, draws):
    """The velocities differ by the difference of the means at every time, so that any number of steps is exact."""
    schedule, clean = FlowSchedule(), picture_latents()
    levels = [schedule.at(1000 * (1 - i / steps)) for i in range(steps + 1)]
    step = on_gaussians(DifferenceFlow(clean, draws), schedule, levels, clean.repeat(2, 1, 1, 1), "flow")
    torch.testing.assert_close(step.latents[TARGET], clean[0] + MEANS[1] - MEANS[0], rtol=0, atol=1e-12)
    assert torch.equal(step.latents[SOURCE], clean[0])
    assert step.evaluations == steps * draws


@pytest.mark.parametrize("kind", ["epsilon", "flow"])
def test_infedit_approaches_the_difference_of_the_means_as_its_gains_say(kind):
    """With d the distance from the source, d' = (1 - k alpha) dm + k alpha d: what is missing falls by k alpha."""
    schedule, clean = (FlowSchedule(), picture_latents()) if kind == "flow" else (CosineSchedule(), picture_latents())
    levels = [schedule.at(time) for time in (900.0, 600.0, 300.0, 100.0, 20.0)]
    noise = torch.randn(clean.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    start = (levels[0].alpha * clean + levels[0].sigma * noise).repeat(2, 1, 1, 1)
    step = on_gaussians(Ddcm(clean, 1.0), schedule, levels, start, kind)
    gains = [level.alpha**2 * SPREAD / (level.alpha**2 * SPREAD + level.sigma**2) for level in levels[:-1]]
    move = (MEANS[1] - MEANS[0]) * (1 - math.prod(gains))
    torch.testing.assert_close(step.denoised[TARGET], clean[0] + move, rtol=0, atol=1e-12)
    assert torch.equal(step.denoised[SOURCE], clean[0])


def test_infedit_without_fresh_noise_keeps_the_sources_noise():
    schedule, clean = CosineSchedule(), picture_latents()
    levels = [schedule.at(float(time)) for time in (900, 600, 300)]
    noise = torch.randn(clean.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    start = (levels[0].alpha * clean + levels[0].sigma * noise).repeat(2, 1, 1, 1)
    step = on_gaussians(Ddcm(clean, 0.0), schedule, levels, start, "epsilon")
    expected = levels[-1].alpha * clean + levels[-1].sigma * noise
    torch.testing.assert_close(step.latents[:1], expected, rtol=0, atol=1e-12)


@pytest.fixture(scope="module")
def families():
    sd, sd3 = family_of(tiny_sd().components), family_of(tiny_sd3().components)
    return {"infedit": sd, "infedit_control": sd, "flow_edit": sd3}


@pytest.fixture(scope="module")
def picture():
    return Picture(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))


@pytest.mark.parametrize("key", ["infedit", "infedit_control", "flow_edit"])
def test_equal_prompts_and_scales_give_the_picture_itself(families, picture, key):
    edit = Choice(key, {"source_guidance_scale": 4.0, "strength": 1.0})
    editing, _, steps = edited(families[key], request_of(picture, edit, source=BASE.prompt))
    assert torch.equal(steps[-1].latents[TARGET], editing.image_latents[0])
    other = edited(families[key], request_of(picture, edit))[2][-1].latents
    assert (other[TARGET] - editing.image_latents[0]).abs().max() > 1e-3


@pytest.mark.parametrize("key", ["infedit", "infedit_control", "flow_edit"])
def test_a_mask_keeps_the_latents_outside_it(families, picture, key):
    drawn = np.zeros((32, 32), bool)
    drawn[8:20, 8:24] = True
    editing, _, steps = edited(families[key], request_of(picture, key, Picture(drawn)))
    outside = ~editing.mask[0].expand_as(editing.image_latents[0])
    assert torch.equal(steps[-1].latents[TARGET][outside], editing.image_latents[0][outside])
    assert not torch.equal(steps[-1].latents[TARGET], editing.image_latents[0])


@pytest.mark.parametrize("model", ["infedit", "flow_edit"])
def test_attention_control_for_no_steps_is_infedit_and_otherwise_is_not(families, picture, model):
    """Bit for bit, on a UNet and on a transformer; the network is as it was."""
    family, before = families[model], state_of(families[model].network)
    plain = edited(family, request_of(picture, "infedit"))[2][-1]
    latents = {}
    for words in ("refine", "replace"):
        for share in (0.0, 1.0):
            settings = {"words": words, "cross_until": share, "self_until": share}
            step = edited(family, request_of(picture, Choice("infedit_control", settings)))[2][-1]
            assert step.evaluations == plain.evaluations
            latents[words, share] = step.latents
    assert_unchanged(family.network, before)
    assert torch.equal(latents["refine", 0.0], plain.latents) and torch.equal(latents["replace", 0.0], plain.latents)
    for words in ("refine", "replace"):
        assert torch.equal(latents[words, 1.0][SOURCE], plain.latents[SOURCE])
        assert (latents[words, 1.0][TARGET] - plain.latents[TARGET]).abs().max() > 1e-4
    assert not torch.equal(latents["refine", 1.0], latents["replace", 1.0])


def test_attention_control_refuses_what_prompt_to_prompt_refuses(families, picture):
    choice = Choice("infedit_control", {"words": "replace"})
    with pytest.raises(PromptError):
        request_of(picture, choice, source="a cat").check(Limits(), families["infedit"].traits)
    with pytest.raises(PromptError, match="local blend"):
        request_of(picture, Choice("infedit_control", {"blend": "dog"})).check(Limits(), families["infedit"].traits)


def test_each_row_has_its_own_scale():
    level = CosineSchedule().at(500.0)
    generator = torch.Generator().manual_seed(0)
    branches = {
        name: Prediction(torch.randn(2, 1, 2, 2, generator=generator), torch.zeros(2, 1, 2, 2), level, "epsilon")
        for name in ("negative", "positive")
    }
    guidances = [Cfg(CfgSettings(guidance_scale=scale)) for scale in (1.0, 7.5)]
    rows = RowGuidance(*guidances)
    assert rows.plan(level) == ("negative", "positive") and rows.guidance_scale == 7.5
    combined = rows.combine(branches).raw
    assert torch.equal(combined[SOURCE], branches["positive"].raw[SOURCE])
    assert torch.equal(combined[TARGET], guidances[1].combine(branches).raw[TARGET])


def test_what_cannot_be_is_said(families, picture):
    traits = families["infedit"].traits
    assert "InfEdit" in EDITS["flow_edit"].fit(traits)
    assert EDITS["infedit"].fit(families["flow_edit"].traits) is None
    with pytest.raises(PromptError, match="what the source picture shows"):
        request_of(picture, "infedit", source=" ").check(Limits(), traits)
    with pytest.raises(MethodFitError, match="same at every step"):
        request_of(picture, "infedit", prompt="a [fox:cat:0.5]").check(Limits(), traits)
    with pytest.raises(MethodFitError, match="Classifier-free"):
        request_of(picture, "infedit", guidance=Choice("apg")).check(Limits(), traits)


@pytest.mark.parametrize("inversion", ["direct", "ddpm", "cycle", "ledits"])
@pytest.mark.parametrize("key", ["infedit", "flow_edit"])
def test_a_source_that_nobody_looks_at_is_not_evaluated_and_the_edit_is_the_same(
    families, picture, inversion, key, monkeypatch
):
    """On a UNet and on a flow transformer; the network counts its rows."""
    family, rows = families[key], []
    predict = family.predict_raw
    monkeypatch.setattr(family, "predict_raw", lambda x, *rest: rows.append(len(x)) or predict(x, *rest))
    editing, _, lean = edited(family, request_of(picture, "reprompt", inversion=inversion))
    spent = sum(rows)
    monkeypatch.setattr(type(editing.edit), "looks_at_source", True)
    rows.clear()
    full = edited(family, request_of(picture, "reprompt", inversion=inversion))[2]
    steps = len(lean)
    assert sum(rows) - spent == 2 * steps and lean[-1].evaluations == full[-1].evaluations == 2 * steps
    assert torch.equal(lean[-1].latents[SOURCE], full[-1].latents[SOURCE])
    # Float32 in batches of another size.
    scale = full[-1].latents.abs().max().item()
    torch.testing.assert_close(lean[-1].latents[TARGET], full[-1].latents[TARGET], rtol=0, atol=1e-4 * scale)


@pytest.mark.parametrize("inversion", ["direct", "ddpm"])
@pytest.mark.parametrize("edit", ["replace", "reweight"])
def test_a_source_row_that_is_held_has_no_negative_prompt_in_prompt_to_prompt(
    families, picture, inversion, edit, monkeypatch
):
    """Three rows a step in the place of four, and the same edit; the network counts its rows."""
    family, rows = families["infedit"], []
    predict = family.predict_raw
    monkeypatch.setattr(family, "predict_raw", lambda x, *rest: rows.append(len(x)) or predict(x, *rest))
    request = request_of(picture, Choice(edit, {**WORDS[edit], "blend": "cat"}), inversion=inversion)
    editing, _, lean = edited(family, request)
    spent = sum(rows)
    monkeypatch.setattr(type(editing.edit), "looks_at_prompt_alone", False)
    rows.clear()
    full = edited(family, request)[2]
    # It has a local blend, so that every step looks at the source.
    assert sum(rows) - spent == len(lean) and lean[-1].evaluations == full[-1].evaluations
    assert torch.equal(lean[-1].latents[SOURCE], full[-1].latents[SOURCE])
    # Float32 in batches of another size.
    scale = full[-1].latents.abs().max().item()
    torch.testing.assert_close(lean[-1].latents[TARGET], full[-1].latents[TARGET], rtol=0, atol=1e-4 * scale)
    monkeypatch.setattr(family, "max_rows", 1)
    monkeypatch.setattr(type(editing.edit), "looks_at_prompt_alone", True)
    with pytest.raises(SettingsError, match="all 2 rows"):
        edited(family, request)


@pytest.mark.parametrize(
    ("edit", "settings"),
    [
        ("replace", {"cross_until": 0.5, "self_until": 0.25}),
        ("plug_and_play", {"features_until": 0.5, "attention_until": 0.25}),
    ],
)
def test_a_source_that_is_looked_at_for_a_while_is_not_evaluated_after_it(
    families, picture, edit, settings, monkeypatch
):
    """Four steps, two of which look at the source; the network counts its rows."""
    family, rows = families["infedit"], []
    predict = family.predict_raw
    monkeypatch.setattr(family, "predict_raw", lambda x, *rest: rows.append(len(x)) or predict(x, *rest))
    editing, _, lean = edited(family, request_of(picture, Choice(edit, settings)))
    spent = sum(rows)
    monkeypatch.setattr(type(editing.edit), "looks_until", 1.0)
    rows.clear()
    full = edited(family, request_of(picture, Choice(edit, settings)))[2]
    assert len(lean) == 4 and sum(rows) - spent == 2 * (1 if edit == "replace" else 2)
    assert torch.equal(lean[-1].latents[SOURCE], full[-1].latents[SOURCE])
    # Float32 in batches of another size.
    scale = full[-1].latents.abs().max().item()
    torch.testing.assert_close(lean[-1].latents[TARGET], full[-1].latents[TARGET], rtol=0, atol=1e-4 * scale)
