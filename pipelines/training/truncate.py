"""Make a LoRA file smaller by its singular values: `python -m pipelines.training.truncate`.

Each layer's change B A is written anew in fewer ranks. Over all layers those singular vectors stay that hold the most
of the changes' squares for the numbers that they take.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pipelines.core.errors import TrainingError

__all__ = ["choose_ranks", "truncate_lora"]

Tensors = dict[str, torch.Tensor]


@dataclasses.dataclass(frozen=True)
class _Change:
    """A layer's change as U diag(s) V, and the shapes of its two tensors."""

    left: torch.Tensor
    values: torch.Tensor
    right: torch.Tensor
    down_shape: torch.Size
    up_shape: torch.Size

    @property
    def numbers(self) -> int:
        """How many numbers a rank takes."""
        return self.left.shape[0] + self.right.shape[1]


def choose_ranks(values: dict[str, torch.Tensor], numbers: dict[str, int], budget: int) -> dict[str, int]:
    """Choose each layer's rank, at least 1, so that all together take at most `budget` numbers.

    Args:
        values: singular values by layer, falling.
        numbers: what one rank of each layer takes.
        budget: numbers of all layers together.

    Returns:
        The ranks: singular values are taken in the order of their squares over their numbers, so that those that stay
        are the first of every layer.

    Raises:
        TrainingError: one rank a layer is more already.
    """
    left = budget - sum(numbers.values())
    if left < 0:
        raise TrainingError(f"One rank a layer takes {sum(numbers.values())} numbers. Allow more than {budget}.")
    ranks = dict.fromkeys(values, 1)
    waiting = [
        (float(value) ** 2 / numbers[name], name, place)
        for name, series in values.items()
        for place, value in enumerate(series[1:], start=1)
    ]
    for _, name, place in sorted(waiting, key=lambda one: (-one[0], one[1], one[2])):
        if numbers[name] <= left and ranks[name] == place:
            ranks[name] += 1
            left -= numbers[name]
    return ranks


def truncate_lora(tensors: Tensors, budget: int) -> tuple[Tensors, float]:
    """Write the changes of a LoRA in fewer ranks.

    Args:
        tensors: in diffusers' names, `LAYER.lora_A.weight` and `lora_B`, without alphas.
        budget: numbers of all layers together.

    Returns:
        The tensors, float16, and the share of the changes' squares that stays.

    Raises:
        TrainingError: the budget is too small.
    """
    layers = sorted(name.removesuffix(".lora_A.weight") for name in tensors if name.endswith(".lora_A.weight"))
    changes = {name: _decompose(tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"]) for name in layers}
    values = {name: change.values for name, change in changes.items()}
    ranks = choose_ranks(values, {name: change.numbers for name, change in changes.items()}, budget)
    result: Tensors = {}
    for name, change in changes.items():
        rank = ranks[name]
        root = change.values[:rank].sqrt()
        down, up = root[:, None] * change.right[:rank], change.left[:, :rank] * root
        result[f"{name}.lora_A.weight"] = down.reshape(rank, *change.down_shape[1:]).half().contiguous()
        result[f"{name}.lora_B.weight"] = up.reshape(change.up_shape[0], rank, *change.up_shape[2:]).half().contiguous()
    squares = sum(float(series.square().sum()) for series in values.values())
    return result, sum(float(values[name][: ranks[name]].square().sum()) for name in layers) / squares


def _decompose(down: torch.Tensor, up: torch.Tensor) -> _Change:
    """The singular values of B A, without the product itself."""
    tall, small = torch.linalg.qr(up.double().flatten(1))
    wide, other = torch.linalg.qr(down.double().flatten(1).T)
    left, values, right = torch.linalg.svd(small @ other.T)
    return _Change(tall @ left, values, right @ wide.T, down.shape, up.shape)


def main(arguments: list[str] | None = None) -> None:
    """Read a file, write the smaller one, and say what of it stays."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--numbers", type=int, required=True, help="of all layers together; each takes two bytes")
    options = parser.parse_args(arguments)
    with safe_open(options.source, "pt") as file:
        metadata = file.metadata()
    tensors, share = truncate_lora(load_file(options.source), options.numbers)
    save_file(tensors, options.output, metadata)
    print(f"{options.output.stat().st_size} bytes of {options.source.stat().st_size}; {share:.4f} of the squares stay")


if __name__ == "__main__":
    main()
