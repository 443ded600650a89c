"""What a dropped picture claims, held against what ComfyUI 0.3.64 itself made of the same graphs (relative errors of
the final latents, with a small network in the model's place: 0.04 to 0.6 where the claim was wrong)."""

from __future__ import annotations

import json

import pytest

from pipelines.prompts.rules import PromptRules, parse_by_rules
from pipelines.requests.wildcards import escape_wildcards
from studio import infotext
from tests.studio.comfyui_graphs import graph, node, read, sampler

TEXT = (
    "a fox\nNegative prompt: blurry\nSteps: 20, Sampler: Euler, Schedule type: Karras, CFG scale: {scale}, Seed: 5, "
    "Size: 512x512, RNG: CPU, Version: v1.10.1"
)


def custom(name):
    plain = {
        key: value
        for key, value in graph()["3"]["inputs"].items()
        if key not in ("seed", "steps", "sampler_name", "scheduler", "denoise")
    }
    return graph(
        n3=node("SamplerCustom", **{**plain, "noise_seed": 5, "sampler": ["32", 0], "sigmas": ["33", 0]}),
        n32=node("KSamplerSelect", sampler_name=name),
        n33=node("BasicScheduler", model=["4", 0], scheduler="karras", steps=20, denoise=1.0),
    )


@pytest.mark.parametrize("name", ["dpm_2", "dpm_2_ancestral", "uni_pc"])
def test_only_the_plain_sampler_leaves_a_sigma_out(name):
    made_like = read(custom(name)).values["made_like"]
    assert made_like["whole_schedule"] is True
    assert "whole_schedule" not in read(graph(n3=sampler(sampler_name=name))).values["made_like"]
    assert "whole_schedule" not in read(custom("euler")).values["made_like"]


@pytest.mark.parametrize("side", ["6", "7"])
def test_prompts_that_are_read_at_different_layers_claim_nothing(side):
    last = node("CLIPSetLastLayer", clip=["4", 1], stop_at_clip_layer=-2)
    nodes = graph(n20=last)
    nodes[side]["inputs"]["clip"] = ["20", 0]
    assert "different layers" in read(nodes).equality


@pytest.mark.parametrize(("scale", "claim"), [(40.0, "goes beyond"), (0.5, "Same as"), (0.0, "Same as")])
def test_a_guidance_scale_that_is_not_had_here_claims_nothing(scale, claim):
    assert claim in read(graph(n3=sampler(cfg=scale))).equality
    assert claim in infotext.read_texts({"parameters": TEXT.format(scale=scale)}).equality


def test_a_server_that_moves_a_number_claims_nothing():
    restored = infotext.read_texts({"parameters": TEXT.format(scale=7)})
    assert restored.equality.startswith("Same as A1111")
    assert restored.within({"num_inference_steps": (1, 10)}).equality == ""
    assert restored.within({"num_inference_steps": (1, 100)}).equality == restored.equality


@pytest.mark.parametrize("syntax", ["comfyui", "invokeai", "plain"])
def test_braces_of_another_program_are_read_without_the_backslashes_that_keep_them_from_being_drawn(syntax):
    text = "a {red|blue} fox __card__"
    rules = PromptRules(syntax=syntax)
    assert parse_by_rules(escape_wildcards(text), rules) == parse_by_rules(text, rules)


def test_invokeais_clip_skip_and_device_and_others_rng_do_not_vanish():
    data = {"positive_prompt": "a fox", "seed": 5, "steps": 20, "scheduler": "euler", "cfg_scale": 7.5}
    restored = infotext.read_texts({"invokeai_metadata": json.dumps({**data, "clip_skip": 1, "rand_device": "cuda"})})
    assert restored.values["made_like"] == {"key": "invokeai", "skipped_layers": 1}
    assert "drawn on a GPU" in restored.equality
    bare = infotext.read_texts({"parameters": TEXT.format(scale=7).replace(", Version: v1.10.1", ", Model hash: abc")})
    assert any("RNG" in note for note in bare.notes)


SIGMAS = {
    "KarrasScheduler": {"rho": 7.0},
    "ExponentialScheduler": {},
    "BetaSamplingScheduler": {"alpha": 0.6, "beta": 0.6},
}


def nodes_with(select, scheduler):
    return {**custom("euler"), "32": select, "33": scheduler}


@pytest.mark.parametrize("kind", SIGMAS)
def test_a_schedules_node_is_its_name_as_usual_and_its_settings_where_not(kind):
    ends = {} if kind == "BetaSamplingScheduler" else {"sigma_max": 14.614642, "sigma_min": 0.0291675}
    select = node("KSamplerSelect", sampler_name="euler")
    name = next(iter(SIGMAS[kind] or ends))
    usual = read(nodes_with(select, node(kind, steps=20, **ends, **SIGMAS[kind])))
    assert usual.equality.startswith("Same as ComfyUI") and name not in usual.values["schedule"]
    changed = read(nodes_with(select, node(kind, steps=20, **{**ends, **SIGMAS[kind], name: 3.0})))
    assert changed.values["schedule"][name] == 3.0 and kind in changed.equality
    assert changed.values["num_inference_steps"] == 20


def test_a_samplers_node_gives_its_settings_and_names_those_that_are_none_here():
    scheduler = node("BasicScheduler", model=["4", 0], scheduler="karras", steps=20, denoise=1.0)
    restored = read(nodes_with(node("SamplerEulerAncestral", eta=0.5, s_noise=1.1), scheduler))
    assert restored.values["sampler"] == {"key": "euler_a", "eta": 0.5}
    assert any("s_noise" in note for note in restored.notes)
    restored = read(nodes_with(node("SamplerLMS", order=3), scheduler))
    assert restored.values["sampler"] == {"key": "lms", "order": 3}
    sde = node("SamplerDPMPP_2M_SDE", solver_type="heun", eta=1.0, s_noise=1.0, noise_device="gpu")
    restored = read(nodes_with(sde, scheduler))
    assert restored.values["made_like"]["path_noise"] == "CUDA"
    assert any("solver_type" in note for note in restored.notes)


@pytest.mark.parametrize("place", ["before", "after"])
def test_a_picture_picked_from_a_batch_has_its_index(place):
    latents = node("EmptyLatentImage", width=512, height=512, batch_size=4)
    pick = node("LatentFromBatch", samples=["5" if place == "before" else "3", 0], batch_index=2, length=1)
    nodes = graph(n5=latents, n40=pick)
    if place == "before":
        nodes["3"] = sampler(latent_image=["40", 0])
    else:
        nodes["8"]["inputs"]["samples"] = ["40", 0]
    restored = read(nodes)
    assert restored.values["made_like"] == {"key": "comfyui", "batch_total": 4, "batch_index": 2}
    assert not any("does not say which" in note for note in restored.notes)
    several = {**nodes, "40": {**pick, "inputs": {**pick["inputs"], "length": 2}}}
    assert "batch_index" not in read(several).values["made_like"]
