"""optimum-quanto: weights of linear layers and convolutions in eight or four bits."""

from __future__ import annotations

import copy
import functools
import warnings

import torch

from pipelines.quantizers.base import CONVOLUTIONS, LINEAR, Quantizer, WeightedLayer
from pipelines.quantizers.machine import load_package, needs_package

__all__ = ["Quanto", "fits_quanto"]

NAME = "quanto"
fits_quanto = functools.partial(needs_package, "optimum.quanto", NAME)


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
            quantized = layer_type.from_module(copy.deepcopy(layer), weights=getattr(library, self.form))
            quantized.freeze()
        return quantized.requires_grad_(False)

    def weight(self, layer: WeightedLayer) -> torch.Tensor:
        return layer.weight.dequantize().float()
