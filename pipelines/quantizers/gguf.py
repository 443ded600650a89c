"""GGUF: the block formats of llama.cpp, through diffusers' own layers. Linear layers only."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch

from pipelines.quantizers.base import StorableQuantizer
from pipelines.quantizers.machine import load_package, needs_package

__all__ = ["Gguf", "fits_gguf"]

NAME = "gguf"
BLOCK = 32
fits_gguf = functools.partial(needs_package, NAME, NAME)


class Gguf(StorableQuantizer):
    """Rows in blocks of 32 weights, each with a scale in float16.

    Args:
        form: "Q8_0" (eight bits) or "Q4_0" (four).

    Source: the GGUF format, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; diffusers'
    `diffusers.quantizers.gguf`.
    """

    def __init__(self, form: str, settings: Any = None):
        self.form = form

    def quantize(self, layer: torch.nn.Module) -> torch.nn.Module:
        package = load_package(NAME, NAME)
        rows = layer.weight.detach().float().cpu().numpy()
        codes = torch.from_numpy(package.quantize(rows, self._type(package)).copy()).to(layer.weight.device)
        bias = None if layer.bias is None else layer.bias.detach().clone()
        return self._made(layer, codes, bias)

    def refuses(self, layer: torch.nn.Module) -> str | None:
        width = layer.weight.shape[1]
        return f"its rows of {width} weights do not divide into blocks of {BLOCK}" if width % BLOCK else None

    def weight(self, layer: torch.nn.Module) -> torch.Tensor:
        return load_package("diffusers.quantizers.gguf.utils", NAME).dequantize_gguf_tensor(layer.weight).float()

    def tensors(self, layer: torch.nn.Module) -> dict[str, torch.Tensor]:
        parts = {"codes": layer.weight.detach().as_subclass(torch.Tensor)}
        return parts if layer.bias is None else {**parts, "bias": layer.bias.detach()}

    def restored(self, layer: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> torch.nn.Module:
        return self._made(layer, tensors["codes"], tensors.get("bias"))

    def _type(self, package: Any) -> Any:
        return getattr(package.GGMLQuantizationType, self.form)

    def _made(self, layer: torch.nn.Module, codes: torch.Tensor, bias: torch.Tensor | None) -> torch.nn.Module:
        library, package = (load_package(name, NAME) for name in ("diffusers.quantizers.gguf.utils", NAME))
        outputs, inputs = layer.weight.shape
        with torch.device("meta"):
            made = library.GGUFLinear(inputs, outputs, bias is not None, compute_dtype=layer.weight.dtype)
        made.weight = library.GGUFParameter(codes, quant_type=self._type(package))
        if bias is not None:
            made.bias = torch.nn.Parameter(bias, requires_grad=False)
        return made
