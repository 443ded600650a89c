"""Upscalers in the models folders are found as LoRAs are: nested, linked, in further folders, each with its state."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from pipelines.models.catalog import Catalog
from pipelines.models.catalog_folder import scan, scan_loras, scan_upscalers
from pipelines.models.folder_walk import ModelFolders
from pipelines.upscaling.compact import CompactUpscaler


def write_compact(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(CompactUpscaler(8, 2, 4).state_dict(), path)


@pytest.mark.parametrize("folder", ["upscalers", "upscale_models", "ESRGAN/4x", "models/RealESRGAN", "SwinIR"])
def test_one_in_a_peers_folder_is_an_upscaler_and_no_model(tmp_path, folder):
    write_compact(tmp_path / folder / "mine.safetensors")
    (found,) = scan_upscalers(tmp_path)
    assert (found.key, found.problem) == ("mine", "")
    assert scan(tmp_path) == []


def test_one_of_a_further_folder_is_found_and_one_behind_a_link_says_why_not(tmp_path):
    write_compact(tmp_path / "more" / "upscale_models" / "far.safetensors")
    home = tmp_path / "home"
    (home / "upscalers").mkdir(parents=True)
    (home / "upscalers" / "linked.safetensors").symlink_to(tmp_path / "more" / "upscale_models" / "far.safetensors")
    found = {one.key: one.problem for one in scan_upscalers(ModelFolders(home, [tmp_path / "more"]))}
    assert found["far"] == "" and "--follow-links" in found["linked"]


def test_one_beside_the_models_is_told_where_it_belongs(tmp_path):
    write_compact(tmp_path / "mine.safetensors")
    (entry,) = scan(tmp_path)
    assert entry.problem == "mine.safetensors is an upscaler. Move it into the folder 'upscalers'."
    (tmp_path / "loras").mkdir()
    (tmp_path / "mine.safetensors").rename(tmp_path / "loras" / "mine.safetensors")
    assert scan_loras(tmp_path)[0].problem.endswith("It is an upscaler: move it into the folder 'upscalers'.")


def test_what_cannot_be_used_is_listed_with_its_reason(tmp_path):
    folder = tmp_path / "upscalers"
    folder.mkdir()
    (folder / "old.pth").write_bytes(b"x")
    (folder / "broken.safetensors").write_bytes(b"no weights")
    target = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    style = {f"{target}.lora_down.weight": torch.zeros(2, 768), f"{target}.lora_up.weight": torch.zeros(8, 2)}
    save_file(style, folder / "style.safetensors")
    problems = {one.key: one.problem for one in scan_upscalers(tmp_path)}
    assert "pickle" in problems["old"] and "broken.safetensors" in problems["broken"]
    assert "is a LoRA: move it into the folder 'loras'" in problems["style"]


def test_another_layout_needs_spandrel_and_says_so_in_the_list(tmp_path, monkeypatch):
    (tmp_path / "upscalers").mkdir()
    save_file({"conv_first.weight": torch.zeros(8, 3, 3, 3)}, tmp_path / "upscalers" / "other.safetensors")
    for there, word in ((False, "requirements-upscalers.txt"), (True, "")):
        monkeypatch.setattr("pipelines.models.catalog_folder.has_spandrel", lambda there=there: there)
        problem = scan_upscalers(tmp_path)[0].problem
        assert word in problem and bool(problem) is not there


def test_the_shipped_ones_come_behind_the_persons_own(tmp_path):
    write_compact(tmp_path / "upscalers" / "emoji-2x.safetensors")
    listed = {one.key: one.path for one in Catalog(tmp_path).upscalers()}
    assert listed["emoji-2x"] == tmp_path / "upscalers" / "emoji-2x.safetensors"
    assert listed["emoji-4x"].parent.name == "upscalers" and listed["emoji-4x"].is_file()
