"""Trainable relatives of LoRA: LoKr, DoRA, (IA)^3 and OFT, by the formulas that add their files to a model.

The arguments of all are those of `adapter_layers.LoraLayer`; what `rank` says is each one's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import ClassVar

import torch

from pipelines.training.adapter_layers import AdaptableLayer, AdapterLayer
from pipelines.weights.adapters import dora, ia3, lokr, lora, oft

__all__ = ["DoraLayer", "FormulaLayer", "Ia3Layer", "LokrLayer", "OftLayer"]

Formula = Callable[[Mapping[str, torch.Tensor], torch.Tensor, float], torch.Tensor]


class FormulaLayer(AdapterLayer):
    """Changes one layer by a formula of its own parts and of the layer's weight.

    Args:
        layer: that is changed.
        formula: as `pipelines.weights.adapters` has it.
        parts: the formula's names to what is trained.

    Attributes:
        names: the formula's names of the parts to those of a file.
    """

    names: ClassVar[Mapping[str, str]]
    original: torch.Tensor

    def __init__(self, layer: AdaptableLayer, formula: Formula, parts: Mapping[str, torch.Tensor]):
        super().__init__()
        self._formula = formula
        self.register_buffer("original", layer.weight.detach(), persistent=False)
        self.parts = torch.nn.ParameterDict({name: torch.nn.Parameter(part) for name, part in parts.items()})

    def _constants(self) -> dict[str, torch.Tensor]:
        """Parts of the formula that are not trained."""
        return {}

    def delta(self) -> torch.Tensor:
        """The change, shaped like the layer's weight."""
        parts = {name: self.parts[name] for name in self.parts}
        return self._formula({**parts, **self._constants()}, self.original, 1.0)

    def tensors(self) -> dict[str, torch.Tensor]:
        """What a file holds of it."""
        parts = {self.names[name]: self.parts[name] for name in self.parts}
        return {**parts, **{self.names[name]: part for name, part in self._constants().items()}}


class LokrLayer(FormulaLayer):
    """kron(w1, w2) with whole factors, the first one's sides at most `rank`.

    Source: Yeh et al., LyCORIS, arXiv:2309.14859, section 3.
    """

    names: ClassVar[Mapping[str, str]] = {"lokr_w1": "lokr_w1", "lokr_w2": "lokr_w2"}

    def __init__(self, layer: AdaptableLayer, rank: int):
        rows, columns, *window = layer.weight.shape
        first = math.gcd(rows, rank), math.gcd(columns, rank)
        second = rows // first[0], columns // first[1], *window
        super().__init__(layer, lokr, {"lokr_w1": torch.randn(first) / rank, "lokr_w2": torch.zeros(second)})


class DoraLayer(FormulaLayer):
    """A LoRA of this rank within the direction of each output, and the outputs' magnitudes.

    Source: Liu et al., DoRA, arXiv:2402.09353, equation 5.
    """

    names: ClassVar[Mapping[str, str]] = {
        "down": "lora_down.weight",
        "up": "lora_up.weight",
        "dora_scale": "dora_scale",
    }

    def __init__(self, layer: AdaptableLayer, rank: int):
        weight = layer.weight.detach()
        down = torch.empty(rank, *weight.shape[1:])
        torch.nn.init.kaiming_uniform_(down, a=math.sqrt(5))
        ones = [1] * (weight.ndim - 2)
        magnitudes = weight.flatten(1).norm(dim=1).reshape(-1, 1, *ones)
        super().__init__(
            layer,
            dora(lora),
            {"down": down, "up": torch.zeros(len(weight), rank, *ones), "dora_scale": magnitudes.clone()},
        )


class Ia3Layer(FormulaLayer):
    """A factor for each output; `rank` says nothing.

    Source: Liu et al., (IA)^3, arXiv:2205.05638, section 3.3; kept as the difference from one, as in LyCORIS.
    """

    names: ClassVar[Mapping[str, str]] = {"weight": "weight", "on_input": "on_input"}

    def __init__(self, layer: AdaptableLayer, rank: int):
        super().__init__(layer, ia3, {"weight": torch.zeros(len(layer.weight), *[1] * (layer.weight.ndim - 1))})

    def _constants(self) -> dict[str, torch.Tensor]:
        return {"on_input": torch.tensor(0.0)}


class OftLayer(FormulaLayer):
    """A rotation of the outputs in blocks of `rank`.

    Source: Qiu et al., OFT, arXiv:2306.07280, section 3.
    """

    names: ClassVar[Mapping[str, str]] = {"oft_blocks": "oft_blocks"}

    def __init__(self, layer: AdaptableLayer, rank: int):
        size = math.gcd(len(layer.weight), rank)
        super().__init__(layer, oft, {"oft_blocks": torch.zeros(len(layer.weight) // size, size, size)})
