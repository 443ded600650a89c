"""ComfyUI's graphs as people have them: node packs, branches, sizes and texts by link, and what is not known."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from studio.infotext import read_texts

LOADER = {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "x.safetensors"}}


def graph(**nodes: Any) -> dict[str, Any]:
    """A plain graph, nodes changed: sampler 3, checkpoint 4, latents 5, prompts 6 and 7, decoder 8, saved picture 9."""
    plain = {
        "3": {
            "class_type": "KSampler",
            "inputs": {
                **{"seed": 5, "steps": 20, "cfg": 7.0, "sampler_name": "euler", "scheduler": "karras", "denoise": 1.0},
                **{"model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0]},
            },
        },
        "4": LOADER,
        "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 832, "height": 1216, "batch_size": 1}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a fox", "clip": ["4", 1]}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry", "clip": ["4", 1]}},
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["8", 0], "filename_prefix": "ComfyUI"}},
    }
    changed = {name.removeprefix("n"): node for name, node in nodes.items()}
    return {name: node for name, node in {**plain, **changed}.items() if node is not None}


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def sampler(**inputs: Any) -> dict[str, Any]:
    return node("KSampler", **{**graph()["3"]["inputs"], **inputs})


def read(data: dict[str, Any]):
    return read_texts({"prompt": json.dumps(data)})


VALUES = {
    "prompt": "a fox",
    "negative_prompt": "blurry",
    "seed": 5,
    "num_inference_steps": 20,
    "guidance": {"key": "cfg", "guidance_scale": 7.0},
    "sampler": {"key": "euler"},
    "schedule": {"key": "karras"},
    "width": 832,
    "height": 1216,
}


def said(restored, *words: str) -> bool:
    return any(all(word in note for word in words) for note in restored.notes)


def test_the_plain_graph():
    restored = read(graph())
    assert restored.values == VALUES and restored.model == "x.safetensors" and len(restored.notes) == 1


# LoRAs.


LORAS = {
    "Power Lora Loader (rgthree)": {
        "lora_1": {"on": True, "lora": "style.safetensors", "strength": 0.8},
        "lora_2": {"on": False, "lora": "off.safetensors", "strength": 1},
        "lora_3": {"on": True, "lora": "None", "strength": 1},
        "PowerLoraLoaderHeaderWidget": {"type": "PowerLoraLoaderHeaderWidget"},
        "Add Lora": "",
    },
    "LoraLoader": {"lora_name": "style.safetensors", "strength_model": 0.8, "strength_clip": 1.0},
    "LoraLoaderModelOnly": {"lora_name": "style.safetensors", "strength_model": 0.8},
    "LoraLoader|pysssss": {"lora_name": {"content": "style.safetensors", "image": None}, "strength_model": 0.8},
    "Lora Loader Stack (rgthree)": {
        **{"lora_01": "style.safetensors", "strength_01": 0.8, "lora_02": "None", "strength_02": 1.0},
    },
    "NunchakuFluxLoraLoader": {"lora_name": "style.safetensors", "lora_strength": 0.8},
    "Load Lora": {"lora_name": "style.safetensors", "strength_model": 0.8, "strength_clip": 0.3},
    "LoRA Text Loader (LoraManager)": {"lora_syntax": "<lora:style.safetensors:0.8>"},
    "LoraTagLoader": {"text": "a fox <lora:style.safetensors:0.8>"},
    "Lora Loader (LoraManager)": {
        "text": "<lora:style.safetensors:0.8> <lora:off:1>",
        "loras": {
            "__value__": [
                {"name": "style.safetensors", "strength": 0.8, "active": True},
                {"name": "off", "strength": 1, "active": False},
            ]
        },
    },
    "EasyLoraLoaderOfSomeone": {"lora_name": "style.safetensors", "lora_weight": 0.8},
}


@pytest.mark.parametrize("kind", LORAS)
def test_a_lora_loader(kind):
    inputs = {**LORAS[kind], "model": ["4", 0], "clip": ["4", 1]}
    restored = read(graph(n3=sampler(model=["30", 0]), n30=node(kind, **inputs)))
    assert ("style.safetensors", 0.8) in {(lora["name"], lora["weight"]) for lora in restored.loras}
    assert not any(lora["name"] in ("None", "off.safetensors") for lora in restored.loras)
    assert restored.values == VALUES and restored.model == "x.safetensors"


STACKS = {
    "LoRA Stacker": {
        **{"input_mode": "simple", "lora_count": 2, "lora_name_1": "style", "lora_wt_1": 0.8, "model_str_1": 0.1},
        **{"lora_name_2": "None", "lora_wt_2": 1.0, "lora_name_3": "beyond the count", "lora_wt_3": 1.0},
    },
    "LoRA Stacker advanced": {
        **{"input_mode": "advanced", "lora_count": 1, "lora_name_1": "style", "lora_wt_1": 0.1, "model_str_1": 0.8},
    },
    "CR LoRA Stack": {
        **{"switch_1": "On", "lora_name_1": "style", "model_weight_1": 0.8, "clip_weight_1": 1.0},
        **{"switch_2": "Off", "lora_name_2": "switched off", "model_weight_2": 1.0, "clip_weight_2": 1.0},
    },
    "easy loraStack": {
        **{"toggle": True, "mode": "simple", "num_loras": 1, "lora_1_name": "style", "lora_1_strength": 0.8},
        **{"lora_1_model_strength": 0.1, "lora_2_name": "beyond the count", "lora_2_strength": 1.0},
    },
    "Sage_LoraStack": {"enabled": True, "lora_name": "style", "model_weight": 0.8, "clip_weight": 1.0},
}


@pytest.mark.parametrize("kind", STACKS)
def test_a_lora_stack(kind):
    apply = node("CR Apply LoRA Stack", model=["4", 0], clip=["4", 1], lora_stack=["31", 0])
    restored = read(graph(n3=sampler(model=["30", 0]), n30=apply, n31=node(kind, **STACKS[kind])))
    assert restored.loras == ({"name": "style", "weight": 0.8},)
    assert restored.model == "x.safetensors"


def test_stacks_on_stacks_and_a_stack_that_is_off():
    more = {**STACKS["CR LoRA Stack"], "lora_stack": ["32", 0]}
    below = node("LoRA Stacker", input_mode="simple", lora_count=1, lora_name_1="below", lora_wt_1=0.5)
    apply = node("CR Apply LoRA Stack", model=["4", 0], lora_stack=["31", 0])
    restored = read(graph(n3=sampler(model=["30", 0]), n30=apply, n31=node("CR LoRA Stack", **more), n32=below))
    assert [lora["name"] for lora in restored.loras] == ["style", "below"]
    off = node("easy loraStack", **{**STACKS["easy loraStack"], "toggle": False})
    assert read(graph(n3=sampler(model=["30", 0]), n30=apply, n31=off)).loras == ()


def test_an_unknown_lora_loader_is_named():
    for name in ("config", "lora_config"):
        unknown = node("Super LoRA Thing", model=["4", 0], **{name: "a,b,c"})
        restored = read(graph(n3=sampler(model=["30", 0]), n30=unknown))
        assert restored.loras == () and said(restored, "'Super LoRA Thing'", "not known")
        assert restored.model == "x.safetensors"
    header = {"PowerLoraLoaderHeaderWidget": {"type": "PowerLoraLoaderHeaderWidget"}, "Add Lora": ""}
    none_chosen = node("Power Lora Loader (rgthree)", model=["4", 0], **header)
    assert not said(read(graph(n3=sampler(model=["30", 0]), n30=none_chosen)), "LoRA")


def test_none_is_no_lora():
    for name in ("None", "none", ""):
        plain = node("LoraLoader", lora_name=name, strength_model=1.0, model=["4", 0])
        restored = read(graph(n3=sampler(model=["30", 0]), n30=plain))
        assert restored.loras == () and not said(restored, "LoRA")


# Loaders with everything in them.


def test_efficiency_loader():
    loader = node(
        "Efficient Loader",
        **{"ckpt_name": "x.safetensors", "lora_name": "None", "lora_model_strength": 1, "positive": "a fox"},
        **{"negative": "blurry", "empty_latent_width": 832, "empty_latent_height": 1216, "lora_stack": ["31", 0]},
    )
    efficient = node(
        "KSampler (Efficient)",
        **{"seed": 5, "steps": 20, "cfg": 7.0, "sampler_name": "euler", "scheduler": "karras", "denoise": 1.0},
        **{"model": ["4", 0], "positive": ["4", 1], "negative": ["4", 2], "latent_image": ["4", 3]},
    )
    restored = read(graph(n3=efficient, n4=loader, n5=None, n31=node("LoRA Stacker", **STACKS["LoRA Stacker"])))
    assert restored.values == VALUES and restored.loras == ({"name": "style", "weight": 0.8},)
    assert not said(restored, "another picture")
    by_link = node("Efficient Loader", **{**loader["inputs"], "positive": ["40", 0], "negative": ["41", 0]})
    texts = {"n40": node("Text Multiline", text="a fox"), "n41": node("CR Text", text="blurry")}
    assert read(graph(n3=efficient, n4=by_link, n5=None, n31=None, **texts)).values == VALUES


def test_easy_use_s_pipes():
    loader = node(
        "easy a1111Loader",
        **{"ckpt_name": "x.safetensors", "lora_name": "style", "lora_model_strength": 0.8, "resolution": "832 x 1216"},
        **{"empty_latent_width": 512, "empty_latent_height": 512, "positive": "a fox", "negative": "blurry"},
    )
    settings = node(
        "easy preSampling",
        **{"steps": 20, "cfg": 7.0, "sampler_name": "euler", "scheduler": "karras", "denoise": 1.0, "seed": 5},
        pipe=["4", 0],
    )
    run = node("easy kSampler", pipe=["2", 0], image_output="Save")
    save = node("SaveImage", images=["3", 1])
    restored = read({"2": settings, "3": run, "4": loader, "9": save})
    assert restored.values == VALUES
    assert restored.model == "x.safetensors" and restored.loras == ({"name": "style", "weight": 0.8},)


def test_impact_s_pipe_and_wildcards():
    encode = node(
        "ImpactWildcardEncode",
        **{"wildcard_text": "a {fox|cat}", "populated_text": "a fox<lora:style:0.8>", "mode": "populate", "seed": 99},
        model=["4", 0],
        clip=["4", 1],
    )
    pipe = node("ToBasicPipe", model=["6", 0], clip=["4", 1], vae=["4", 2], positive=["6", 2], negative=["7", 0])
    run = {k: v for k, v in graph()["3"]["inputs"].items() if k not in ("model", "positive", "negative")}
    restored = read(graph(n3=node("ImpactKSamplerBasicPipe", basic_pipe=["20", 0], **run), n6=encode, n20=pipe))
    assert restored.values == VALUES and restored.loras == ({"name": "style", "weight": 0.8},)
    assert restored.model == "x.safetensors"


def test_rgthree_s_context():
    context = node(
        "Context Big (rgthree)",
        **{"model": ["4", 0], "clip": ["4", 1], "positive": ["6", 0], "negative": ["7", 0], "latent": ["5", 0]},
        **{"seed": 5, "steps": 20, "cfg": 7.0, "sampler": "euler", "scheduler": "karras"},
    )
    second = node("Context (rgthree)", base_ctx=["20", 0])
    names = {"seed": 7, "steps": 8, "cfg": 9, "sampler_name": 10, "scheduler": 11, "model": 1, "positive": 4}
    links = {name: ["21", slot] for name, slot in {**names, "negative": 5, "latent_image": 6}.items()}
    restored = read(graph(n3=node("KSampler", denoise=1.0, **links), n20=context, n21=second))
    assert restored.values == VALUES and restored.model == "x.safetensors"


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


# Graphs elsewhere.


def test_a_graph_in_a_comment_as_civitai_writes_it():
    extra = {"prompt": "a fox", "negativePrompt": "blurry", "steps": 99, "cfgScale": 1}
    data = {**graph(), "extra": {"airs": ["urn:air:sdxl:checkpoint:civitai:1@2"]}, "extraMetadata": json.dumps(extra)}
    restored = read_texts({"parameters": json.dumps(data), "UserComment": json.dumps(data)})
    assert restored.values == VALUES and restored.source == "comfyui"
    hidden = graph(n6=node("Mystery", x=1))
    restored = read_texts({"UserComment": json.dumps({**hidden, "extraMetadata": json.dumps(extra)})})
    assert restored.values == VALUES
    for wrapped in ({"prompt": graph()}, {"prompt": json.dumps(graph()), "workflow": "{}"}):
        assert read_texts({"UserComment": json.dumps(wrapped)}).values == VALUES


def workflow(*nodes: dict[str, Any], links: list[Any]) -> dict[str, Any]:
    return {"nodes": list(nodes), "links": links, "version": 0.4}


def test_a_workflow_with_nodes_that_only_the_screen_has():
    def on(number, kind, values=(), inputs=(), mode=0):
        sockets = [{"name": name, "link": link} for name, link in inputs]
        return {"id": number, "type": kind, "widgets_values": list(values), "inputs": sockets, "mode": mode}

    links = {
        **{1: (30, 3), 2: (5, 3), 3: (40, 3), 4: (42, 3), 5: (4, 30), 6: (6, 40), 7: (7, 41)},
        **{8: (43, 5), 9: (3, 8), 10: (8, 9), 11: (31, 30), 12: (4, 31)},
    }
    data = workflow(
        on(
            3,
            "KSampler",
            [5, "randomize", 20, 7.0, "euler", "karras", 1.0],
            [("model", 1), ("latent_image", 2), ("positive", 3), ("negative", 4)],
        ),
        on(4, "CheckpointLoaderSimple", ["x.safetensors"]),
        on(5, "EmptyLatentImage", [512, 1216, 1], [("width", 8)]),
        on(6, "CLIPTextEncode", ["a fox"]),
        on(7, "CLIPTextEncode", ["blurry"]),
        on(8, "VAEDecode", [], [("samples", 9)]),
        on(9, "SaveImage", ["ComfyUI"], [("images", 10)]),
        on(
            30,
            "Power Lora Loader (rgthree)",
            [None, {"on": True, "lora": "style.safetensors", "strength": 0.8}, {}, ""],
            [("model", 11)],
        ),
        on(31, "LoraLoader", ["bypassed.safetensors", 1, 1], [("model", 12)], mode=4),
        on(40, "Reroute", [], [("", 6)]),
        on(41, "SetNode", ["negative"], [("CONDITIONING", 7)]),
        on(42, "GetNode", ["negative"]),
        on(43, "PrimitiveNode", [832, "fixed"]),
        on(50, "KSampler", [1, "fixed", 1, 1.0, "ddim", "normal", 1.0], mode=2),
        links=[[key, source, 0, target, 0, "*"] for key, (source, target) in links.items()],
    )
    restored = read_texts({"workflow": json.dumps(data)})
    assert restored.values == VALUES and restored.loras == ({"name": "style.safetensors", "weight": 0.8},)
    assert restored.model == "x.safetensors"


def test_a_workflow_whose_nodes_list_their_widgets():
    names = ["seed", "steps", "cfg", "sampler_name", "scheduler", "denoise"]
    sockets = [{"name": name, "type": "*", "link": None, "widget": {"name": name}} for name in names]
    links = [{"name": "latent_image", "link": 2}, {"name": "positive", "link": 3}]
    run = {
        "id": 3,
        "type": "KSampler of a pack",
        "inputs": [*links, *sockets],
        "widgets_values": [5, "fixed", 20, 7.0, "euler", "karras", 1.0],
    }
    data = workflow(
        run,
        {"id": 5, "type": "EmptyLatentImage", "widgets_values": [832, 1216, 1]},
        {"id": 6, "type": "CLIPTextEncode", "widgets_values": ["a fox"]},
        links=[[2, 5, 0, 3, 0, "LATENT"], [3, 6, 0, 3, 1, "CONDITIONING"]],
    )
    restored = read_texts({"workflow": json.dumps(data)})
    assert restored.values == {name: value for name, value in VALUES.items() if name != "negative_prompt"}


def test_damaged_graphs_never_raise():
    import random

    draw = random.Random(3)
    whole = json.dumps(graph(n30=node("LoRA Stacker", **STACKS["LoRA Stacker"]), n3=sampler(model=["30", 0])))
    values = ["null", "[]", "{}", '"x"', "1e999", '["3", 0]', '[["4", 0], 1]', "true"]
    for _ in range(400):
        text = whole
        for _ in range(draw.randint(1, 5)):
            places = [place for place in range(len(text)) if text[place] in ":"]
            place = draw.choice(places) + 1
            end = min((text.find(mark, place) for mark in ",}" if text.find(mark, place) > 0), default=len(text))
            text = text[:place] + draw.choice(values) + text[end:]
        restored = read_texts({"prompt": text, "workflow": text})
        assert restored is None or all(isinstance(note, str) for note in restored.notes)


def test_efficiency_s_sdxl_pipe():
    loader = node(
        "Eff. Loader SDXL",
        **{"base_ckpt_name": "x.safetensors", "refiner_ckpt_name": "None", "positive": "a fox", "negative": "blurry"},
        **{"empty_latent_width": 832, "empty_latent_height": 1216, "lora_stack": ["31", 0]},
    )
    run = node(
        "KSampler SDXL (Eff.)",
        **{
            "noise_seed": 5,
            "steps": 20,
            "cfg": 7.0,
            "sampler_name": "euler",
            "scheduler": "karras",
            "refine_at_step": -1,
        },
        **{"sdxl_tuple": ["4", 0], "latent_image": ["4", 1]},
    )
    restored = read(
        graph(n3=run, n4=loader, n5=None, n6=None, n7=None, n31=node("CR LoRA Stack", **STACKS["CR LoRA Stack"]))
    )
    assert restored.values == VALUES and restored.model == "x.safetensors"
    assert restored.loras == ({"name": "style", "weight": 0.8},)


def test_rgthree_s_power_prompt_reads_tags():
    prompt = node("Power Prompt (rgthree)", prompt="a fox <lora:style:0.8>", opt_model=["4", 0], opt_clip=["4", 1])
    restored = read(graph(n3=sampler(model=["6", 1]), n6=prompt))
    assert restored.values == VALUES and restored.loras == ({"name": "style", "weight": 0.8},)


def test_a_graph_that_cannot_be_read_leaves_the_workflow():
    screen = {
        "nodes": [
            {
                "id": 3,
                "type": "KSampler",
                "widgets_values": [5, "fixed", 20, 7.0, "euler", "karras", 1.0],
                "inputs": [{"name": "latent_image", "link": 1}],
            },
            {"id": 5, "type": "EmptyLatentImage", "widgets_values": [832, 1216, 1]},
        ],
        "links": [[1, 5, 0, 3, 0, "LATENT"]],
    }
    found = {"prompt": json.dumps({"1": node("LoadImage", image="x")}), "workflow": json.dumps(screen)}
    assert read_texts(found).values["seed"] == 5


def test_no_graph_is_slow():
    itself = {f"text_{letter}": ["50", 0] for letter in "abcd"}
    encode = node("CLIPTextEncode", text=["50", 0])
    hostile = [
        graph(n6=encode, n50=node("Text Concatenate", **itself)),
        {str(number): sampler(latent_image=[str(number + 1), 0]) for number in range(6000)},
        {
            **{f"s{number}": node("SaveImage", images=["0", 0]) for number in range(6000)},
            **{str(number): node("VAEDecode", samples=[str(number + 1), 0]) for number in range(6000)},
        },
        graph(n3=sampler(model=["30", 0]), n30=node("LoRA Stacker", **{f"lora_name_{n}": "x" for n in range(20_000)})),
        graph(n5=node("EmptyLatentImage", width=["5", 0], height=["5", 0])),
        graph(n3=node("KSampler", **{name: ["3", 0] for name in graph()["3"]["inputs"]})),
    ]
    began = time.process_time()
    for data in hostile:
        read(data)
    assert time.process_time() - began < 8  # an exponential or quadratic walk takes minutes
