"""Spellings of LoRA files by diffusers, PEFT, kohya and the original code."""

from __future__ import annotations

import json

import pytest
import torch
from lora_files import MAKERS, RANK, TARGETS, diffusers_lora, family, kohya_lora, pair
from safetensors.torch import save_file
from tiny_models import tiny_sdxl

from pipelines.weights import original_names
from pipelines.weights.lora_names import LayerIndex
from tests.pipelines.lora_states import assert_unchanged, state_of

SPELLINGS = {
    "old attention processor": (
        "unet.",
        "attn1.processor.to_q_lora.down.weight",
        "attn1.processor.to_q_lora.up.weight",
    ),
    "without prefix": ("", "attn1.processor.to_q_lora.down.weight", "attn1.processor.to_q_lora.up.weight"),
    "lora linear layer": (
        "unet.",
        "attn1.to_q.lora_linear_layer.down.weight",
        "attn1.to_q.lora_linear_layer.up.weight",
    ),
    "lora.down": ("unet.", "attn1.to_q.lora.down.weight", "attn1.to_q.lora.up.weight"),
    "peft": ("base_model.model.", "attn1.to_q.lora_A.default.weight", "attn1.to_q.lora_B.default.weight"),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_spellings_of_diffusers_and_peft(spelling):
    one = family("sd")
    prefix, down_name, up_name = SPELLINGS[spelling]
    layer = one.network.get_submodule(TARGETS["sd"])
    down, up, change = pair(layer)
    block = prefix + TARGETS["sd"].removesuffix("attn1.to_q")
    original = layer.weight.clone()
    with one.loras([({block + down_name: down, block + up_name: up}, 1.0)]):
        assert torch.allclose(layer.weight, original + change, atol=1e-6)


@pytest.mark.parametrize(
    ("key", "prefix", "component", "path"),
    [
        ("sd", "lora_unet_", "unet", TARGETS["sd"]),
        ("sd", "lora_unet_", "unet", "down_blocks.0.resnets.0.conv1"),
        ("sd", "lora_unet_", "unet", "down_blocks.1.attentions.0.proj_in"),
        ("sdxl", "lora_te1_", "text_encoder", "encoder.layers.1.self_attn.q_proj"),
        ("sdxl", "lora_te2_", "text_encoder_2", "text_model.encoder.layers.1.mlp.fc1"),
        ("sdxl", "lora_te2_", "text_encoder_2", "text_projection"),
    ],
)
def test_kohyas_spelling(key, prefix, component, path):
    one = family(key)
    layer = one.components[component].get_submodule(path)
    # The files always have "text_model", which some versions of transformers have not.
    spelled = path if component == "unet" or path.startswith("text_") else f"text_model.{path}"
    lora, change = kohya_lora(prefix, spelled, layer, alpha=1.0)
    original = layer.weight.clone()
    with one.loras([(lora, 1.0)]):
        assert torch.allclose(layer.weight, original + change, atol=1e-5)


BLOCK_NUMBERS = {
    "input_blocks_0_0": "conv_in",
    "time_embed_0": "time_embedding.linear_1",
    "label_emb_0_2": "add_embedding.linear_2",
    "input_blocks_1_0_in_layers_2": "down_blocks.0.resnets.0.conv1",
    "input_blocks_1_0_emb_layers_1": "down_blocks.0.resnets.0.time_emb_proj",
    "input_blocks_2_0_op": "down_blocks.0.downsamplers.0.conv",
    "input_blocks_3_1_transformer_blocks_0_attn2_to_v": "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_v",
    "input_blocks_3_0_skip_connection": "down_blocks.1.resnets.0.conv_shortcut",
    "middle_block_0_out_layers_3": "mid_block.resnets.0.conv2",
    "middle_block_2_in_layers_2": "mid_block.resnets.1.conv1",
    "middle_block_1_proj_in": "mid_block.attentions.0.proj_in",
    "output_blocks_0_1_transformer_blocks_0_ff_net_0_proj": (
        "up_blocks.0.attentions.0.transformer_blocks.0.ff.net.0.proj"
    ),
    "output_blocks_1_2_conv": "up_blocks.0.upsamplers.0.conv",
    "output_blocks_3_0_in_layers_2": "up_blocks.1.resnets.1.conv1",
    "out_2": "conv_out",
}


def test_sdxls_original_block_numbers():
    pipe = tiny_sdxl()
    index = LayerIndex({"unet": pipe.unet})
    for spelled, path in BLOCK_NUMBERS.items():
        found = index.find("lora_unet_" + spelled)
        assert found is not None and found.layers == [pipe.unet.get_submodule(path)], spelled


FUSED = {
    "double_blocks_0_img_attn_qkv": [f"transformer_blocks.0.attn.to_{part}" for part in "qkv"],
    "double_blocks_0_txt_attn_qkv": [f"transformer_blocks.0.attn.add_{part}_proj" for part in "qkv"],
    "single_blocks_0_linear1": [
        *(f"single_transformer_blocks.0.attn.to_{part}" for part in "qkv"),
        "single_transformer_blocks.0.proj_mlp",
    ],
    "double_blocks_0_txt_mlp_2": ["transformer_blocks.0.ff_context.net.2"],
}


@pytest.mark.parametrize("spelled", FUSED)
def test_flux_in_its_original_layers_is_split_into_diffusers_ones(spelled):
    one = family("flux")
    layers = [one.network.get_submodule(path) for path in FUSED[spelled]]
    weights = [layer.weight for layer in layers]
    fused = torch.nn.Linear(weights[0].shape[1], sum(len(weight) for weight in weights))
    lora, change = kohya_lora("lora_unet_", spelled, fused, alpha=1.0)
    expected = torch.cat([weight.clone() for weight in weights]) + change
    before = state_of(one)
    with one.loras([(lora, 1.0)]):
        assert torch.allclose(torch.cat([layer.weight for layer in layers]), expected, atol=1e-6)
    assert_unchanged(one, before)


def test_every_layer_of_fluxs_and_sd3s_original_code_exists():
    for key, blocks in (("flux", ("double_blocks", "single_blocks")), ("sd3", ("joint_blocks",))):
        one = family(key)
        index = LayerIndex({one.network_name: one.network})
        for kind in blocks:
            for part, layers in original_names._BLOCKS[kind][1].items():
                if "attn2" in part or "ln_" in part:
                    continue  # of SD3.5 only, which the tiny model is not
                flat = f"lora_unet_{kind}_0_{part.replace('.', '_')}"
                assert len(index.find(flat).layers) == len(layers), flat


def test_every_layer_is_found_by_each_spelling_of_its_path():
    for key in MAKERS:
        one = family(key)
        networks = {name: one.components[name] for name in (one.network_name, *one.encoder_names)}
        index = LayerIndex(networks)
        for path, module in one.network.named_modules():
            if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
                assert index.find(f"{one.network_name}.{path}").layers == [module]
                assert index.find("lora_unet_" + path.replace(".", "_")).layers == [module]


def test_diffusers_own_file_with_its_metadata(tmp_path):
    one = family("sd")
    lora, change = diffusers_lora(one, TARGETS["sd"])
    settings = json.dumps({"unet.r": RANK, "unet.lora_alpha": 6})
    save_file(lora, tmp_path / "style.safetensors", metadata={"lora_adapter_metadata": settings})
    layer = one.network.get_submodule(TARGETS["sd"])
    original = layer.weight.clone()
    with one.loras([(tmp_path / "style.safetensors", 1.0)]):
        assert torch.allclose(layer.weight, original + 6 / RANK * change, atol=1e-5)
