"""Graphs of ComfyUI, and what is read of them."""

from __future__ import annotations

import json
from typing import Any

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
    "made_like": {"key": "comfyui"},
    "width": 832,
    "height": 1216,
}


def said(restored, *words: str) -> bool:
    return any(all(word in note for word in words) for note in restored.notes)


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
