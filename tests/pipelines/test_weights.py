"""What is in a file of weights is told from its content, whatever its name says."""

from __future__ import annotations

import json
import pickle
import struct

import pytest
import torch
from safetensors.torch import save_file

from pipelines.core.errors import ModelFileError
from pipelines.weights.files import Tensor, bytes_as, check_index, read_full_header, read_header
from pipelines.weights.kinds import file_kind


def write_raw(path, header, data=b"", length=None):
    body = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(body) if length is None else length) + body + data)
    return path


def entry(shape=(2,), begin=0, end=8, dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def test_reads_what_safetensors_writes(tmp_path):
    path = tmp_path / "a.safetensors"
    halves, whole = torch.zeros(4, dtype=torch.float16), torch.zeros((), dtype=torch.int64)
    save_file({"x": torch.zeros(2, 3), "y": halves, "z": whole}, path, metadata={"note": "kept out"})
    header = read_header(path)
    assert header == {"x": Tensor("F32", (2, 3)), "y": Tensor("F16", (4,)), "z": Tensor("I64", ())}
    assert bytes_as(header.values(), "float32") == 6 * 4 + 4 * 4 + 8
    assert bytes_as(header.values(), "float16") == 6 * 2 + 4 * 2 + 8


@pytest.mark.parametrize("start", [b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04"])
def test_a_header_length_that_begins_like_a_pickle_is_a_length(tmp_path, start):
    """A length of 0x280 stands as the bytes 80 02 in the file, one of 0x4034b50 as "PK", as a zip archive begins."""
    length = int.from_bytes(start, "little")
    header = json.dumps({"x": entry()}).encode()
    path = write_raw(tmp_path / "a.safetensors", header + b" " * (length - len(header)), bytes(8))
    assert path.read_bytes()[: len(start)] == start
    assert read_header(path) == {"x": Tensor("F32", (2,))}


def test_the_metadata_and_the_places_of_tensors(tmp_path):
    path = tmp_path / "a.sft"
    save_file({"x": torch.zeros(2), "y": torch.ones(3)}, path, metadata={"modelspec.prediction_type": "v"})
    header = read_full_header(path)
    assert header.metadata == {"modelspec.prediction_type": "v"}
    with path.open("rb") as file:
        file.seek(header.tensors["y"].offset)
        assert struct.unpack("<3f", file.read(12)) == (1.0, 1.0, 1.0)


def test_float8_counts_as_the_dtype_it_is_loaded_in():
    assert bytes_as([Tensor("F8_E4M3", (10,))], "bfloat16") == 20
    assert bytes_as([Tensor("BOOL", (10,)), Tensor("BF16", (10,))], "float32") == 50


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.safetensors", pickle.dumps({"x": 1}), "is a pickle"),
        ("a.safetensors", b"PK\x03\x04" + bytes(100), "zip archive with a pickle"),
        ("a.safetensors", b"<!DOCTYPE html><html>not found</html>", "web page"),
        ("a.safetensors", b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS"),
        ("a.safetensors", b"", "cut short"),
        ("a.safetensors", b"\x10", "cut short"),
        ("a.safetensors", struct.pack("<Q", 2**60) + bytes(64), "not a safetensors file"),
        ("a.ckpt", b"anything", "can run any program"),
        ("a.bin", b"anything", "can run any program"),
    ],
)
def test_other_files_are_refused_in_one_sentence(tmp_path, name, content, says):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=says) as raised:
        read_header(path)
    assert str(tmp_path) not in str(raised.value)
    assert str(raised.value).startswith(name)


def test_a_torch_file_under_a_safetensors_name_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    torch.save({"x": torch.zeros(3)}, path)
    with pytest.raises(ModelFileError, match="pickle"):
        read_header(path)


@pytest.mark.parametrize(
    ("header", "data", "says"),
    [
        (b"{not json", b"", "damaged"),
        (b"[1, 2]", b"", "damaged"),
        (b"[" * 5000, b"", "damaged"),
        ({}, b"", "holds no tensors"),
        ({"x": entry()}, bytes(4), "cut short: 0 kB of 0 kB"),
        ({"x": entry()}, bytes(12), "damaged"),
        ({"x": entry(end=4)}, bytes(4), "damaged"),
        ({"x": entry(shape=(-2, -1))}, bytes(8), "damaged"),
        ({"x": entry(shape=(2.0,))}, bytes(8), "damaged"),
        ({"x": entry(dtype="OBJECT")}, bytes(8), "damaged"),
        ({"x": entry(begin=4, end=12)}, bytes(12), "damaged"),
        ({"x": entry(), "y": entry(begin=4, end=12)}, bytes(12), "damaged"),
        ({"x": {"dtype": "F32"}}, bytes(8), "damaged"),
        ({"x": "text"}, bytes(8), "damaged"),
    ],
)
def test_damaged_headers(tmp_path, header, data, says):
    with pytest.raises(ModelFileError, match=says):
        read_header(write_raw(tmp_path / "a.safetensors", header, data))


def test_a_file_cut_short_says_how_much_is_there(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"x": torch.zeros(1_000_000)}, path)
    path.write_bytes(path.read_bytes()[:1_500_000])
    with pytest.raises(ModelFileError, match="cut short: 1 MB of 4 MB"):
        read_header(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(ModelFileError, match="cannot be read"):
        read_header(tmp_path / "none.safetensors")


def test_an_index_may_name_only_files_beside_it(tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": "../elsewhere.safetensors"}}))
    with pytest.raises(ModelFileError, match="cannot be read as a list"):
        check_index(index)
    index.write_text(json.dumps({"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}))
    with pytest.raises(ModelFileError, match="2 of 2 weight files are missing"):
        check_index(index)
    for name in "ab":
        (tmp_path / f"{name}.safetensors").touch()
    assert [path.name for path in check_index(index)] == ["a.safetensors", "b.safetensors"]


UNET = "model.diffusion_model."
ATTENTION = UNET + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
FIRST = UNET + "input_blocks.0.0.weight"
FLUX = "double_blocks.0.img_attn.norm.key_norm.scale"
SD3 = "joint_blocks.0.context_block.adaLN_modulation.1.bias"


def tensors(**shapes):
    return {name: Tensor("F16", shape) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ({ATTENTION: (320, 768), FIRST: (320, 4, 3, 3), "cond_stage_model.x": (1,)}, ("checkpoint", "sd", "sd1")),
        ({ATTENTION: (320, 1024), FIRST: (320, 4, 3, 3), "cond_stage_model.x": (1,)}, ("checkpoint", "sd", "sd2")),
        ({ATTENTION: (640, 2048), FIRST: (320, 4, 3, 3), "conditioner.x": (1,)}, ("checkpoint", "sdxl", "sdxl")),
        ({UNET + FLUX: (128,), "text_encoders.x": (1,)}, ("checkpoint", "flux", "flux1-schnell")),
        (
            {UNET + FLUX: (128,), UNET + "guidance_in.in_layer.bias": (1,), "text_encoders.x": (1,)},
            ("checkpoint", "flux", "flux1-dev"),
        ),
        ({FLUX: (128,)}, ("network", "flux", "flux1-schnell")),
        ({FLUX: (128,), "single_stream_modulation.lin.weight": (1, 1)}, ("unknown", "", "")),
        (
            {UNET + SD3: (1,), UNET + "pos_embed": (1, 147456, 1536), "text_encoders.x": (1,)},
            ("checkpoint", "sd3", "sd35-medium"),
        ),
        (
            {UNET + SD3: (1,), UNET + "joint_blocks.37.x_block.mlp.fc1.weight": (1, 1), "text_encoders.x": (1,)},
            ("checkpoint", "sd3", "sd35-large"),
        ),
        ({"x": (1,)}, ("unknown", "", "")),
        (
            {"lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight": (8, 768)},
            ("lora", "sd", "sd1"),
        ),
        (
            {"unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight": (8, 2048)},
            ("lora", "sdxl", "sdxl"),
        ),
        (
            {"unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.processor.to_k_lora.down.weight": (8, 1024)},
            ("lora", "sd", "sd2"),
        ),
        ({"lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": (8, 1280)}, ("lora", "sdxl", "sdxl")),
        ({"transformer.single_transformer_blocks.0.attn.to_k.lora_A.weight": (8, 3072)}, ("lora", "flux", "flux1")),
        ({"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": (8, 3072)}, ("lora", "flux", "flux1")),
        ({"transformer.transformer_blocks.0.attn.add_k_proj.lora_A.weight": (8, 1536)}, ("lora", "sd3", "sd3")),
        ({"other.lora_A.weight": (8, 99)}, ("lora", "", "")),
    ],
)
def test_kinds_by_keys(shapes, expected):
    assert file_kind(tensors(**shapes))[:3] == expected


def test_an_inpainting_checkpoint_says_why_it_cannot_be_used():
    kind = file_kind(tensors(**{ATTENTION: (320, 768), FIRST: (320, 9, 3, 3), "cond_stage_model.x": (1,)}))
    assert "takes 9 channels" in kind.note
