"""LoRA's relatives are applied by their papers' formulas, in float64; every trainer's names find their layers."""

from __future__ import annotations

import pytest
import torch
from lora_files import MAKERS, family
from safetensors.torch import save_file

from pipelines.models.catalog_folder import scan_loras
from pipelines.weights.adapters import make_adapter
from pipelines.weights.lora import applied_loras
from tests.pipelines.lora_layers import IN, OUT, RANK, SPELLINGS, cayley, drawn


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


@pytest.mark.parametrize("shape", [(OUT, 1, 1, 1), (1, IN, 1, 1)])
def test_dora_of_convolutions(shape):
    weight, down, up = drawn(OUT, IN, 3, 3), drawn(RANK, IN, 3, 3), drawn(OUT, RANK, 1, 1)
    magnitude = drawn(*shape).abs()
    adapter = make_adapter({"down": down, "up": up, "dora_scale": magnitude}, lambda rank: 1.0)
    whole = weight + torch.einsum("or, rikl -> oikl", up[:, :, 0, 0], down)
    dims = (1, 2, 3) if shape[0] == OUT else (0, 2, 3)
    expected = magnitude * whole / (whole**2).sum(dims, keepdim=True).sqrt()
    assert adapter.fits(weight.float())
    assert torch.allclose(weight + adapter.delta(weight), expected, rtol=1e-12, atol=1e-12)


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


NAME = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"
REFUSED = {
    "boft": ({f"{NAME}.oft_blocks": (2, 4, 4, 4)}, "BOFT"),
    "glora": ({f"{NAME}.a1.weight": (4, 4), f"{NAME}.b1.weight": (4, 4)}, "GLoRA"),
    "peft oft": ({f"{NAME}.oft_R.weight": (4, 6)}, "OFT as PEFT writes it"),
    "wan": ({"diffusion_model.blocks.0.cross_attn.k.lora_A.weight": (4, 64)}, "made for Wan"),
    "qwen": ({"transformer.transformer_blocks.0.img_mod.1.lora_A.weight": (4, 64)}, "made for Qwen-Image"),
    "without its other half": ({f"{NAME}.lora_up.weight": (16, 2)}, "incomplete or damaged at"),
    "loha without its second product": ({f"{NAME}.hada_w1_a": (16, 2), f"{NAME}.hada_w1_b": (2, 16)}, "incomplete"),
    "ranks that differ": (
        {f"{NAME}.lora_up.weight": (16, 3), f"{NAME}.lora_down.weight": (2, 16)},
        "incomplete or damaged at",
    ),
    "an alpha of many numbers": (
        {f"{NAME}.lora_up.weight": (16, 2), f"{NAME}.lora_down.weight": (2, 16), f"{NAME}.alpha": (3,)},
        "incomplete or damaged at",
    ),
    "a tensor of no kind": (
        {f"{NAME}.lora_up.weight": (16, 2), f"{NAME}.lora_down.weight": (2, 16), f"{NAME}.reshape_weight": (2,)},
        "reshape_weight",
    ),
    "a table of words": (
        {
            f"{NAME}.lora_up.weight": (16, 2),
            f"{NAME}.lora_down.weight": (2, 16),
            "text_encoder.text_model.embeddings.token_embedding.lora_embedding_A": (2, 5),
        },
        "a table of words",
    ),
    "of a VAE": (
        {
            f"{NAME}.lora_up.weight": (16, 2),
            f"{NAME}.lora_down.weight": (2, 16),
            "vae.decoder.conv_in.lora_A.weight": (2, 4, 3, 3),
        },
        "changes the VAE",
    ),
    "flux depth": (
        {
            "img_in.lora_A.weight": (128, 128),
            "img_in.lora_B.weight": (3072, 128),
            "double_blocks.0.img_attn.norm.query_norm.scale": (128,),
        },
        "follow a given picture",
    ),
    "bundled outputs": (
        {f"{NAME}.lora_up.weight": (16, 2), f"{NAME}.lora_down.weight": (2, 16), "bundle_emb.a.clip_l_out": (2, 768)},
        "one of outputs",
    ),
    "unheard of": ({"what.ever.lora_A.weight": (4, 64)}, "a model that is not known here"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_applied_says_so_in_the_list(tmp_path, what):
    shapes, says = REFUSED[what]
    (tmp_path / "loras").mkdir()
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, tmp_path / "loras" / "one.safetensors")
    (entry,) = scan_loras(tmp_path)
    assert says in entry.problem and entry.problem.startswith("one.safetensors")


def test_what_the_list_offers_is_applied_and_what_is_packed_is_not_offered(tmp_path):
    """Halves, bfloat16 and fp8 are numbers like any other; whole numbers are somebody's packing."""
    one = family("sd")
    layer = one.network.get_submodule("down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q")
    before = layer.weight.clone()
    (tmp_path / "loras").mkdir()
    path = tmp_path / "loras" / "one.safetensors"
    for dtype in (torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.int8):
        ends = {"lora_up": torch.ones(16, 2), "lora_down": torch.ones(2, 16)}
        save_file({f"{NAME}.{end}.weight": part.to(dtype) for end, part in ends.items()}, path)
        (entry,) = scan_loras(tmp_path)
        assert ("whole numbers" in entry.problem) == (dtype == torch.int8)
        if not entry.problem:
            with one.loras([(path, 1.0)]):
                assert torch.allclose(layer.weight, before + 2, atol=1e-5)


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
