"""A Stable Diffusion 1.5 of full size and random weights: as one file in its authors' names, and as a diffusers folder.

Source of the names: CompVis/stable-diffusion; the correspondence is that of diffusers'
`scripts/convert_diffusers_to_original_stable_diffusion.py`.
"""

from __future__ import annotations

import json
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pipelines.models.catalog import SHIPPED

__all__ = ["empty_parts", "hollow_header", "original_names", "write_checkpoint", "write_folder", "write_hollow"]

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_TOP = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_VAE = (
    (r"down_blocks\.(\d)\.resnets\.", r"down.\1.block."),
    (r"down_blocks\.(\d)\.downsamplers\.0\.", r"down.\1.downsample."),
    (r"up_blocks\.(\d)\.resnets\.", lambda found: f"up.{3 - int(found[1])}.block."),
    (r"up_blocks\.(\d)\.upsamplers\.0\.", lambda found: f"up.{3 - int(found[1])}.upsample."),
    (r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}"),
    (r"mid_block\.attentions\.0\.group_norm", "mid.attn_1.norm"),
    (r"mid_block\.attentions\.0\.to_([qkv])\.", r"mid.attn_1.\1."),
    (r"mid_block\.attentions\.0\.to_out\.0", "mid.attn_1.proj_out"),
    ("conv_shortcut", "nin_shortcut"),
    ("conv_norm_out", "norm_out"),
)
_UNET = {
    "sample_size": 64,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "block_out_channels": (320, 640, 1280, 1280),
}


def _unet_name(name: str) -> str:
    for ours, theirs in _UNET_TOP.items():
        if name.startswith(f"{ours}."):
            return f"model.diffusion_model.{theirs}{name.removeprefix(ours)}"
    side, rest = name.split(".", 1)
    if side == "mid_block":
        kind, number, rest = rest.split(".", 2)
        place = f"middle_block.{2 * int(number) if kind == 'resnets' else 1}"
    else:
        block, kind, number, rest = rest.split(".", 3)
        place = _place(side == "down_blocks", int(block), kind, int(number))
        rest = rest if kind != "downsamplers" else re.sub("^conv", "op", rest)
    for ours, theirs in _RESNET.items() if kind == "resnets" else ():
        rest = re.sub(rf"^{ours}\.", f"{theirs}.", rest)
    return f"model.diffusion_model.{place}.{rest}"


def _place(down: bool, block: int, kind: str, number: int) -> str:
    """Both sides count their layers and one sampling layer through: three a block."""
    if kind == "downsamplers":
        return f"input_blocks.{3 * block + 3}.0"
    if kind == "upsamplers":
        return f"output_blocks.{3 * block + 2}.{1 if block == 0 else 2}"
    layer = 3 * block + number + (1 if down else 0)
    return f"{'input' if down else 'output'}_blocks.{layer}.{0 if kind == 'resnets' else 1}"


def _vae_name(name: str) -> str:
    for pattern, replacement in _VAE:
        name = re.sub(pattern, replacement, name)
    return f"first_stage_model.{name}"


def _text_name(name: str) -> str:
    return f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}"


NAMES: dict[str, Callable[[str], str]] = {"unet": _unet_name, "vae": _vae_name, "text_encoder": _text_name}


def original_names(parts: dict[str, torch.nn.Module]) -> dict[str, torch.Tensor]:
    """A model's tensors under its authors' names, "unet", "vae" and "text_encoder" together."""
    return {NAMES[part](name): tensor for part, module in parts.items() for name, tensor in module.state_dict().items()}


def empty_parts() -> dict[str, torch.nn.Module]:
    """The networks, without memory."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        return {
            "unet": UNet2DConditionModel(**_UNET),
            "vae": AutoencoderKL(
                block_out_channels=(128, 256, 512, 512),
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                layers_per_block=2,
                sample_size=512,
            ),
            "text_encoder": CLIPTextModel(
                CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12, projection_dim=768)
            ),
        }


def _random(tensor: torch.Tensor, name: str, generator: torch.Generator) -> torch.Tensor:
    if tensor.ndim < 2:
        return torch.full(tensor.shape, float("norm" in name and name.endswith("weight")), dtype=torch.float16)
    return (0.02 * torch.randn(tensor.shape, generator=generator)).half()


def write_folder(folder: Path, seed: int = 0) -> Path:
    """A diffusers folder in half precision, 2.1 GB; its tokenizer is the shipped model's, with 77 tokens.

    Args:
        folder: where; it is made.
        seed: of the weights.
    """
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(seed)
    for name, module in empty_parts().items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        state = {key: _random(tensor, key, generator) for key, tensor in module.state_dict().items()}
        config: Any = module.config
        config = config.to_dict() if hasattr(config, "to_dict") else dict(config)
        plain = {"_class_name": type(module).__name__, **config}
        (folder / name / "config.json").write_text(json.dumps(plain, default=list))
        file = "model.safetensors" if name == "text_encoder" else "diffusion_pytorch_model.safetensors"
        save_file(state, folder / name / file, metadata={"format": "pt"})
    for light in ("tokenizer", "scheduler"):
        shutil.copytree(SHIPPED / light, folder / light, dirs_exist_ok=True)
    settings = folder / "tokenizer" / "tokenizer_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "model_max_length": 77, "max_length": 77}))
    shutil.copy(SHIPPED / "model_index.json", folder / "model_index.json")
    return folder


def write_checkpoint(folder: Path, path: Path) -> Path:
    """The model of a diffusers folder as one file in its authors' names."""
    from safetensors.torch import load_file, save_file

    tensors: dict[str, torch.Tensor] = {}
    for part, name in NAMES.items():
        for file in (folder / part).glob("*.safetensors"):
            tensors |= {name(key): tensor for key, tensor in load_file(file).items()}
    for key in [key for key in tensors if ".attn_1." in key and tensors[key].ndim == 2]:
        tensors[key] = tensors[key][..., None, None]  # a 1 x 1 convolution in its authors' files
    save_file(tensors, path)
    return path


def hollow_header(size: int) -> tuple[bytes, int]:
    """(the first bytes, the length) of a file of `size` bytes with all of this model's tensors.

    What is larger than this model stands in one more tensor.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in original_names(empty_parts()).items()}
    header: dict[str, dict] = {}
    position = 0
    for name, shape in shapes.items():
        end = position + 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [position, end]}
        position = end
    more = max(1, (size - position) // 2)
    header["more"] = {"dtype": "F16", "shape": [more], "data_offsets": [position, position + 2 * more]}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text, 8 + len(text) + position + 2 * more


def write_hollow(path: Path, start: bytes, length: int) -> Path:
    """A file that takes no room: its header is whole, its data a hole; arguments as `hollow_header` gives them."""
    with path.open("wb") as file:
        file.write(start)
        file.truncate(length)
    return path
