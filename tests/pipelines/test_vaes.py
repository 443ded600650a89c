"""A VAE of the models folder in the place of the model's own."""

from __future__ import annotations

import json
import shutil

import pytest
import safetensors.torch
import tiny_models
import torch
from checkpoint_files import renamed, vae_name
from diffusers import AutoencoderKL, AutoencoderTiny
from model_folders import loader_of

from pipelines.core.errors import SettingsError, UnknownMethodError
from pipelines.core.types import Choice, Request
from pipelines.models.extras import Extras
from pipelines.models.load_request import LoadRequest
from pipelines.models.vaes import explain_vae_misfit, read_vae_facts
from pipelines.requests.run_identity import identify_model, identify_run
from pipelines.requests.text_to_image import resolve


@pytest.fixture
def other(models):
    """Another VAE of the same latents, as a folder; returns its decoder's picture of the same latents."""
    torch.manual_seed(5)
    vae = tiny_models._vae().eval()
    vae.save_pretrained(models / "vae" / "Sharp Eyes")
    return vae


LATENTS = torch.linspace(-1, 1, 4 * 8 * 8).reshape(1, 4, 8, 8)


def decode(vae) -> torch.Tensor:
    with torch.no_grad():
        return (vae.decode(LATENTS / vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)


def test_a_folder_decodes_and_encodes_in_the_place_of_the_models_own(models, other):
    loader = loader_of(models)
    with loader.model("one") as own, loader.model("one", request=LoadRequest(Extras(vae="sharp-eyes"))) as family:
        torch.testing.assert_close(family.decode(LATENTS), decode(other))
        assert not torch.allclose(family.decode(LATENTS), own.decode(LATENTS), atol=1e-2)
        assert family.network is own.network
        picture = torch.rand(1, 3, 32, 32)
        with torch.no_grad():
            expected = other.encode(2 * picture - 1).latent_dist.mode() * other.config.scaling_factor
        torch.testing.assert_close(family.encode_images(picture), expected)


@pytest.mark.parametrize("names", ["diffusers", "original"])
def test_a_file_by_itself_takes_the_models_own_configuration(models, other, names):
    state = other.state_dict() if names == "diffusers" else renamed(other, vae_name)
    safetensors.torch.save_file(state, models / "vae" / "blue-sky.safetensors")
    with loader_of(models).model("one", request=LoadRequest(Extras(vae="blue-sky"))) as family:
        torch.testing.assert_close(family.decode(LATENTS), decode(other))


def test_the_vae_counts_for_the_decoding_and_not_for_the_run(models, other):
    loader = loader_of(models)
    request = Request(model="one", prompt="a fox", num_inference_steps=2)
    chosen = request.replace(vae=Choice("file", {"name": "sharp-eyes"}))
    with loader.model("one") as own, loader.model("one", request=LoadRequest(Extras(vae="sharp-eyes"))) as family:
        assert identify_run(resolve(request, own), own) == identify_run(resolve(chosen, family), family)
        assert identify_model(own) != identify_model(family)


def test_a_model_without_extras_is_as_it_was_after_one_with_them(models, other):
    loader = loader_of(models)
    with loader.model("one") as family:
        before = family.decode(LATENTS)
    with loader.model("one", request=LoadRequest(Extras(vae="sharp-eyes"))):
        pass
    with loader.model("one") as family:
        assert torch.equal(family.decode(LATENTS), before)


def _save(models, name, **config):
    AutoencoderKL(
        **{
            "latent_channels": 4,
            "block_out_channels": (4, 8, 8),
            "down_block_types": ("DownEncoderBlock2D",) * 3,
            "up_block_types": ("UpDecoderBlock2D",) * 3,
            "norm_num_groups": 2,
            **config,
        }
    ).save_pretrained(models / "vae" / name)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"latent_channels": 8}, "latents of 8 channels, this model's have 4"),
        (
            {
                "block_out_channels": (4, 8),
                "down_block_types": ("DownEncoderBlock2D",) * 2,
                "up_block_types": ("UpDecoderBlock2D",) * 2,
            },
            "shrinks each side by 2, this model's by 4",
        ),
        ({"scaling_factor": 0.13025}, "scales its latents by 0.13025"),
        ({"shift_factor": 0.1}, "shift 0.1"),
    ],
)
def test_one_of_other_latents_is_refused_with_the_reason(models, config, words):
    _save(models, "wrong", **config)
    loader = loader_of(models)
    with pytest.raises(SettingsError, match=words), loader.model("one", request=LoadRequest(Extras(vae="wrong"))):
        pass
    (entry,) = loader.catalog.vaes()
    assert words in explain_vae_misfit(entry, read_vae_facts(loader.catalog["one"]))


def test_a_name_that_is_not_there_says_those_that_are(models, other):
    with (
        pytest.raises(UnknownMethodError, match="sharp-eyes"),
        loader_of(models).model("one", request=LoadRequest(Extras("gone"))),
    ):
        pass


def test_other_classes_are_listed_with_their_problem_and_the_tiny_one_is_taken(models):
    folder = models / "vae" / "taesd"
    AutoencoderTiny(
        encoder_block_out_channels=(4, 4, 4), decoder_block_out_channels=(4, 4, 4),
        num_encoder_blocks=(1, 1, 1), num_decoder_blocks=(1, 1, 1),
    ).save_pretrained(folder)  # fmt: skip
    shutil.copytree(folder, models / "vae" / "wan")
    config = json.loads((models / "vae" / "wan" / "config.json").read_text())
    (models / "vae" / "wan" / "config.json").write_text(json.dumps({**config, "_class_name": "AutoencoderKLWan"}))
    loader = loader_of(models)
    problems = {vae.key: vae.problem for vae in loader.catalog.vaes()}
    assert problems["taesd"] == "" and "AutoencoderKLWan" in problems["wan"]
    with loader.model("one", request=LoadRequest(Extras(vae="taesd"))) as family:
        assert family.decode(LATENTS).shape == (1, 3, 32, 32)


def test_its_files_in_the_list_of_models_say_where_to_choose_them(models, other):
    safetensors.torch.save_file(other.state_dict(), models / "vae" / "blue-sky.safetensors")
    problems = [entry.problem for entry in loader_of(models).catalog.values() if "VAE by itself" in entry.problem]
    assert len(problems) == 2 and all("choose it under VAE" in problem for problem in problems)
