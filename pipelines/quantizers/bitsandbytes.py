"""bitsandbytes: its eight-bit and four-bit linear layers, put in directly, which also works on a CPU."""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Any, cast

import torch

from pipelines.quantizers.base import Quantizer
from pipelines.quantizers.machine import load_package, needs_package

if TYPE_CHECKING:
    from pipelines.quantizers.weighted_layer import WeightedLayer

__all__ = ["BitsAndBytes", "fits_bitsandbytes"]

NAME = "bitsandbytes"
BLOCK = 64
fits_bitsandbytes = functools.partial(needs_package, NAME, NAME)


class BitsAndBytes(Quantizer):
    """Makes Linear8bitLt (LLM.int8) or Linear4bit (NF4).

    Differs: diffusers' own way asks for a GPU; the layers themselves do not.

    Args:
        form: "int8" or "nf4".

    Source: Dettmers et al., LLM.int8(), arXiv:2208.07339, and QLoRA, arXiv:2305.14314.
    """

    def __init__(self, form: str, settings: object = None):
        self.form = form

    def quantize(self, layer: WeightedLayer) -> torch.nn.Module:
        library = load_package(f"{NAME}.nn", NAME)
        # It says in every call that it computes in float16.
        logging.getLogger(f"{NAME}.autograd._functions").setLevel(logging.ERROR)
        shape, bias, device = (layer.in_features, layer.out_features), layer.bias is not None, layer.weight.device
        if self.form == "nf4":
            quantized = library.Linear4bit(
                *shape, bias, compute_dtype=layer.weight.dtype, quant_type="nf4", device="cpu"
            )
        else:
            quantized = library.Linear8bitLt(*shape, bias, has_fp16_weights=False, device="cpu")
        quantized.load_state_dict({name: tensor.detach().cpu().clone() for name, tensor in layer.state_dict().items()})
        return quantized.to(device).requires_grad_(False)

    def refuses(self, layer: WeightedLayer) -> str | None:
        width = layer.weight.shape[1]
        if self.form == "nf4" and width % BLOCK:
            return f"its rows of {width} weights do not divide into blocks of {BLOCK}"
        return None

    def weight(self, layer: WeightedLayer) -> torch.Tensor:
        library, weight = load_package(f"{NAME}.functional", NAME), cast(Any, layer.weight)
        if self.form == "nf4":
            return library.dequantize_4bit(weight.data, weight.quant_state).float()
        return library.int8_vectorwise_dequant(weight.data, _read_scales(layer)).float()


def _read_scales(layer: WeightedLayer) -> torch.Tensor:
    """Row scales, which move from the weight to the layer's state in its first call."""
    weight, state = cast(Any, layer.weight), cast(Any, layer.state)
    return weight.SCB if weight.SCB is not None else state.SCB
