"""The catalog: shipped, published and local models by key."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipelines.core.errors import UnknownMethodError
from pipelines.core.types import Request
from pipelines.guidance import GUIDANCE
from pipelines.models.catalog import (
    SHIPPED_KEYS,
    Catalog,
    published,
    shipped,
    shipped_128,
    shipped_flow,
    shipped_motion,
    shorten_path,
)
from pipelines.models.catalog_folder import scan, scan_loras
from pipelines.models.folder_lists import models_folder
from pipelines.models.folder_walk import ModelFolders
from pipelines.samplers import SAMPLERS
from pipelines.schedules import SCHEDULES

MOST_UNCONFIRMED_LICENCES = 7
"""Lower it whenever one was confirmed; a new model's licence is confirmed before the model is listed."""

ROOT = Path(__file__).resolve().parents[2]
KEY = re.compile(r"^[a-z0-9][a-z0-9._-]{0,63}$")

NAMED = (
    "Stable Diffusion 1.5",
    "Stable Diffusion 2.1",
    "SDXL",
    "Turbo",
    "Lightning",
    "LCM-LoRA",
    "Hyper-SD",
    "DPO",
    "3.5 medium",
    "3.5 large turbo",
    "FLUX.1 schnell",
    "FLUX.1 dev",
    "FLUX.2",
    "PixArt-Sigma",
    "SANA ",
    "SANA-Sprint",
    "HiDream-I1",
    "Qwen-Image",
    "Z-Image",
    "InstaFlow",
    "LDM3D",
    "UniDiffuser",
    "VQ-Diffusion",
    "Stable Video Diffusion",
    "AnimateDiff",
    "AnyFlow",
    "LTX-Video",
    "LTX-2",
    "Wan 2.1",
    "Wan 2.2",
    "CogVideoX",
    "HunyuanVideo",
    "SkyReels-V2",
)


def make_folder(folder, name, pipeline="StableDiffusionPipeline"):
    (folder / name / "unet").mkdir(parents=True)
    (folder / name / "model_index.json").write_text(json.dumps({"_class_name": pipeline}))
    save_file({"x": torch.zeros(10)}, folder / name / "unet" / "diffusion_pytorch_model.safetensors")
    return folder / name


def make_sdxl_file(path):
    prefix = "model.diffusion_model."
    save_file(
        {
            f"{prefix}input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": torch.zeros(4, 2048),
            f"{prefix}input_blocks.0.0.weight": torch.zeros(4, 4, 3, 3),
            "conditioner.x": torch.zeros(1),
        },
        path,
    )


def make_lora(path, width=768):
    layer = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    save_file({f"{layer}.lora_A.weight": torch.zeros(4, width), f"{layer}.lora_B.weight": torch.zeros(8, 4)}, path)


def test_the_number_of_licences_that_nobody_confirmed_only_falls():
    open_ones = [entry.key for entry in published() if any(name.startswith("licence") for name in entry.unverified)]
    assert len(open_ones) <= MOST_UNCONFIRMED_LICENCES, open_ones


def test_importing_reads_nothing_and_pulls_in_no_library():
    code = (
        "import sys, pipelines.models.catalog, pipelines.models.catalog_folder, pipelines.models.cache, "
        "pipelines.models.loader;"
        "print(sorted({'torch', 'diffusers', 'transformers', 'huggingface_hub', 'accelerate'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("words", NAMED)
def test_every_promised_model_is_there(words):
    assert any(words in entry.label for entry in published()), words


@pytest.mark.parametrize(
    "entry",
    [shipped(), shipped_128(), shipped_flow(), shipped_motion(), *published()],
    ids=lambda entry: entry.key,
)
def test_entries_are_whole(entry):
    assert KEY.match(entry.key)
    assert entry.kind in {"image", "video"}
    assert entry.family in {"sd", "sdxl", "sd3", "flux", "stock"}
    assert (entry.kind == "video") == bool(entry.num_frames)
    assert entry.pipeline.isidentifier()
    request = Request.parse({"model": entry.key, **entry.defaults})
    GUIDANCE[request.guidance.key].build(request.guidance.settings)
    SAMPLERS[request.sampler.key].build(request.sampler.settings)
    SCHEDULES[request.schedule.key].build(request.schedule.settings)
    if not entry.local:
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", entry.repository)
        assert entry.licence or "licence" in entry.unverified
        assert not entry.confirmed.keys() & set(entry.unverified) and all(
            len(where) > 20 for where in entry.confirmed.values()
        )
        assert entry.licence_url.startswith("https://huggingface.co/")
        assert entry.size_bytes or "size_bytes" in entry.unverified
        assert re.fullmatch(r"[0-9a-f]{40}", entry.revision) or "revision" in entry.unverified


def test_keys_are_unique_and_the_shipped_model_is_first(tmp_path):
    keys = [entry.key for entry in [shipped(), *published()]]
    assert len(keys) == len(set(keys))
    catalog = Catalog(tmp_path)
    assert next(iter(catalog)) == "emoji"
    assert catalog["emoji"].path == ROOT / "assets" / "models" / "emoji"
    assert "emoji" in catalog
    assert None not in catalog


def test_an_unknown_model_is_named_with_the_choices(tmp_path):
    with pytest.raises(UnknownMethodError, match=r"Unknown model 'emojy'. Choose one of: emoji,"):
        Catalog(tmp_path)["emojy"]
    with pytest.raises(UnknownMethodError):
        Catalog(tmp_path)["../../etc/passwd"]


def test_local_models_stand_after_the_shipped_ones(tmp_path):
    make_folder(tmp_path, "My Model")
    make_sdxl_file(tmp_path / "painter_v2.safetensors")
    catalog = Catalog(tmp_path)
    assert list(catalog)[: len(SHIPPED_KEYS) + 2] == [*SHIPPED_KEYS, "my-model", "painter_v2"]
    assert catalog["my-model"].family == "sd"
    assert catalog["painter_v2"].family == "sdxl"
    assert catalog["painter_v2"].pipeline == "StableDiffusionXLPipeline"
    Request.parse({"model": "painter_v2", **catalog["painter_v2"].defaults})
    make_folder(tmp_path, "later", "WanPipeline")
    assert "later" not in catalog
    catalog.rescan()
    assert catalog["later"].kind == "video"
    assert catalog["later"].family == "stock"


def test_names_are_made_safe_and_unique(tmp_path):
    for name in ("sdxl", "a b", "a-b", "<img src=x>", "..secret", "Ünïcode", "日本", "x" * 200):
        make_folder(tmp_path, name)
    make_folder(tmp_path / "publisher", "nested")
    (tmp_path / ".hidden").mkdir()
    entries = scan(tmp_path, used_keys=["sdxl"])
    keys = [entry.key for entry in entries]
    assert len(keys) == len(set(keys)) == 8
    assert all(KEY.match(key) for key in keys)
    assert {"sdxl-2", "a-b", "a-b-2", "nested"} <= set(keys)
    assert all(len(entry.label) <= 80 for entry in entries)


def test_links_that_leave_the_folder_are_listed_with_that_reason(tmp_path):
    outside, models = tmp_path / "outside", tmp_path / "models"
    models.mkdir()
    target = make_folder(outside, "stolen")
    make_sdxl_file(outside / "file.safetensors")
    inside = make_folder(models, "real")
    (models / "link").symlink_to(target)
    (models / "file.safetensors").symlink_to(outside / "file.safetensors")
    (models / "alias").symlink_to(inside)
    (models / "loop").symlink_to(models / "loop")
    problems = {entry.key: entry.problem for entry in scan(models)}
    assert set(problems) == {"real", "alias", "link", "file", "loop"}
    assert not problems["real"] and not problems["alias"]
    assert all("leads out of the models folder" in problems[key] for key in ("link", "file"))
    assert "not there" in problems["loop"]
    assert not any(str(tmp_path) in problem for problem in problems.values())
    followed = {entry.key: entry.problem for entry in scan(ModelFolders(models, follow_links=True))}
    assert not followed["link"] and not followed["file"]


def test_files_that_cannot_be_used_are_listed_with_their_problem(tmp_path):
    torch.save({"x": torch.zeros(3)}, tmp_path / "fake.safetensors")
    (tmp_path / "old.ckpt").write_bytes(b"\x80\x02")
    (tmp_path / "notes.txt").write_text("not a model")
    make_lora(tmp_path / "style.safetensors")
    save_file({"x": torch.zeros(3)}, tmp_path / "odd.safetensors")
    broken = make_folder(tmp_path, "broken")
    (broken / "model_index.json").write_text("{")
    problems = {entry.key: entry.problem for entry in scan(tmp_path)}
    assert set(problems) == {"fake", "old", "style", "odd", "broken"}
    assert "pickle" in problems["fake"]
    assert "can run any program" in problems["old"]
    assert "Move it into the folder 'loras'" in problems["style"]
    assert "none of the checkpoints known here" in problems["odd"]
    assert "model_index.json" in problems["broken"]
    assert not any(str(tmp_path) in problem for problem in problems.values())


def test_loras(tmp_path):
    (tmp_path / "loras").mkdir()
    make_lora(tmp_path / "loras" / "Watercolor One.safetensors")
    make_lora(tmp_path / "loras" / "xl.safetensors", width=2048)
    make_sdxl_file(tmp_path / "loras" / "model.safetensors")
    (tmp_path / "loras" / "bad.pt").write_bytes(b"\x80\x02")
    loras = {lora.key: lora for lora in scan_loras(tmp_path)}
    assert set(loras) == {"watercolor-one", "xl", "model", "bad"}
    assert (loras["watercolor-one"].family, loras["watercolor-one"].base) == ("sd", "sd1")
    assert loras["xl"].family == "sdxl"
    assert "is no LoRA" in loras["model"].problem
    assert "pickle" in loras["bad"].problem
    assert scan(tmp_path) == []


def test_a_folder_that_is_not_there_holds_nothing(tmp_path):
    assert scan(tmp_path / "none") == []
    assert scan_loras(tmp_path / "none") == []


def test_the_models_folder_is_the_persons_choice(tmp_path, monkeypatch):
    monkeypatch.setenv("STEPWISE_MODELS", str(tmp_path / "mine"))
    assert models_folder() == tmp_path / "mine"
    monkeypatch.delenv("STEPWISE_MODELS")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    assert models_folder() == tmp_path / "data" / "stepwise" / "models"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert shorten_path(tmp_path / "data" / "models") == "~/data/models"
    assert shorten_path(Path("/srv/models")) == "/srv/models"
