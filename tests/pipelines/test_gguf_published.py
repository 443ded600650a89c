"""GGUF files as they are published: rows that fill no block, packed convolutions, whole checkpoints, T5, K-quants."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import tiny_models
import torch
from checkpoint_files import checkpoint_of, renamed, unet_name, vae_name
from model_folders import loader_of
from safetensors.torch import save_file
from transformers import T5Config, T5EncoderModel

from pipelines.core.errors import ModelFileError
from pipelines.models.checkpoint_loading import lone_module
from pipelines.models.donors import Donors
from pipelines.models.files import PartFiles
from pipelines.models.part_loading import load_part
from pipelines.weights import gguf_files, kinds
from pipelines.weights.files import Tensor
from pipelines.weights.gguf_files import is_packed_matrix, read_gguf_header, stored_bytes

if importlib.util.find_spec("gguf") is None:
    pytest.skip("the package gguf is not installed", allow_module_level=True)

import gguf

SCALES = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}
"""K-quants to the places of a block's half-precision scales, which gguf cannot compute from numbers."""


def pack(rows, kind):
    """Rows as a kind's bytes: packed by gguf, or random blocks with scales of their own for K-quants."""
    number = gguf.GGMLQuantizationType[kind]
    if kind not in SCALES:
        return gguf.quants.quantize(rows, number)
    block, size = gguf.GGML_QUANT_SIZES[number]
    draw = np.random.default_rng(rows.size)
    raw = draw.integers(0, 256, (rows.size // block, size), dtype=np.uint8)
    for place in SCALES[kind]:
        raw[:, place : place + 2] = np.frombuffer(np.float16(0.0005).tobytes(), np.uint8)
    return raw.reshape(rows.shape[0], -1)


def write(path, tensors, kind):
    """A file as ComfyUI-GGUF's convert.py writes SDXL's; also the numbers that are in it."""
    number, writer, plain = gguf.GGMLQuantizationType[kind], gguf.GGUFWriter(path, "sdxl"), {}
    for name, weight in tensors.items():
        rows = weight.detach().float().numpy()
        if rows.ndim > 1 and rows.size >= 512 and rows.size % 256 == 0 and rows.shape[-1] % 256:
            writer.add_array(f"comfy.gguf.orig_shape.{name}", [int(size) for size in rows.shape])
            rows = rows.reshape(-1, 256)
        if rows.ndim > 1 and rows.shape[-1] % gguf.GGML_QUANT_SIZES[number][0] == 0:
            raw = pack(rows, kind)
            writer.add_tensor(name, raw, raw_dtype=number)
            rows = gguf.quants.dequantize(raw, number)
        else:
            writer.add_tensor(name, rows)
        plain[name] = torch.from_numpy(rows.reshape(weight.shape).copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return plain


def predictions(folder, *keys):
    loader, latents, found = loader_of(folder), torch.ones(1, 4, 8, 8), []
    for key in keys:
        with loader.model(key) as model:
            given = model.encode_prompts("a fox", "", 1, (32, 32))["positive"]
            found.append(model.predict_raw(latents, torch.tensor([500.0]), given))
    return found


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_K", "Q6_K", "BF16"])
def test_rows_that_fill_no_block_come_back_in_their_shape(tmp_path, monkeypatch, kind):
    monkeypatch.setitem(kinds.CONTEXT_WIDTHS, 40, ("sdxl", "sdxl"))
    stock = tiny_models.tiny_sdxl(seed=1)
    tiny_models.tiny_sdxl(tmp_path / "stable-diffusion-xl-base-1.0", seed=2)
    names = renamed(stock.unet, lambda name: unet_name(name).removeprefix("model.diffusion_model."))
    plain = write(tmp_path / "painter.gguf", names, kind)
    save_file(plain, tmp_path / "unpacked.safetensors")
    save_file(
        renamed(stock.vae, lambda name: vae_name(name).removeprefix("first_stage_model.")), tmp_path / "xl.safetensors"
    )
    header = read_gguf_header(tmp_path / "painter.gguf")
    assert {name: tensor.shape for name, tensor in header.tensors.items()} == {
        name: tuple(weight.shape) for name, weight in names.items()
    }
    packed, unpacked = predictions(tmp_path, "painter", "unpacked")
    # diffusers multiplies the blocks of linear layers out in half precision.
    assert (packed - unpacked).norm() / unpacked.norm() < 2e-3


def test_a_whole_checkpoint_has_its_vae_and_text_encoder_unpacked(tmp_path, monkeypatch):
    monkeypatch.setitem(kinds.CONTEXT_WIDTHS, 16, ("sd", "sd1"))
    stock = tiny_models.tiny_sd(seed=1)
    tiny_models.tiny_sd(tmp_path / "stable-diffusion-v1-5", seed=2)
    save_file(write(tmp_path / "painter.gguf", checkpoint_of(stock), "Q8_0"), tmp_path / "unpacked.safetensors")
    states = []
    for name in ("painter.gguf", "unpacked.safetensors"):
        config = tmp_path / "stable-diffusion-v1-5"
        states.append({})
        for part, made in (
            ("vae", ("diffusers", "AutoencoderKL")),
            ("text_encoder", ("transformers", "CLIPTextModel")),
        ):
            files = PartFiles(part, *made, config / part, (tmp_path / name,), within=True)
            states[-1] |= load_part(files, "float32", "cpu").state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], weight) for name, weight in states[1].items())
    packed, unpacked = predictions(tmp_path, "painter", "unpacked")
    assert (packed - unpacked).norm() / unpacked.norm() < 2e-3


T5_NAMES = {
    "layer.0.SelfAttention.relative_attention_bias": "attn_rel_b",
    "layer.0.layer_norm": "attn_norm",
    "layer.1.DenseReluDense.wi_0": "ffn_gate",
    "layer.1.DenseReluDense.wi_1": "ffn_up",
    "layer.1.DenseReluDense.wo": "ffn_down",
    "layer.1.layer_norm": "ffn_norm",
    **{f"layer.0.SelfAttention.{name}": f"attn_{name}" for name in "qkvo"},
}


def llama_name(name):
    if name == "shared.weight":
        return "token_embd.weight"
    if name == "encoder.final_layer_norm.weight":
        return "enc.output_norm.weight"
    _, _, number, rest = name.removesuffix(".weight").split(".", 3)
    return f"enc.blk.{number}.{T5_NAMES[rest]}.weight"


def test_a_t5_in_llama_cpp_s_names_completes_models(tmp_path):
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=64, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, feed_forward_proj="gated-gelu"
    )
    encoder = T5EncoderModel(config).eval()
    encoder.save_pretrained(tmp_path / "config")
    state = {name: weight for name, weight in encoder.state_dict().items() if "embed_tokens" not in name}
    path = tmp_path / "models" / "t5-v1_1-xxl-encoder-Q8_0.gguf"
    path.parent.mkdir()
    plain = write(path, {llama_name(name): weight for name, weight in state.items()}, "Q8_0")
    loaded = lone_module(path, T5EncoderModel, tmp_path / "config", torch.float32, "text_encoder_2").state_dict()
    assert all(torch.equal(loaded[name], plain[llama_name(name)]) for name in state)
    catalog = loader_of(path.parent).catalog
    assert Donors(catalog.values(), catalog.folders).part("flux", "flux1-dev", "text_encoder_2").file == path


def test_a_file_cut_short_in_its_last_tensor_is_refused(tmp_path):
    write(tmp_path / "a.gguf", {"x": torch.randn(64, 64), "y": torch.randn(64, 64)}, "Q8_0")
    whole = (tmp_path / "a.gguf").read_bytes()
    read_gguf_header(tmp_path / "a.gguf")
    (tmp_path / "a.gguf").write_bytes(whole[:-40])
    with pytest.raises(ModelFileError, match="cut short"):
        read_gguf_header(tmp_path / "a.gguf")


def test_sizes_of_packed_types_are_those_of_gguf():
    sizes = {int(kind): size for kind, size in gguf.GGML_QUANT_SIZES.items()}
    assert {number: sizes[number] for number in gguf_files._BLOCKS} == gguf_files._BLOCKS
    assert stored_bytes(Tensor("GGML12", (3, 512))) == 3 * 2 * 144 and stored_bytes(Tensor("F16", (3, 5))) == 30
    assert is_packed_matrix(Tensor("GGML8", (2, 64))) and not is_packed_matrix(Tensor("GGML12", (2, 640)))
    assert not is_packed_matrix(Tensor("GGML8", (32, 32, 3, 32))) and not is_packed_matrix(Tensor("F16", (2, 64)))
