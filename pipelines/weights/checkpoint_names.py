"""From the names in a single file to the names of diffusers and transformers, one part of a model at a time."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from pipelines.weights.libraries import import_libraries
from pipelines.weights.original_names import diffusers_names

__all__ = ["Move", "encoder_moves", "network_moves", "vae_moves"]


class Move(NamedTuple):
    """Describes one tensor of a file and where it belongs.

    Attributes:
        source: its name in the file.
        targets: names in the module; the rows of a fused one follow each other.
        how: "" as it is, "swap" with its two halves of rows exchanged, "transpose", or "both" for a tensor that
            stands in all targets.
    """

    source: str
    targets: tuple[str, ...]
    how: str = ""


def network_moves(names: Iterable[str], prefix: str, config: Mapping[str, object]) -> list[Move]:
    """List the moves of the denoising network.

    Args:
        names: of the file's weights.
        prefix: under which the network stands.
        config: of the network in diffusers.
    """
    bare = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    blocks = [int(match[1]) for name in bare if (match := re.match(r"joint_blocks\.(\d+)\.", name))]
    if blocks or any(name.startswith("double_blocks.") for name in bare):
        last = max(blocks, default=None)
        layers_by_name = ((name, diffusers_names(name, last)) for name in bare)
        return [
            Move(prefix + name, layers.paths, "swap" if layers.swapped else "")
            for name, layers in layers_by_name
            if layers
        ]
    if any(name.startswith(("input_blocks.", "output_blocks.")) for name in bare):
        import_libraries()
        from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

        # The conversion only moves what it is given from name to name, so it is given the names.
        renamed = convert_ldm_unet_checkpoint({f"model.diffusion_model.{name}": name for name in bare}, dict(config))
        return [Move(prefix + name, (target,)) for target, name in renamed.items()]
    return [Move(prefix + name, (name,)) for name in bare]


class _Name(str):
    """A name that stands for its tensor where diffusers asks how many dimensions that has.

    Two, so that it is left as it is: that a 1 x 1 convolution may stand for a linear layer is seen where the tensor is.
    """

    ndim = 2
    shape = (0, 0)


def vae_moves(names: Iterable[str], prefix: str, config: Mapping[str, object]) -> list[Move]:
    """List the moves of the VAE; arguments as of `network_moves`."""
    bare = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    if any(name.startswith(("decoder.up_blocks.", "encoder.down_blocks.")) for name in bare):
        return [Move(prefix + name, (name,)) for name in bare]
    import_libraries()
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    renamed = convert_ldm_vae_checkpoint({f"first_stage_model.{name}": _Name(name) for name in bare}, dict(config))
    return [Move(prefix + str(name), (target,)) for target, name in renamed.items()]


def encoder_moves(names: Iterable[str], prefix: str, module_names: Collection[str]) -> list[Move]:
    """List the moves of a CLIP or T5 text encoder, in the names of transformers, of OpenCLIP, of llama.cpp, or of
    2022's files without `text_model`.

    Args:
        names, prefix: as of `network_moves`.
        module_names: names in the module, with or without `text_model` as this version of transformers has them.
    """
    has_wrapper = any(name.startswith("text_model.") for name in module_names)
    moves = []
    for name in names:
        if name.startswith(prefix):
            moves += [
                move._replace(source=name, targets=tuple(_add_wrapper(target, has_wrapper) for target in move.targets))
                for move in _find_encoder_move(name.removeprefix(prefix))
            ]
    return moves


def _add_wrapper(name: str, has_wrapper: bool) -> str:
    belongs_inside = name.startswith(("embeddings.", "encoder.layers.", "final_layer_norm."))
    return f"text_model.{name}" if has_wrapper and belongs_inside else name


_OPEN_CLIP = {
    "positional_embedding": "embeddings.position_embedding.weight",
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}
_OPEN_CLIP_LAYER = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
_IN_PROJ = re.compile(r"resblocks\.(\d+)\.attn\.in_proj_(weight|bias)")
_BLOCK = re.compile(r"resblocks\.(\d+)\.(ln_1|ln_2|mlp\.c_fc|mlp\.c_proj|attn\.out_proj)\.(weight|bias)")


_LLAMA_BLOCK = re.compile(r"enc\.blk\.(\d+)\.(\w+)\.weight")
_LLAMA_LAYERS = {
    **{f"attn_{name}": f"0.SelfAttention.{name}" for name in "qkvo"},
    "attn_rel_b": "0.SelfAttention.relative_attention_bias",
    "attn_norm": "0.layer_norm",
    "ffn_gate": "1.DenseReluDense.wi_0",
    "ffn_up": "1.DenseReluDense.wi_1",
    "ffn_down": "1.DenseReluDense.wo",
    "ffn_norm": "1.layer_norm",
}
"""llama.cpp's names of T5's layers, in GGUF files, to those of transformers."""


def _find_encoder_move(name: str) -> list[Move]:
    for outer in ("model.", "transformer.", "text_model."):
        name = name.removeprefix(outer)
    if name in _OPEN_CLIP:
        return [Move("", (_OPEN_CLIP[name],))]
    if name == "text_projection":
        return [Move("", ("text_projection.weight",), "transpose")]
    if match := _IN_PROJ.fullmatch(name):
        head = f"encoder.layers.{match[1]}.self_attn"
        return [Move("", tuple(f"{head}.{one}_proj.{match[2]}" for one in "qkv"))]
    if match := _BLOCK.fullmatch(name):
        layer = _OPEN_CLIP_LAYER.get(match[2], "self_attn.out_proj")
        return [Move("", (f"encoder.layers.{match[1]}.{layer}.{match[3]}",))]
    if (match := _LLAMA_BLOCK.fullmatch(name)) and match[2] in _LLAMA_LAYERS:
        return [Move("", (f"encoder.block.{match[1]}.layer.{_LLAMA_LAYERS[match[2]]}.weight",))]
    if name == "enc.output_norm.weight":
        return [Move("", ("encoder.final_layer_norm.weight",))]
    if name in {"shared.weight", "encoder.embed_tokens.weight", "token_embd.weight"}:
        return [Move("", ("shared.weight", "encoder.embed_tokens.weight"), "both")]
    return [Move("", (name,))]
