"""Names of LoRA files: each trainer's spelling finds its layers."""

from __future__ import annotations

import pytest
import torch
from lora_files import family, kohya_lora
from safetensors.torch import save_file

from pipelines.core.errors import LoraError
from pipelines.models.catalog_folder import scan_loras
from tests.pipelines.lora_layers import QKV, RANK, SPELLINGS, cayley, drawn


def layers_of(one, *paths):
    return [one.network.get_submodule(path) for path in paths]


def fused_pair(layers, seed=0):
    rows, columns = sum(len(layer.weight) for layer in layers), layers[0].weight.shape[1]
    down, up = drawn(RANK, columns, seed=seed).float(), drawn(rows, RANK, seed=seed).float()
    return down, up


def assert_applied(one, lora, layers, expected):
    with one.loras([(lora, 1.0)]):
        assert torch.allclose(torch.cat([layer.weight for layer in layers]), expected, atol=1e-5)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_each_trainers_names(spelling, tmp_path):
    key, name, ends, paths = SPELLINGS[spelling]
    one = family(key)
    layers = layers_of(one, *paths)
    down, up = fused_pair(layers)
    lora = {name.format(ends[0]): down, name.format(ends[1]): up}
    assert_applied(one, lora, layers, torch.cat([layer.weight.clone() for layer in layers]) + up @ down)
    (tmp_path / "loras").mkdir()
    save_file(lora, tmp_path / "loras" / "one.safetensors")
    (entry,) = scan_loras(tmp_path)
    assert (entry.family in {key, ""}, entry.problem) == (True, "")


def test_the_last_modulation_has_its_halves_the_other_way_round():
    for key, name, path in (
        ("flux", "lora_unet_final_layer_adaLN_modulation_1", "norm_out.linear"),
        (
            "sd3",
            "lora_unet_joint_blocks_1_context_block_adaLN_modulation_1",
            "transformer_blocks.1.norm1_context.linear",
        ),
    ):
        one = family(key)
        (layer,) = layers_of(one, path)
        down, up = fused_pair([layer])
        swapped = torch.cat((up @ down).chunk(2)[::-1])
        lora = {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
        assert_applied(one, lora, [layer], layer.weight.clone() + swapped)


@pytest.mark.parametrize(("key", "component"), [("flux", "text_encoder_2"), ("sd3", "text_encoder_3")])
def test_t5_is_found_under_kohyas_third_encoder(key, component):
    one = family(key)
    path = "encoder.block.0.layer.0.SelfAttention.q"
    layer = one.components[component].get_submodule(path)
    lora, change = kohya_lora("lora_te3_", path, layer, alpha=1.0)
    assert_applied(one, lora, [layer], layer.weight.clone() + change)


@pytest.mark.parametrize(
    ("key", "component", "prefix"),
    [
        ("sdxl", "text_encoder", "clip_l.transformer.text_model."),
        ("sdxl", "text_encoder_2", "clip_g.transformer.text_model."),
        ("sdxl", "text_encoder_2", "text_encoders.clip_g.transformer.text_model."),
        ("sd", "text_encoder", "text_encoder.base_model.model.text_model."),
        ("flux", "text_encoder_2", "t5xxl.transformer."),
        ("flux", "text_encoder_2", "lora_te2_"),
        ("sd3", "text_encoder_3", "t5xxl."),
    ],
)
def test_text_encoders_under_each_programs_prefix(key, component, prefix, tmp_path):
    one = family(key)
    t5 = "t5" in prefix or (key == "flux" and component == "text_encoder_2")
    path = "encoder.block.0.layer.0.SelfAttention.q" if t5 else "encoder.layers.0.self_attn.q_proj"
    layer = next(m for name, m in one.components[component].named_modules() if name.endswith(path))
    down, up = fused_pair([layer])
    name = prefix + (path.replace(".", "_") if prefix.endswith("_") else path)
    lora = {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
    assert_applied(one, lora, [layer], layer.weight.clone() + up @ down)
    (tmp_path / "loras").mkdir()
    save_file(lora, tmp_path / "loras" / "one.safetensors")
    assert scan_loras(tmp_path)[0].problem == ""


def test_kinds_other_than_lora_on_fused_layers():
    one = family("flux")
    layers = layers_of(one, *QKV)
    rows, columns = sum(len(layer.weight) for layer in layers), layers[0].weight.shape[1]
    whole = torch.cat([layer.weight.clone() for layer in layers])
    name = "lora_unet_double_blocks_0_img_attn_qkv"
    first, second = drawn(rows // 2, 2).float(), drawn(2, columns // 2).float()
    assert_applied(
        one, {f"{name}.lokr_w1": first, f"{name}.lokr_w2": second}, layers, whole + torch.kron(first, second)
    )
    a, b = drawn(rows, 2).float(), drawn(2, columns).float()
    hada = {f"{name}.hada_w1_a": a, f"{name}.hada_w1_b": b, f"{name}.hada_w2_a": a, f"{name}.hada_w2_b": b}
    assert_applied(one, hada, layers, whole + (a @ b) ** 2)
    blocks = drawn(rows // 4, 4, 4).float() / 4
    turned = cayley(blocks.double()).T @ whole.double()
    assert_applied(one, {f"{name}.oft_blocks": blocks}, layers, turned.float())
    too_large = drawn(2, rows // 2, rows // 2).float()
    with pytest.raises(LoraError), one.loras([({f"{name}.oft_blocks": too_large}, 1.0)]):
        pass


def test_biases_and_norms():
    one = family("sd")
    norm = one.network.get_submodule("down_blocks.1.attentions.0.transformer_blocks.0.norm1")
    layer = one.network.get_submodule("down_blocks.1.attentions.0.proj_in")
    before = norm.weight.clone(), norm.bias.clone(), layer.bias.clone()
    lora = {
        "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_norm1.w_norm": torch.ones(16),
        "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_norm1.b_norm": 2 * torch.ones(16),
        "lora_unet_down_blocks_1_attentions_0_proj_in.diff_b": 3 * torch.ones(16),
    }
    with one.loras([(lora, 0.5)]):
        assert torch.equal(norm.weight, before[0] + 0.5)
        assert torch.equal(norm.bias, before[1] + 1)
        assert torch.equal(layer.bias, before[2] + 1.5)
    assert torch.equal(norm.weight, before[0]) and torch.equal(layer.bias, before[2])


def test_bundled_embeddings_do_not_stop_a_lora():
    one = family("sd")
    layer = one.network.get_submodule("down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q")
    lora, change = kohya_lora("lora_unet_", "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q", layer, 1.0)
    assert_applied(one, lora | {"bundle_emb.fox.clip_l": torch.zeros(2, 16)}, [layer], layer.weight.clone() + change)
