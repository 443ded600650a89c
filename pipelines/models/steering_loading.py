"""Single files of ControlNets and IP-Adapters, read into modules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from pipelines.core.cancelling import raise_if
from pipelines.core.errors import ModelFileError
from pipelines.families.image_prompt import IpAdapter
from pipelines.models.files import PartFiles, read_json
from pipelines.models.steering_entry import ADAPTER
from pipelines.weights.gguf_files import read_weights_header
from pipelines.weights.reading import TensorReader

__all__ = ["load_steering_file"]

_COPIED = (
    *("in_channels", "flip_sin_to_cos", "freq_shift", "down_block_types", "only_cross_attention", "block_out_channels"),
    *("layers_per_block", "downsample_padding", "mid_block_scale_factor", "act_fn", "norm_num_groups", "norm_eps"),
    *("cross_attention_dim", "transformer_layers_per_block", "attention_head_dim", "num_attention_heads"),
    *("use_linear_projection", "class_embed_type", "addition_embed_type", "addition_time_embed_dim"),
    *("num_class_embeds", "upcast_attention", "resnet_time_scale_shift", "projection_class_embeddings_input_dim"),
)
"""Of a UNet's configuration, what its ControlNet has alike."""


def load_steering_file(part: PartFiles, dtype: torch.dtype, cancelled: Callable[[], bool]) -> torch.nn.Module:
    """Load a file by itself.

    Args:
        part: a ControlNet of a UNet in its authors' or in diffusers' names, or an IP-Adapter.
        dtype: of its weights.
        cancelled: polled between tensors.

    Raises:
        ModelFileError: tensors are missing or of other shapes.
        Cancelled: the load was stopped.
    """
    state = _read_state(part.weights[0], dtype, cancelled)
    module = _build_adapter(state) if part.name == ADAPTER else _build_controlnet(state, part.folder)
    return module.to(dtype)


def _read_state(path: Path, dtype: torch.dtype, cancelled: Callable[[], bool]) -> dict[str, torch.Tensor]:
    header = read_weights_header(path)
    state = {}
    with TensorReader(path, header) as reader:
        for name in header.tensors:
            raise_if(cancelled)
            state[name] = reader.read(name).to(dtype)
    return state


def _build_controlnet(state: Mapping[str, torch.Tensor], network_config: Path) -> torch.nn.Module:
    from diffusers import ControlNetModel
    from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint

    plain = read_json(network_config / "config.json")
    config = {name: plain[name] for name in _COPIED if name in plain}
    hints = next(iter(tensor for name, tensor in state.items() if name.endswith(_FIRST_HINT)), None)
    if hints is not None:
        config["conditioning_embedding_out_channels"] = _count_hint_channels(state, int(hints.shape[0]))
    controlnet = ControlNetModel(**config)
    converted = convert_controlnet_checkpoint(dict(state), {**config, "layers_per_block": plain["layers_per_block"]})
    _load_all(controlnet, {name: tensor for name, tensor in converted.items() if tensor is not None}, "ControlNet")
    return controlnet


_FIRST_HINT = ("input_hint_block.0.weight", "controlnet_cond_embedding.conv_in.weight")


def _count_hint_channels(state: Mapping[str, torch.Tensor], first: int) -> tuple[int, ...]:
    """Channels of the layers that read the map, from their shapes: every second one widens."""
    prefix = "controlnet_cond_embedding.blocks."
    if not any(name.startswith(prefix) for name in state):
        return (16, 32, 96, 256)  # all of those in their authors' names
    widening = sorted(int(name.split(".")[2]) for name in state if name.startswith(prefix) and name.endswith(".weight"))
    return (first, *(int(state[f"{prefix}{place}.weight"].shape[0]) for place in widening[1::2]))


def _build_adapter(state: Mapping[str, torch.Tensor]) -> IpAdapter:
    from diffusers.loaders.unet import UNet2DConditionLoadersMixin

    projection_state = {
        name.removeprefix("image_proj."): tensor for name, tensor in state.items() if name.startswith("image_proj.")
    }
    build: Any = UNet2DConditionLoadersMixin._convert_ip_adapter_image_proj_to_diffusers
    try:
        projection = build(None, projection_state, low_cpu_mem_usage=False)
    except (KeyError, RuntimeError) as error:
        raise ModelFileError(
            "The IP-Adapter's projection of pictures is of a form that is not known here. Choose another."
        ) from error
    numbers = sorted(
        int(name.split(".")[1]) for name in state if name.startswith("ip_adapter.") and name.endswith(".to_k_ip.weight")
    )
    layers = [
        [_build_linear(state[f"ip_adapter.{number}.{name}.weight"]) for number in numbers]
        for name in ("to_k_ip", "to_v_ip")
    ]
    return IpAdapter(projection, layers[0], layers[1], reads_layers="proj.weight" not in projection_state)


def _build_linear(weight: torch.Tensor) -> torch.nn.Linear:
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight = torch.nn.Parameter(weight)
    return layer


def _load_all(module: torch.nn.Module, state: Mapping[str, torch.Tensor], noun: str) -> None:
    try:
        module.load_state_dict(dict(state), strict=True)
    except RuntimeError as error:
        first = str(error).strip().splitlines()[-1].strip()[:200]
        raise ModelFileError(f"The {noun}'s file does not fit this model ({first}). Choose another.") from error
