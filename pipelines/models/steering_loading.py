"""Single files of ControlNets, T2I-Adapters and IP-Adapters, read into modules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from pipelines.core.cancelling import raise_if
from pipelines.core.errors import ModelFileError
from pipelines.families.control_lora import ControlLora
from pipelines.families.ip_adapter import IpAdapter
from pipelines.models.files import PartFiles, read_json
from pipelines.models.steering_entry import ADAPTER
from pipelines.weights.gguf_files import read_weights_header
from pipelines.weights.libraries import import_libraries
from pipelines.weights.reading import TensorReader
from pipelines.weights.t2i_adapter_levels import ADAPTERS
from pipelines.weights.t2i_adapter_names import read_adapter_config, rename_adapter_tensors

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
        part: a ControlNet of a UNet or a T2I-Adapter in its authors' or in diffusers' names, or an IP-Adapter.
        dtype: of its weights.
        cancelled: polled between tensors.

    Raises:
        ModelFileError: tensors are missing or of other shapes.
        Cancelled: the load was stopped.
    """
    state = _read_state(part.weights[0], dtype, cancelled)
    if part.name in ADAPTERS:
        return _build_t2i_adapter(state, part.weights[0]).to(dtype)
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
    import_libraries()
    from diffusers import ControlNetModel
    from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint

    plain = read_json(network_config / "config.json")
    config = {name: plain[name] for name in _COPIED if name in plain}
    hints = next(iter(tensor for name, tensor in state.items() if name.endswith(_FIRST_HINT)), None)
    if hints is not None:
        config["conditioning_embedding_out_channels"] = _count_hint_channels(state, int(hints.shape[0]))
    controlnet = ControlNetModel(**config)
    changes = _find_changes(state)
    whole = {name: tensor for name, tensor in state.items() if not name.endswith((".up", ".down")) and tensor.numel()}
    # Stand-ins for the changed weights, by which the conversion of names tells theirs.
    stand_ins = {name: torch.empty(0) for name in changes}
    if changes and _FIRST_HINT[0] in whole:
        stand_ins.setdefault("time_embed.0.weight", torch.empty(0))  # by which it knows its authors' names
    converted = convert_controlnet_checkpoint({**stand_ins, **whole}, config)
    loaded = {name: tensor for name, tensor in converted.items() if tensor is not None and tensor.numel()}
    if not changes:
        _load_all(controlnet, loaded, "ControlNet")
        return controlnet
    places = {id(tensor): name for name, tensor in converted.items() if tensor is not None}
    low_rank = {places.get(id(stand_ins[name]), name): pair for name, pair in changes.items()}
    shapes = {name: parameter.shape for name, parameter in controlnet.named_parameters()}
    misfits = [name for name, pair in low_rank.items() if name not in shapes or not _makes(shapes[name], *pair)]
    missing, extra = controlnet.load_state_dict(loaded, strict=False)
    misfits += [*extra, *(name for name in missing if name.startswith("controlnet_"))]
    if misfits:
        raise ModelFileError(
            f"The Control-LoRA's file does not fit this model ({misfits[0][:80]} is missing, too many or of another "
            "shape). Choose another."
        )
    return ControlLora(controlnet, frozenset(loaded), low_rank)


def _makes(shape: torch.Size, up: torch.Tensor, down: torch.Tensor) -> bool:
    """Whether the product of two matrices is a weight of this shape."""
    is_product = up.ndim >= 2 and down.ndim >= 2 and up.flatten(1).shape[1] == down.shape[0]
    return is_product and len(up) == shape[0] and len(up) * down[0].numel() == shape.numel()


def _find_changes(state: Mapping[str, torch.Tensor]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Of a Control-LoRA: name of a weight to the two matrices whose product is added to it."""
    return {
        f"{name.removesuffix('.up')}.weight": (up, state[f"{name.removesuffix('.up')}.down"])
        for name, up in state.items()
        if name.endswith(".up") and f"{name.removesuffix('.up')}.down" in state
    }


_FIRST_HINT = ("input_hint_block.0.weight", "controlnet_cond_embedding.conv_in.weight")


def _count_hint_channels(state: Mapping[str, torch.Tensor], first: int) -> tuple[int, ...]:
    """Channels of the layers that read the map, from their shapes: every second one widens."""
    prefix = "controlnet_cond_embedding.blocks."
    if not any(name.startswith(prefix) for name in state):
        return (16, 32, 96, 256)  # all of those in their authors' names
    widening = sorted(int(name.split(".")[2]) for name in state if name.startswith(prefix) and name.endswith(".weight"))
    return (first, *(int(state[f"{prefix}{place}.weight"].shape[0]) for place in widening[1::2]))


def _build_adapter(state: Mapping[str, torch.Tensor]) -> IpAdapter:
    import_libraries()
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


def _build_t2i_adapter(state: Mapping[str, torch.Tensor], path: Path) -> torch.nn.Module:
    import_libraries()
    from diffusers import T2IAdapter

    names = rename_adapter_tensors(state)
    adapter: torch.nn.Module = T2IAdapter.from_config(read_adapter_config(read_weights_header(path).tensors))
    _load_all(adapter, {names[name]: tensor for name, tensor in state.items()}, "T2I-Adapter")
    return adapter.eval()


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
