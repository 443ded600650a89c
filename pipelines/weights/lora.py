"""LoRA and its relatives: changes to a model's weights, added for one request and taken off after it.

W + weight * change for every layer that the file names; the changes are those of `weights.adapters`. Differs from the
papers: the sum is stored in the weight while it lasts, so a step costs nothing more and no other package is needed.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import safetensors
import torch

from pipelines.core.errors import LoraError
from pipelines.weights.adapters import Adapter, difference, make_adapter
from pipelines.weights.lora_names import LayerIndex, LayerMatch
from pipelines.weights.lora_parts import BUNDLED, split_key
from pipelines.weights.patching import replaced_weights

__all__ = ["applied_loras", "lora_layers", "read_lora"]

_CONTEXT_WIDTHS = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 2048: "SDXL"}


def read_lora(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Read the tensors and the metadata of a safetensors file.

    Raises:
        LoraError: there is no such file, or it is something else under that name, such as a pickle.
    """
    path = Path(path)
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            return tensors, dict(file.metadata() or {})
    except FileNotFoundError:
        raise LoraError(f"There is no LoRA {path.name!r}. Put its safetensors file into the models folder.") from None
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise LoraError(f"{path.name!r} is not a safetensors file ({error}). Get the LoRA in that format.") from None


def lora_layers(
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str],
    networks: Mapping[str, torch.nn.Module],
    family: str,
    name: str = "The LoRA",
) -> dict[torch.nn.Parameter, list[Adapter]]:
    """Return the weights that a LoRA changes, and how.

    Args:
        tensors: state dict in the format of diffusers, PEFT, kohya's scripts, LyCORIS, OneTrainer, X-Labs or the
            models' authors.
        metadata: of the file; diffusers keeps PEFT's alpha there.
        networks: component name to network, the denoising network first.
        family: of the model, for messages.
        name: of the LoRA, for messages.

    Raises:
        LoraError: it is of a kind that is not applied, names a layer that the model has not, or one of another shape.
    """
    parts = _group_by_layer(tensors, name)
    if not parts:
        raise LoraError(f"{name} has no tensors. Get the file again.")
    index, settings = LayerIndex(networks), _read_adapter_settings(metadata)
    changes: dict[torch.nn.Parameter, list[Adapter]] = {}
    missing = []
    for path, layer in parts.items():
        layers = index.find(path)
        adapters = layers and _build_changes(path, layer, layers, settings.get(layers.component, {}), name)
        if not adapters:
            missing.append(path)
        for parameter, adapter in adapters or ():
            changes.setdefault(parameter, []).append(adapter)
    if missing:
        raise LoraError(
            f"{name} is made for {_guess_origin(parts)}: {len(missing)} of its {len(parts)} layers (such as "
            f"{missing[0][:80]!r}) do not exist in this model of the {family} family. Choose a model of the LoRA's own "
            "family."
        )
    return changes


def _build_changes(
    path: str, parts: Mapping[str, torch.Tensor], layers: LayerMatch, settings: Mapping[str, object], name: str
) -> list[tuple[torch.nn.Parameter, Adapter]]:
    """(parameter, change) pairs of one of the file's layers; empty where the shapes do not fit."""
    biases = [parts[one] for one in ("diff_b", "up_bias") if one in parts]
    rest = {one: part for one, part in parts.items() if one not in {"diff_b", "up_bias"}}
    changes: list[tuple[torch.nn.Parameter, Adapter]] = []
    if rest.keys() - {"alpha"}:
        adapter = make_adapter(rest, lambda rank: _find_scale(path, rank, settings))
        if adapter is None:
            raise LoraError(f"{name} is incomplete at {path[:80]!r}. Get the file again.")
        weights = [cast(torch.nn.Parameter, module.weight) for module in layers.layers]
        split = adapter.split(weights, layers.swapped)
        if not split:
            return []
        changes += zip(weights, split, strict=True)
    for bias in biases:
        targets = [cast("torch.nn.Parameter | None", module.bias) for module in layers.layers]
        parameters = [target for target in targets if target is not None]
        if len(parameters) < len(targets):
            return []
        split = Adapter({"diff": bias}, difference).split(parameters, layers.swapped)
        if not split:
            return []
        changes += zip(parameters, split, strict=True)
    return changes


def _group_by_layer(tensors: Mapping[str, torch.Tensor], name: str) -> dict[str, dict[str, torch.Tensor]]:
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith(BUNDLED):
            # OneTrainer's embeddings, which are read by `weights.embeddings`.
            continue
        split = split_key(key)
        if split is None:
            raise LoraError(
                f"{name} has the tensor {key[:80]!r}, which is of no kind that is applied here. Use one of the kind "
                "LoRA, LoHa, LoKr, DoRA, (IA)^3 or OFT."
            )
        parts.setdefault(split[0], {})[split[1]] = tensor
    return parts


def _find_scale(path: str, rank: int, adapter: Mapping[str, Any]) -> float:
    """Of a layer without an alpha of its own: from PEFT's settings, else 1."""
    alpha = adapter.get("lora_alpha", adapter.get("alpha", rank))
    for pattern, value in (adapter.get("alpha_pattern") or {}).items():
        if path.endswith(pattern):
            alpha = value
    return alpha / (math.sqrt(rank) if adapter.get("use_rslora") else rank)


def _read_adapter_settings(metadata: Mapping[str, str]) -> dict[str, dict[str, Any]]:
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


def _guess_origin(parts: Mapping[str, Mapping[str, torch.Tensor]]) -> str:
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
    """Provide the networks with LoRAs added while the context lasts.

    Only the touched weights are held twice. A LoRA of weight 0 is checked and changes nothing.

    Args:
        networks: component name to network, the denoising network first.
        choices: (state dict or path of a safetensors file, weight) pairs; they add up.
        family: of the model, for messages.

    Raises:
        LoraError: a file is not a safetensors file, or a LoRA does not belong to the model.
    """
    changes: dict[torch.nn.Parameter, list[tuple[Adapter, float]]] = {}
    for source, weight in choices:
        tensors, metadata = (source, {}) if isinstance(source, Mapping) else read_lora(source)
        name = "The LoRA" if isinstance(source, Mapping) else f"The LoRA {Path(source).stem!r}"
        for parameter, adapters in lora_layers(tensors, metadata, networks, family, name).items():
            if not parameter.is_floating_point() or parameter.element_size() < 2:
                raise LoraError(f"{name} cannot be added to quantized weights. Choose the model in full precision.")
            if weight:
                changes.setdefault(parameter, []).extend((adapter, weight) for adapter in adapters)
    replacements = [(parameter, _sum_changes(adapters)) for parameter, adapters in changes.items()]
    with replaced_weights(replacements, keep_on_host=True):
        yield


def _sum_changes(adapters: Sequence[tuple[Adapter, float]]) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(data: torch.Tensor) -> torch.Tensor:
        total = sum(weight * adapter.delta(data) for adapter, weight in adapters)
        return (data.to(torch.promote_types(data.dtype, torch.float32)) + total).to(data.dtype)

    return change
