"""Which layers of a network a quantizer changes, and which all of them leave alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

import torch

from pipelines.quantizers.contract import Quantizer

if TYPE_CHECKING:
    from pipelines.quantizers.weighted_layer import WeightedLayer

__all__ = ["SKIPPED", "LayerPlan", "Skipped", "get_layer", "plan_layers"]

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


@dataclasses.dataclass(frozen=True)
class LayerPlan:
    """Describes names of the layers to change, in the network's order, and all others that hold weights."""

    quantized_layers: tuple[str, ...]
    skipped: tuple[Skipped, ...]


def plan_layers(network: torch.nn.Module, quantizer: Quantizer) -> LayerPlan:
    """Say which layers a quantizer changes in this network; the same skip list for every one."""
    weighted = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
    layers, skipped = [], []
    for name, layer in network.named_modules():
        if not isinstance(layer, weighted):
            continue
        reason = _explain_skip(name, cast("WeightedLayer", layer), quantizer)
        if reason is None:
            layers.append(name)
        else:
            skipped.append(Skipped(name, reason, layer.weight.numel()))
    return LayerPlan(tuple(layers), tuple(skipped))


def get_layer(network: torch.nn.Module, name: str) -> WeightedLayer:
    """Return a layer of a plan by its name, typed by what layers with weights have in common."""
    return cast("WeightedLayer", network.get_submodule(name))


def _explain_skip(name: str, layer: WeightedLayer, quantizer: Quantizer) -> str | None:
    if part := SKIPPED.get(name.partition(".")[0]):
        return part
    kind_of_layer = getattr(layer, "stands_for", type(layer))
    if kind_of_layer not in [getattr(torch.nn, one) for one in quantizer.layers]:
        kind = kind_of_layer.__name__.lower()
        return f"a {kind} layer, which this method does not change"
    return quantizer.refuses(layer)
