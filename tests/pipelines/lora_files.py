"""LoRA state dicts for the tiny models, in the spellings of diffusers and of kohya's scripts."""

from __future__ import annotations

import torch
from tiny_models import tiny_flux, tiny_sd, tiny_sd3, tiny_sdxl

from pipelines.families import family_of

MAKERS = {"sd": tiny_sd, "sdxl": tiny_sdxl, "sd3": tiny_sd3, "flux": tiny_flux}
TARGETS = {
    "sd": "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
    "sdxl": "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k",
    "sd3": "transformer_blocks.0.attn.add_k_proj",
    "flux": "transformer_blocks.0.attn.to_out.0",
}
RANK = 2


def family(key):
    return family_of(MAKERS[key]().components)


def pair(layer, alpha=None, seed=0):
    """(down, up, the change of the weight) of a layer."""
    generator = torch.Generator().manual_seed(seed)
    weight = layer.weight
    down = torch.randn((RANK, *weight.shape[1:]), generator=generator)
    up = torch.randn((weight.shape[0], RANK, *([1] * (weight.ndim - 2))), generator=generator)
    change = (up.flatten(1) @ down.flatten(1)).reshape(weight.shape) * ((RANK if alpha is None else alpha) / RANK)
    return down, up, change


def diffusers_lora(one, path, component=None, alpha=None):
    down, up, change = pair(one.components[component or one.network_name].get_submodule(path), alpha)
    name = f"{component or one.network_name}.{path}"
    tensors = {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
    return tensors | ({} if alpha is None else {f"{name}.alpha": torch.tensor(float(alpha))}), change


def kohya_lora(prefix, path, layer, alpha):
    down, up, change = pair(layer, alpha)
    name = prefix + path.replace(".", "_")
    tensors = {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
    return tensors | {f"{name}.alpha": torch.tensor(float(alpha))}, change
