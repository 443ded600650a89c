"""LoRA: the sum is right in every spelling, and the model comes back bit for bit as it was."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
from lora_files import MAKERS, RANK, TARGETS, diffusers_lora, family, kohya_lora, pair
from safetensors.torch import save_file
from tiny_models import tiny_flux, tiny_sd, tiny_sdxl

from pipelines.core.errors import LoraError, StepwiseError
from pipelines.families import family_of
from pipelines.weights import lora_names
from pipelines.weights.lora_names import LayerIndex


def state_of(one):
    """All that a patch could leave behind: objects, places and bits of parameters, hooks, attention processors."""
    state = {}
    for name, network in one.components.items():
        if not isinstance(network, torch.nn.Module):
            continue
        for path, parameter in network.named_parameters():
            state[name, path] = (id(parameter), parameter.data_ptr(), parameter.dtype, parameter.detach().clone())
        for path, module in network.named_modules():
            hooks = len(module._forward_hooks), len(module._forward_pre_hooks)
            state[name, path, "hooks"] = (type(module), *hooks, module.__dict__.get("forward"))
        if hasattr(network, "attn_processors"):
            state[name, "processors"] = {path: id(processor) for path, processor in network.attn_processors.items()}
    return state


def assert_unchanged(one, before):
    after = state_of(one)
    assert after.keys() == before.keys()
    for key, value in before.items():
        if isinstance(value, tuple) and isinstance(value[-1], torch.Tensor):
            assert after[key][:-1] == value[:-1] and torch.equal(after[key][-1], value[-1]), key
        else:
            assert after[key] == value, key


@pytest.mark.parametrize("key", MAKERS)
def test_the_product_is_added_and_taken_off_again(key):
    one = family(key)
    lora, change = diffusers_lora(one, TARGETS[key], alpha=1.0)
    layer, before = one.network.get_submodule(TARGETS[key]), state_of(one)
    original = layer.weight.clone()
    with one.loras([(lora, 0.7)]):
        assert torch.allclose(layer.weight, original + 0.7 * change, atol=1e-6)
    assert_unchanged(one, before)


@pytest.mark.parametrize("key", MAKERS)
def test_the_model_comes_back_after_an_exception(key):
    one = family(key)
    lora, _ = diffusers_lora(one, TARGETS[key])
    before = state_of(one)
    with pytest.raises(RuntimeError, match="in the middle"), one.loras([(lora, 1.0), (lora, -0.3)]):
        raise RuntimeError("in the middle")
    assert_unchanged(one, before)


def test_a_weight_of_zero_and_no_lora_leave_every_tensor_where_it_is():
    one = family("sd")
    lora, _ = diffusers_lora(one, TARGETS["sd"])
    before = state_of(one)
    for choices in ([], [(lora, 0.0)]):
        with one.loras(choices):
            assert_unchanged(one, before)


def test_several_loras_add_up():
    one = family("sd")
    lora, change = diffusers_lora(one, TARGETS["sd"])
    original = one.network.get_submodule(TARGETS["sd"]).weight.clone()
    with one.loras([(lora, 1.0), (lora, 0.5)]):
        assert torch.allclose(one.network.get_submodule(TARGETS["sd"]).weight, original + 1.5 * change, atol=1e-6)


def test_a_half_precision_model_gets_its_own_bits_back():
    pipe = tiny_sd()
    pipe.unet.to(torch.bfloat16)
    one = family_of(pipe.components)
    lora, _ = diffusers_lora(one, TARGETS["sd"])
    before = state_of(one)
    with one.loras([(lora, 1.0)]):
        assert one.network.get_submodule(TARGETS["sd"]).weight.dtype == torch.bfloat16
    assert_unchanged(one, before)


def test_the_lora_changes_the_prediction():
    one = family("sd")
    lora, _ = diffusers_lora(one, TARGETS["sd"])
    given = one.encode_prompts("a fox", "", 1, (32, 32))["positive"]
    latents, times = torch.ones(1, 4, 8, 8), torch.tensor([500.0])
    plain = one.predict_raw(latents, times, given)
    with one.loras([(lora, 1.0)]):
        assert not torch.allclose(one.predict_raw(latents, times, given), plain, atol=1e-3)
    assert torch.equal(one.predict_raw(latents, times, given), plain)


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
    "output_blocks_0_1_transformer_blocks_0_ff_net_0_proj": "up_blocks.0.attentions.0.transformer_blocks.0.ff.net.0.proj",
    "output_blocks_1_2_conv": "up_blocks.0.upsamplers.0.conv",
    "output_blocks_3_0_in_layers_2": "up_blocks.1.resnets.1.conv1",
    "out_2": "conv_out",
}


def test_sdxls_original_block_numbers():
    pipe = tiny_sdxl()
    index = LayerIndex({"unet": pipe.unet})
    for spelled, path in BLOCK_NUMBERS.items():
        found = index.find("lora_unet_" + spelled)
        assert found is not None and found[1] == [pipe.unet.get_submodule(path)], spelled


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


def test_every_fused_layer_of_flux_exists():
    pipe = tiny_flux()
    index = LayerIndex({"transformer": pipe.transformer})
    for kind, parts in (("double", lora_names._FLUX_DOUBLE), ("single", lora_names._FLUX_SINGLE)):
        for part, layers in parts.items():
            assert len(index.find(f"lora_unet_{kind}_blocks_0_{part}")[1]) == len(layers)


def test_every_layer_is_found_by_each_spelling_of_its_path():
    for key in MAKERS:
        one = family(key)
        networks = {name: one.components[name] for name in (one.network_name, *one.encoder_names)}
        index = LayerIndex(networks)
        for path, module in one.network.named_modules():
            if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
                assert index.find(f"{one.network_name}.{path}")[1] == [module]
                assert index.find("lora_unet_" + path.replace(".", "_"))[1] == [module]


def test_diffusers_own_file_with_its_metadata(tmp_path):
    one = family("sd")
    lora, change = diffusers_lora(one, TARGETS["sd"])
    settings = json.dumps({"unet.r": RANK, "unet.lora_alpha": 6})
    save_file(lora, tmp_path / "style.safetensors", metadata={"lora_adapter_metadata": settings})
    layer = one.network.get_submodule(TARGETS["sd"])
    original = layer.weight.clone()
    with one.loras([(tmp_path / "style.safetensors", 1.0)]):
        assert torch.allclose(layer.weight, original + 6 / RANK * change, atol=1e-5)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (pickle.dumps({"a": 1}), "no safetensors"),
        (b"PK\x03\x04" + b"0" * 200, "no safetensors"),
        (b"", "no safetensors"),
        (b"\xff" * 64, "no safetensors"),
        (None, "There is no LoRA"),
    ],
)
def test_a_file_that_is_something_else_is_refused_by_its_content(tmp_path, content, words):
    path = tmp_path / "style.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LoraError, match=words), family("sd").loras([(path, 1.0)]):
        pass


def test_a_truncated_file_is_refused(tmp_path):
    lora, _ = diffusers_lora(family("sd"), TARGETS["sd"])
    path = tmp_path / "style.safetensors"
    save_file(lora, path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(LoraError), family("sd").loras([(path, 1.0)]):
        pass


@pytest.mark.parametrize(
    ("source", "target"), [("flux", "sd"), ("sd3", "flux"), ("sdxl", "sd"), ("sd", "sdxl"), ("flux", "sd3")]
)
def test_a_lora_of_another_family_is_refused_and_changes_nothing(source, target):
    lora, _ = diffusers_lora(family(source), TARGETS[source] if source != "sdxl" else "add_embedding.linear_1")
    if (source, target) == ("sd", "sdxl"):
        lora, _ = diffusers_lora(family("sd"), TARGETS["sdxl"])
    one = family(target)
    before = state_of(one)
    with pytest.raises(LoraError, match=f"model of the {target} family") as raised, one.loras([(lora, 1.0)]):
        pass
    assert isinstance(raised.value, StepwiseError)
    assert_unchanged(one, before)


def test_the_second_lora_being_wrong_leaves_the_first_unapplied():
    one = family("sd")
    lora, _ = diffusers_lora(one, TARGETS["sd"])
    wrong, _ = diffusers_lora(family("flux"), TARGETS["flux"])
    before = state_of(one)
    with pytest.raises(LoraError), one.loras([(lora, 1.0), (wrong, 1.0)]):
        pass
    assert_unchanged(one, before)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({}, "no tensors"),
        ({"unet.x.hada_w1_a": torch.ones(1)}, "no plain LoRA"),
        ({f"unet.{TARGETS['sd']}.lora_A.weight": torch.ones(2, 16)}, "incomplete"),
    ],
)
def test_a_file_that_is_no_plain_lora_is_refused(tensors, words):
    with pytest.raises(LoraError, match=words), family("sd").loras([(tensors, 1.0)]):
        pass
