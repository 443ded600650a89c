"""Runs whose prompts switch by step and compose: what every family evaluates, and that it is the formula."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny_models import CLIP_LENGTH, tiny_flux, tiny_sd, tiny_sd3, tiny_sdxl

from pipelines.core.branches import BranchPlan
from pipelines.core.denoiser import Denoiser
from pipelines.core.loop import denoise, denoise_together
from pipelines.core.prediction import Conditioning, Query
from pipelines.core.schedule import Level
from pipelines.core.types import Choice, Request
from pipelines.families import family_of
from pipelines.guidance.cfg import Cfg, CfgSettings, Unguided
from pipelines.requests.text_to_image import build_run, resolve
from pipelines.samplers.prompt_extrapolation import PromptExtrapolation

MAKERS = {"sd": tiny_sd, "sdxl": tiny_sdxl, "sd3": tiny_sd3, "flux": tiny_flux}


@pytest.fixture(params=MAKERS, scope="module")
def family(request):
    one = family_of(MAKERS[request.param]().components)
    one.max_sequence_length = 8
    return one


def request_of(family, prompt, steps=4, negative="blurry", **more):
    sampler, schedule = ("flow_euler", "shift") if family.traits.flow else ("ddim", "uniform")
    more = {"sampler": Choice(sampler), "schedule": Choice(schedule), **more}
    asked = Request(
        prompt=prompt, negative_prompt=negative, num_inference_steps=steps, width=32, height=32, seed=3, **more
    )
    return resolve(asked, family)


def end(family, prompt, steps=4, **more):
    """The last step of a run."""
    return list(denoise(build_run(request_of(family, prompt, steps, **more), family)))[-1]


@pytest.mark.parametrize(
    ("prompt", "plain"),
    [
        ("[a red fox:blue sky:0]", "blue sky"),
        ("[a red fox:blue sky:1.0]", "a red fox"),
        ("[a red fox:a red fox:0.5]", "a red fox"),
        ("a red fox :1 AND ", "a red fox"),
        ("(a:1.0) red (fox:1)", "a red fox"),
    ],
)
def test_what_says_one_thing_throughout_is_the_plain_prompt_bit_for_bit(family, prompt, plain):
    assert torch.equal(end(family, prompt).latents, end(family, plain).latents)


def test_a_switch_takes_each_text_for_its_steps(family):
    switched = list(denoise(build_run(request_of(family, "[a red fox:blue sky:0.5]"), family)))
    first = list(denoise(build_run(request_of(family, "a red fox"), family)))
    assert all(torch.equal(switched[index].latents, first[index].latents) for index in range(2))
    # From there on, the other prompt's run begun at the same latents.
    run = build_run(request_of(family, "blue sky"), family)
    rest = dataclasses.replace(run, levels=run.levels[2:], latents=switched[1].latents, begin=None)
    others = list(denoise(rest))
    assert torch.equal(switched[2].latents, others[0].latents)
    assert torch.equal(switched[3].latents, others[1].latents)


def test_an_alternation_takes_its_texts_in_turn(family):
    latents = build_run(request_of(family, "a red fox"), family).latents
    alternating = list(denoise(build_run(request_of(family, "[a red fox|blue sky]"), family)))
    for index, step in enumerate(alternating):
        run = build_run(request_of(family, ("a red fox", "blue sky")[index % 2]), family)
        one = next(denoise(dataclasses.replace(run, levels=run.levels[index:], latents=latents)))
        assert torch.equal(step.latents, one.latents)
        latents = step.latents


def test_a_text_is_encoded_once_however_often_it_comes(family, monkeypatch):
    asked = []
    encode = type(family).encode_texts
    monkeypatch.setattr(
        type(family), "encode_texts", lambda self, texts, *more: asked.append(dict(texts)) or encode(self, texts, *more)
    )
    end(family, "[a red fox|blue sky]", steps=6)
    assert [sorted(texts.values()) for texts in asked] == [["a red fox", "blue sky", "blurry"]]


def test_composition_is_the_formula_and_counts_each_part(family):
    prompts = ("a red fox", "blue sky")
    run = build_run(request_of(family, f"{prompts[0]} :1.5 AND {prompts[1]} :0.25"), family)
    latents, level = run.latents, run.levels[0]
    found = run.denoiser.predict(latents, level).raw
    raws = []
    for prompt in prompts:
        one = build_run(request_of(family, prompt), family).denoiser
        texts = {name: one.answer(Query(latents, level, branches=(name,))).raw for name in ("negative", "positive")}
        raws.append(texts["positive"])
    negative = texts["negative"]
    composed = negative + 1.5 * (raws[0] - negative) + 0.25 * (raws[1] - negative)
    scale = getattr(run.denoiser.guidance, "guidance_scale", 1.0)
    torch.testing.assert_close(found, negative + scale * (composed - negative), atol=1e-5, rtol=1e-4)
    assert run.denoiser.evaluations == 3


def test_two_equal_parts_of_half_weight_are_the_plain_prompt_at_the_cost_of_one(family):
    step, plain = end(family, "a red fox :0.5 AND a red fox :0.5"), end(family, "a red fox")
    assert torch.equal(step.latents, plain.latents) and step.evaluations == plain.evaluations


def test_runs_of_different_prompts_share_batches_and_keep_their_pictures(family):
    prompts = ["a red fox", "[a red fox:blue sky:0.5]", "a red fox AND blue sky", "[fox|sky]"]
    runs = [build_run(request_of(family, prompt), family) for prompt in prompts]
    together = {}
    for index, step in denoise_together(runs):
        together[index] = step.latents
    for index, prompt in enumerate(prompts):
        torch.testing.assert_close(together[index], end(family, prompt).latents, atol=1e-4, rtol=1e-4)


def test_a_negative_prompt_switches_too(family):
    if family.traits.guidance == "embedded":
        pytest.skip("a distilled network evaluates no negative prompt")
    fixed = end(family, "a red fox", negative="dark moon").latents
    assert torch.equal(end(family, "a red fox", negative="[blurry:dark moon:0]").latents, fixed)
    assert not torch.equal(end(family, "a red fox", negative="[blurry:dark moon:0.5]").latents, fixed)


@pytest.mark.parametrize("make", [tiny_sd, tiny_sdxl, tiny_sd3])
def test_texts_of_different_length_share_their_chunks(make):
    family = family_of(make().components)
    family.max_sequence_length = 8
    longer = "a red fox " * 7
    given = family.encode_texts({"positive": "a", "positive 2": longer, "negative": ""}, 1, (32, 32))
    assert len({one.signature for one in given.values()}) == 1
    assert end(family, f"[a:{longer}:0.5]", steps=2).latents.isfinite().all()


def test_a_prompt_that_fits_one_chunk_is_not_chunked():
    family = family_of(tiny_sd().components)
    fits = "a " * (CLIP_LENGTH - 2)
    assert family.encode_prompts(fits, "", 1, (32, 32))["positive"].tensors["prompt_embeds"].shape[1] == CLIP_LENGTH
    longer = family.encode_prompts(fits + "a", "", 1, (32, 32))["positive"].tensors["prompt_embeds"]
    assert longer.shape[1] == 2 * CLIP_LENGTH
    assert torch.equal(
        longer[:, :CLIP_LENGTH], family.encode_prompts(fits, "", 1, (32, 32))["positive"].tensors["prompt_embeds"]
    )


def test_a_second_evaluation_of_a_step_is_told_the_same_prompt():
    family = family_of(tiny_sd().components)
    run = build_run(request_of(family, "[a red fox:blue sky:1]", steps=2, sampler=Choice("heun")), family)
    told = []
    whole = Denoiser.terms

    class Watched(Denoiser):
        def terms(self, branch):
            told.append((self.step, branch, whole(self, branch)))
            return told[-1][2]

    run.denoiser.__class__ = Watched
    list(denoise(run))
    by_step = {step: {terms for one, branch, terms in told if one == step and branch == "positive"} for step in (0, 1)}
    assert by_step == {0: {(("positive", 1.0),)}, 1: {(("positive 2", 1.0),)}}


def test_a_start_that_spares_steps_leaves_the_switch_where_it_was():
    family = family_of(tiny_sd().components)
    run = build_run(request_of(family, "[a red fox:blue sky:0.5]"), family)

    def begin(latents, levels):
        yield from ()
        return latents, levels[2:]

    told = []
    for _ in denoise(dataclasses.replace(run, begin=begin)):
        told.append(run.denoiser.step)
    assert told[0] in (2, 3) and run.denoiser.terms("positive") == (("positive 2", 1.0),)


class Told:
    """A network whose output is the word that it was told."""

    prediction_type, max_rows, rows_together = "epsilon", 0, 1

    def predict_raw(self, latents, timesteps, conditioning):
        return latents * 0 + conditioning.tensors["word"][:, :, None, None]


def word(value):
    return Conditioning({"word": torch.full((1, 1), float(value))})


WORDS = {"negative": word(1), "positive": word(10), "positive 2": word(100)}
PLAN = BranchPlan(({"positive": (("positive", 0.5), ("positive 2", 1.0), ("negative", -0.5))},))


def test_a_fitted_solvers_branches_are_the_composed_ones():
    one = Denoiser(Told(), Cfg(CfgSettings(3.0)), WORDS, plan=PLAN)
    answer = one.answer(Query(torch.zeros(1, 1, 2, 2), Level(0.8, 0.6, 500.0)))
    composed = 0.5 * 10 + 100 - 0.5
    assert {name: branch.raw.unique().item() for name, branch in answer.branches.items()} == {
        "negative": 1.0,
        "positive": composed,
    }
    assert answer.raw.unique().item() == pytest.approx(1 + 3 * (composed - 1))


def test_prompt_extrapolation_moves_each_part_along_its_own_line():
    one = Denoiser(Told(), Unguided(), WORDS, plan=PLAN)
    moved = PromptExtrapolation(("negative", "positive"), {"negative": 0.0, "positive": 0.5})
    found = one.answer(Query(torch.zeros(1, 1, 2, 2), Level(0.8, 0.6, 500.0), conditioning=moved)).raw.unique().item()
    assert found == pytest.approx(0.5 * (10 + 0.5 * 9) + (100 + 0.5 * 99) - 0.5)
