"""A ComfyUI graph claims equality only where all that changes its picture is followed."""

from __future__ import annotations

import pytest

from tests.studio.comfyui_graphs import graph, node, read, sampler

PATCHED = {"n3": sampler(model=["20", 0])}
UNFOLLOWED = {
    "FreeU_V2": graph(**PATCHED, n20=node("FreeU_V2", model=["4", 0], b1=1.3, b2=1.4, s1=0.9, s2=0.2)),
    "ModelSamplingDiscrete": graph(**PATCHED, n20=node("ModelSamplingDiscrete", model=["4", 0], zsnr=True)),
    "RescaleCFG": graph(
        n3=sampler(model=["19", 0]),
        n19=node("LoraLoader", model=["20", 0], clip=["4", 1], lora_name="None", strength_model=1.0),
        n20=node("RescaleCFG", model=["4", 0], multiplier=0.7),
    ),
    "ControlNetApply": graph(
        n3=sampler(positive=["20", 0]),
        n20=node("ControlNetApply", conditioning=["6", 0], control_net=["21", 0], strength=1.0),
    ),
    "ConditioningCombine": graph(
        n3=sampler(negative=["20", 0]),
        n20=node("ConditioningCombine", conditioning_1=["7", 0], conditioning_2=["6", 0]),
    ),
    "ConditioningZeroOut": graph(n7=node("ConditioningZeroOut", conditioning=["6", 0])),
    "BNK_CLIPTextEncodeAdvanced": graph(n6=node("BNK_CLIPTextEncodeAdvanced", text="a fox", clip=["4", 1])),
    "ImageUpscaleWithModel": graph(
        n9=node("SaveImage", images=["20", 0]), n20=node("ImageUpscaleWithModel", image=["8", 0])
    ),
    "KSampler //Inspire": graph(n3=node("KSampler //Inspire", **graph()["3"]["inputs"], noise_mode="GPU(=A1111)")),
    "SamplerDPMPP_2M_SDE": graph(
        n3=node(
            "SamplerCustom",
            **{**graph()["3"]["inputs"], "noise_seed": 5, "sampler": ["32", 0], "sigmas": ["33", 0]},
        ),
        n32=node("SamplerDPMPP_2M_SDE", solver_type="heun", eta=0.7),
        n33=node("BasicScheduler", model=["4", 0], scheduler="karras", steps=20, denoise=1.0),
    ),
}


@pytest.mark.parametrize("kind", UNFOLLOWED)
def test_a_node_that_is_not_followed_is_named_and_nothing_is_claimed(kind):
    equality = read(UNFOLLOWED[kind]).equality
    assert equality.startswith("May differ from ComfyUI") and kind in equality


ADVANCED = {
    **{name: value for name, value in graph()["3"]["inputs"].items() if name not in ("seed", "denoise")},
    **{"noise_seed": 5, "add_noise": "enable", "start_at_step": 0, "end_at_step": 10000},
    "return_with_leftover_noise": "disable",
}


def test_the_advanced_sampler_is_the_plain_one_where_it_runs_all_steps():
    assert read(graph(n3=node("KSamplerAdvanced", **ADVANCED))).equality.startswith("Same as ComfyUI")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("add_noise", "disable"), ("start_at_step", 3), ("end_at_step", 12)),
        ("return_with_leftover_noise", "enable"),
    ],
)
def test_a_part_of_the_steps_is_said(name, value):
    restored = read(graph(n3=node("KSamplerAdvanced", **{**ADVANCED, name: value})))
    assert "a part of the steps" in restored.equality
    assert any(name in note for note in restored.notes)


def test_a_setting_that_is_not_read_and_an_embedding_are_said():
    unread = read(graph(n3=sampler(seed=["20", 0]), n20=node("RandomMath", a=3)))
    assert "does not say all of its settings (seed)" in unread.equality
    word = read(graph(n6=node("CLIPTextEncode", text="a embedding:mint fox", clip=["4", 1])))
    assert "embeddings were not compared" in word.equality


def test_what_only_hands_on_and_lora_nodes_do_not_count():
    passed = graph(n3=sampler(model=["20", 0]), n20=node("Reroute", **{"": ["4", 0]}))
    assert read(passed).equality.startswith("Same as ComfyUI")
    loaded = graph(n3=sampler(model=["20", 0]), n20=node("LoraLoaderModelOnly", lora_name="a", model=["4", 0]))
    assert "LoRAs were not compared" in read(loaded).equality and "not followed" not in read(loaded).equality


def test_the_ways_of_custom_samplers_are_followed():
    data = graph(
        n3=node(
            "SamplerCustomAdvanced",
            **{"noise": ["30", 0], "guider": ["31", 0], "sampler": ["32", 0], "sigmas": ["33", 0]},
            latent_image=["5", 0],
        ),
        n30=node("RandomNoise", noise_seed=5),
        n31=node("CFGGuider", model=["4", 0], positive=["6", 0], negative=["7", 0], cfg=7.0),
        n32=node("KSamplerSelect", sampler_name="euler"),
        n33=node("BasicScheduler", model=["4", 0], scheduler="karras", steps=20, denoise=1.0),
    )
    assert read(data).equality.startswith("Same as ComfyUI")


@pytest.mark.parametrize(("steps", "same"), [(1, False), (2, True)])
def test_one_step_of_uni_pc_is_none_there(steps, same):
    """ComfyUI 0.3.64 returned the noise, divided by alpha at its end, for schedulers simple, beta and ddim_uniform."""
    equality = read(graph(n3=sampler(sampler_name="uni_pc", steps=steps))).equality
    assert equality.startswith("Same as ComfyUI") == same and ("takes none" in equality) != same
