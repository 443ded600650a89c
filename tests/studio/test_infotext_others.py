"""Settings that other programs wrote are read: A1111, Forge, ComfyUI, InvokeAI and SwarmUI."""

from __future__ import annotations

import io
import json

from PIL import Image

from studio.infotext import read, read_texts
from tests.studio.picture_texts import COMFY, png_with, reopened

# Other programs.


def test_a1111_and_forge():
    text = (
        "girl with a beret, ((eyeshadow)) <lora:ink:0.7:0.5>\nNegative prompt: ugly, fat\n[blurry]\n"
        "Steps: 20, Sampler: Euler a, Schedule type: SGM Uniform, CFG scale: 7, Seed: 965400086, Size: 512x768, "
        'Model hash: 45dee52b, Model: v1-5, Clip skip: 2, Hires upscale: 2, Lora hashes: "ink: 1f", Version: v1.10.1'
    )
    restored = read(png_with(parameters=text))
    assert restored.source == "a1111"
    assert restored.values == {
        "prompt": "girl with a beret, ((eyeshadow))",
        "negative_prompt": "ugly, fat\n[blurry]",
        "num_inference_steps": 20,
        "sampler": {"key": "euler_a"},
        "schedule": {"key": "uniform", "spacing": "sgm"},
        "guidance": {"key": "cfg", "guidance_scale": 7.0},
        "seed": 965400086,
        "width": 512,
        "height": 768,
        "made_like": {"key": "a1111_gpu", "clip_skip": 2},
    }
    assert restored.equality.startswith("May differ from A1111 1.10's picture: it was made in two passes")
    assert restored.model == "v1-5" and restored.loras == ({"name": "ink", "weight": 0.7},)
    assert any("Hires upscale" in note for note in restored.notes)
    assert any("'v1-5'" in note for note in restored.notes) and any("'ink' at 0.7" in note for note in restored.notes)
    flux = read_texts(
        {
            "parameters": "x\nSteps: 20, Sampler: Euler, Schedule type: Simple, CFG scale: 1, "
            "Distilled CFG Scale: 3.5, "
            "Seed: 1, Size: 64x64, Version: f2.0.1v1.10.1-previous-1"
        }
    )
    assert flux.source == "forge" and flux.values["guidance"]["guidance_scale"] == 3.5


def test_samplers_of_others_are_reported_not_guessed():
    old = read_texts({"parameters": "x\nSteps: 20, Sampler: DPM++ 2M Karras, CFG scale: 7, Seed: 1"})
    assert old.values["sampler"] == {"key": "dpmpp_2m"} and old.values["schedule"] == {"key": "karras"}
    for name in ("DPM++ 2S a", "DPM fast", "Restart"):
        restored = read_texts({"parameters": f"x\nSteps: 20, Sampler: {name}, Schedule type: Turbo, Seed: 1"})
        assert "sampler" not in restored.values and "schedule" not in restored.values
        assert any(name in note for note in restored.notes) and any("Turbo" in note for note in restored.notes)


def test_comfyui_prompt():
    restored = read(png_with(prompt=json.dumps(COMFY), workflow="{}"))
    assert restored.source == "comfyui"
    assert restored.values == {
        "prompt": "a bottle",
        "negative_prompt": "watermark",
        "num_inference_steps": 20,
        "width": 512,
        "height": 640,
        "guidance": {"key": "cfg", "guidance_scale": 8.0},
        "sampler": {"key": "euler_a"},
        "schedule": {"key": "uniform", "spacing": "linspace unrounded"},
        "made_like": {"key": "comfyui"},
    }
    assert "whether its steps' noise came from a GPU" in restored.equality
    assert restored.model == "../../v1-5.ckpt" and restored.loras[0]["name"] == "ink.safetensors"
    assert any("seed" in note for note in restored.notes)


def test_comfyui_reads_the_sampler_that_starts_from_nothing():
    graph = json.loads(json.dumps(COMFY))
    graph["3"]["inputs"]["seed"] = 9
    refiner = {"class_type": "KSampler", "inputs": {**graph["3"]["inputs"], "seed": 4, "latent_image": ["3", 0]}}
    restored = read_texts({"prompt": json.dumps({"1": refiner, **graph})})
    assert restored.values["seed"] == 9 and any("2 samplers" in note for note in restored.notes)


def test_comfyui_flux_with_custom_sampler():
    graph = {
        "13": {
            "class_type": "SamplerCustomAdvanced",
            "inputs": {
                "noise": ["25", 0],
                "guider": ["22", 0],
                "sampler": ["16", 0],
                "sigmas": ["17", 0],
                "latent_image": ["27", 0],
            },
        },
        "25": {"class_type": "RandomNoise", "inputs": {"noise_seed": 42}},
        "22": {"class_type": "BasicGuider", "inputs": {"model": ["30", 0], "conditioning": ["26", 0]}},
        "26": {"class_type": "FluxGuidance", "inputs": {"guidance": 3.5, "conditioning": ["6", 0]}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a fox"}},
        "16": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "euler"}},
        "17": {
            "class_type": "BasicScheduler",
            "inputs": {"scheduler": "simple", "steps": 20, "denoise": 1.0, "model": ["30", 0]},
        },
        "27": {"class_type": "EmptySD3LatentImage", "inputs": {"width": 1024, "height": 1024, "batch_size": 1}},
        "30": {"class_type": "ModelSamplingAuraFlow", "inputs": {"shift": 1.15, "model": ["12", 0]}},
        "12": {"class_type": "UNETLoader", "inputs": {"unet_name": "flux1-dev.safetensors"}},
    }
    restored = read_texts({"prompt": json.dumps(graph)})
    assert restored.values == {
        "prompt": "a fox",
        "seed": 42,
        "num_inference_steps": 20,
        "width": 1024,
        "height": 1024,
        "sampler": {"key": "euler"},
        "schedule": {"key": "shift", "shift": 1.15},
        "guidance": {"key": "cfg", "guidance_scale": 3.5},
        "made_like": {"key": "comfyui"},
    }
    assert "its schedule was not compared" in restored.equality
    assert restored.model == "flux1-dev.safetensors"


def test_comfyui_workflow_without_prompt_and_its_webp():
    workflow = {
        "nodes": [
            {
                "id": 3,
                "type": "KSampler",
                "widgets_values": [5, "randomize", 12, 6.5, "dpmpp_2m", "karras", 1],
                "inputs": [
                    {"name": "model", "link": 1},
                    {"name": "positive", "link": 4},
                    {"name": "negative", "link": 6},
                    {"name": "latent_image", "link": 2},
                ],
            },
            {"id": 4, "type": "CheckpointLoaderSimple", "widgets_values": ["base.safetensors"]},
            {"id": 5, "type": "EmptyLatentImage", "widgets_values": [256, 320, 1]},
            {"id": 6, "type": "CLIPTextEncode", "widgets_values": ["a lake"]},
            {"id": 7, "type": "CLIPTextEncode", "widgets_values": ["text"]},
        ],
        "links": [
            [1, 4, 0, 3, 0, "MODEL"],
            [2, 5, 0, 3, 3, "LATENT"],
            [4, 6, 0, 3, 1, "CONDITIONING"],
            [6, 7, 0, 3, 2, "CONDITIONING"],
        ],
    }
    wanted = {
        "prompt": "a lake",
        "negative_prompt": "text",
        "seed": 5,
        "num_inference_steps": 12,
        "width": 256,
        "height": 320,
        "guidance": {"key": "cfg", "guidance_scale": 6.5},
        "sampler": {"key": "dpmpp_2m"},
        "schedule": {"key": "karras"},
        "made_like": {"key": "comfyui"},
    }
    assert read_texts({"workflow": json.dumps(workflow)}).equality.startswith("Same as ComfyUI 0.3 with the same ")
    assert read_texts({"workflow": json.dumps(workflow)}).values == wanted
    exif = Image.Exif()
    exif[0x010F] = "workflow:" + json.dumps(workflow)
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "WEBP", exif=exif)
    assert read(reopened(buffer.getvalue())).values == wanted


def test_a_comfyui_graph_that_runs_in_circles_ends():
    graph = json.loads(json.dumps(COMFY))
    graph["10"]["inputs"]["model"] = ["10", 0]
    graph["12"]["inputs"]["positive"] = ["12", 0]
    graph["3"]["inputs"]["latent_image"] = ["3", 0]
    graph["13"]["inputs"]["value"] = ["13", 0]
    assert any("was not found in the graph" in note for note in read_texts({"prompt": json.dumps(graph)}).notes)


def test_invokeai_new_and_old():
    new = {
        "app_version": "4.2",
        "generation_mode": "txt2img",
        "positive_prompt": "landscape",
        "negative_prompt": "low quality",
        "width": 768,
        "height": 432,
        "seed": 356120443,
        "rand_device": "cpu",
        "cfg_scale": 7.5,
        "steps": 50,
        "scheduler": "dpmpp_2m_k",
        "clip_skip": 0,
        "model": {"name": "amixx", "hash": "x"},
        "loras": [{"model": {"name": "ink"}, "weight": 0.5}],
        "controlnets": [],
    }
    restored = read(png_with(invokeai_metadata=json.dumps(new)))
    assert (
        restored.source == "invokeai"
        and restored.model == "amixx"
        and restored.loras[0] == {"name": "ink", "weight": 0.5}
    )
    assert restored.values == {
        "prompt": "landscape",
        "negative_prompt": "low quality",
        "width": 768,
        "height": 432,
        "seed": 356120443,
        "num_inference_steps": 50,
        "guidance": {"key": "cfg", "guidance_scale": 7.5},
        "sampler": {"key": "dpmpp_2m"},
        "schedule": {"key": "karras"},
        "made_like": {"key": "invokeai"},
    }
    unknown = read_texts({"invokeai_metadata": json.dumps({**new, "scheduler": "dpm_fast_k"})})
    assert "sampler" not in unknown.values and any("dpm_fast" in note for note in unknown.notes)
    old = {
        "model": "stable diffusion",
        "model_weights": "sd-1.5",
        "image": {
            "prompt": [{"prompt": "a dog [blurry] in snow [ugly]", "weight": 1.0}],
            "steps": 30,
            "cfg_scale": 7.5,
            "width": 512,
            "height": 512,
            "seed": 3,
            "sampler": "k_euler_a",
        },
    }
    restored = read(png_with(**{"sd-metadata": json.dumps(old)}))
    assert (restored.values["prompt"], restored.values["negative_prompt"]) == ("a dog in snow", "blurry, ugly")
    assert restored.values["sampler"] == {"key": "euler_a"} and restored.model == "sd-1.5"


def test_swarmui():
    swarm = {
        "sui_image_params": {
            "prompt": "a headshot",
            "model": "Flux/flux1-dev",
            "seed": 2042464333,
            "steps": 25,
            "cfgscale": 1.0,
            "aspectratio": "Custom",
            "width": 512,
            "height": 768,
            "sampler": "euler",
            "scheduler": "normal",
            "negativeprompt": "",
            "vae": "ae.sft",
            "loras": ["ink"],
            "loraweights": ["0.5"],
            "swarm_version": "0.9",
        },
        "sui_extra_data": {},
    }
    restored = read(png_with(parameters=json.dumps(swarm)))
    assert restored.source == "swarmui" and restored.loras == ({"name": "ink", "weight": 0.5},)
    assert (
        restored.values["sampler"] == {"key": "euler"}
        and restored.values["seed"] == 2042464333
        and restored.values["height"] == 768
    )
    assert any("vae" in note for note in restored.notes)
