"""GGUF: the block formats of llama.cpp, through diffusers' own linear layers; convolutions through our packed ones."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pipelines.core.registry import setting
from pipelines.quantizers.base import CONVOLUTIONS, LINEAR, StorableQuantizer
from pipelines.quantizers.gguf_export import write_gguf
from pipelines.quantizers.machine import load_package, needs_package

if TYPE_CHECKING:
    from pipelines.quantizers.weighted_layer import WeightedLayer

__all__ = ["BLOCK", "EXPORTED", "Gguf", "GgufSettings", "fits_gguf"]

NAME = "gguf"
BLOCK = 32
EXPORTED = "network.gguf"
fits_gguf = functools.partial(needs_package, NAME, NAME)


@dataclasses.dataclass(frozen=True)
class GgufSettings:
    convolutions: bool = setting(
        False, "Convolutions too, as rows of one output each; diffusers reads GGUF files of linear layers alone."
    )


class GgufCodec:
    """Writes rows of weights in GGUF's blocks.

    Args:
        form: "Q8_0" or "Q4_0".
    """

    has_row_scales = False

    def __init__(self, form: str):
        self.form = form

    def count_row_bytes(self, columns: int) -> int:
        return columns // BLOCK * (34 if self.form == "Q8_0" else 18)

    def pack(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        package = load_package(NAME, NAME)
        kind = getattr(package.GGMLQuantizationType, self.form)
        return {"codes": torch.from_numpy(package.quantize(rows.cpu().numpy(), kind).copy()).to(rows.device)}

    def unpack(self, parts: Mapping[str, torch.Tensor], columns: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        library, package = (load_package(name, NAME) for name in ("diffusers.quantizers.gguf.utils", NAME))
        kind = getattr(package.GGMLQuantizationType, self.form)
        weights = library.dequantize_gguf_tensor(library.GGUFParameter(parts["codes"], quant_type=kind))
        return weights.to(dtype or torch.float32)


class Gguf(StorableQuantizer):
    """Packs rows in blocks of 32 weights, each with a scale in float16.

    Args:
        form: "Q8_0" (eight bits) or "Q4_0" (four).
        settings: whether convolutions are packed too.

    Source: the GGUF format, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; diffusers'
    `diffusers.quantizers.gguf`.
    """

    def __init__(self, form: str, settings: GgufSettings = GgufSettings()):
        self.form, self.codec = form, GgufCodec(form)
        self.layers = LINEAR + CONVOLUTIONS if settings.convolutions else LINEAR

    def quantize(self, layer: WeightedLayer) -> torch.nn.Module:
        codes = self.codec.pack(layer.weight.detach().flatten(1).float())["codes"]
        bias = None if layer.bias is None else layer.bias.detach().clone()
        return self._build_layer(layer, codes, bias)

    def refuses(self, layer: WeightedLayer) -> str | None:
        width = layer.weight[0].numel()
        return f"its rows of {width} weights do not divide into blocks of {BLOCK}" if width % BLOCK else None

    def export(self, network: torch.nn.Module, folder: Path) -> None:
        write_gguf(network, self.form, folder / EXPORTED)

    def weight(self, layer: WeightedLayer) -> torch.Tensor:
        if _is_packed(layer):
            return layer.weight
        return load_package("diffusers.quantizers.gguf.utils", NAME).dequantize_gguf_tensor(layer.weight).float()

    def tensors(self, layer: WeightedLayer) -> dict[str, torch.Tensor]:
        if _is_packed(layer):
            return layer.state_dict()
        parts = {"codes": layer.weight.detach().as_subclass(torch.Tensor)}
        return parts if layer.bias is None else {**parts, "bias": layer.bias.detach()}

    def restore(self, layer: WeightedLayer, tensors: Mapping[str, torch.Tensor]) -> torch.nn.Module:
        return self._build_layer(layer, tensors["codes"], tensors.get("bias"))

    def _find_type(self, package: Any) -> Any:
        return getattr(package.GGMLQuantizationType, self.form)

    def _build_layer(self, layer: WeightedLayer, codes: torch.Tensor, bias: torch.Tensor | None) -> torch.nn.Module:
        if isinstance(layer, torch.nn.Conv2d):
            from pipelines.quantizers.packed_layers import PackedConv2d  # late: as above

            return PackedConv2d(self.codec, {"codes": codes}, layer, bias)
        library, package = (load_package(name, NAME) for name in ("diffusers.quantizers.gguf.utils", NAME))
        outputs, inputs = layer.weight.shape
        with torch.device("meta"):
            quantized = library.GGUFLinear(inputs, outputs, bias is not None, compute_dtype=layer.weight.dtype)
        quantized.weight = library.GGUFParameter(codes, quant_type=self._find_type(package))
        if bias is not None:
            quantized.bias = torch.nn.Parameter(bias, requires_grad=False)
        return quantized


def _is_packed(layer: torch.nn.Module) -> bool:
    from pipelines.quantizers.packed_layers import PackedConv2d  # late: a subclass of PyTorch's needs it imported

    return isinstance(layer, PackedConv2d)
