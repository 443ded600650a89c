"""What a quantizer is, which layers all of them leave alone, and how a copy of a network is quantized."""

from __future__ import annotations

import abc
import copy
import dataclasses
import math
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch

from pipelines.core.denoiser import Cancelled
from pipelines.core.errors import MethodFitError, ModelError, StepwiseError
from pipelines.quantizers.stored import stored_bytes

__all__ = [
    "CONVOLUTIONS",
    "LINEAR",
    "SKIPPED",
    "LayerPlan",
    "LayerReport",
    "Quantizer",
    "Report",
    "Skipped",
    "StorableQuantizer",
    "plan_layers",
    "quantized",
    "report_of",
    "sqnr",
]

LINEAR = (torch.nn.Linear,)
CONVOLUTIONS = (torch.nn.Conv2d,)
WEIGHTED = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)

SKIPPED: Mapping[str, str] = {
    **dict.fromkeys(
        ("conv_in", "patch_embed", "patch_embedding", "x_embedder", "proj_in", "pos_embed", "img_in"), "input layer"
    ),
    **dict.fromkeys(
        (
            "time_embedding",
            "time_proj",
            "time_embed",
            "time_text_embed",
            "adaln_single",
            "timestep_embedder",
            "guidance_embed",
            "t_embedder",
            "condition_embedder",
            "time_caption_embed",
        ),
        "time embedding",
    ),
    **dict.fromkeys(
        (
            "add_embedding",
            "class_embedding",
            "context_embedder",
            "caption_projection",
            "caption_embedder",
            "encoder_hid_proj",
            "txt_in",
            "cap_embedder",
            "image_projection_layers",
        ),
        "embedder",
    ),
    **dict.fromkeys(("conv_out", "conv_norm_out", "proj_out", "norm_out", "final_layer"), "output layer"),
}
"""Parts of a network that every method leaves in full precision, by their name at the network's top, and what they are.

They hold few of the weights and cause most of the error, so a comparison of methods is fair only with one list for all.
"""


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A layer that stays in full precision, and why."""

    name: str
    reason: str
    weights: int


class Quantizer(abc.ABC):
    """Turns one layer at a time into a smaller one.

    Attributes:
        layers: the classes that it can change, exactly these.
    """

    layers: tuple[type[torch.nn.Module], ...] = LINEAR

    @abc.abstractmethod
    def quantize(self, layer: torch.nn.Module) -> torch.nn.Module:
        """A new layer in the given one's place; the given one stays as it is."""

    @abc.abstractmethod
    def weight(self, layer: torch.nn.Module) -> torch.Tensor:
        """The weights that a quantized layer computes with, in floating point and in the original's shape."""

    def refuses(self, layer: torch.nn.Module) -> str | None:
        """Why a layer of the right class cannot be changed; None if it can."""
        return None


class StorableQuantizer(Quantizer):
    """One whose layers are plain tensors, so that they can be written to a safetensors file and read again."""

    @abc.abstractmethod
    def tensors(self, layer: torch.nn.Module) -> dict[str, torch.Tensor]:
        """Everything that a quantized layer holds, by name."""

    @abc.abstractmethod
    def restored(self, layer: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> torch.nn.Module:
        """The quantized layer again.

        Args:
            layer: the full-precision layer, perhaps without its weights (on "meta"): only its shape counts.
            tensors: as `tensors` gave them.
        """


@dataclasses.dataclass(frozen=True)
class LayerPlan:
    """Names of the layers to change, in the network's order, and all others that hold weights."""

    touched: tuple[str, ...]
    skipped: tuple[Skipped, ...]


def plan_layers(network: torch.nn.Module, quantizer: Quantizer) -> LayerPlan:
    """Which layers a quantizer changes in this network; the same skip list for every one."""
    touched, skipped = [], []
    for name, layer in network.named_modules():
        if not isinstance(layer, WEIGHTED):
            continue
        reason = _reason(name, layer, quantizer)
        if reason is None:
            touched.append(name)
        else:
            skipped.append(Skipped(name, reason, layer.weight.numel()))
    return LayerPlan(tuple(touched), tuple(skipped))


def _reason(name: str, layer: torch.nn.Module, quantizer: Quantizer) -> str | None:
    if part := SKIPPED.get(name.partition(".")[0]):
        return part
    if type(layer) not in quantizer.layers:
        kind = type(layer).__name__.lower()
        return f"a {kind} layer, which this method does not change"
    return quantizer.refuses(layer)


@torch.no_grad()
def quantized(
    network: torch.nn.Module,
    quantizer: Quantizer,
    label: str = "The quantizer",
    cancelled: Callable[[], bool] = lambda: False,
    in_place: bool = False,
) -> torch.nn.Module:
    """A quantized copy; the given network is only read.

    Layers are changed one by one, so beside the network and the copy no more than one layer is held in addition.

    Args:
        network: in full precision.
        quantizer: of the table.
        label: its name, for messages.
        cancelled: polled before every layer.
        in_place: change the network itself, which nobody else may hold, so that both are never whole in memory.

    Raises:
        MethodFitError: no layer would be changed.
        ModelError: a library could not change a layer.
        Cancelled: the person stopped it.
    """
    plan = plan_layers(network, quantizer)
    if not plan.touched:
        reasons = (
            ", ".join(sorted({one.reason for one in plan.skipped})) or "it has no linear and no convolution layers"
        )
        raise MethodFitError(f"{label} touches no layer of this model ({reasons}). Choose another method or model.")
    # The copy shares these layers only until each is replaced; everything else in it is its own.
    layers = [network.get_submodule(name) for name in plan.touched]
    made = network if in_place else copy.deepcopy(network, {id(layer): layer for layer in layers})
    del layers
    for name in plan.touched:
        if cancelled():
            raise Cancelled
        parent, _, own = name.rpartition(".")
        setattr(made.get_submodule(parent), own, _changed(quantizer, made.get_submodule(name), name, label))
    return made.eval().requires_grad_(False)


def _changed(quantizer: Quantizer, layer: torch.nn.Module, name: str, label: str) -> torch.nn.Module:
    try:
        return quantizer.quantize(layer)
    except (StepwiseError, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise ModelError(f"{label} could not quantize the layer {name} ({first}). Choose another method.") from error


def sqnr(reference: torch.Tensor, other: torch.Tensor) -> float:
    """Signal to quantization noise in decibels, 10 log10(sum ref^2 / sum (other - ref)^2); infinite if equal."""
    reference = reference.double()
    noise = float((other.double() - reference).square().sum())
    signal = float(reference.square().sum())
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf


@dataclasses.dataclass(frozen=True)
class LayerReport:
    """One quantized layer: how many weights, the bytes that it holds now, and the SQNR of its weights in decibels."""

    name: str
    kind: str
    weights: int
    bytes: int
    sqnr: float


@dataclasses.dataclass(frozen=True)
class Report:
    """What quantizing did to a network.

    Attributes:
        touched, skipped: layers in the network's order.
        full_bytes, bytes: of the whole network before and after.
        weights: of the whole network; `share` of them are quantized.
    """

    touched: tuple[LayerReport, ...]
    skipped: tuple[Skipped, ...]
    full_bytes: int
    bytes: int
    weights: int

    @property
    def share(self) -> float:
        """Of the network's parameters, those that are quantized."""
        return sum(layer.weights for layer in self.touched) / max(1, self.weights)

    def to_json(self) -> dict[str, Any]:
        """Plain values; an infinite SQNR becomes None."""
        layers = [
            {**dataclasses.asdict(one), "sqnr": one.sqnr if math.isfinite(one.sqnr) else None} for one in self.touched
        ]
        return {
            "touched": layers,
            "skipped": [dataclasses.asdict(one) for one in self.skipped],
            "full_bytes": self.full_bytes,
            "bytes": self.bytes,
            "share": self.share,
        }


_REPORTS: weakref.WeakKeyDictionary[torch.nn.Module, Report] = weakref.WeakKeyDictionary()
"""Reports by quantized network: some libraries rearrange their weights in the first call; later none can be made."""


@torch.no_grad()
def report_of(network: torch.nn.Module, made: torch.nn.Module, quantizer: Quantizer) -> Report:
    """What was done to a network, read off both.

    Args:
        network: in full precision.
        made: the copy that `quantized` made of it with `quantizer`.
    """
    if made in _REPORTS:
        return _REPORTS[made]
    plan = plan_layers(network, quantizer)
    touched = []
    for name in plan.touched:
        before, after = network.get_submodule(name), made.get_submodule(name)
        kind = "linear" if isinstance(before, torch.nn.Linear) else "convolution"
        error = sqnr(before.weight, quantizer.weight(after))
        touched.append(LayerReport(name, kind, before.weight.numel(), stored_bytes(after), error))
    weights = sum(parameter.numel() for parameter in network.parameters())
    report = Report(tuple(touched), plan.skipped, stored_bytes(network), stored_bytes(made), weights)
    _REPORTS[made] = report
    return report
