"""Checkpoint files that cannot be used say what they are."""

from __future__ import annotations

import re

import pytest
import tiny_models
import torch
from model_folders import loader_of
from safetensors.torch import save_file

from pipelines.models.catalog import Catalog
from pipelines.models.catalog_folder import scan
from pipelines.weights import kinds, network_kinds
from pipelines.weights.files import Tensor

NETWORK = "model.diffusion_model."


REFUSED = {
    "refiner": ({f"{NETWORK}input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": (4, 1280)}, "refiner"),
    "inpainting": (
        {
            f"{NETWORK}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (4, 768),
            f"{NETWORK}input_blocks.0.0.weight": (4, 9, 3, 3),
            "cond_stage_model.x": (1,),
        },
        "takes 9 channels, as models for inpainting do",
    ),
    "playground": (
        {
            f"{NETWORK}input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": (4, 2048),
            "edm_mean": (1,),
            "edm_std": (1,),
        },
        "Playground 2.5",
    ),
    **{
        f"converted with its {outer}": (
            {
                f"{outer}.{NETWORK}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (4, 768),
                f"{outer}.cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight": (4, 4),
            },
            "one level too deep",
        )
        for outer in ("state_dict", "module")
    },
    "svdquant": (
        {"transformer_blocks.0.qkv_proj.qweight": (4, 4), "transformer_blocks.0.qkv_proj.wscales": (4, 4)},
        "nunchaku",
    ),
    "nf4": (
        {
            "model.diffusion_model.double_blocks.0.img_attn.norm.key_norm.scale": (4,),
            "model.diffusion_model.a.weight.quant_state.bitsandbytes__nf4": (4,),
        },
        "bitsandbytes",
    ),
    "flux2": (
        {"double_blocks.0.img_attn.norm.key_norm.scale": (4,), "single_stream_modulation.lin.weight": (1, 1)},
        "FLUX.2",
    ),
    "fill": ({"double_blocks.0.img_attn.norm.key_norm.scale": (4,), "img_in.weight": (4, 384)}, "FLUX.1 Fill"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_files_that_cannot_be_used_say_what_they_are(tmp_path, what):
    shapes, says = REFUSED[what]
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, tmp_path / "painter.safetensors")
    (entry,) = scan(tmp_path)
    assert re.search(says, entry.problem) and entry.problem.startswith("painter.safetensors")


@pytest.mark.parametrize(("scale", "says"), [("U8", "mxfp8"), ("F8_E8M0", "mxfp8"), ("F32", ""), ("BF16", "")])
def test_scales_that_are_no_plain_numbers_are_refused_in_the_list(scale, says):
    layer = "double_blocks.0.img_attn.qkv"
    tensors = {
        network_kinds.FLUX_KEY: Tensor("F16", (128,)),
        f"{layer}.weight": Tensor("F8_E4M3", (96, 64)),
        f"{layer}.weight_scale": Tensor(scale, (96, 2)),
    }
    kind = kinds.file_kind(tensors)
    assert says in kind.note and (kind.family == "flux") == (not says)


def test_an_image_to_image_folder_is_the_same_model_and_a_refiner_is_not(tmp_path):
    tiny_models.tiny_sd(tmp_path / "drawn")
    index = tmp_path / "drawn" / "model_index.json"
    for named, problem in (
        ("StableDiffusionImg2ImgPipeline", ""),
        ("StableDiffusionInpaintPipeline", ""),
        ("StableDiffusionUpscalePipeline", "starts from a picture"),
    ):
        index.write_text(re.sub(r'"_class_name": "\w+"', f'"_class_name": "{named}"', index.read_text()))
        entry = Catalog(tmp_path)["drawn"]
        assert problem in entry.problem and bool(problem) == bool(entry.problem)
        if not problem:
            assert (entry.family, entry.pipeline) == ("sd", "StableDiffusionPipeline")
            with loader_of(tmp_path).model("drawn") as model:
                assert model.key == "sd"
    config = tmp_path / "drawn" / "unet" / "config.json"
    index.write_text(
        re.sub(r'"_class_name": "\w+"', '"_class_name": "StableDiffusionInpaintPipeline"', index.read_text())
    )
    config.write_text(config.read_text().replace('"in_channels": 4', '"in_channels": 9'))
    assert "takes 9 channels" in Catalog(tmp_path)["drawn"].problem
    index.write_text('{"_class_name": "StableDiffusionXLImg2ImgPipeline", "text_encoder": [null, null]}')
    assert "refiner" in Catalog(tmp_path)["drawn"].problem
