"""GGUF: the block formats of llama.cpp, through diffusers' own layers. Linear layers only."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch

from pipelines.quantizers.base import StorableQuantizer, WeightedLayer
from pipelines.quantizers.machine import load_package, needs_package

__all__ = ["Gguf", "fits_gguf"]

NAME = "gguf"
BLOCK = 32
fits_gguf = functools.partial(needs_package, NAME, NAME)


class Gguf(StorableQuantizer):
    """Packs rows in blocks of 32 weights, each with a scale in float16.

    Args:
        form: "Q8_0" (eight bits) or "Q4_0" (four).

    Source: the GGUF format, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; diffusers'
    `diffusers.quantizers.gguf`.
    """

    def __init__(self, form: str, settings: object = None):
        self.form = form

    def quantize(self, layer: WeightedLayer) -> torch.nn.Module:
        package = load_package(NAME, NAME)
        rows = layer.weight.detach().float().cpu().numpy()
        codes = torch.from_numpy(package.quantize(rows, self._find_type(package)).copy()).to(layer.weight.device)
        bias = None if layer.bias is None else layer.bias.detach().clone()
        return self._build_layer(layer, codes, bias)

    def refuses(self, layer: WeightedLayer) -> str | None:
        width = layer.weight.shape[1]
        return f"its rows of {width} weights do not divide into blocks of {BLOCK}" if width % BLOCK else None

    def weight(self, layer: WeightedLayer) -> torch.Tensor:
        return load_package("diffusers.quantizers.gguf.utils", NAME).dequantize_gguf_tensor(layer.weight).float()

    def tensors(self, layer: WeightedLayer) -> dict[str, torch.Tensor]:
        parts = {"codes": layer.weight.detach().as_subclass(torch.Tensor)}
        return parts if layer.bias is None else {**parts, "bias": layer.bias.detach()}

    def restore(self, layer: WeightedLayer, tensors: Mapping[str, torch.Tensor]) -> torch.nn.Module:
        return self._build_layer(layer, tensors["codes"], tensors.get("bias"))

    def _find_type(self, package: Any) -> Any:
        return getattr(package.GGMLQuantizationType, self.form)

    def _build_layer(self, layer: WeightedLayer, codes: torch.Tensor, bias: torch.Tensor | None) -> torch.nn.Module:
        library, package = (load_package(name, NAME) for name in ("diffusers.quantizers.gguf.utils", NAME))
        outputs, inputs = layer.weight.shape
        with torch.device("meta"):
            quantized = library.GGUFLinear(inputs, outputs, bias is not None, compute_dtype=layer.weight.dtype)
        quantized.weight = library.GGUFParameter(codes, quant_type=self._find_type(package))
        if bias is not None:
            quantized.bias = torch.nn.Parameter(bias, requires_grad=False)
        return quantized
