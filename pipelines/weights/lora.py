"""LoRA: low-rank changes to a model's weights, added for one request and taken off after it.

W + weight * (alpha / rank) * up @ down for every linear and convolution layer that the file names. Source:
Hu et al., LoRA, arXiv:2106.09685, section 4.1. Differs: the sum is stored in the weight while it lasts, so a
step costs nothing more and no other package is needed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import torch

from pipelines.core.errors import LoraError
from pipelines.weights.lora_names import LayerIndex, split_key
from pipelines.weights.patching import replaced_weights

__all__ = ["LoraLayer", "applied_loras", "lora_layers", "read_lora"]

_CONTEXT_WIDTHS = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 2048: "SDXL"}


@dataclasses.dataclass(frozen=True)
class LoraLayer:
    """The change of one layer.

    Attributes:
        down: (rank, in) or (rank, in, k, k).
        up: (out, rank) or (out, rank, 1, 1).
        scale: alpha / rank.
    """

    down: torch.Tensor
    up: torch.Tensor
    scale: float

    def split(self, weights: Sequence[torch.Tensor]) -> list[LoraLayer]:
        """This change in parts, one for each weight, whose rows follow each other; empty if the shapes do not fit."""
        rows = [weight.shape[0] for weight in weights]
        flat = self.up.ndim >= 2 and self.down.ndim >= 2
        if not flat or self.up.shape[0] != sum(rows) or self.up.flatten(1).shape[1] != self.down.shape[0]:
            return []
        if any(self.down[0].numel() != weight[0].numel() for weight in weights):
            return []
        return [dataclasses.replace(self, up=up) for up in self.up.split(rows)]

    def delta(self, weight: torch.Tensor) -> torch.Tensor:
        """scale * up @ down in float32, shaped and placed like `weight`."""
        up, down = (one.to(weight.device, torch.float32).flatten(1) for one in (self.up, self.down))
        return (self.scale * (up @ down)).reshape(weight.shape)


def read_lora(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file.

    Raises:
        LoraError: there is no such file, or it is something else under that name, such as a pickle.
    """
    path = Path(path)
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})
    except FileNotFoundError:
        raise LoraError(f"There is no LoRA {path.name!r}. Put its safetensors file into the models folder.") from None
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise LoraError(f"{path.name!r} is no safetensors file ({error}). Get the LoRA in that format.") from None


def lora_layers(
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str],
    networks: Mapping[str, torch.nn.Module],
    family: str,
    name: str = "The LoRA",
) -> dict[torch.nn.Parameter, LoraLayer]:
    """The weights that a LoRA changes, and how.

    Args:
        tensors: state dict in the format of diffusers, PEFT or kohya's scripts.
        metadata: of the file; diffusers keeps PEFT's alpha there.
        networks: component name to network, the denoising network first.
        family: of the model, for messages.
        name: of the LoRA, for messages.

    Raises:
        LoraError: it is of another kind than LoRA, names a layer that the model has not, or one of another
            shape.
    """
    parts = _grouped(tensors, name)
    index = LayerIndex(networks)
    found = {path: index.find(path) for path in parts}
    missing = [path for path, place in found.items() if place is None]
    layers = {}
    adapter = _adapter_settings(metadata)
    for path, place in found.items():
        if place is not None:
            weights = [module.weight for module in place[1]]
            split = _layer(path, parts[path], adapter.get(place[0], {}), name).split(weights)
            layers.update(zip(weights, split, strict=True) if split else ())
            missing += [] if split else [path]
    if not parts:
        raise LoraError(f"{name} has no tensors. Get the file again.")
    if missing:
        raise LoraError(
            f"{name} is made for {_origin(parts)}: {len(missing)} of its {len(parts)} layers (such as "
            f"{missing[0][:80]!r}) do not exist in this model of the {family} family. Choose a model of the LoRA's own "
            "family."
        )
    return layers


def _grouped(tensors: Mapping[str, torch.Tensor], name: str) -> dict[str, dict[str, torch.Tensor]]:
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        split = split_key(key)
        if split is None:
            raise LoraError(
                f"{name} has the tensor {key[:80]!r}, which is no plain LoRA. Use one made of down and up matrices."
            )
        parts.setdefault(split[0], {})[split[1]] = tensor
    return parts


def _layer(path: str, parts: Mapping[str, torch.Tensor], adapter: Mapping[str, Any], name: str) -> LoraLayer:
    if "down" not in parts or "up" not in parts:
        raise LoraError(f"{name} is incomplete at {path[:80]!r}. Get the file again.")
    rank = parts["down"].shape[0]
    if "alpha" in parts:
        return LoraLayer(parts["down"], parts["up"], float(parts["alpha"]) / rank)
    alpha = adapter.get("lora_alpha", rank)
    for pattern, value in (adapter.get("alpha_pattern") or {}).items():
        if path.endswith(pattern):
            alpha = value
    return LoraLayer(parts["down"], parts["up"], alpha / (math.sqrt(rank) if adapter.get("use_rslora") else rank))


def _adapter_settings(metadata: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Component name to PEFT's settings, as diffusers saves them: {"unet.lora_alpha": 8, ...} as JSON."""
    try:
        plain = json.loads(metadata.get("lora_adapter_metadata", "{}"))
    except ValueError:
        raise LoraError("The LoRA's metadata cannot be read. Get the file again.") from None
    settings: dict[str, dict[str, Any]] = {}
    for key, value in plain.items():
        component, _, field = key.partition(".")
        settings.setdefault(component, {})[field] = value
    return settings


def _origin(parts: Mapping[str, Mapping[str, torch.Tensor]]) -> str:
    """For what a LoRA seems to be made, from names and widths that only one family has."""
    for path, tensors in parts.items():
        if "double_blocks" in path or "single_transformer_blocks" in path or "single_blocks" in path:
            return "FLUX"
        if path.replace(".", "_").endswith(("attn_add_q_proj", "attn_add_k_proj")):
            return "SD3"
        if path.replace(".", "_").endswith("attn2_to_k") and "down" in tensors:
            width = tensors["down"].shape[1]
            return _CONTEXT_WIDTHS.get(width, f"a model of context width {width}")
    return "another model"


@contextlib.contextmanager
def applied_loras(
    networks: Mapping[str, torch.nn.Module], choices: Sequence[tuple[Any, float]], family: str
) -> Iterator[None]:
    """The networks with LoRAs added while the context lasts.

    Only the touched weights are held twice. A LoRA of weight 0 is checked and changes nothing.

    Args:
        networks: component name to network, the denoising network first.
        choices: (state dict or path of a safetensors file, weight) pairs; they add up.
        family: of the model, for messages.

    Raises:
        LoraError: a file is no safetensors file, or a LoRA does not belong to the model.
    """
    changes: dict[torch.nn.Parameter, list[tuple[LoraLayer, float]]] = {}
    for source, weight in choices:
        tensors, metadata = (source, {}) if isinstance(source, Mapping) else read_lora(source)
        name = "The LoRA" if isinstance(source, Mapping) else f"The LoRA {Path(source).stem!r}"
        for parameter, layer in lora_layers(tensors, metadata, networks, family, name).items():
            if not parameter.is_floating_point():
                raise LoraError(f"{name} cannot be added to quantized weights. Choose the model in full precision.")
            if weight:
                changes.setdefault(parameter, []).append((layer, weight))
    with replaced_weights([(parameter, _sum(layers)) for parameter, layers in changes.items()]):
        yield


def _sum(layers: Sequence[tuple[LoraLayer, float]]) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(data: torch.Tensor) -> torch.Tensor:
        total = sum(weight * layer.delta(data) for layer, weight in layers)
        return (data.to(torch.promote_types(data.dtype, torch.float32)) + total).to(data.dtype)

    return change
