"""Low-rank changes to a network's weights that can be trained, and the LoRA file that stock diffusers loads."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch.nn.utils import parametrize

from pipelines.core.gradients import no_grad

__all__ = ["LowRank", "add_low_rank", "load_changes", "save_lora"]


class LowRank(torch.nn.Module):
    """W -> W + B A with A (r, in x height x width) and B (out, r); the change begins at zero.

    Args:
        weight: of a linear layer (out, in) or a convolution (out, in, height, width).
        rank: r; it is lowered where the matrix has less.
    Source: Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, arXiv 2106.09685, section 4.1; a
        convolution's A has its kernel and B is 1 x 1, as PEFT has it.
    """

    def __init__(self, weight: torch.Tensor, rank: int):
        super().__init__()
        rows, columns = weight.shape[0], weight[0].numel()
        rank = min(rank, rows, columns)
        self.down = torch.nn.Parameter(torch.randn(rank, columns) / math.sqrt(columns))
        self.up = torch.nn.Parameter(torch.zeros(rows, rank))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Add the change to the weight."""
        return weight + (self.up @ self.down).view_as(weight)


def add_low_rank(network: torch.nn.Module, rank: int) -> dict[str, LowRank]:
    """Freeze a network and give every linear layer and convolution of it a low-rank change.

    Returns: the changes by their layer's name, in the network's order.
    """
    network.requires_grad_(False)
    layers = [
        (name, layer) for name, layer in network.named_modules() if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d)
    ]
    changes = {}
    for name, layer in layers:
        changes[name] = LowRank(layer.weight, rank)
        parametrize.register_parametrization(layer, "weight", changes[name])
    return changes


@no_grad
def load_changes(changes: dict[str, LowRank], path: Path) -> None:
    """Begin with the changes of a file as `save_lora` writes it, or with the nearest ones of a lower rank.

    Args:
        changes: of `add_low_rank` on the same network, of any rank.
        path: the file.
    Source: Eckart and Young, The approximation of one matrix by another of lower rank, Psychometrika 1 (1936).
    """
    tensors = load_file(path)
    for name, change in changes.items():
        down, up = (tensors[f"unet.{name}.{part}.weight"].float().flatten(1) for part in ("lora_A", "lora_B"))
        u, s, v = torch.linalg.svd(up @ down, full_matrices=False)
        rank = min(len(change.down), len(s))
        change.up.zero_()
        change.up[:, :rank] = u[:, :rank] * s[:rank].sqrt()
        change.down[:rank] = s[:rank, None].sqrt() * v[:rank]


def save_lora(
    changes: dict[str, LowRank], network: torch.nn.Module, path: Path, model: str, dtype: torch.dtype = torch.float16
) -> None:
    """Write the changes as a LoRA file in diffusers' names: `unet.LAYER.lora_A.weight` and `lora_B`.

    There is no alpha in it, so that the weight 1 applies the change as it was trained.

    Args:
        changes: of `add_low_rank`.
        network: the UNet that has them.
        path: the file, ending in .safetensors.
        model: key of the shipped model that it is for, which its metadata names.
        dtype: of the tensors.
    """
    layers = dict(network.named_modules())
    tensors = {}
    for name, change in changes.items():
        down, up = change.down.detach(), change.up.detach()
        shape = layers[name].weight.shape
        if len(shape) == 4:
            down, up = down.view(-1, *shape[1:]), up[:, :, None, None]
        for part, value in (("lora_A", down), ("lora_B", up)):
            tensors[f"unet.{name}.{part}.weight"] = value.to("cpu", dtype).contiguous()
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = {"modelspec.architecture": f"stepwise-{model}/lora", "modelspec.license": "MIT"}
    save_file(tensors, path, {"format": "pt", **facts})
