"""torchao: int8 weights anywhere, int4 weights and fp8 arithmetic on NVIDIA GPUs. Linear layers only."""

from __future__ import annotations

import copy
import functools
import warnings
from typing import TYPE_CHECKING

import torch

from pipelines.core.errors import ModelError
from pipelines.quantizers.base import Quantizer
from pipelines.quantizers.machine import load_package, needs_gpu, needs_package

if TYPE_CHECKING:
    from pipelines.quantizers.weighted_layer import WeightedLayer

__all__ = ["TorchAo", "fits_torchao", "fits_torchao_fp8", "fits_torchao_int4"]

NAME = "torchao"
fits_torchao = functools.partial(needs_package, NAME, NAME)
fits_torchao_int4 = functools.partial(needs_gpu, NAME, NAME, (8, 0))
fits_torchao_fp8 = functools.partial(needs_gpu, NAME, NAME, (8, 9))

GROUP, TILE = 128, 16
"""Weights that share a scale in int4; sides of the blocks that fp8 arithmetic multiplies."""

CONFIGS = {
    "int8": ("Int8WeightOnlyConfig", {"version": 2}),
    "int4": ("Int4WeightOnlyConfig", {"group_size": GROUP}),
    "fp8": ("Float8DynamicActivationFloat8WeightConfig", {}),
}
"""Format to torchao's own configuration and its arguments."""


class TorchAo(Quantizer):
    """Applies `torchao.quantization.quantize_` a layer at a time, so that its matching of names by substring plays no
    part.

    Args:
        form: a key of CONFIGS.
    """

    def __init__(self, form: str, settings: object = None):
        self.form = form

    def quantize(self, layer: WeightedLayer) -> torch.nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            library = load_package("torchao.quantization", NAME)
            name, arguments = CONFIGS[self.form]
            alone = torch.nn.Sequential(copy.deepcopy(layer))
            library.quantize_(alone, getattr(library, name)(**arguments))
        quantized = alone[0]
        # Its tensors are classes of their own. What it cannot change it logs, and leaves as it was.
        if type(quantized.weight.data) is torch.Tensor:
            raise ModelError(
                f"torchao left a layer of {tuple(layer.weight.shape)} weights as it was. Choose another method."
            )
        return quantized

    def refuses(self, layer: WeightedLayer) -> str | None:
        outputs, inputs = layer.weight.shape
        if self.form == "int4" and inputs % GROUP:
            return f"its rows of {inputs} weights do not divide into groups of {GROUP}"
        if self.form == "fp8" and (inputs % TILE or outputs % TILE):
            return f"its {outputs} rows of {inputs} weights do not divide into blocks of {TILE}"
        return None

    def weight(self, layer: WeightedLayer) -> torch.Tensor:
        return layer.weight.dequantize().float()
