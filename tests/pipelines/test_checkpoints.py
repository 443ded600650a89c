"""Single checkpoint files: a tiny Stable Diffusion 1 under its authors' names, loaded and compared."""

from __future__ import annotations

import re

import pytest
import tiny_models
import torch
from diffusers import AutoencoderTiny
from model_folders import loader_of, models, originals  # noqa: F401 - fixtures
from safetensors.torch import save_file

from pipelines.core.errors import ModelFileError, ModelMissingError
from pipelines.weights import kinds as weight_kinds

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


def checkpoint_of(pipe):
    names = ((pipe.unet, unet_name), (pipe.vae, vae_name), (pipe.text_encoder, text_name))
    return {rename(name): weight.contiguous() for part, rename in names for name, weight in part.state_dict().items()}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A models folder with a checkpoint "painter" (seed 1) and configurations from another model (seed 2)."""
    monkeypatch.setitem(weight_kinds.CONTEXT_WIDTHS, 16, ("sd", "sd1"))
    tiny_models.tiny_sd(tmp_path / "stable-diffusion-v1-5", seed=2)
    save_file(checkpoint_of(tiny_models.tiny_sd(seed=1)), tmp_path / "painter.safetensors")
    return tmp_path


def test_a_checkpoint_file_gives_the_weights_it_holds(folder):
    stock, loader = tiny_models.tiny_sd(seed=1), loader_of(folder)
    with loader.model("painter") as model:
        for name, part in (("unet", stock.unet), ("vae", stock.vae), ("text_encoder", stock.text_encoder)):
            loaded = model.components[name].state_dict()
            assert loaded.keys() == part.state_dict().keys()
            assert all(torch.equal(loaded[key], weight) for key, weight in part.state_dict().items()), name
        first = model
    with loader.model("painter") as model:
        assert model.network is first.network
        assert model.components["scheduler"] is not first.components["scheduler"]
    assert [row.label for row in loader.memory()] == ["checkpoint"]
    assert loader.release("painter") is True
    assert first.network.device.type == "meta"


def test_a_checkpoint_file_is_previewed_by_its_familys_tiny_decoder(folder):
    AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    ).save_pretrained(folder / "tiny_vae" / "sd")
    loader = loader_of(folder)
    with loader.model("painter") as model:
        assert model.preview(torch.zeros(1, 4, 8, 8)).shape == (1, 3, 16, 16)
    assert {row.label for row in loader.memory()} == {"checkpoint", "tiny_vae"}


@pytest.mark.parametrize(
    "start",
    [
        "model.diffusion_model.output_blocks",
        "first_stage_model.decoder",
        "cond_stage_model.transformer.text_model.encoder",
    ],
)
def test_a_checkpoint_that_lacks_a_tensor_is_refused(folder, start):
    weights = checkpoint_of(tiny_models.tiny_sd(seed=1))
    del weights[next(name for name in weights if name.startswith(start))]
    save_file(weights, folder / "painter.safetensors")
    loader = loader_of(folder)
    with pytest.raises(ModelFileError, match="painter"), loader.model("painter"):
        pass
    assert loader.memory() == []


def test_a_single_file_without_configurations_says_what_it_needs(models):
    save_file(
        {
            "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": torch.zeros(4, 768),
            "model.diffusion_model.input_blocks.0.0.weight": torch.zeros(4, 4, 3, 3),
            "cond_stage_model.x": torch.zeros(1),
        },
        models / "painter.safetensors",
    )
    loader = loader_of(models)
    with (
        pytest.raises(ModelMissingError, match="single file, which needs the configurations.*Stable Diffusion 1.5"),
        loader.model("painter"),
    ):
        pass
    tiny_models.tiny_sd(models / "stable-diffusion-v1-5", seed=6)
    with pytest.raises(ModelFileError, match="cannot be loaded as StableDiffusion"), loader.model("painter"):
        pass
    assert all(row.in_use == 0 for row in loader.memory())
