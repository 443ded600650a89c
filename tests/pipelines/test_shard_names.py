"""Networks in several files, under diffusers' names of today and of before 0.28, and folders that lack some of them."""

from __future__ import annotations

import json

import pytest
import tiny_models
import torch
from model_folders import loader_of
from safetensors.torch import load_file, save_file

from pipelines.core.errors import ModelFileError
from pipelines.models.catalog import Catalog

NAMES = {
    "plain": ("{stem}-{number}-of-00002.safetensors", "{stem}.safetensors.index.json"),
    "new variant": ("{stem}.fp16-{number}-of-00002.safetensors", "{stem}.safetensors.index.fp16.json"),
    "old variant": ("{stem}-{number}-of-00002.fp16.safetensors", "{stem}.safetensors.index.fp16.json"),
    "another variant": ("{stem}-{number}-of-00002.bf16.safetensors", "{stem}.safetensors.index.bf16.json"),
}
STEMS = {"unet": "diffusion_pytorch_model", "text_encoder": "model"}


def shard(folder, stem, names):
    """One file of weights as two with their list; returns the two."""
    state = load_file(folder / f"{stem}.safetensors")
    (folder / f"{stem}.safetensors").unlink()
    ordered, files, places = sorted(state), [], {}
    for number, part in enumerate((ordered[: len(ordered) // 2], ordered[len(ordered) // 2 :]), 1):
        name = names[0].format(stem=stem, number=f"{number:05}")
        save_file({key: state[key] for key in part}, folder / name, metadata={"format": "pt"})
        places |= dict.fromkeys(part, name)
        files.append(folder / name)
    listed = json.dumps({"metadata": {"total_size": 1}, "weight_map": places})
    (folder / names[1].format(stem=stem)).write_text(listed)
    return files


@pytest.mark.parametrize("part", STEMS)
@pytest.mark.parametrize("names", NAMES)
def test_shards_under_each_name(tmp_path, names, part):
    stock = tiny_models.tiny_sd(tmp_path / "painter", seed=3)
    shard(tmp_path / "painter" / part, STEMS[part], NAMES[names])
    assert Catalog(tmp_path)["painter"].problem == ""
    with loader_of(tmp_path).model("painter") as model:
        expected = getattr(stock, part).state_dict()
        loaded = model.components[part].state_dict()
        assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())


def test_the_list_says_what_a_folder_lacks(tmp_path):
    tiny_models.tiny_sd(tmp_path / "painter", seed=3)
    first, second = shard(tmp_path / "painter" / "unet", STEMS["unet"], NAMES["plain"])
    whole = second.read_bytes()
    catalog = Catalog(tmp_path)

    def problem():
        catalog.rescan()
        return catalog["painter"].problem

    second.write_bytes(whole[:-8])
    assert "cut short" in problem() and second.name in problem()
    second.unlink()
    assert "1 of 2 weight files are missing" in problem() and second.name in problem()
    second.write_bytes(whole)
    assert problem() == ""
    first.with_name("diffusion_pytorch_model.safetensors.index.json").unlink()
    assert "no list of its weight files" in problem()
    with pytest.raises(ModelFileError, match="no list"), loader_of(tmp_path).model("painter"):
        pass
