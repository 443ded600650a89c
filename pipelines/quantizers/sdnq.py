"""SDNQ: weights of linear layers and convolutions in many formats, of which two are offered."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from pipelines.core.errors import ModelError
from pipelines.quantizers.base import CONVOLUTIONS, LINEAR, Quantizer
from pipelines.quantizers.machine import load_package, needs_package

if TYPE_CHECKING:
    from pipelines.quantizers.weighted_layer import WeightedLayer

__all__ = ["EXPORTED", "Sdnq", "fits_sdnq"]

NAME = "sdnq"
EXPORTED = "sdnq"
fits_sdnq = functools.partial(needs_package, NAME, NAME)


class Sdnq(Quantizer):
    """Makes SDNQ's own layers.

    Args:
        form: of the weights, as SDNQ spells it: "int8", "uint4".
    """

    layers = LINEAR + CONVOLUTIONS

    def __init__(self, form: str, settings: object = None):
        self.form = form

    def quantize(self, layer: WeightedLayer) -> torch.nn.Module:
        library = load_package(NAME, NAME)
        config = library.SDNQConfig(weights_dtype=self.form, quant_conv=True)
        quantized, _ = library.sdnq_quantize_layer(copy.deepcopy(layer), config, torch_dtype=layer.weight.dtype)
        if not hasattr(quantized, "sdnq_dequantizer"):
            raise ModelError(
                f"SDNQ left a layer of {tuple(layer.weight.shape)} weights as it was. Choose another method."
            )
        return quantized

    def export(self, network: torch.nn.Module, folder: Path) -> None:
        """Write the network as `sdnq.load_sdnq_model` reads it: weights, config.json and quantization_config.json."""
        kept = [
            name
            for name, module in network.named_modules()
            if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)) and not hasattr(module, "sdnq_dequantizer")
        ]
        config = load_package(NAME, NAME).SDNQConfig(
            weights_dtype=self.form,
            quant_conv=True,
            modules_to_not_convert=[f"{name}.weight" for name in kept],
            add_skip_keys=False,
        )
        load_package("sdnq.loader", NAME).save_sdnq_model(network, str(folder / EXPORTED), sdnq_config=config)

    def weight(self, layer: WeightedLayer) -> torch.Tensor:
        parts = load_package("sdnq.utils", NAME).get_sdnq_params(layer)
        return cast(Any, layer.sdnq_dequantizer)(**parts).float()
