"""Weights in two to eight bits, as many in each layer as the network's output asks for, rounded with error feedback."""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, cast

import torch

from pipelines.core.cancelling import Cancelled
from pipelines.core.errors import MethodFitError
from pipelines.core.registry import setting
from pipelines.quantizers.bit_allocation import allocate_bits, measure_output_noise
from pipelines.quantizers.calibration import Calibration, collect_moments
from pipelines.quantizers.codec import BIAS
from pipelines.quantizers.contract import CONVOLUTIONS, LINEAR, StorableQuantizer
from pipelines.quantizers.error_feedback import quantize_with_feedback
from pipelines.quantizers.grouped_codec import GroupedCodec
from pipelines.quantizers.packed import WeightOnly
from pipelines.quantizers.ranges import AffineGroups, fit_group_size, search_ranges, split_groups

if TYPE_CHECKING:
    from pipelines.quantizers.weighted_layer import WeightedLayer

__all__ = ["Calibrated", "CalibratedQuantizer", "CalibratedSettings", "Progress"]

Progress = Callable[[str, int, int], None]
"""Called with what is going on ("Rounding layer"), what is done and what there is."""

BITS = (2, 3, 4, 5, 6, 7, 8)
PROBED_BITS = 4
MOST_MOMENTS = 2**30
"""Bytes of second moments that are held at once; a network that has more is measured in so many turns."""

PROBES = 24
"""Backward passes that weigh the layers."""


class CalibratedQuantizer(StorableQuantizer):
    """Changes all layers of a network at once, by what recorded calls of it show."""

    @abc.abstractmethod
    def quantize_layers(
        self,
        network: torch.nn.Module,
        names: Sequence[str],
        calibration: Calibration,
        cancelled: Callable[[], bool],
        progress: Progress,
    ) -> Mapping[str, torch.nn.Module]:
        """Build a new layer for each name; the network stays as it is.

        Raises:
            Cancelled: the person stopped it.
        """

    def quantize(self, layer: WeightedLayer) -> torch.nn.Module:
        raise MethodFitError("A calibrated method changes a network as a whole, by `quantize_layers`.")


@dataclasses.dataclass(frozen=True)
class CalibratedSettings:
    bits: float = setting(
        4.5, "Stored bits a quantized weight, scales included, on average.", low=2.5, high=8.0, step=0.05
    )
    group_size: int = setting(
        64, "Weights that share a scale: fewer are more exact and take more bytes.", choices=(16, 32, 64, 128)
    )
    mixed: bool = setting(True, "Give more bits to layers whose error shows in the output, and fewer to the others.")
    feedback: bool = setting(True, "Make up for each column's rounding error in the columns that follow (GPTQ).")


class Calibrated(CalibratedQuantizer):
    """Mixed precision for the weights, with GPTQ's error feedback, in real bytes.

    What each layer's error does to the output is measured once, at four bits; at b bits it is taken to be
    (15 / (2^b - 1))^2 of that. Bits then go where they save most error for their bytes.

    Source: error feedback is Frantar et al., GPTQ, arXiv:2210.17323; the allocation is that of Dong et al., HAWQ-V2,
    arXiv:1911.03852, section 3, and of ViDiT-Q and MixDQ.
    Differs: sensitivity is the squared change of the network's output to first order, from backward passes on the
    quantizer's own errors, and not the Hessian of a loss.
    """

    layers = LINEAR + CONVOLUTIONS

    def __init__(self, settings: CalibratedSettings = CalibratedSettings()):
        self.settings = settings

    def quantize_layers(
        self,
        network: torch.nn.Module,
        names: Sequence[str],
        calibration: Calibration,
        cancelled: Callable[[], bool],
        progress: Progress,
    ) -> Mapping[str, torch.nn.Module]:
        layers = {name: cast("WeightedLayer", network.get_submodule(name)) for name in names}
        bits = dict.fromkeys(names, self._choose_uniform_bits(layers))
        built: dict[str, torch.nn.Module] = {}
        if self.settings.mixed:
            differences = {}
            choosing = _announce_choosing(progress)
            for name, (ranges, codes) in self._round_all(network, layers, bits, calibration, cancelled, choosing):
                rows = layers[name].weight.detach().flatten(1)
                change = ranges.decode(codes).flatten(1)[:, : rows.shape[1]] - rows.float()
                differences[name] = change.reshape(layers[name].weight.shape).to(layers[name].weight.dtype)
                built[name] = self._build(layers[name], bits[name], ranges, codes)
            progress("Weighing layers", 0, 1)
            noise = measure_output_noise(network, differences, calibration.thin(PROBES), cancelled=cancelled)
            probed, bits = bits, self._choose_bits(layers, noise, bits)
            layers = {name: layer for name, layer in layers.items() if bits[name] != probed[name]}
        for name, (ranges, codes) in self._round_all(network, layers, bits, calibration, cancelled, progress):
            built[name] = self._build(layers[name], bits[name], ranges, codes)
        return built

    def _codec(self, layer: WeightedLayer, bits: int) -> GroupedCodec:
        return GroupedCodec(bits, fit_group_size(layer.weight[0].numel(), self.settings.group_size))

    def _count(self, layer: WeightedLayer, bits: int) -> int:
        return self._codec(layer, bits).count_bytes(len(layer.weight), layer.weight[0].numel())

    def _budget(self, layers: Mapping[str, WeightedLayer]) -> int:
        return int(self.settings.bits * sum(layer.weight.numel() for layer in layers.values()) / 8)

    def _choose_uniform_bits(self, layers: Mapping[str, WeightedLayer]) -> int:
        if self.settings.mixed:
            return PROBED_BITS
        fitting = [
            bits
            for bits in BITS
            if sum(self._count(layer, bits) for layer in layers.values()) <= math.ceil(self._budget(layers) * 1.01)
        ]
        return max(fitting, default=BITS[0])

    def _choose_bits(
        self, layers: Mapping[str, WeightedLayer], noise: Mapping[str, float], probed: Mapping[str, int]
    ) -> dict[str, int]:
        predicted = [[noise[name] * ((2 ** probed[name] - 1) / (2**bits - 1)) ** 2 for bits in BITS] for name in layers]
        costs = [[self._count(layer, bits) for bits in BITS] for layer in layers.values()]
        chosen = allocate_bits(predicted, costs, self._budget(layers))
        return {name: BITS[option] for name, option in zip(layers, chosen, strict=True)}

    def _round_all(
        self,
        network: torch.nn.Module,
        layers: Mapping[str, WeightedLayer],
        bits: Mapping[str, int],
        calibration: Calibration,
        cancelled: Callable[[], bool],
        progress: Progress,
    ) -> Iterator[tuple[str, tuple[AffineGroups, torch.Tensor]]]:
        done = 0
        for names in _split_by_memory(layers):
            progress("Measuring inputs from layer", done, len(layers))
            moments = collect_moments(network, names, calibration, cancelled) if self.settings.feedback else {}
            for name in names:
                if cancelled():
                    raise Cancelled
                progress("Rounding layer", done, len(layers))
                yield name, self._round(layers[name], moments.get(name), bits[name])
                done += 1

    def _round(
        self, layer: WeightedLayer, moments: torch.Tensor | None, bits: int
    ) -> tuple[AffineGroups, torch.Tensor]:
        rows, size = layer.weight.detach().flatten(1).float(), self._codec(layer, bits).size
        # A convolution in groups has other inputs for each group of outputs: it is rounded to nearest.
        if moments is not None and getattr(layer, "groups", 1) == 1:
            return quantize_with_feedback(rows, moments, size, 2**bits)
        groups = split_groups(rows, size)
        ranges = search_ranges(groups, 2**bits)
        return ranges, ranges.encode(groups, 2**bits)

    def _build(self, layer: WeightedLayer, bits: int, ranges: AffineGroups, codes: torch.Tensor) -> torch.nn.Module:
        codec = self._codec(layer, bits)
        bias = None if layer.bias is None else layer.bias.detach().clone()
        return WeightOnly(codec).build_layer(layer, codec.pack_codes(ranges, codes), bias)

    def refuses(self, layer: WeightedLayer) -> str | None:
        return WeightOnly(self._codec(layer, max(BITS))).refuses(layer)

    def weight(self, layer: WeightedLayer) -> torch.Tensor:
        return layer.weight

    def weight_rows(self, layer: WeightedLayer) -> Iterator[torch.Tensor]:
        return WeightOnly(cast(GroupedCodec, layer.codec)).weight_rows(layer)

    def tensors(self, layer: WeightedLayer) -> dict[str, torch.Tensor]:
        return layer.state_dict()

    def restore(self, layer: WeightedLayer, tensors: Mapping[str, torch.Tensor]) -> torch.nn.Module:
        parts = {name: tensor for name, tensor in tensors.items() if name != BIAS}
        codec = GroupedCodec.of_parts(parts, layer.weight[0].numel())
        return WeightOnly(codec).build_layer(layer, parts, tensors.get(BIAS))


def _announce_choosing(progress: Progress) -> Progress:
    """Progress of the first of two passes over all layers, which would read as if the work began again."""
    return lambda what, done, total: progress(f"Choosing bits: {what[:1].lower()}{what[1:]}", done, total)


def _split_by_memory(layers: Mapping[str, WeightedLayer]) -> Iterator[list[str]]:
    names: list[str] = []
    total = 0
    for name, layer in layers.items():
        size = 4 * layer.weight[0].numel() ** 2
        if names and total + size > MOST_MOMENTS:
            yield names
            names, total = [], 0
        names.append(name)
        total += size
    if names:
        yield names
