"""Formats of other programs: GGUF files and SDNQ folders are read back, by us and by them, to the same network."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from pipelines.core.types import Choice
from pipelines.quantizers import build_quantizer
from pipelines.quantizers.base import quantize_network, sqnr
from pipelines.quantizers.machine import Machine
from pipelines.weights.gguf_reading import GgufReader

pytestmark = pytest.mark.filterwarnings("ignore")
NEEDS_GGUF = pytest.mark.skipif(importlib.util.find_spec("gguf") is None, reason="the package gguf is not installed")
NEEDS_SDNQ = pytest.mark.skipif(importlib.util.find_spec("sdnq") is None, reason="the package sdnq is not installed")


@pytest.fixture(scope="module")
def transformer():
    from diffusers import SD3Transformer2DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            num_layers=1,
            attention_head_dim=32,
            num_attention_heads=2,
            joint_attention_dim=64,
            caption_projection_dim=64,
            pooled_projection_dim=64,
            out_channels=4,
            pos_embed_max_size=8,
        )
    return network.eval().requires_grad_(False)


@torch.no_grad()
def answer(network):
    generator = torch.Generator().manual_seed(1)
    latents, words, pooled = (torch.randn(shape, generator=generator) for shape in ((2, 4, 8, 8), (2, 5, 64), (2, 64)))
    return network(latents, words, pooled, torch.tensor([500.0, 20.0]), return_dict=False)[0]


@NEEDS_GGUF
@pytest.mark.parametrize("form", ["gguf_q8_0", "gguf_q4_0"])
def test_a_gguf_file_is_the_network_for_our_reader_and_for_diffusers(transformer, form, tmp_path):
    from diffusers import GGUFQuantizationConfig, SD3Transformer2DModel

    quantizer = build_quantizer(Choice(form), Machine("cpu"))
    quantized = quantize_network(transformer, quantizer)
    quantizer.export(quantized, tmp_path)
    state = quantized.state_dict()
    with GgufReader(tmp_path / "network.gguf") as reader:
        assert set(reader.header.tensors) == set(state) and reader.header.metadata["general.architecture"] == "sd3"
        for name, tensor in state.items():
            packed = reader.read_packed(name)
            if packed is None:
                assert torch.equal(reader.read_as(name, torch.float32), tensor), name
            else:
                assert torch.equal(packed.as_subclass(torch.Tensor), tensor.as_subclass(torch.Tensor)), name
    transformer.save_config(tmp_path / "config")
    loaded = SD3Transformer2DModel.from_single_file(
        str(tmp_path / "network.gguf"),
        config=str(tmp_path / "config"),
        quantization_config=GGUFQuantizationConfig(compute_dtype=torch.float32),
        torch_dtype=torch.float32,
    )
    assert sqnr(answer(quantized), answer(loaded)) > 60, "the same up to the rounding of what diffusers casts"


@NEEDS_GGUF
def test_convolutions_are_packed_by_output_and_read_back_in_their_shape(tmp_path):
    network = torch.nn.Sequential(torch.nn.Conv2d(32, 8, 3, padding=1), torch.nn.Conv2d(8, 3, 3))
    quantizer = build_quantizer(Choice("gguf_q4_0", {"convolutions": True}), Machine("cpu"))
    quantized = quantize_network(network.requires_grad_(False), quantizer)
    assert type(quantized[1]) is torch.nn.Conv2d, "rows of 72 weights do not divide into blocks of 32"
    inputs = torch.randn(2, 32, 6, 6)
    weight = quantizer.weight(quantized[0])
    expected = torch.nn.functional.conv2d(inputs, weight, quantized[0].bias, padding=1)
    assert torch.allclose(quantized[0](inputs), expected, atol=1e-5) and 15 < sqnr(network[0].weight, weight) < 30
    quantizer.export(quantized, tmp_path)
    with GgufReader(tmp_path / "network.gguf") as reader:
        assert reader.header.tensors["0.weight"].shape == (8, 32, 3, 3)
        # diffusers multiplies codes and scales in float16, the package in float32.
        assert sqnr(reader.read_as("0.weight", torch.float32), weight) > 60
    again = quantizer.restore(network[0], quantizer.tensors(quantized[0]))
    assert torch.equal(again(inputs), quantized[0](inputs))


@NEEDS_SDNQ
@pytest.mark.parametrize("form", ["sdnq_int8", "sdnq_uint4"])
def test_sdnq_reads_its_own_folder_back_exactly(transformer, form, tmp_path):
    from sdnq.loader import load_sdnq_model

    quantizer = build_quantizer(Choice(form), Machine("cpu"))
    quantized = quantize_network(transformer, quantizer)
    quantizer.export(quantized, tmp_path)
    loaded = load_sdnq_model(str(tmp_path / "sdnq"), dtype=torch.float32)
    assert torch.equal(answer(quantized), answer(loaded))
