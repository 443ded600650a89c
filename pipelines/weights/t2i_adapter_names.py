"""T2I-Adapters in a file by themselves: their authors' names and diffusers', and the form that their tensors tell."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from pipelines.weights.files import Tensor

__all__ = ["read_adapter_config", "rename_adapter_tensors"]

_INPUTS = {64: (1, 8), 192: (3, 8), 256: (1, 16), 768: (3, 16)}
"""Channels of the picture and pixels of a place along a side, by the channels of both together."""

_BLOCKS = 4
"""Of their authors' adapters."""

_FLAT = re.compile(r"^body\.(\d+)\.(block[12]|in_conv)\.(weight|bias)$")
_NESTED = re.compile(r"^body\.(\d+)\.body\.(\d+)\.(block[12])\.(weight|bias)$")


def rename_adapter_tensors(names: Collection[str]) -> dict[str, str]:
    """Map the names of a file to those of diffusers' T2IAdapter; names that are neither stay.

    Args:
        names: all of the file.

    Source: diffusers, scripts/convert_original_t2i_adapter.py, whose names this maps to.
    """
    bare = {name: name.removeprefix("adapter.") for name in names}
    flat = {int(match[1]) for name in bare.values() if (match := _FLAT.match(name)) and match[2] != "in_conv"}
    residuals = max(1, len(flat) // _BLOCKS)
    return {name: f"adapter.{_rename(one, residuals if flat else 0)}" for name, one in bare.items()}


def _rename(name: str, residuals: int) -> str:
    """The name of a tensor inside diffusers' class; `residuals` is how many of a block follow each other in a flat
    list, 0 where the list is none."""
    if match := _NESTED.match(name):
        return f"body.{match[1]}.resnets.{match[2]}.{match[3]}.{match[4]}"
    match = _FLAT.match(name)
    if match is None or not residuals:
        return name
    block, place = divmod(int(match[1]), residuals)
    if match[2] == "in_conv":
        return f"body.{block}.in_conv.{match[3]}"
    return f"body.{block}.resnets.{place}.{match[2]}.{match[3]}"


def read_adapter_config(tensors: Mapping[str, Tensor]) -> dict[str, object]:
    """Read the configuration of diffusers' T2IAdapter from the tensors of a file; {} of what is none.

    Args:
        tensors: of the file's header.
    """
    names = rename_adapter_tensors(tensors)
    shapes = {names[name]: tensor.shape for name, tensor in tensors.items()}
    residuals = {int(name.split(".")[4]) for name in shapes if name.startswith("adapter.body.0.resnets.")}
    light = "adapter.body.0.out_conv.weight" in shapes
    first = shapes.get("adapter.body.0.in_conv.weight" if light else "adapter.conv_in.weight", ())
    if not residuals or len(first) != 4 or first[1] not in _INPUTS:
        return {}
    last = ".out_conv.weight" if light else ".resnets.0.block2.weight"
    widths = [
        shapes[f"adapter.body.{block}{last}"][0] for block in range(99) if f"adapter.body.{block}{last}" in shapes
    ]
    channels, factor = _INPUTS[first[1]]
    full = "full_adapter_xl" if factor == 16 else "full_adapter"
    return {
        "in_channels": channels,
        "channels": widths[:-1] if light else widths,
        "num_res_blocks": len(residuals),
        "downscale_factor": factor,
        "adapter_type": "light_adapter" if light else full,
    }
