"""LoRA's relatives are applied by their papers' formulas, in float64; every trainer's names find their layers."""

from __future__ import annotations

import pytest
import torch
from lora_files import MAKERS, family, kohya_lora
from safetensors.torch import save_file

from pipelines.core.errors import LoraError
from pipelines.models.catalog_folder import scan_loras
from pipelines.weights.adapters import make_adapter
from pipelines.weights.lora import applied_loras

OUT, IN, RANK = 12, 8, 2


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=torch.float64)


def cayley(blocks):
    """Block-diagonal rotation, by the textbook: (1 + Q)(1 - Q)^-1 with Q skew."""
    skew = blocks - blocks.transpose(1, 2)
    eye = torch.eye(blocks.shape[1], dtype=blocks.dtype)
    return torch.block_diag(*((eye + one) @ torch.linalg.inv(eye - one) for one in skew))


def convolved(weight, pixels):
    return torch.nn.functional.conv2d(pixels, weight, padding=1)


W = drawn(OUT, IN, seed=9)
DOWN, UP = drawn(RANK, IN), drawn(OUT, RANK)
HADA = {
    "w1_a": drawn(OUT, RANK, seed=1),
    "w1_b": drawn(RANK, IN, seed=2),
    "w2_a": drawn(OUT, RANK, seed=3),
    "w2_b": drawn(RANK, IN, seed=4),
}
ALPHA = torch.tensor(1.0, dtype=torch.float64)
BLOCKS = drawn(3, 4, 4, seed=5) / 4
LOW = W + UP @ DOWN / 2

FORMULAS = {
    "lora": ({"down": DOWN, "up": UP, "alpha": ALPHA}, LOW),
    "loha": (
        HADA | {"alpha": ALPHA},
        W + (HADA["w1_a"] @ HADA["w1_b"]) * (HADA["w2_a"] @ HADA["w2_b"]) / 2,
    ),
    "lokr of whole factors, whose alpha says nothing": (
        {"lokr_w1": drawn(3, 2, seed=1), "lokr_w2": drawn(4, 4, seed=2), "alpha": ALPHA},
        W + torch.kron(drawn(3, 2, seed=1), drawn(4, 4, seed=2)),
    ),
    "lokr of low rank": (
        {
            "lokr_w1": drawn(3, 2, seed=1),
            "lokr_w2_a": drawn(4, RANK, seed=2),
            "lokr_w2_b": drawn(RANK, 4, seed=3),
            "alpha": ALPHA,
        },
        W + torch.kron(drawn(3, 2, seed=1), drawn(4, RANK, seed=2) @ drawn(RANK, 4, seed=3)) / 2,
    ),
    "dora of the outputs": (
        {"down": DOWN, "up": UP, "alpha": ALPHA, "dora_scale": drawn(OUT, 1).abs()},
        drawn(OUT, 1).abs() * LOW / LOW.norm(dim=1, keepdim=True),
    ),
    "dora of the inputs": (
        {"down": DOWN, "up": UP, "alpha": ALPHA, "dora_scale": drawn(1, IN).abs()},
        drawn(1, IN).abs() * LOW / LOW.norm(dim=0, keepdim=True),
    ),
    "dora as PEFT keeps it": (
        {"down": DOWN, "up": UP, "alpha": ALPHA, "magnitude": drawn(OUT).abs()},
        drawn(OUT).abs()[:, None] * LOW / LOW.norm(dim=1, keepdim=True),
    ),
    "ia3 on the inputs": ({"weight": drawn(1, IN), "on_input": torch.tensor(True)}, W * (1 + drawn(1, IN))),
    "ia3 on the outputs": ({"weight": drawn(OUT, 1), "on_input": torch.tensor(0.0)}, W * (1 + drawn(OUT, 1))),
    "ia3 as PEFT keeps it": ({"ia3_l": drawn(OUT, 1)}, W * drawn(OUT, 1)),
    "oft": ({"oft_blocks": BLOCKS, "alpha": torch.tensor(0.0)}, cayley(BLOCKS).T @ W),
    "oft rescaled": (
        {"oft_blocks": BLOCKS, "rescale": drawn(OUT, 1)},
        drawn(OUT, 1) * (cayley(BLOCKS).T @ W),
    ),
    "difference": ({"diff": drawn(OUT, IN)}, W + drawn(OUT, IN)),
}


@pytest.mark.parametrize("kind", FORMULAS)
def test_the_formula_in_double_precision(kind):
    parts, expected = FORMULAS[kind]
    adapter = make_adapter(parts, lambda rank: 1.0)
    # Rounding in double precision; a wrong scale, sign, transpose or axis is off by far more.
    assert torch.allclose(W + adapter.delta(W), expected, rtol=1e-12, atol=1e-12)


def test_ofts_rotation_keeps_lengths_and_its_bound_is_alpha_times_the_outputs():
    turned = W + make_adapter({"oft_blocks": BLOCKS}, float).delta(W)
    assert torch.allclose(turned.norm(dim=0), W.norm(dim=0), rtol=1e-12)
    bound = 0.01
    skew = BLOCKS - BLOCKS.transpose(1, 2)
    small = BLOCKS * (bound * OUT / skew.norm())
    bounded = W + make_adapter({"oft_blocks": BLOCKS, "alpha": torch.tensor(bound)}, float).delta(W)
    # alpha is kept in single precision, as in files.
    assert torch.allclose(bounded, cayley(small).T @ W, rtol=1e-6)


def test_convolutions_in_tucker_form():
    weight, pixels = drawn(OUT, IN, 3, 3), drawn(1, IN, 5, 5)
    down, mid, up = drawn(RANK, IN, 1, 1), drawn(RANK, RANK, 3, 3), drawn(OUT, RANK, 1, 1)
    adapter = make_adapter({"down": down, "mid": mid, "up": up}, lambda rank: 1.0)
    # The change is the three convolutions one after another.
    chain = torch.nn.functional.conv2d(pixels, down)
    chain = torch.nn.functional.conv2d(torch.nn.functional.conv2d(chain, mid, padding=1), up)
    assert torch.allclose(convolved(weight + adapter.delta(weight), pixels), convolved(weight, pixels) + chain)

    def tucker(seed):
        core, a, b = drawn(RANK, RANK, 3, 3, seed=seed), drawn(RANK, OUT, seed=seed), drawn(RANK, IN, seed=seed)
        whole = sum(
            core[i, j][None, None] * a[i][:, None, None, None] * b[j][None, :, None, None]
            for i in range(RANK)
            for j in range(RANK)
        )
        return core, a, b, whole

    (t1, a1, b1, first), (t2, a2, b2, second) = tucker(1), tucker(7)
    loha = {"t1": t1, "w1_a": a1, "w1_b": b1, "t2": t2, "w2_a": a2, "w2_b": b2}
    assert torch.allclose(make_adapter(loha, lambda rank: 1.0).delta(weight), first * second)
    core, a, b = drawn(RANK, RANK, 3, 3), drawn(RANK, 4), drawn(RANK, 4)
    whole = torch.einsum("ijkl,jr,ip->prkl", core, b, a)
    lokr = {"lokr_w1": drawn(3, 2), "lokr_t2": core, "lokr_w2_a": a, "lokr_w2_b": b}
    expected = torch.stack(
        [
            torch.stack([torch.kron(drawn(3, 2), whole[:, :, y, x].contiguous()) for x in range(3)], -1)
            for y in range(3)
        ],
        -2,
    )
    assert torch.allclose(make_adapter(lokr, lambda rank: 1.0).delta(weight), expected)


def layers_of(one, *paths):
    return [one.network.get_submodule(path) for path in paths]


def fused_pair(layers, seed=0):
    rows, columns = sum(len(layer.weight) for layer in layers), layers[0].weight.shape[1]
    down, up = drawn(RANK, columns, seed=seed).float(), drawn(rows, RANK, seed=seed).float()
    return down, up


def assert_applied(one, lora, layers, expected):
    with one.loras([(lora, 1.0)]):
        assert torch.allclose(torch.cat([layer.weight for layer in layers]), expected, atol=1e-5)


QKV = [f"transformer_blocks.0.attn.to_{part}" for part in "qkv"]
ADDED = [f"transformer_blocks.0.attn.add_{part}_proj" for part in "qkv"]
SINGLE = [f"single_transformer_blocks.0.attn.to_{part}" for part in "qkv"]
SPELLINGS = {
    "X-Labs, image": ("flux", "double_blocks.0.processor.qkv_lora1.{}.weight", ("down", "up"), QKV),
    "X-Labs, text": ("flux", "double_blocks.0.processor.qkv_lora2.{}.weight", ("down", "up"), ADDED),
    "X-Labs, single": ("flux", "single_blocks.0.processor.qkv_lora.{}.weight", ("down", "up"), SINGLE),
    "BFL": ("flux", "double_blocks.0.img_attn.qkv.lora_{}.weight", ("A", "B"), QKV),
    "ComfyUI, FLUX": ("flux", "diffusion_model.double_blocks.0.txt_attn.qkv.lora_{}.weight", ("A", "B"), ADDED),
    "ai-toolkit": ("flux", "transformer.single_transformer_blocks.0.attn.to_q.lora_{}.weight", ("A", "B"), SINGLE[:1]),
    "kohya, final layer": ("flux", "lora_unet_final_layer_linear.lora_{}.weight", ("down", "up"), ["proj_out"]),
    "kohya, img_in": ("flux", "lora_unet_img_in.lora_{}.weight", ("down", "up"), ["x_embedder"]),
    "kohya, guidance": (
        "flux",
        "lora_unet_guidance_in_in_layer.lora_{}.weight",
        ("down", "up"),
        ["time_text_embed.guidance_embedder.linear_1"],
    ),
    "SD3, kohya": ("sd3", "lora_unet_joint_blocks_0_context_block_attn_qkv.lora_{}.weight", ("down", "up"), ADDED),
    "SD3, ComfyUI": ("sd3", "diffusion_model.joint_blocks.0.x_block.attn.qkv.lora_{}.weight", ("A", "B"), QKV),
    "SD3, diffusers": ("sd3", "transformer.transformer_blocks.0.attn.to_q.lora_{}.weight", ("A", "B"), QKV[:1]),
    "OneTrainer": ("flux", "lora_transformer_transformer_blocks_0_attn_to_q.lora_{}.weight", ("down", "up"), QKV[:1]),
}


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


NAME = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"
REFUSED = {
    "boft": ({f"{NAME}.oft_blocks": (2, 4, 4, 4)}, "BOFT"),
    "glora": ({f"{NAME}.a1.weight": (4, 4), f"{NAME}.b1.weight": (4, 4)}, "GLoRA"),
    "peft oft": ({f"{NAME}.oft_R.weight": (4, 6)}, "OFT as PEFT writes it"),
    "wan": ({"diffusion_model.blocks.0.cross_attn.k.lora_A.weight": (4, 64)}, "made for Wan"),
    "qwen": ({"transformer.transformer_blocks.0.img_mod.1.lora_A.weight": (4, 64)}, "made for Qwen-Image"),
    "unheard of": ({"what.ever.lora_A.weight": (4, 64)}, "a model that is not known here"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_applied_says_so_in_the_list(tmp_path, what):
    shapes, says = REFUSED[what]
    (tmp_path / "loras").mkdir()
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, tmp_path / "loras" / "one.safetensors")
    (entry,) = scan_loras(tmp_path)
    assert says in entry.problem and entry.problem.startswith("one.safetensors")


@pytest.mark.parametrize("kind", ["hada_w1_a", "lokr_w1", "oft_blocks", "dora_scale"])
def test_kinds_that_are_applied_are_listed_as_usable(tmp_path, kind):
    tensors = {
        "hada_w1_a": {"hada_w1_a": (16, 2), "hada_w1_b": (2, 16), "hada_w2_a": (16, 2), "hada_w2_b": (2, 16)},
        "lokr_w1": {"lokr_w1": (4, 4), "lokr_w2": (4, 4)},
        "oft_blocks": {"oft_blocks": (4, 4, 4)},
        "dora_scale": {"lora_down.weight": (2, 16), "lora_up.weight": (16, 2), "dora_scale": (16, 1)},
    }[kind]
    (tmp_path / "loras").mkdir()
    save_file(
        {f"{NAME}.{end}": torch.ones(shape) for end, shape in tensors.items()}, tmp_path / "loras" / "x.safetensors"
    )
    (entry,) = scan_loras(tmp_path)
    assert entry.problem == ""
    one = family("sd")
    layer = one.network.get_submodule("down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q")
    before = layer.weight.clone()
    with applied_loras({"unet": one.network}, [(entry.path, 1.0)], "sd"):
        assert torch.isfinite(layer.weight).all()
    assert torch.equal(layer.weight, before)


def test_the_metadata_tells_a_family_where_names_do_not(tmp_path):
    (tmp_path / "loras").mkdir()
    tensors = {f"{NAME}.lora_down.weight": torch.zeros(2, 640), f"{NAME}.lora_up.weight": torch.zeros(640, 2)}
    for version, expected in (("sdxl_base_v1-0", "sdxl"), ("sd_v1", "sd"), ("", "")):
        save_file(tensors, tmp_path / "loras" / "x.safetensors", metadata={"ss_base_model_version": version})
        assert scan_loras(tmp_path)[0].family == expected


def test_every_family_has_a_maker():
    assert {key for key, *_ in SPELLINGS.values()} <= set(MAKERS)
