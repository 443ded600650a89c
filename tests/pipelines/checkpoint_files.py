"""Tiny models as single files under the names of their authors."""

from __future__ import annotations

import re

import torch

RESNET = (
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("time_emb_proj", "emb_layers.1"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
    ("conv_shortcut", "skip_connection"),
)
UNET = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "down_blocks.0.resnets.0": "input_blocks.1.0",
    "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op",
    "down_blocks.1.resnets.0": "input_blocks.3.0",
    "down_blocks.1.attentions.0": "input_blocks.3.1",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
    "up_blocks.0.resnets.0": "output_blocks.0.0",
    "up_blocks.0.attentions.0": "output_blocks.0.1",
    "up_blocks.0.resnets.1": "output_blocks.1.0",
    "up_blocks.0.attentions.1": "output_blocks.1.1",
    "up_blocks.0.upsamplers.0.conv": "output_blocks.1.2.conv",
    "up_blocks.1.resnets.0": "output_blocks.2.0",
    "up_blocks.1.resnets.1": "output_blocks.3.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
"""diffusers' names of the tiny network's blocks to their authors'."""

VAE = (
    (r"down_blocks\.(\d)\.resnets\.", r"down.\1.block."),
    (r"down_blocks\.(\d)\.downsamplers\.0\.", r"down.\1.downsample."),
    (r"up_blocks\.(\d)\.resnets\.", lambda found: f"up.{2 - int(found[1])}.block."),
    (r"up_blocks\.(\d)\.upsamplers\.0\.", lambda found: f"up.{2 - int(found[1])}.upsample."),
    (r"mid_block\.attentions\.0\.group_norm", "mid.attn_1.norm"),
    (r"mid_block\.attentions\.0\.to_([qkv])\.", r"mid.attn_1.\1."),
    (r"mid_block\.attentions\.0\.to_out\.0", "mid.attn_1.proj_out"),
    (r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}"),
    ("conv_shortcut", "nin_shortcut"),
    ("conv_norm_out", "norm_out"),
)


def unet_name(name):
    block = next(block for block in UNET if name.startswith(f"{block}."))
    rest = name.removeprefix(block)
    for ours, theirs in RESNET if "resnets" in block else ():
        rest = re.sub(rf"^\.{ours}\.", f".{theirs}.", rest)
    return f"model.diffusion_model.{UNET[block]}{rest}"


def vae_name(name):
    for pattern, replacement in VAE:
        name = re.sub(pattern, replacement, name)
    return f"first_stage_model.{name}"


def text_name(name):
    return f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}"


def renamed(part, rename):
    return {rename(name): weight.contiguous() for name, weight in part.state_dict().items()}


def checkpoint_of(pipe):
    """A tiny Stable Diffusion 1 as one state dict in its authors' names."""
    names = ((pipe.unet, unet_name), (pipe.vae, vae_name), (pipe.text_encoder, text_name))
    return {name: weight for part, rename in names for name, weight in renamed(part, rename).items()}


def open_clip(part, prefix):
    """A CLIP text encoder in OpenCLIP's names: fused projections, the last one transposed."""
    state = {name.removeprefix("text_model."): weight for name, weight in part.state_dict().items()}
    found = {
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "token_embedding.weight": state["embeddings.token_embedding.weight"],
        "ln_final.weight": state["final_layer_norm.weight"],
        "ln_final.bias": state["final_layer_norm.bias"],
    }
    if "text_projection.weight" in state:
        found["text_projection"] = state["text_projection.weight"].T
    layers = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    for number in range(part.config.num_hidden_layers):
        head, own = f"transformer.resblocks.{number}", f"encoder.layers.{number}"
        for end in ("weight", "bias"):
            parts = [state[f"{own}.self_attn.{one}_proj.{end}"] for one in "qkv"]
            found[f"{head}.attn.in_proj_{end}"] = torch.cat(parts)
            found[f"{head}.attn.out_proj.{end}"] = state[f"{own}.self_attn.out_proj.{end}"]
            for ours, theirs in layers.items():
                found[f"{head}.{theirs}.{end}"] = state[f"{own}.{ours}.{end}"]
    return {prefix + name: weight.contiguous() for name, weight in found.items()}


def xl_checkpoint_of(pipe):
    """A tiny SDXL as one state dict in its authors' names."""
    first = renamed(pipe.text_encoder, lambda name: f"conditioner.embedders.0.transformer.text_model.{name}")
    return {
        **renamed(pipe.unet, unet_name),
        **renamed(pipe.vae, vae_name),
        **first,
        **open_clip(pipe.text_encoder_2, "conditioner.embedders.1.model."),
    }


def sd3_network_of(network, prefix="model.diffusion_model."):
    """A tiny SD3 transformer in its authors' names: query, key and value fused, last modulations reversed."""
    state, found = network.state_dict(), {}
    last = network.config.num_layers - 1

    def put(name, *ours, swap=False):
        for end in ("weight", "bias"):
            whole = torch.cat([state[f"{one}.{end}"] for one in ours])
            found[f"{name}.{end}"] = torch.cat(whole.chunk(2)[::-1]) if swap else whole

    found["pos_embed"] = state["pos_embed.pos_embed"]
    put("x_embedder.proj", "pos_embed.proj")
    put("context_embedder", "context_embedder")
    for theirs, ours in (("t_embedder", "timestep_embedder"), ("y_embedder", "text_embedder")):
        put(f"{theirs}.mlp.0", f"time_text_embed.{ours}.linear_1")
        put(f"{theirs}.mlp.2", f"time_text_embed.{ours}.linear_2")
    for block in range(last + 1):
        theirs, ours = f"joint_blocks.{block}", f"transformer_blocks.{block}"
        put(f"{theirs}.x_block.attn.qkv", *(f"{ours}.attn.to_{one}" for one in "qkv"))
        put(f"{theirs}.context_block.attn.qkv", *(f"{ours}.attn.add_{one}_proj" for one in "qkv"))
        put(f"{theirs}.x_block.attn.proj", f"{ours}.attn.to_out.0")
        put(f"{theirs}.x_block.adaLN_modulation.1", f"{ours}.norm1.linear")
        put(f"{theirs}.context_block.adaLN_modulation.1", f"{ours}.norm1_context.linear", swap=block == last)
        put(f"{theirs}.x_block.mlp.fc1", f"{ours}.ff.net.0.proj")
        put(f"{theirs}.x_block.mlp.fc2", f"{ours}.ff.net.2")
        if block != last:
            put(f"{theirs}.context_block.attn.proj", f"{ours}.attn.to_add_out")
            put(f"{theirs}.context_block.mlp.fc1", f"{ours}.ff_context.net.0.proj")
            put(f"{theirs}.context_block.mlp.fc2", f"{ours}.ff_context.net.2")
    put("final_layer.linear", "proj_out")
    put("final_layer.adaLN_modulation.1", "norm_out.linear", swap=True)
    return {prefix + name: weight.contiguous() for name, weight in found.items()}


def scaled_fp8(weights, scale_name="scale_weight", prefix="model.diffusion_model."):
    """The network's matrices as fp8 with a scale beside each; also what they are when multiplied out."""
    packed, plain = {}, {}
    for name, weight in weights.items():
        if name.startswith(prefix) and name.endswith(".weight") and weight.ndim == 2:
            rows = weight.abs().amax(dim=1, keepdim=True).clamp_min(1e-8)
            scale = (rows if scale_name == "weight_scale" else rows.amax()) / 448
            low = (weight / scale).to(torch.float8_e4m3fn)
            packed |= {name: low, f"{name.removesuffix('.weight')}.{scale_name}": scale.clone()}
            plain[name] = low.float() * scale
        else:
            packed[name] = plain[name] = weight
    return packed, plain
