"""A quantized network as one safetensors file: no pickle, and nothing in full precision that is not needed.

The quantized layers stand in it as "<layer>.<tensor>", everything else under its own name; the file's metadata name
the method and the layers. Read again, it makes the same network bit for bit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save_file

from pipelines.core.errors import ModelFileError
from pipelines.core.types import Choice
from pipelines.quantizers.base import StorableQuantizer, plan_layers
from pipelines.quantizers.layer_plan import get_layer
from pipelines.weights.files import read_header

__all__ = ["file_bytes", "load_network", "save_network"]

FORMAT = "stepwise-quantized-1"
_DTYPES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.float64: "F64",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.bool: "BOOL",
}


def save_network(
    network: torch.nn.Module, quantized: torch.nn.Module, quantizer: StorableQuantizer, choice: Choice, path: Path
) -> None:
    """Write a quantized network.

    Args:
        network: the full-precision one, of which only names and shapes are read.
        quantized: its quantized copy.
        quantizer: which made it.
        choice: the method and its settings.
        path: a new file.
    """
    tensors, metadata = _collect_tensors(network, quantized, quantizer, choice)
    save_file({name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}, path, metadata)


def file_bytes(
    network: torch.nn.Module, quantized: torch.nn.Module, quantizer: StorableQuantizer, choice: Choice
) -> int:
    """Count the size of the file that `save_network` would write, by the format's definition and without writing it."""
    tensors, metadata = _collect_tensors(network, quantized, quantizer, choice)
    # safetensors puts wide types first, and pads its header to a multiple of eight.
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), _rank_dtype(tensors[name].dtype), name))
    header: dict[str, object] = {"__metadata__": metadata}
    position = 0
    for name in order:
        size = tensors[name].numel() * tensors[name].element_size()
        header[name] = {
            "dtype": _DTYPES[tensors[name].dtype],
            "shape": list(tensors[name].shape),
            "data_offsets": [position, position + size],
        }
        position += size
    length = len(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode())
    return 8 + -(-length // 8) * 8 + position


def _rank_dtype(dtype: torch.dtype) -> int:
    return list(_DTYPES).index(dtype)


def _collect_tensors(
    network: torch.nn.Module, quantized: torch.nn.Module, quantizer: StorableQuantizer, choice: Choice
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    layers = plan_layers(network, quantizer).quantized_layers
    inside = tuple(f"{name}." for name in layers)
    tensors = {
        name: tensor
        for name, tensor in quantized.state_dict().items()
        if isinstance(tensor, torch.Tensor) and not name.startswith(inside)
    }
    for name in layers:
        for inner_name, tensor in quantizer.tensors(get_layer(quantized, name)).items():
            tensors[f"{name}.{inner_name}"] = tensor
    record = {"format": FORMAT, "method": json.dumps(choice.to_json(), sort_keys=True), "layers": json.dumps(layers)}
    if quantizer.is_simulated:
        record["simulated"] = "no claim of speed or memory"
    # One entry, since the order of several in a header is not defined.
    return tensors, {"quantisation": json.dumps(record)}


def load_network(
    path: Path,
    network_class: type[Any],
    config: Mapping[str, object],
    quantizer: StorableQuantizer,
    choice: Choice,
    dtype: torch.dtype,
    device: str,
) -> torch.nn.Module:
    """Load the quantized network of a file.

    Args:
        path: as `save_network` wrote it.
        network_class: of diffusers.
        config: of the full-precision network.
        quantizer, choice: of the method that the file is said to hold.
        dtype: of what is not quantized.
        device: where it runs.

    Raises:
        ModelFileError: the file is broken, holds something else, or does not fit the configuration.
    """
    from accelerate import init_empty_weights

    read_header(path)
    with safetensors.safe_open(path, framework="pt", device=device) as file:
        layers = _read_layers(path, dict(file.metadata() or {}), choice)
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    with init_empty_weights():
        network = network_class.from_config(dict(config))
    inside = tuple(f"{name}." for name in layers)
    rest = {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
        if not name.startswith(inside)
    }
    try:
        missing, unexpected = network.load_state_dict(rest, strict=False, assign=True)
        for name in layers:
            parent, _, attribute = name.rpartition(".")
            prefix = f"{name}."
            parts = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
            layer = quantizer.restore(network.get_submodule(name).to(dtype), parts)
            setattr(network.get_submodule(parent), attribute, layer)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise _explain_unfit(path, str(error).splitlines()[0][:200]) from error
    lacking = [name for name in missing if not name.startswith(inside)]
    if lacking or unexpected:
        raise _explain_unfit(path, f"tensor {[*lacking, *unexpected][0][:80]}")
    quantizer.finish(network)
    return network.to(device).eval().requires_grad_(False)


def _read_layers(path: Path, metadata: Mapping[str, str], choice: Choice) -> list[str]:
    try:
        record = json.loads(metadata["quantisation"])
        layers, method = json.loads(record["layers"]), Choice.parse(json.loads(record["method"]))
        plain = record["format"] == FORMAT and all(isinstance(name, str) for name in layers)
    except (KeyError, TypeError, ValueError, RecursionError):
        plain = False
    if not plain:
        raise ModelFileError(
            f"{path.parent.name}/{path.name} holds no network that was quantized here. Quantize the model again."
        )
    if method != choice:
        raise ModelFileError(
            f"{path.parent.name}/{path.name} was quantized by {method.key[:40]}, not by {choice.key}. "
            "Quantize the model again."
        )
    return layers


def _explain_unfit(path: Path, why: str) -> ModelFileError:
    return ModelFileError(f"{path.parent.name}/{path.name} does not fit its model ({why}). Quantize the model again.")
