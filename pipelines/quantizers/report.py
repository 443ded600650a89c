"""What quantizing did to a network: bytes, layers, and the error of the weights."""

from __future__ import annotations

import dataclasses
import math
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from pipelines.core.devices import has_float64
from pipelines.core.gradients import no_grad
from pipelines.quantizers.contract import Quantizer
from pipelines.quantizers.layer_plan import Skipped, get_layer, plan_layers
from pipelines.quantizers.stored import stored_bytes

if TYPE_CHECKING:
    from pipelines.quantizers.weighted_layer import WeightedLayer

__all__ = ["LayerReport", "Report", "build_report", "sqnr"]


def sqnr(reference: torch.Tensor, other: torch.Tensor) -> float:
    """Compute the SQNR in decibels, 10 log10(sum ref^2 / sum (other - ref)^2); infinite if equal.

    The difference of two near float32 numbers is exact; only the sums are in float64, where the device has that.
    """
    return _to_decibels([_sum_squares(reference, other)])


def _sum_squares(reference: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Sum the squares of the error and of the signal, (2,)."""
    dtype = torch.promote_types(reference.dtype, torch.float32)
    exact = torch.float64 if has_float64(reference.device) else torch.float32
    reference, other = reference.to(dtype), other.to(dtype)
    return torch.stack([(other - reference).square().sum(dtype=exact), reference.square().sum(dtype=exact)])


def _sum_squares_by_row(reference: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Sum as `_sum_squares` does, but each output's few thousand weights in their own precision, which is faster."""
    dtype = torch.promote_types(reference.dtype, torch.float32)
    exact = torch.float64 if has_float64(reference.device) else torch.float32
    reference, other = reference.to(dtype).flatten(1), other.to(dtype).flatten(1)
    norms = [torch.linalg.vector_norm(values, dim=1) for values in (other - reference, reference)]
    return torch.stack([values.to(exact).square().sum() for values in norms])


def _to_decibels(sums: Sequence[torch.Tensor]) -> float:
    noise, signal = torch.stack(list(sums)).sum(0).tolist()
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf


def _weight_sqnr(quantizer: Quantizer, before: WeightedLayer, after: WeightedLayer) -> float:
    """SQNR of a layer's weights, some outputs at a time."""
    sums, start = [], 0
    for part in quantizer.weight_rows(after):
        rows = before.weight[start : start + len(part)]
        sums.append(_sum_squares_by_row(rows.reshape(part.shape), part))
        start += len(part)
    return _to_decibels(sums)


@dataclasses.dataclass(frozen=True)
class LayerReport:
    """Describes one quantized layer: how many weights, the bytes that it holds now, and the SQNR of its weights in
    decibels."""

    name: str
    kind: str
    weights: int
    bytes: int
    sqnr: float


@dataclasses.dataclass(frozen=True)
class Report:
    """Says what quantizing did to a network.

    Attributes:
        touched, skipped: layers in the network's order.
        full_bytes, bytes: of the whole network before and after.
        weights: of the whole network; `share` of them are quantized.
        nominal_bytes: that the whole network would take if what is simulated were stored so; None for a real method.
    """

    quantized_layers: tuple[LayerReport, ...]
    skipped: tuple[Skipped, ...]
    full_bytes: int
    bytes: int
    weights: int
    nominal_bytes: int | None = None

    @property
    def share(self) -> float:
        """Of the network's parameters, those that are quantized."""
        return sum(layer.weights for layer in self.quantized_layers) / max(1, self.weights)

    def to_json(self) -> dict[str, Any]:
        """Return plain values; an infinite SQNR becomes None."""
        layers = [
            {**dataclasses.asdict(one), "sqnr": one.sqnr if math.isfinite(one.sqnr) else None}
            for one in self.quantized_layers
        ]
        return {
            "touched": layers,
            "skipped": [dataclasses.asdict(one) for one in self.skipped],
            "full_bytes": self.full_bytes,
            "bytes": self.bytes,
            "share": self.share,
            "nominal_bytes": self.nominal_bytes,
        }


_REPORTS: weakref.WeakKeyDictionary[torch.nn.Module, Report] = weakref.WeakKeyDictionary()
"""Reports by quantized network: some libraries rearrange their weights in the first call; later none can be made."""


@no_grad
def build_report(network: torch.nn.Module, quantized_network: torch.nn.Module, quantizer: Quantizer) -> Report:
    """Report what was done to a network, read off both.

    Args:
        network: in full precision.
        quantized_network: the copy that `quantize_network` made of it with `quantizer`.
    """
    if quantized_network in _REPORTS:
        return _REPORTS[quantized_network]
    plan = plan_layers(network, quantizer)
    reports = []
    for name in plan.quantized_layers:
        before, after = get_layer(network, name), get_layer(quantized_network, name)
        kind = "linear" if isinstance(before, torch.nn.Linear) else "convolution"
        error = _weight_sqnr(quantizer, before, after)
        reports.append(LayerReport(name, kind, before.weight.numel(), stored_bytes(after), error))
    weights = sum(parameter.numel() for parameter in network.parameters())
    bits = [quantizer.count_nominal_bits(get_layer(quantized_network, name)) for name in plan.quantized_layers]
    full_bytes, nominal = stored_bytes(network), None
    if quantizer.is_simulated:
        replaced = sum(stored_bytes(get_layer(network, name)) for name in plan.quantized_layers)
        nominal = full_bytes - replaced + math.ceil(sum(bits) / 8)
    report = Report(tuple(reports), plan.skipped, full_bytes, stored_bytes(quantized_network), weights, nominal)
    _REPORTS[quantized_network] = report
    return report
