"""Single checkpoint files: a tiny Stable Diffusion 1 under its authors' names, loaded and compared."""

from __future__ import annotations

import pytest
import tiny_models
import torch
from checkpoint_files import checkpoint_of
from diffusers import AutoencoderTiny
from model_folders import loader_of
from safetensors.torch import save_file

from pipelines.core.errors import ModelFileError, ModelMissingError
from pipelines.models import places
from pipelines.weights import kinds as weight_kinds


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
    assert {row.label for row in loader.memory()} == {"unet", "vae", "text_encoder", "tokenizer"}
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
    assert {row.label for row in loader.memory()} > {"unet", "tiny_vae"}


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
    assert not any(row.in_use for row in loader.memory())


def test_a_single_file_without_configurations_says_what_it_needs(tmp_path, monkeypatch):
    monkeypatch.setitem(weight_kinds.CONTEXT_WIDTHS, 16, ("sd", "sd1"))
    # As of a kind for which none are shipped.
    monkeypatch.setattr(places, "find_shipped_configuration", lambda base: None)
    whole = checkpoint_of(tiny_models.tiny_sd(seed=1))
    save_file(whole, tmp_path / "painter.safetensors")
    loader = loader_of(tmp_path)
    with (
        pytest.raises(ModelMissingError, match=r"single file, which needs the configurations.*Stable Diffusion 1.5"),
        loader.model("painter"),
    ):
        pass
    tiny_models.tiny_sd(tmp_path / "stable-diffusion-v1-5", seed=6)
    fewer = {name: weight for name, weight in whole.items() if ".output_blocks.0.0" not in name}
    save_file(fewer, tmp_path / "painter.safetensors")
    with (
        pytest.raises(ModelFileError, match=r"cannot be loaded as UNet2D.*\d+ of \d+ tensors"),
        loader.model("painter"),
    ):
        pass
    assert all(row.in_use == 0 for row in loader.memory())
