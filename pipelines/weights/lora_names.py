"""Which layer of which network a LoRA's tensor belongs to, in the spellings that trainers use.

diffusers and PEFT write a layer's path with dots, kohya's scripts with underscores, SDXL's ones with the
original code's block numbers. Paths are compared with every dot as an underscore, which is unambiguous in
these networks, so one index serves all of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch

from pipelines.weights.original_names import diffusers_layers

__all__ = ["LayerIndex", "LayerMatch"]

_PREFIXES = {
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
    "lora_te3_": "t5",
    "lora_te_": "text_encoder",
    "text_encoder_2.": "text_encoder_2",
    "text_encoder_3.": "text_encoder_3",
    "text_encoder.": "text_encoder",
    "text_encoders.clip_l.transformer.": "text_encoder",
    "text_encoders.clip_g.transformer.": "text_encoder_2",
    "text_encoders.t5xxl.transformer.": "t5",
    "text_encoders.clip_l.": "text_encoder",
    "text_encoders.clip_g.": "text_encoder_2",
    "text_encoders.t5xxl.": "t5",
    "clip_l.transformer.": "text_encoder",
    "clip_g.transformer.": "text_encoder_2",
    "t5xxl.transformer.": "t5",
    "clip_l.": "text_encoder",
    "clip_g.": "text_encoder_2",
    "te1.": "text_encoder",
    "te2.": "text_encoder_2",
    "te3.": "t5",
    "t5xxl.": "t5",
    "t5.": "t5",
    "lycoris_": "",
    "lora_unet_": "",
    "lora_transformer_": "",
    "unet.": "",
    "transformer.": "",
    "model.diffusion_model.": "",
    "diffusion_model.": "",
}
"""Prefix to component; an empty name is the denoising network, "t5" the T5 encoder under whatever name it stands."""

_RESNET = {
    "in_layers_2": "conv1",
    "emb_layers_1": "time_emb_proj",
    "out_layers_3": "conv2",
    "skip_connection": "conv_shortcut",
}

_OUTSIDE_BLOCKS = {
    "time_embed_0": "time_embedding_linear_1",
    "time_embed_2": "time_embedding_linear_2",
    "label_emb_0_0": "add_embedding_linear_1",
    "label_emb_0_2": "add_embedding_linear_2",
    "input_blocks_0_0": "conv_in",
    "out_2": "conv_out",
}


class LayerMatch(NamedTuple):
    """Says where a LoRA's layer is in the model.

    Attributes:
        component: name of the network.
        layers: of it; several are one of the original code whose outputs diffusers has in parts, in order.
        swapped: whether the two halves of the rows stand the other way round in the original code.
    """

    component: str
    layers: list[torch.nn.Module]
    swapped: bool = False


class LayerIndex:
    """Indexes the layers of a model that have weights by a LoRA's spelling of their path.

    Args:
        networks: component name to network, the denoising network first.
    """

    def __init__(self, networks: Mapping[str, torch.nn.Module]):
        self._networks = networks
        t5 = [name for name, network in networks.items() if type(network).__name__.startswith("T5")]
        self._aliases = {"t5": t5[0] if t5 else "text_encoder_3"}
        self._main = next(iter(networks))
        self._layers = {
            name: {
                path.replace(".", "_"): module
                for path, module in network.named_modules()
                if getattr(module, "weight", None) is not None and not isinstance(module, torch.nn.Embedding)
            }
            for name, network in networks.items()
        }

    def find(self, path: str) -> LayerMatch | None:
        """Find where a path as `lora_parts.split_key` returns it is in the model; None if it is nowhere."""
        component, rest = self._main, path
        for prefix, name in _PREFIXES.items():
            if path.startswith(prefix):
                component, rest = self._aliases.get(name, name) or self._main, path.removeprefix(prefix)
                break
        layers = self._layers.get(component, {})
        for names, swapped in self._list_spellings(component, rest.replace(".", "_")):
            if all(name in layers for name in names):
                return LayerMatch(component, [layers[name] for name in names], swapped)
        return None

    def _list_spellings(self, component: str, flat: str) -> Iterator[tuple[tuple[str, ...], bool]]:
        """The layers that a path may mean, the likeliest first, and whether their halves are swapped."""
        original = diffusers_layers(flat, self._last_block) if component == self._main else None
        if original is not None:
            yield tuple(path.replace(".", "_") for path in original.paths), original.swapped
        elif component == self._main and (share := _share_of_fused(flat)):
            yield (share.replace(".", "_"),), False
        yield (flat,), False
        if component != self._main:
            yield from (((name,), False) for name in _list_text_encoder_names(flat))
            return
        # Older diffusers files name the attention processor and leave the output's index out.
        plain = flat.replace("_processor_", "_")
        yield (plain,), False
        yield (plain + "_0",), False
        yield from (((name,), False) for name in _translate_block_numbers(flat, self._networks[component].config))

    @property
    def _last_block(self) -> int | None:
        """Number of SD3's last joint block; FLUX.1's blocks are all alike."""
        network = self._networks[self._main]
        config: Any = getattr(network, "config", None)
        return int(config.num_layers) - 1 if type(network).__name__.startswith("SD3") else None


def _share_of_fused(flat: str) -> str | None:
    """Name one layer of a fused one of the original code, numbered as OneTrainer's newer files do: `..._qkv_0`."""
    match = re.fullmatch(r"(.+_(?:qkv|linear1))_(\d)", flat)
    layers = diffusers_layers(match[1]) if match else None
    return layers.paths[int(match[2])] if match and layers and int(match[2]) < len(layers.paths) else None


def _list_text_encoder_names(flat: str) -> Iterator[str]:
    plain = re.sub(r"_self_attn_to_([qkv])$", r"_self_attn_\1_proj", flat)
    plain = plain.replace("_self_attn_to_out", "_self_attn_out_proj")
    yield plain
    # Some versions of transformers wrap a CLIP text model in "text_model", others do not.
    yield plain.removeprefix("text_model_")
    yield "text_model_" + plain


def _translate_block_numbers(flat: str, config: Any) -> Iterator[str]:
    """The diffusers path of a path with the original code's block numbers, as kohya's SDXL files have them.

    Source: the correspondence is that of diffusers' `convert_from_ckpt`; each level of the original counts
    its layers and one sampling layer through.
    """
    if flat in _OUTSIDE_BLOCKS:
        yield _OUTSIDE_BLOCKS[flat]
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
