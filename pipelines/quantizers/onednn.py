"""Real eight-bit arithmetic on a CPU: oneDNN's own kernels for linear layers and convolutions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from pipelines.core.torch_build import has_onednn, has_vnni
from pipelines.quantizers.codec import BIAS
from pipelines.quantizers.contract import CONVOLUTIONS, LINEAR, StorableQuantizer
from pipelines.quantizers.int8 import Int8Codec
from pipelines.quantizers.machine import Machine
from pipelines.quantizers.packed import WeightOnly

if TYPE_CHECKING:
    from pipelines.quantizers.weighted_layer import WeightedLayer

__all__ = ["OneDnn", "fits_onednn"]


def fits_onednn(machine: Machine) -> str | None:
    """Say why it cannot run."""
    if machine.device != "cpu":
        return "it has kernels for CPUs only"
    if not has_onednn():
        return "this build of PyTorch has no oneDNN"
    if not has_vnni():
        return "this CPU has no VNNI instructions, without which sums of eight-bit products may overflow"
    return None


class OneDnn(StorableQuantizer):
    """Multiplies eight-bit integers in linear layers and convolutions: weights with a scale a row, inputs in each call.

    Source: torch.ops.onednn.qlinear_pointwise and qconv2d_pointwise, the kernels that PyTorch's X86 inductor quantizer
    lowers to; dynamic quantization of inputs is that of torch.ao.quantization.
    Differs: no graph is exported and nothing is compiled; inputs have one scale a call and not one that was calibrated.
    """

    layers = LINEAR + CONVOLUTIONS

    def __init__(self, settings: object = None):
        pass

    def quantize(self, layer: WeightedLayer) -> torch.nn.Module:
        parts = Int8Codec().pack(layer.weight.detach().flatten(1).float())
        tensors = {"codes": parts["codes"].view(layer.weight.shape), "scales": parts["scales"].flatten()}
        bias = {} if layer.bias is None else {BIAS: layer.bias.detach().clone()}
        return self.restore(layer, {**tensors, **bias})

    def refuses(self, layer: WeightedLayer) -> str | None:
        return WeightOnly(Int8Codec()).refuses(layer)

    def weight(self, layer: WeightedLayer) -> torch.Tensor:
        return layer.weight

    def tensors(self, layer: WeightedLayer) -> dict[str, torch.Tensor]:
        return layer.state_dict()

    def restore(self, layer: WeightedLayer, tensors: Mapping[str, torch.Tensor]) -> torch.nn.Module:
        from pipelines.quantizers.onednn_layers import OneDnnConv2d, OneDnnLinear  # late: they need PyTorch imported

        parts = (tensors["codes"], tensors["scales"], tensors.get(BIAS))
        return OneDnnConv2d(*parts, layer) if isinstance(layer, torch.nn.Conv2d) else OneDnnLinear(*parts)
