"""Every file of the models folder is listed: usable, or with one sentence why not."""

from __future__ import annotations

import json
import struct
import time

import pytest
import torch
from safetensors.torch import save_file

from pipelines.core.errors import SettingsError
from pipelines.models.catalog import SHIPPED_KEYS, Catalog
from pipelines.models.catalog_folder import scan, scan_embeddings, scan_loras
from pipelines.models.folder_lists import read_folder_list
from pipelines.models.folder_walk import ModelFolders

UNET = "model.diffusion_model."
SHAPES = {
    f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (4, 768),
    f"{UNET}input_blocks.0.0.weight": (4, 4, 3, 3),
    "first_stage_model.x": (1,),
    "cond_stage_model.transformer.x": (1,),
}
LORA = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"


def put(path, shapes=SHAPES):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, path)
    return path


def put_lora(path, width=768):
    return put(path, {f"{LORA}.lora_down.weight": (4, width), f"{LORA}.lora_up.weight": (8, 4)})


def sparse(path, gigabytes, tensors):
    """A file of many gigabytes that takes no room: its header is real, its data a hole."""
    count = int(gigabytes * 1e9) // 2 // tensors
    header, place = {}, 0
    for number in range(tensors - len(SHAPES)):
        header[f"{UNET}output_blocks.{number}.weight"] = {
            "dtype": "F16",
            "shape": [count],
            "data_offsets": [place, place + 2 * count],
        }
        place += 2 * count
    for name, shape in SHAPES.items():
        size = 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [place, place + size]}
        place += size
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + place)


PEERS = {
    "Stable-diffusion/SDXL/a.safetensors": "model",
    "checkpoints/deep/er/b.safetensors": "model",
    "diffusion_models/c.sft": "model",
    "unet/d.safetensors": "model",
    "Lora/people/e.safetensors": "lora",
    "loras/SDXL/people/f.safetensors": "lora",
    "models/LyCORIS/g.safetensors": "lora",
    "embeddings/h.safetensors": "embedding",
    "text_encoders/x.gguf": "problem",
    "checkpoints/x.bin": "problem",
    "vae/x.pt": "problem",
    "x.zip": "problem",
    "x.safetensors.part": "problem",
    "x.onnx": "problem",
}


def test_the_peers_folders_and_their_folders_are_looked_into(tmp_path):
    for name, kind in PEERS.items():
        if kind == "lora":
            put_lora(tmp_path / name)
        elif kind == "embedding":
            put(tmp_path / name, {"emb_params": (2, 768)})
        elif kind == "model":
            put(tmp_path / name)
        else:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(b"PK\x03\x04 something else")
    for beside in ("checkpoints/a.txt", "loras/e.png", "embeddings/h.preview.png", "vae/put_vae_here"):
        (tmp_path / beside).write_text("beside")
    (tmp_path / "vae" / "put_vae_here").unlink()
    models = {entry.path.relative_to(tmp_path).as_posix(): entry for entry in scan(tmp_path)}
    loras = {entry.path.relative_to(tmp_path).as_posix(): entry for entry in scan_loras(tmp_path)}
    embeddings = {entry.path.relative_to(tmp_path).as_posix(): entry for entry in scan_embeddings(tmp_path)}
    assert set(loras) == {name for name, kind in PEERS.items() if kind == "lora"}
    assert set(embeddings) == {name for name, kind in PEERS.items() if kind == "embedding"}
    assert set(models) == {name for name, kind in PEERS.items() if kind in {"model", "problem"}}
    assert not any(entry.problem for entry in (*loras.values(), *embeddings.values()))
    for name, kind in PEERS.items():
        if kind == "problem":
            assert name.rpartition("/")[2] in models[name].problem, name
    assert all(not models[name].problem for name, kind in PEERS.items() if kind == "model")


def test_a_folder_of_many_gigabytes_costs_only_its_headers(tmp_path):
    for number in range(20):
        sparse(tmp_path / "checkpoints" / f"{number}.safetensors", 7, 2500)
    start = time.process_time()
    entries = scan(ModelFolders(tmp_path))
    took = time.process_time() - start
    assert len(entries) == 20 and not any(entry.problem for entry in entries)
    assert all(entry.size_bytes > 6e9 for entry in entries)
    # Ten a second. The processor's time, since tests run on machines that others use too.
    assert took < 2


def test_a_file_is_read_again_only_when_it_has_changed(tmp_path, monkeypatch):
    from pipelines.models import folder_walk

    read = []
    plain = folder_walk.read_weights_header
    monkeypatch.setattr(folder_walk, "read_weights_header", lambda path: read.append(path.name) or plain(path))
    put_lora(tmp_path / "loras" / "one.safetensors")
    catalog = Catalog(tmp_path)
    first = [one.key for one in scan_loras(catalog.folders)]
    assert [one.key for one in scan_loras(catalog.folders)] == first == ["one"] and read == ["one.safetensors"]
    put_lora(tmp_path / "loras" / "two.safetensors", width=2048)
    assert [one.key for one in scan_loras(catalog.folders)] == ["one", "two"]
    put(tmp_path / "loras" / "one.safetensors", {"x": (3,)})
    assert [bool(one.problem) for one in scan_loras(catalog.folders)] == [True, False]
    assert read == ["one.safetensors", "two.safetensors", "one.safetensors"]


def test_several_folders_and_a_list_of_them(tmp_path):
    first, second, third = tmp_path / "first", tmp_path / "second", tmp_path / "third"
    put(first / "a.safetensors")
    put(second / "b.safetensors")
    put_lora(second / "Lora" / "l.safetensors")
    put(third / "models" / "checkpoints" / "c.safetensors")
    put_lora(third / "models" / "loras" / "m.safetensors")
    (first / "extra_model_paths.yaml").write_text(
        f"comfyui:\n  base_path: {third}\n  is_default: true\n  checkpoints: models/checkpoints/\n"
        "  loras: |\n    models/loras\n    models/missing\n  controlnet: models/controlnet\n"
    )
    catalog = Catalog(first, further=[second, second / "." / "Lora" / ".."])
    local = [entry.key for entry in catalog.values() if entry.local and not entry.problem]
    assert local == [*SHIPPED_KEYS, "a", "b", "c"]
    assert [lora.key for lora in scan_loras(catalog.folders)] == ["l", "m"]
    problems = [entry.problem for entry in catalog.values() if entry.problem and entry.local]
    assert problems == ["The folder missing of the list of model folders is not there."]


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("a.json", '["one", "/abs/two"]', ["one", "/abs/two"]),
        ("a.json", '{"folders": ["one"], "notes": "none"}', ["one"]),
        (
            "config.txt",
            '{"path_checkpoints": ["x/ckpt"], "path_loras": "x/lora", "path_outputs": "out"}',
            ["x/ckpt", "x/lora"],
        ),
        ("a.yaml", "a111:\n  base_path: web\n  vae: models/VAE\n  controlnet: models/C\n", ["web/models/VAE"]),
        ("a.yaml", "- one\n- two\n", ["one", "two"]),
    ],
)
def test_lists_of_the_peers(tmp_path, name, text, found):
    (tmp_path / name).write_text(text)
    assert read_folder_list(tmp_path / name) == [tmp_path / one for one in found]


@pytest.mark.parametrize("text", ["{", "a: [", "{}", "7", "upscalers: x"])
def test_a_list_that_names_nothing_is_refused_and_the_folder_is_still_read(tmp_path, text):
    (tmp_path / "model_folders.yaml").write_text(text)
    with pytest.raises(SettingsError, match=r"^model_folders.yaml"):
        read_folder_list(tmp_path / "model_folders.yaml")
    put(tmp_path / "a.safetensors")
    entries = {entry.key: entry.problem for entry in Catalog(tmp_path).values() if entry.local}
    assert not entries["a"] and "model_folders.yaml" in entries["model_folders"]


def test_links_in_a_circle_end(tmp_path):
    put(tmp_path / "checkpoints" / "a.safetensors")
    (tmp_path / "checkpoints" / "again").symlink_to(tmp_path)
    assert [entry.key for entry in scan(ModelFolders(tmp_path, follow_links=True))] == ["a"]


def test_shards_without_their_list_stand_once(tmp_path):
    for number in (1, 2, 3):
        put(tmp_path / f"model-0000{number}-of-00003.safetensors")
    (entry,) = scan(tmp_path)
    assert "one of several files" in entry.problem


@pytest.mark.parametrize(("role", "scan_role"), [("loras", scan_loras), ("embeddings", scan_embeddings)])
def test_a_linked_folder_among_loras_and_embeddings_is_listed_with_its_reason(tmp_path, role, scan_role):
    elsewhere = tmp_path / "elsewhere" / "styles"
    put_lora(elsewhere / "one.safetensors")
    (tmp_path / "models" / role).mkdir(parents=True)
    (tmp_path / "models" / role / "linked").symlink_to(elsewhere)
    (entry,) = scan_role(ModelFolders(tmp_path / "models"))
    assert "leads out of the models folder" in entry.problem and "--follow-links" in entry.problem
    (followed,) = scan_role(ModelFolders(tmp_path / "models", follow_links=True))
    assert followed.path.name == "one.safetensors"
