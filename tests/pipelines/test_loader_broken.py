"""Broken models: each gets one sentence, and nothing stays held."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from model_folders import UNET, loader_of, set_index
from safetensors.torch import load_file, save_file

from pipelines.core.errors import ModelFileError, UnknownMethodError
from pipelines.models.part_loading import part_class


def test_an_unknown_model(models):
    loader = loader_of(models)
    for key in ("nonesuch", "../one", str(models / "one")):
        with pytest.raises(UnknownMethodError, match="Unknown model"), loader.model(key):
            pass


def cut_short(folder):
    path = folder / UNET
    path.write_bytes(path.read_bytes()[:-100])


def pickled(folder):
    torch.save({"x": torch.zeros(3)}, folder / UNET)


def without_vae(folder):
    shutil.rmtree(folder / "vae")


def with_a_shared_vae_that_is_not_there(folder):
    shutil.rmtree(folder / "vae")
    (folder / "shared_parts.json").write_text('{"vae": "nonesuch"}')


def with_a_shared_vae_by_a_path(folder):
    shutil.rmtree(folder / "vae")
    (folder / "shared_parts.json").write_text('{"vae": "../models/two"}')


def only_pickles(folder):
    (folder / UNET).rename(folder / "unet" / "diffusion_pytorch_model.bin")


def without_weights(folder):
    (folder / UNET).unlink()


def without_config(folder):
    (folder / "unet" / "config.json").unlink()


def without_a_tensor(folder):
    weights = load_file(folder / UNET)
    del weights["conv_in.weight"]
    save_file(weights, folder / UNET, metadata={"format": "pt"})


def of_another_shape(folder):
    weights = load_file(folder / UNET)
    weights["conv_in.weight"] = torch.zeros(3, 3)
    save_file(weights, folder / UNET, metadata={"format": "pt"})


def text_encoder_without_a_tensor(folder):
    path = folder / "text_encoder" / "model.safetensors"
    weights = load_file(path)
    del weights[next(name for name in weights if "q_proj.weight" in name)]
    save_file(weights, path, metadata={"format": "pt"})


def with_code_of_its_own(folder):
    set_index(folder, unet=["evil_package", "Network"])


def with_a_path_as_a_class(folder):
    set_index(folder, unet=["diffusers", "../../x"])


def with_an_unknown_pipeline(folder):
    set_index(folder, _class_name="NoSuchPipeline")


def without_tokenizer_files(folder):
    for path in (folder / "tokenizer").iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (cut_short, "is cut short"),
        (pickled, "pickle"),
        (without_vae, "no folder 'vae'"),
        (with_a_shared_vae_that_is_not_there, "nonesuch has no folder 'vae'"),
        (with_a_shared_vae_by_a_path, "the name of a folder beside it"),
        (only_pickles, "pickles only"),
        (without_weights, "has no weights"),
        (without_config, "no config.json"),
        (without_a_tensor, "conv_in.weight"),
        (of_another_shape, "cannot be loaded|does not fit"),
        (text_encoder_without_a_tensor, "does not fit"),
        (with_code_of_its_own, "never run"),
        (with_a_path_as_a_class, "which is not a class"),
        (with_an_unknown_pipeline, "NoSuchPipeline"),
        (without_tokenizer_files, "tokenizer"),
    ],
)
def test_a_broken_folder_gets_one_sentence_and_leaves_nothing_held(models, harm, says):
    harm(models / "one")
    loader = loader_of(models)
    with pytest.raises(ModelFileError, match=says) as raised, loader.model("one"):
        pass
    assert str(models) not in str(raised.value)
    assert "\n" not in str(raised.value)
    assert all(row.in_use == 0 and row.state == "ready" for row in loader.memory())
    with loader.model("two"):
        pass


def test_a_broken_folder_that_was_repaired_works(models):
    cut_short(models / "one")
    loader = loader_of(models)
    with pytest.raises(ModelFileError), loader.model("one"):
        pass
    shutil.copy(models / "two" / UNET, models / "one" / UNET)
    with loader.model("one"):
        pass


def test_a_pickle_named_safetensors_in_the_models_folder(models):
    torch.save({"x": torch.zeros(3)}, models / "fake.safetensors")
    loader = loader_of(models)
    with pytest.raises(ModelFileError, match=r"fake.safetensors is a zip archive with a pickle"), loader.model("fake"):
        pass


def test_a_shard_that_is_missing(models):
    weights = load_file(models / "one" / UNET)
    names = sorted(weights)
    folder = models / "one" / "unet"
    (models / "one" / UNET).unlink()
    halves = {"00001": names[::2], "00002": names[1::2]}
    shards = {number: f"diffusion_pytorch_model-{number}-of-00002.safetensors" for number in halves}
    files = {name: shards[number] for number, half in halves.items() for name in half}
    for number, half in halves.items():
        save_file({name: weights[name] for name in half}, folder / shards[number], metadata={"format": "pt"})
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": files}))
    loader = loader_of(models)
    with loader.model("one") as model:
        assert torch.equal(model.network.conv_in.weight, weights["conv_in.weight"])
    (folder / "diffusion_pytorch_model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelFileError, match="1 of 2 weight files are missing"), loader.model("one"):
        pass


def test_only_diffusers_and_transformers_are_looked_into():
    assert part_class("stable_diffusion", "StableDiffusionSafetyChecker").__name__ == "StableDiffusionSafetyChecker"
    for library, name in (("os", "system"), ("diffusers", "nonesuch"), ("../evil", "X"), ("builtins", "dict")):
        with pytest.raises(ModelFileError, match="never run"):
            part_class(library, name)
