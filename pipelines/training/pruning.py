"""Which parts of a UNet can go so that stock diffusers still loads what is left, and how much each one counts."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from diffusers import UNet2DConditionModel

from pipelines.core.errors import TrainingError

__all__ = ["Unit", "choose_units", "count_parameters", "list_units", "remove_units", "score_change"]

ATTENTION, MIDDLE_ATTENTION, MIDDLE, LAYER = "attention", "middle attention", "middle", "layer"
_PLAIN = {"CrossAttnDownBlock2D": "DownBlock2D", "CrossAttnUpBlock2D": "UpBlock2D"}
_RENAMED = re.compile(r"(up_blocks)\.(\d+)\.(resnets|attentions)\.(\d+)\.")


@dataclasses.dataclass(frozen=True)
class Unit:
    """Describes a part of a UNet that can go.

    Attributes:
        kind: "attention" of a block, "middle attention" (all of the middle block but its first residual block),
            "middle" (the middle block), or "layer" (one residual block of a level on the way down and one on the way
            up, with their attention).
        block: "down_blocks" or "up_blocks" of an attention; else "".
        index: of the block, or of the level from the largest one.
    """

    kind: str
    block: str = ""
    index: int = 0

    def __str__(self) -> str:
        if self.kind == ATTENTION:
            return f"attention of {self.block}.{self.index}"
        return f"a layer of level {self.index}" if self.kind == LAYER else self.kind.replace("middle", "mid_block", 1)


def list_units(config: Mapping[str, Any]) -> list[Unit]:
    """List what can go of a UNet, by its configuration.

    Raises:
        TrainingError: it is not made of the usual blocks.
    """
    known = {*_PLAIN, *_PLAIN.values()}
    types = {"down_blocks": config["down_block_types"], "up_blocks": config["up_block_types"]}
    if not set(types["down_blocks"]) | set(types["up_blocks"]) <= known:
        raise TrainingError("This UNet has blocks of other kinds than Stable Diffusion's, which are not pruned here.")
    units = [
        Unit(ATTENTION, block, index)
        for block, names in types.items()
        for index, name in enumerate(names)
        if name in _PLAIN
    ]
    if config.get("mid_block_type") == "UNetMidBlock2DCrossAttn":
        units += [Unit(MIDDLE_ATTENTION), Unit(MIDDLE)]
    elif config.get("mid_block_type") is not None:
        units += [Unit(MIDDLE)]
    return units + [Unit(LAYER, index=level) for level, layers in enumerate(_list_layers(config)) if layers > 1]


def _list_layers(config: Mapping[str, Any]) -> list[int]:
    layers, levels = config["layers_per_block"], len(config["down_block_types"])
    return [layers] * levels if isinstance(layers, int) else list(layers)


def remove_units(network: UNet2DConditionModel, units: Sequence[Unit]) -> UNet2DConditionModel:
    """Build the network without these parts, the other weights copied; of none it is a copy.

    Args:
        network: stays as it is.
        units: of `list_units`, each at most once.
    """
    if not units:
        return copy.deepcopy(network)
    # diffusers would put its defaults back in the place of what is named here, even where it was changed since.
    config = {name: value for name, value in network.config.items() if name != "_use_default_values"}
    layers = _list_layers(config)
    types = {name: list(config[f"{name[:-1]}_types"]) for name in ("down_blocks", "up_blocks")}
    for unit in units:
        if unit.kind == ATTENTION:
            types[unit.block][unit.index] = _PLAIN[types[unit.block][unit.index]]
        elif unit.kind == LAYER:
            layers[unit.index] -= 1
        elif unit.kind == MIDDLE:
            config["mid_block_type"] = None
        elif Unit(MIDDLE) not in units:
            config["mid_block_type"] = "UNetMidBlock2D"
    config |= {"down_block_types": types["down_blocks"], "up_block_types": types["up_blocks"]}
    config["layers_per_block"] = layers
    with torch.random.fork_rng(devices=[]):
        smaller: UNet2DConditionModel = UNet2DConditionModel.from_config(config)
    source, levels = network.state_dict(), len(layers)
    shortened = {levels - 1 - unit.index: layers[unit.index] for unit in units if unit.kind == LAYER}
    state = {name: source[_find_source(name, shortened)] for name in smaller.state_dict()}
    smaller.load_state_dict(state)
    return smaller.to(network.device).train(network.training)


def _find_source(name: str, shortened: Mapping[int, int]) -> str:
    """The name that a tensor of the smaller network had in the larger one.

    On the way up a level has one residual block more than on the way down, and the first and the last of them take
    another width than the rest: the second goes, where there are at least three.
    """
    match = _RENAMED.match(name)
    if match is None or int(match[2]) not in shortened:
        return name
    place = int(match[4])
    moved = place + 1 if place >= 1 else place
    return f"{match[1]}.{match[2]}.{match[3]}.{moved}.{name[match.end() :]}"


def score_change(whole: torch.Tensor, pruned: torch.Tensor) -> float:
    """Say how far the latents of a pruned network's pictures are from those of the whole one's.

    Args:
        whole, pruned: (N, C, h, w), of the same prompts and noises; N at least 2.

    Source: Castells et al., LD-Pruner, arXiv:2404.11936, section 3.2: the change of the latents' mean plus that of
        their spread.
    Differs: both are norms of per-place differences over the pictures; the spread is the standard deviation.
    """
    return float((whole.mean(dim=0) - pruned.mean(dim=0)).norm() + (whole.std(dim=0) - pruned.std(dim=0)).norm())


def count_parameters(network: torch.nn.Module) -> int:
    """Count a network's weights."""
    return sum(one.numel() for one in network.parameters())


def choose_units(scores: Mapping[Unit, float], count_left: Callable[[Sequence[Unit]], int], most: float) -> list[Unit]:
    """Choose what goes: the least important first, until the rest is small enough.

    Args:
        scores: how far the latents move without each.
        count_left: counts the weights that are left without some.
        most: weights that may be left.

    Raises:
        TrainingError: more is left even without all of them.
    """
    chosen: list[Unit] = []
    for unit in sorted(scores, key=lambda one: (scores[one], str(one))):
        if count_left(chosen) <= most:
            return chosen
        chosen.append(unit)
    if count_left(chosen) > most:
        raise TrainingError(f"Without all that can go {count_left(chosen):,} weights are left. Choose a larger budget.")
    return chosen
