"""Layers of FLUX.1's and SD3's original code and the layers of diffusers that hold the same weights.

Sources: Black Forest Labs' flux (model.py) and Stability AI's sd3.5 (mmditx.py); the correspondence is that of
diffusers' `convert_flux_transformer_checkpoint_to_diffusers` and `convert_sd3_transformer_checkpoint_to_diffusers`.
A fused layer's outputs follow each other in the order given. The rows of the last modulation are (shift, scale)
there and (scale, shift) in diffusers.
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["Layers", "diffusers_layers", "diffusers_names"]


class Layers(NamedTuple):
    """Says where a layer's weights are in diffusers.

    Attributes:
        paths: of the layers, whose rows follow each other.
        swapped: whether the two halves of the rows stand the other way round.
    """

    paths: tuple[str, ...]
    swapped: bool = False


_QKV = ("attn.to_q", "attn.to_k", "attn.to_v")
_ADDED = ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")
_TIME, _TEXT = "time_text_embed.timestep_embedder", "time_text_embed.text_embedder"
_GUIDANCE = "time_text_embed.guidance_embedder"

_TOP = {
    # FLUX.1
    "img_in": ("x_embedder",),
    "img_in.proj": ("x_embedder",),
    "txt_in": ("context_embedder",),
    "time_in.in_layer": (f"{_TIME}.linear_1",),
    "time_in.out_layer": (f"{_TIME}.linear_2",),
    "vector_in.in_layer": (f"{_TEXT}.linear_1",),
    "vector_in.out_layer": (f"{_TEXT}.linear_2",),
    "guidance_in.in_layer": (f"{_GUIDANCE}.linear_1",),
    "guidance_in.out_layer": (f"{_GUIDANCE}.linear_2",),
    # SD3
    "x_embedder.proj": ("pos_embed.proj",),
    "pos_embed": ("pos_embed.pos_embed",),
    "context_embedder": ("context_embedder",),
    "t_embedder.mlp.0": (f"{_TIME}.linear_1",),
    "t_embedder.mlp.2": (f"{_TIME}.linear_2",),
    "y_embedder.mlp.0": (f"{_TEXT}.linear_1",),
    "y_embedder.mlp.2": (f"{_TEXT}.linear_2",),
    # both
    "final_layer.linear": ("proj_out",),
    "final_layer.adaLN_modulation.1": ("norm_out.linear",),
}

_FLUX_DOUBLE = {
    "img_attn.qkv": _QKV,
    "img_attn.proj": ("attn.to_out.0",),
    "img_attn.norm.query_norm": ("attn.norm_q",),
    "img_attn.norm.key_norm": ("attn.norm_k",),
    "txt_attn.qkv": _ADDED,
    "txt_attn.proj": ("attn.to_add_out",),
    "txt_attn.norm.query_norm": ("attn.norm_added_q",),
    "txt_attn.norm.key_norm": ("attn.norm_added_k",),
    "img_mlp.0": ("ff.net.0.proj",),
    "img_mlp.2": ("ff.net.2",),
    "txt_mlp.0": ("ff_context.net.0.proj",),
    "txt_mlp.2": ("ff_context.net.2",),
    "img_mod.lin": ("norm1.linear",),
    "txt_mod.lin": ("norm1_context.linear",),
    # X-Labs' names of what they add to these layers
    "processor.qkv_lora1": _QKV,
    "processor.proj_lora1": ("attn.to_out.0",),
    "processor.qkv_lora2": _ADDED,
    "processor.proj_lora2": ("attn.to_add_out",),
}

_FLUX_SINGLE = {
    "linear1": (*_QKV, "proj_mlp"),
    "linear2": ("proj_out",),
    "norm.query_norm": ("attn.norm_q",),
    "norm.key_norm": ("attn.norm_k",),
    "modulation.lin": ("norm.linear",),
    "processor.qkv_lora": _QKV,
    "processor.proj_lora": ("proj_out",),
}

_SD3 = {
    "x_block.attn.qkv": _QKV,
    "x_block.attn.proj": ("attn.to_out.0",),
    "x_block.attn.ln_q": ("attn.norm_q",),
    "x_block.attn.ln_k": ("attn.norm_k",),
    "x_block.attn2.qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
    "x_block.attn2.proj": ("attn2.to_out.0",),
    "x_block.attn2.ln_q": ("attn2.norm_q",),
    "x_block.attn2.ln_k": ("attn2.norm_k",),
    "x_block.mlp.fc1": ("ff.net.0.proj",),
    "x_block.mlp.fc2": ("ff.net.2",),
    "x_block.adaLN_modulation.1": ("norm1.linear",),
    "context_block.attn.qkv": _ADDED,
    "context_block.attn.proj": ("attn.to_add_out",),
    "context_block.attn.ln_q": ("attn.norm_added_q",),
    "context_block.attn.ln_k": ("attn.norm_added_k",),
    "context_block.mlp.fc1": ("ff_context.net.0.proj",),
    "context_block.mlp.fc2": ("ff_context.net.2",),
    "context_block.adaLN_modulation.1": ("norm1_context.linear",),
}

_BLOCKS = {
    "double_blocks": ("transformer_blocks", _FLUX_DOUBLE),
    "single_blocks": ("single_transformer_blocks", _FLUX_SINGLE),
    "joint_blocks": ("transformer_blocks", _SD3),
}
_BLOCK = re.compile(r"(double_blocks|single_blocks|joint_blocks)[._](\d+)[._](.+)")
_FLAT = {name: {part.replace(".", "_"): part for part in parts} for name, (_, parts) in _BLOCKS.items()}
_FLAT_TOP = {name.replace(".", "_"): name for name in _TOP}


def diffusers_layers(path: str, last_block: int | None = None) -> Layers | None:
    """Find where a layer of the original code is in diffusers; None for any other path.

    Args:
        path: with dots, or flat with underscores as kohya's scripts write it.
        last_block: number of SD3's last joint block, whose context modulation has the swapped order.
    """
    top = path if path in _TOP else _FLAT_TOP.get(path)
    if top:
        return Layers(_TOP[top], top == "final_layer.adaLN_modulation.1")
    match = _BLOCK.fullmatch(path)
    if match is None:
        return None
    block, parts = _BLOCKS[match[1]]
    part = match[3] if match[3] in parts else _FLAT[match[1]].get(match[3])
    if part is None:
        return None
    swapped = part == "context_block.adaLN_modulation.1" and last_block is not None and int(match[2]) == last_block
    return Layers(tuple(f"{block}.{match[2]}.{name}" for name in parts[part]), swapped)


def diffusers_names(name: str, last_block: int | None = None) -> Layers | None:
    """Find where a tensor of an original checkpoint is in diffusers, as `diffusers_layers` with its own name."""
    if name == "pos_embed":
        return Layers(_TOP[name])
    layer, _, end = name.rpartition(".")
    layers = diffusers_layers(layer, last_block)
    if layers is None:
        return None
    # FLUX.1's norms call their weight "scale".
    end = "weight" if end == "scale" else end
    return Layers(tuple(f"{path}.{end}" for path in layers.paths), layers.swapped)
