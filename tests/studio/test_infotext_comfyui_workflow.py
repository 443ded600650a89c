"""ComfyUI graphs elsewhere than in a prompt, damaged ones and slow ones."""

from __future__ import annotations

import json
import time
from typing import Any

from studio.infotext import read_texts
from tests.studio.comfyui_graphs import STACKS, VALUES, graph, node, read, sampler

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


def test_loras_that_a_node_names_twice_count_once_and_what_is_off_does_not():
    listed = [{"name": "a", "strength": 0.5, "active": True}, {"name": "b", "strength": 1, "active": False}]
    graph = {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "m"}},
        "2": {
            "class_type": "Lora Loader (LoraManager)",
            "inputs": {"model": ["1", 0], "text": "<lora:a:0.5> <lora:b:1>", "loras": {"__value__": listed}},
        },
        "3": {"class_type": "KSampler", "inputs": {"seed": 5, "steps": 4, "model": ["2", 0], "positive": ["6", 0]}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a fox"}},
        "4": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0]}},
        "5": {"class_type": "SaveImage", "inputs": {"images": ["4", 0]}},
    }
    assert read_texts({"prompt": json.dumps(graph)}).loras == ({"name": "a", "weight": 0.5},)
    listed[0]["active"] = False
    assert not read_texts({"prompt": json.dumps(graph)}).loras


def test_a_sampler_that_is_not_known_is_named():
    graph = {
        "1": {"class_type": "CLIPTextEncode", "inputs": {"text": "a fox"}},
        "2": {"class_type": "MySampler", "inputs": {"x": 1, "positive": ["1", 0]}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0]}},
    }
    restored = read_texts({"prompt": json.dumps(graph)})
    assert restored.values == {"prompt": "a fox"} and any("'MySampler' is not known here" in n for n in restored.notes)
