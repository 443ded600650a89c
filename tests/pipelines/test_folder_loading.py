"""Folders are loaded by filling empty modules; the result is that of `from_pretrained`, bit for bit."""

from __future__ import annotations

import json

import pytest
import tiny_models
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

import pipelines.models.part_loading as part_loading
from pipelines.models.files import part_files
from pipelines.models.folder_loading import load_by_name

CLIP = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": 50,
    "projection_dim": 16,
}


def save_t5(folder):
    config = T5Config(d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, vocab_size=50)
    T5EncoderModel(config).save_pretrained(folder)
    return T5EncoderModel


def save_clip(folder):
    CLIPTextModel(CLIPTextConfig(**CLIP)).save_pretrained(folder)
    return CLIPTextModel


def save_clip_with_projection(folder):
    CLIPTextModelWithProjection(CLIPTextConfig(**CLIP)).half().save_pretrained(folder)
    return CLIPTextModelWithProjection


def save_unet(folder):
    tiny_models.tiny_sd(seed=3).unet.half().save_pretrained(folder)
    return UNet2DConditionModel


def save_vae_in_shards(folder):
    tiny_models.tiny_sd(seed=3).vae.save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("*-of-*"))) > 1
    return AutoencoderKL


def save_sd3(folder):
    transformer = tiny_models.tiny_sd3().transformer
    transformer.save_pretrained(folder)
    return type(transformer)


def files_of(folder, part_class):
    library = part_class.__module__.partition(".")[0]
    return part_files(folder.name, library, part_class.__name__, folder, ("",))


def state_with_buffers(module):
    return {**dict(module.named_buffers()), **module.state_dict()}


SAVES = [save_t5, save_clip, save_clip_with_projection, save_unet, save_vae_in_shards, save_sd3]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("save", SAVES)
def test_every_number_is_that_of_from_pretrained(tmp_path, save, dtype):
    folder = tmp_path / "part"
    part_class = save(folder)
    stock = part_class.from_pretrained(folder, torch_dtype=dtype)
    mine = part_loading.load_part(files_of(folder, part_class), str(dtype).removeprefix("torch."), "cpu")
    expected, loaded = state_with_buffers(stock), state_with_buffers(mine)
    assert loaded.keys() == expected.keys()
    for name, tensor in expected.items():
        assert loaded[name].dtype == tensor.dtype, name
        assert torch.equal(loaded[name], tensor), name
    assert [name for name, _ in mine.named_parameters()] == [name for name, _ in stock.named_parameters()]
    assert not mine.training
    assert not any(weight.requires_grad for weight in mine.parameters())


@pytest.mark.parametrize("save", SAVES)
def test_from_pretrained_has_no_part_in_it(tmp_path, save):
    part_class = save(tmp_path / "part")
    module = load_by_name(files_of(tmp_path / "part", part_class), part_class, torch.float32)
    assert module is not None
    assert not any(tensor.is_meta for tensor in state_with_buffers(module).values())


def test_tied_weights_stay_one_tensor(tmp_path):
    save_t5(tmp_path / "part")
    module = load_by_name(files_of(tmp_path / "part", T5EncoderModel), T5EncoderModel, torch.bfloat16)
    # Some of T5's layers stay in float32 beside float16; that is left to transformers.
    assert module is None
    module = load_by_name(files_of(tmp_path / "part", T5EncoderModel), T5EncoderModel, torch.float32)
    assert module.shared.weight is module.encoder.embed_tokens.weight


def test_old_names_are_left_to_diffusers(tmp_path):
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, sample_size=8)
    vae.save_pretrained(tmp_path / "part")
    path = tmp_path / "part" / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = load_file(path)
    for new, name in old.items():
        state = {key.replace(f"attentions.0.{new}.", f"attentions.0.{name}."): value for key, value in state.items()}
    assert state.keys() != vae.state_dict().keys()
    save_file(state, path, metadata={"format": "pt"})
    files = files_of(tmp_path / "part", AutoencoderKL)
    assert load_by_name(files, AutoencoderKL, torch.float32) is None
    loaded = part_loading.load_part(files, "float32", "cpu").state_dict()
    assert all(torch.equal(loaded[name], weight) for name, weight in vae.state_dict().items())


def test_what_is_quantized_is_left_to_its_library(tmp_path):
    save_unet(tmp_path / "part")
    config = tmp_path / "part" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "quantization_config": {"quant_method": "x"}}))
    files = files_of(tmp_path / "part", UNet2DConditionModel)
    assert load_by_name(files, UNet2DConditionModel, torch.float32) is None
