"""ComfyUI graphs: the plain one, LoRAs, and loaders that hold everything."""

from __future__ import annotations

import pytest

from tests.studio.comfyui_graphs import STACKS, VALUES, graph, node, read, said, sampler


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
