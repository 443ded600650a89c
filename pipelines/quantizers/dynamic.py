"""PyTorch's dynamic quantization: int8 weights, and inputs quantized to eight bits in each call. Linear layers only."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

import torch

from pipelines.core.torch_build import has_quantized_engines
from pipelines.quantizers.base import StorableQuantizer
from pipelines.quantizers.machine import Machine

if TYPE_CHECKING:
    from torch.ao.nn.quantized.dynamic import Linear as DynamicLinear

    from pipelines.quantizers.weighted_layer import WeightedLayer

__all__ = ["Dynamic", "fits_dynamic"]

_AXIS = 0


def fits_dynamic(machine: Machine) -> str | None:
    """Say why it cannot run."""
    if machine.device != "cpu":
        return "it has kernels for CPUs only"
    return None if has_quantized_engines() else "this build of PyTorch has no kernels for it"


class Dynamic(StorableQuantizer):
    """Applies `torch.ao.quantization.quantize_dynamic` with a scale for each output channel, a layer at a time.

    Source: PyTorch's eager-mode dynamic quantization, which its makers call deprecated; the warning is kept in here.
    """

    def __init__(self, settings: object = None):
        pass

    def quantize(self, layer: WeightedLayer) -> torch.nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic

            alone = torch.nn.Sequential(layer)
            return quantize_dynamic(alone, {"0": per_channel_dynamic_qconfig}, dtype=torch.qint8)[0]

    def weight(self, layer: WeightedLayer) -> torch.Tensor:
        return cast("DynamicLinear", layer)._weight_bias()[0].dequantize()

    def tensors(self, layer: WeightedLayer) -> dict[str, torch.Tensor]:
        weight, bias = cast("DynamicLinear", layer)._weight_bias()
        parts = {
            "codes": weight.int_repr(),
            "scales": weight.q_per_channel_scales(),
            "zero_points": weight.q_per_channel_zero_points(),
        }
        return parts if bias is None else {**parts, "bias": bias.detach()}

    def restore(self, layer: WeightedLayer, tensors: Mapping[str, torch.Tensor]) -> torch.nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from torch.ao.nn.quantized.dynamic import Linear

            quantized = Linear(layer.in_features, layer.out_features, bias_="bias" in tensors)
            weight = torch._make_per_channel_quantized_tensor(
                tensors["codes"], tensors["scales"], tensors["zero_points"], _AXIS
            )
            quantized.set_weight_bias(weight, tensors.get("bias"))
        return quantized
