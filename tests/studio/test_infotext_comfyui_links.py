"""ComfyUI graphs: sizes, numbers and texts that come by links, branches, and custom samplers."""

from __future__ import annotations

import pytest

from tests.studio.comfyui_graphs import VALUES, graph, node, read, said, sampler

# Sizes and numbers by link.


SIZES = {
    "one node of both": (node("SDXLResolution", resolution="832x1216"), ["50", 0], ["50", 1]),
    "with the latents first": (
        node("EmptyLatentImagePresets", dimensions="832 x 1216  (portrait)"),
        ["50", 1],
        ["50", 2],
    ),
    "a ratio with numbers": (
        node(
            "CR SDXL Aspect Ratio", aspect_ratio="5:7 portrait 832x1216", width=1024, height=1024, swap_dimensions="Off"
        ),
        ["50", 0],
        ["50", 1],
    ),
    "a ratio of one's own": (
        node("CR SDXL Aspect Ratio", aspect_ratio="custom", width=832, height=1216, swap_dimensions="Off"),
        ["50", 0],
        ["50", 1],
    ),
    "swapped by the node": (
        node("CR SDXL Aspect Ratio", aspect_ratio="landscape 1216x832", width=0, height=0, swap_dimensions="On"),
        ["50", 0],
        ["50", 1],
    ),
    "swapped by the links": (node("SDXLResolution", resolution="1216x832"), ["50", 1], ["50", 0]),
    "a pack's image size": (node("CR Image Size", width=832, height=1216, upscale_factor=1.0), ["50", 0], ["50", 1]),
    "named sides": (node("Width and Height Settings", width=832, height=1216), ["50", 0], ["50", 1]),
}


@pytest.mark.parametrize("name", SIZES)
def test_a_size_by_link(name):
    source, width, height = SIZES[name]
    latents = node("EmptyLatentImage", width=width, height=height, batch_size=1)
    assert read(graph(n5=latents, n50=source)).values == VALUES


@pytest.mark.parametrize("kind", ["PrimitiveInt", "INTConstant", "easy int", "CR Integer", "Int Literal"])
def test_numbers_of_primitive_nodes(kind):
    name = {"CR Integer": "number", "Int Literal": "int"}.get(kind, "value")
    latents = node("EmptyLatentImage", width=["50", 0], height=["51", 0], batch_size=1)
    seeds = node("Seed (rgthree)", seed=5)
    restored = read(
        graph(
            n3=sampler(seed=["52", 0], steps=["53", 0]),
            n5=latents,
            n50=node(kind, **{name: 832}),
            n51=node(kind, **{name: 1216}),
            n52=seeds,
            n53=node(kind, **{name: 20}),
        )
    )
    assert restored.values == VALUES


def test_latents_with_a_preset_of_their_own():
    rgthree = node(
        "SDXL Empty Latent Image (rgthree)", dimensions="832 x 1216  (portrait)", clip_scale=2.0, batch_size=1
    )
    assert read(graph(n5=rgthree)).values == VALUES
    picker = node("SDXLEmptyLatentSizePicker+", resolution="1024x1024 (1.0)", width_override=832, height_override=1216)
    assert read(graph(n5=picker)).values == VALUES


@pytest.mark.parametrize("kind", ["GetImageSize", "MathExpression|pysssss", "FluxResolutionNode", "SomeCalculator"])
def test_what_is_computed_is_not_guessed_but_named(kind):
    computed = node(kind, width=1, height=2, value=3, megapixel="1.0")
    latents = node("EmptyLatentImage", width=["50", 0], height=["50", 1], batch_size=1)
    if kind == "FluxResolutionNode":
        computed["inputs"] = {"megapixel": "1.0", "aspect_ratio": "3:4 (Golden Ratio)"}
    restored = read(graph(n5=latents, n50=computed))
    assert "width" not in restored.values and "height" not in restored.values
    assert said(restored, "width", kind) and said(restored, "height", kind)
    computed_seed = read(graph(n3=sampler(seed=["50", 0]), n50=node("RandomIntNode", value=7)))
    assert "seed" not in computed_seed.values and said(computed_seed, "seed", "RandomIntNode")


def test_what_the_latents_are():
    encoded = {"n5": node("VAEEncode", pixels=["60", 0], vae=["4", 2]), "n60": node("LoadImage", image="a.png")}
    assert said(read(graph(**encoded)), "another picture")
    unknown = read(graph(n5=node("MysteryLatents", mood="blue")))
    assert said(unknown, "'MysteryLatents'", "not known") and not said(unknown, "another picture")
    assert {"width", "height"}.isdisjoint(unknown.values)
    assert said(read(graph(n5=node("EmptyLatentImage", width=64, height=64, batch_size=4))), "batch of 4")


# Texts by link.


def test_joined_texts():
    joined = {
        "StringConcatenate": {"string_a": "a ", "string_b": ["51", 0], "delimiter": ""},
        "JoinStrings": {"string1": "a", "string2": ["51", 0], "delimiter": " "},
        "Text Concatenate": {"delimiter": " ", "clean_whitespace": "true", "text_a": "a", "text_b": ["51", 0]},
    }
    for kind, inputs in joined.items():
        encode = node("CLIPTextEncode", text=["50", 0], clip=["4", 1])
        restored = read(graph(n6=encode, n50=node(kind, **inputs), n51=node("PrimitiveString", value="fox")))
        assert restored.values == VALUES, kind


def test_a_computed_text_is_named_and_the_prompt_left_alone():
    encode = node("CLIPTextEncode", text=["50", 0], clip=["4", 1])
    for kind in ("DPRandomGenerator", "OllamaGenerate", "StringReplace", "WD14Tagger|pysssss", "Anything Else"):
        restored = read(
            graph(n6=encode, n50=node(kind, text="{a|b} fox") if kind != "Anything Else" else node(kind, x=1))
        )
        assert "prompt" not in restored.values and said(restored, "prompt was not found", kind)
        assert restored.values["negative_prompt"] == "blurry"


def test_two_encoders_and_controlnets():
    encode = node("CLIPTextEncodeSDXL", text_g="a fox", text_l="fox, red", width=832, height=1216, clip=["4", 1])
    control = node("ControlNetApplyAdvanced", positive=["6", 0], negative=["7", 0], strength=1.0, image=["60", 0])
    restored = read(graph(n3=sampler(positive=["20", 0], negative=["20", 1]), n6=encode, n20=control))
    assert restored.values == VALUES
    assert said(restored, "two text encoders") and said(restored, "ControlNetApplyAdvanced")


def test_a_zeroed_negative_is_empty():
    zero = node("ConditioningZeroOut", conditioning=["6", 0])
    assert read(graph(n7=zero)).values == {**VALUES, "negative_prompt": ""}


# Branches.


def test_the_branch_of_the_saved_picture_is_read():
    dead = sampler(seed=1, steps=1, positive=["61", 0])
    data = {"1": dead, "2": node("VAEDecode", samples=["1", 0]), "61": node("CLIPTextEncode", text="a cat"), **graph()}
    assert read(data).values == VALUES
    shown = {**data, "10": node("PreviewImage", images=["2", 0])}
    assert read(shown).values == VALUES and not said(read(shown), "several pictures")


def test_the_saved_picture_s_sampler_need_not_be_the_first_in_the_file():
    data = graph(
        n8=node("VAEDecode", samples=["70", 0], vae=["4", 2]),
        n70=sampler(seed=77, positive=["71", 0]),
        n71=node("CLIPTextEncode", text="an owl", clip=["4", 1]),
    )
    restored = read(data)
    assert (restored.values["seed"], restored.values["prompt"]) == (77, "an owl") and not said(restored, "samplers")


def test_a_refined_picture_is_read_where_it_began():
    refined = graph(
        n8=node("VAEDecode", samples=["20", 0], vae=["4", 2]),
        n20=sampler(seed=9, steps=10, denoise=0.5, latent_image=["21", 0]),
        n21=node("LatentUpscaleBy", samples=["3", 0], scale_by=1.5),
    )
    assert read(refined).values == VALUES and said(read(refined), "2 samplers")
    by_pixels = graph(
        n8=node("VAEDecode", samples=["20", 0], vae=["4", 2]),
        n20=sampler(seed=9, latent_image=["21", 0]),
        n21=node("VAEEncode", pixels=["22", 0]),
        n22=node("ImageUpscaleWithModel", image=["23", 0], upscale_model=["24", 0]),
        n23=node("VAEDecode", samples=["3", 0]),
        n24=node("UpscaleModelLoader", model_name="4x.pth"),
    )
    assert read(by_pixels).values == VALUES and read(by_pixels).model == "x.safetensors"
    detailed = graph(
        n9=node("SaveImage", images=["30", 0]),
        n30=node("FaceDetailer", image=["8", 0], seed=1, steps=9, positive=["6", 0], sampler_name="ddim", cfg=2.0),
    )
    assert read(detailed).values == VALUES


def test_several_saved_pictures_are_said():
    data = graph(n80=sampler(seed=6), n81=node("VAEDecode", samples=["80", 0]), n82=node("SaveImage", images=["81", 0]))
    assert said(read(data), "several pictures") and read(data).values["seed"] in (5, 6)


def test_a_graph_without_a_sampler_names_its_nodes():
    restored = read({"1": node("LoadImage", image="x"), "2": node("SaveImage", images=["1", 0])})
    assert restored.values == {} and said(restored, "no sampler", "LoadImage")


# Custom samplers.


def test_schedules_and_samplers_that_are_nodes():
    run = node("SamplerCustom", noise_seed=5, cfg=7.0, add_noise=True, sampler=["21", 0], sigmas=["22", 0])
    run["inputs"] |= {"model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0]}
    parts = {"n21": node("KSamplerSelect", sampler_name="euler"), "n22": node("KarrasScheduler", steps=20, rho=7.0)}
    assert read(graph(n3=run, **parts)).values == VALUES
    sde = {**parts, "n21": node("SamplerDPMPP_2M_SDE", eta=1.0)}
    assert read(graph(n3=run, **sde)).values["sampler"] == {"key": "dpmpp_2m_sde"}
    odd = read(graph(n3=run, **{**parts, "n22": node("VPScheduler", steps=20)}))
    assert "schedule" not in odd.values and said(odd, "VPScheduler") and odd.values["num_inference_steps"] == 20
