"""GGUF files: their headers are read without any package, their networks run through diffusers where gguf is there."""

from __future__ import annotations

import importlib.util
import struct

import pytest
import tiny_models
import torch
from checkpoint_files import renamed, unet_name, vae_name
from model_folders import loader_of
from safetensors.torch import save_file

from pipelines.core.errors import ModelFileError
from pipelines.models import folder_problems
from pipelines.models.catalog_folder import scan
from pipelines.weights import kinds
from pipelines.weights.gguf_files import read_gguf_header

NEEDS_GGUF = pytest.mark.skipif(importlib.util.find_spec("gguf") is None, reason="the package gguf is not installed")
FLUX = {"double_blocks.0.img_attn.norm.key_norm.scale": (128,), "guidance_in.in_layer.bias": (3072,)}


def text(words):
    return struct.pack("<Q", len(words)) + words.encode()


def write_gguf(path, shapes, version=3, kind=0, data=None):
    """A file by the specification: header, one field, tensor entries, aligned data."""
    body = b"GGUF" + struct.pack("<IQQ", version, len(shapes), 2)
    body += text("general.architecture") + struct.pack("<I", 8) + text("flux")
    body += text("words") + struct.pack("<IIQ", 9, 8, 2) + text("one") + text("two")
    place = 0
    for name, shape in shapes.items():
        body += text(name) + struct.pack("<I", len(shape)) + b"".join(struct.pack("<Q", one) for one in shape[::-1])
        body += struct.pack("<IQ", kind, place)
        place += -(-4 * torch.Size(shape).numel() // 32) * 32
    body += bytes(-len(body) % 32)
    path.write_bytes(body + (bytes(place) if data is None else data))
    return path


def test_the_header_is_read_as_the_specification_has_it(tmp_path):
    header = read_gguf_header(write_gguf(tmp_path / "a.gguf", {"x": (2, 3), "y": (5,)}))
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in header.tensors.items()} == {
        "x": ("F32", (2, 3)),
        "y": ("F32", (5,)),
    }
    assert header.metadata == {"general.architecture": "flux"}


@pytest.mark.parametrize("cut", [3, 20, 60, 120])
def test_damaged_files_are_refused_in_one_sentence(tmp_path, cut):
    whole = write_gguf(tmp_path / "a.gguf", {"x": (64, 64)}).read_bytes()
    (tmp_path / "a.gguf").write_bytes(whole[:cut])
    with pytest.raises(ModelFileError, match=r"^a\.gguf"):
        read_gguf_header(tmp_path / "a.gguf")
    (tmp_path / "a.gguf").write_bytes(whole[:8] + b"\xff" * 16 + whole[24:])
    with pytest.raises(ModelFileError, match="damaged"):
        read_gguf_header(tmp_path / "a.gguf")


def test_without_the_package_the_list_says_what_to_install(tmp_path, monkeypatch):
    write_gguf(tmp_path / "flux1-dev-Q4_0.gguf", FLUX)
    monkeypatch.setattr(folder_problems, "has_gguf", lambda: False)
    (entry,) = scan(tmp_path)
    assert (entry.family, entry.file.base, entry.file.gguf) == ("flux", "flux1-dev", True)
    assert "pip install -r requirements-gguf.txt" in entry.problem
    monkeypatch.setattr(folder_problems, "has_gguf", lambda: True)
    assert not scan(tmp_path)[0].problem
    write_gguf(tmp_path / "llama.gguf", {"blk.0.attn_q.weight": (4, 4)})
    assert "none of the checkpoints known here" in scan(tmp_path)[1].problem


def original_flux(network):
    """A tiny FLUX.1 transformer in its authors' names."""
    state, found = network.state_dict(), {}

    def put(name, *ours, swap=False, ends=("weight", "bias")):
        for end in ends:
            whole = torch.cat([state[f"{one}.{end}"] for one in ours])
            found[f"{name}.{end}"] = torch.cat(whole.chunk(2)[::-1]) if swap else whole

    put("img_in", "x_embedder")
    put("txt_in", "context_embedder")
    for theirs, ours in (("time_in", "timestep"), ("vector_in", "text"), ("guidance_in", "guidance")):
        put(f"{theirs}.in_layer", f"time_text_embed.{ours}_embedder.linear_1")
        put(f"{theirs}.out_layer", f"time_text_embed.{ours}_embedder.linear_2")
    block, single = "transformer_blocks.0", "single_transformer_blocks.0"
    for side, qkv, proj, feed, norms, mod in (
        ("img", "to_{}", "to_out.0", "ff", ("norm_q", "norm_k"), "norm1"),
        ("txt", "add_{}_proj", "to_add_out", "ff_context", ("norm_added_q", "norm_added_k"), "norm1_context"),
    ):
        head = f"double_blocks.0.{side}"
        put(f"{head}_attn.qkv", *(f"{block}.attn.{qkv.format(one)}" for one in "qkv"))
        put(f"{head}_attn.proj", f"{block}.attn.{proj}")
        put(f"{head}_mlp.0", f"{block}.{feed}.net.0.proj")
        put(f"{head}_mlp.2", f"{block}.{feed}.net.2")
        put(f"{head}_mod.lin", f"{block}.{mod}.linear")
        for theirs, ours in zip(("query_norm", "key_norm"), norms, strict=True):
            found[f"{head}_attn.norm.{theirs}.scale"] = state[f"{block}.attn.{ours}.weight"]
    put("single_blocks.0.linear1", *(f"{single}.attn.to_{one}" for one in "qkv"), f"{single}.proj_mlp")
    put("single_blocks.0.linear2", f"{single}.proj_out")
    put("single_blocks.0.modulation.lin", f"{single}.norm.linear")
    for theirs, ours in (("query_norm", "norm_q"), ("key_norm", "norm_k")):
        found[f"single_blocks.0.norm.{theirs}.scale"] = state[f"{single}.attn.{ours}.weight"]
    put("final_layer.linear", "proj_out")
    put("final_layer.adaLN_modulation.1", "norm_out.linear", swap=True)
    return {name: weight.contiguous() for name, weight in found.items()}


def test_flux_in_its_authors_names_is_loaded_bit_for_bit(tmp_path):
    stock = tiny_models.tiny_flux(seed=1)
    tiny_models.tiny_flux(tmp_path / "FLUX.1-dev", seed=2)
    save_file(original_flux(stock.transformer), tmp_path / "painter.safetensors")
    loader = loader_of(tmp_path)
    assert "FLUX.1 dev" in loader.catalog["painter"].notes
    with loader.model("painter") as model:
        loaded = model.network.state_dict()
        expected = stock.transformer.state_dict()
        assert loaded.keys() == expected.keys()
        assert all(torch.equal(loaded[name], weight) for name, weight in expected.items())


def gguf_of(path, tensors, packed):
    """A file by the package gguf; matrices whose rows fit are packed."""
    import gguf

    writer = gguf.GGUFWriter(path, "flux")
    plain = {}
    for name, weight in tensors.items():
        rows = weight.detach().float().numpy()
        if rows.ndim == 2 and rows.shape[1] % 32 == 0 and packed is not None:
            raw = gguf.quants.quantize(rows, packed)
            writer.add_tensor(name, raw, raw_dtype=packed)
            plain[name] = torch.from_numpy(gguf.quants.dequantize(raw, packed).copy())
        else:
            writer.add_tensor(name, rows)
            plain[name] = weight.float()
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return plain


@NEEDS_GGUF
@pytest.mark.parametrize("packed", ["Q4_0", "Q8_0"])
def test_a_gguf_network_predicts_what_its_unpacked_weights_predict(tmp_path, packed):
    import gguf

    stock = tiny_models.tiny_flux(seed=1)
    tiny_models.tiny_flux(tmp_path / "FLUX.1-dev", seed=2)
    original = original_flux(stock.transformer)
    plain = gguf_of(tmp_path / "painter.gguf", original, gguf.GGMLQuantizationType[packed])
    save_file({name: weight.contiguous() for name, weight in plain.items()}, tmp_path / "unpacked.safetensors")
    loader = loader_of(tmp_path)
    latents, times, found = torch.ones(1, 4, 8, 8), torch.tensor([500.0]), {}
    for key in ("painter", "unpacked"):
        with loader.model(key) as model:
            given = model.encode_prompts("a fox", "", 1, (32, 32))["positive"]
            found[key] = model.predict_raw(latents, times, given)
            kinds_of_layers = {type(module).__name__ for module in model.network.modules()}
            assert ("GGUFLinear" in kinds_of_layers) == (key == "painter")
    # Both compute in float32; the order of sums differs.
    assert torch.allclose(found["painter"], found["unpacked"], atol=1e-4)


@NEEDS_GGUF
def test_a_gguf_unet_without_prefix(tmp_path, monkeypatch):
    import gguf

    monkeypatch.setitem(kinds.CONTEXT_WIDTHS, 40, ("sdxl", "sdxl"))
    stock = tiny_models.tiny_sdxl(seed=1)
    tiny_models.tiny_sdxl(tmp_path / "stable-diffusion-xl-base-1.0", seed=2)
    names = renamed(stock.unet, lambda name: unet_name(name).removeprefix("model.diffusion_model."))
    gguf_of(tmp_path / "painter.gguf", names, gguf.GGMLQuantizationType.Q8_0)
    save_file(
        renamed(stock.vae, lambda name: vae_name(name).removeprefix("first_stage_model.")), tmp_path / "xl.safetensors"
    )
    with loader_of(tmp_path).model("painter") as model:
        given = model.encode_prompts("a fox", "", 1, (32, 32))["positive"]
        predicted = model.predict_raw(torch.ones(1, 4, 8, 8), torch.tensor([500.0]), given)
        expected = stock.unet(
            torch.ones(1, 4, 8, 8),
            torch.tensor([500.0]),
            given.tensors["prompt_embeds"],
            added_cond_kwargs={
                "text_embeds": given.tensors["pooled_prompt_embeds"],
                "time_ids": given.tensors["time_ids"],
            },
        ).sample
    # Eight bits a weight.
    assert (predicted - expected).norm() / expected.norm() < 0.02
