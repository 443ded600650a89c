"""optimum-quanto: weights of linear layers and convolutions in eight or four bits."""

from __future__ import annotations

import copy
import functools
import warnings
from typing import TYPE_CHECKING, Any

import torch

from pipelines.quantizers.base import CONVOLUTIONS, LINEAR, Quantizer
from pipelines.quantizers.machine import load_package, needs_package

if TYPE_CHECKING:
    from pipelines.quantizers.weighted_layer import WeightedLayer

__all__ = ["Quanto", "fits_quanto"]

NAME = "quanto"
fits_quanto = functools.partial(needs_package, "optimum.quanto", NAME)


@functools.cache
def _outside_inference_mode(layer_type: type[torch.nn.Module]) -> type[Any]:
    """Make a layer that leaves PyTorch's inference mode while it computes: 0.2.7's four-bit weights fail in it."""

    class Outside(layer_type):  # type: ignore[valid-type, misc]
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            if not torch.is_inference_mode_enabled():
                return super().forward(input)
            with torch.inference_mode(False), torch.no_grad():
                return super().forward(input)

    Outside.__name__ = Outside.__qualname__ = layer_type.__name__
    return Outside


class Quanto(Quantizer):
    """Makes quanto's own layers with frozen weights.

    Args:
        form: "qint8", "qint4" or "qfloat8".
    """

    layers = LINEAR + CONVOLUTIONS

    def __init__(self, form: str, settings: object = None):
        self.form = form

    def quantize(self, layer: WeightedLayer) -> torch.nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            library = load_package("optimum.quanto", NAME)
            layer_type = library.QConv2d if isinstance(layer, torch.nn.Conv2d) else library.QLinear
            quantized = _outside_inference_mode(layer_type).from_module(
                copy.deepcopy(layer), weights=getattr(library, self.form)
            )
            quantized.freeze()
        return quantized.requires_grad_(False)

    def weight(self, layer: WeightedLayer) -> torch.Tensor:
        return layer.weight.dequantize().float()
