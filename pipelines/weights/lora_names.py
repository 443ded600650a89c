"""Which layer of which network a LoRA's tensor belongs to, in the spellings that trainers use.

diffusers and PEFT write a layer's path with dots, kohya's scripts with underscores, SDXL's ones with the
original code's block numbers. Paths are compared with every dot as an underscore, which is unambiguous in
these networks, so one index serves all of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch

__all__ = ["LayerIndex", "split_key"]

_PARTS = {
    ".lora_linear_layer.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
    ".lora_A.default.weight": "down",
    ".lora_B.default.weight": "up",
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora_down.weight": "down",
    ".lora_up.weight": "up",
    ".lora.down.weight": "down",
    ".lora.up.weight": "up",
    "_lora.down.weight": "down",
    "_lora.up.weight": "up",
    ".lora.alpha": "alpha",
    "_lora.alpha": "alpha",
    ".alpha": "alpha",
}

_PREFIXES = {
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
    "lora_te3_": "text_encoder_3",
    "lora_te_": "text_encoder",
    "text_encoder_2.": "text_encoder_2",
    "text_encoder_3.": "text_encoder_3",
    "text_encoder.": "text_encoder",
    "lora_unet_": "",
    "lora_transformer_": "",
    "unet.": "",
    "transformer.": "",
    "diffusion_model.": "",
}
"""Prefix to component; an empty name is the denoising network."""

_RESNET = {
    "in_layers_2": "conv1",
    "emb_layers_1": "time_emb_proj",
    "out_layers_3": "conv2",
    "skip_connection": "conv_shortcut",
}

_FLUX_DOUBLE = {
    "img_attn_qkv": ("attn_to_q", "attn_to_k", "attn_to_v"),
    "img_attn_proj": ("attn_to_out_0",),
    "txt_attn_qkv": ("attn_add_q_proj", "attn_add_k_proj", "attn_add_v_proj"),
    "txt_attn_proj": ("attn_to_add_out",),
    "img_mlp_0": ("ff_net_0_proj",),
    "img_mlp_2": ("ff_net_2",),
    "txt_mlp_0": ("ff_context_net_0_proj",),
    "txt_mlp_2": ("ff_context_net_2",),
    "img_mod_lin": ("norm1_linear",),
    "txt_mod_lin": ("norm1_context_linear",),
}

_FLUX_SINGLE = {
    "linear1": ("attn_to_q", "attn_to_k", "attn_to_v", "proj_mlp"),
    "linear2": ("proj_out",),
    "modulation_lin": ("norm_linear",),
}

_SINGLE = {
    "time_embed_0": "time_embedding_linear_1",
    "time_embed_2": "time_embedding_linear_2",
    "label_emb_0_0": "add_embedding_linear_1",
    "label_emb_0_2": "add_embedding_linear_2",
    "input_blocks_0_0": "conv_in",
    "out_2": "conv_out",
}


def split_key(key: str) -> tuple[str, str] | None:
    """A tensor's name as (layer's path with its prefix, "down", "up" or "alpha"); None for any other tensor."""
    key = key.removeprefix("base_model.model.")
    for suffix, part in _PARTS.items():
        if key.endswith(suffix):
            return key.removesuffix(suffix), part
    return None


class LayerIndex:
    """The linear and convolution layers of a model, found by a LoRA's spelling of their path.

    Args:
        networks: component name to network, the denoising network first.
    """

    def __init__(self, networks: Mapping[str, torch.nn.Module]):
        self._networks = networks
        self._main = next(iter(networks))
        self._layers = {
            name: {
                path.replace(".", "_"): module
                for path, module in network.named_modules()
                if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d))
            }
            for name, network in networks.items()
        }

    def find(self, path: str) -> tuple[str, list[torch.nn.Module]] | None:
        """(component name, layers) of a path as `split_key` returns it; None if there are none.

        Several layers are one of the original code whose outputs diffusers has in parts, in order.
        """
        component, rest = self._main, path
        for prefix, name in _PREFIXES.items():
            if path.startswith(prefix):
                component, rest = name or self._main, path.removeprefix(prefix)
                break
        layers = self._layers.get(component, {})
        for names in self._spellings(component, rest.replace(".", "_")):
            if all(name in layers for name in names):
                return component, [layers[name] for name in names]
        return None

    def _spellings(self, component: str, flat: str) -> Iterator[tuple[str, ...]]:
        """The layers that a path may mean, the likeliest first."""
        yield (flat,)
        if component != self._main:
            yield from ((name,) for name in _text_encoder_names(flat))
            return
        # Older diffusers files name the attention processor and leave the output's index out.
        plain = flat.replace("_processor_", "_")
        yield (plain,)
        yield (plain + "_0",)
        yield from ((name,) for name in _from_block_numbers(flat, self._networks[component].config))
        yield from _from_flux(flat)


def _text_encoder_names(flat: str) -> Iterator[str]:
    plain = re.sub(r"_self_attn_to_([qkv])$", r"_self_attn_\1_proj", flat)
    plain = plain.replace("_self_attn_to_out", "_self_attn_out_proj")
    yield plain
    # Some versions of transformers wrap a CLIP text model in "text_model", others do not.
    yield plain.removeprefix("text_model_")
    yield "text_model_" + plain


def _from_flux(flat: str) -> Iterator[tuple[str, ...]]:
    """The diffusers layers of a path of FLUX's original code, whose attention layers are fused.

    Source: the correspondence is that of diffusers' `convert_flux_to_diffusers`.
    """
    match = re.fullmatch(r"(double|single)_blocks_(\d+)_(.+)", flat)
    if match:
        head = f"{'transformer_blocks' if match[1] == 'double' else 'single_transformer_blocks'}_{match[2]}"
        parts = (_FLUX_DOUBLE if match[1] == "double" else _FLUX_SINGLE).get(match[3], ())
        if parts:
            yield tuple(f"{head}_{part}" for part in parts)


def _from_block_numbers(flat: str, config: Any) -> Iterator[str]:
    """The diffusers path of a path with the original code's block numbers, as kohya's SDXL files have them.

    Source: the correspondence is that of diffusers' `convert_from_ckpt`; each level of the original counts
    its layers and one sampling layer through.
    """
    if flat in _SINGLE:
        yield _SINGLE[flat]
    match = re.fullmatch(r"(input|middle|output)_blocks?_(\d+)_(?:(\d+)_)?(.+)", flat)
    if match is None or not isinstance(config.get("layers_per_block"), int):
        return
    side, number, rest, row = match[1], int(match[2]), match[4], config["layers_per_block"] + 1
    kind = match[3]
    if side == "middle":
        rest = f"{kind}_{rest}" if kind else rest
        yield f"mid_block_{'attentions' if number == 1 else 'resnets'}_{number // 2}_{_RESNET.get(rest, rest)}"
        return
    block, layer = divmod(number - 1 if side == "input" else number, row)
    head = f"{'down' if side == 'input' else 'up'}_blocks_{block}"
    if side == "input" and layer == row - 1:
        yield f"{head}_downsamplers_0_conv"
    elif side == "output" and rest == "conv":
        yield f"{head}_upsamplers_0_conv"
    else:
        yield f"{head}_{'resnets' if kind == '0' else 'attentions'}_{layer}_{_RESNET.get(rest, rest)}"
