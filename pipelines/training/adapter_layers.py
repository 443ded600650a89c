"""Trainable changes of a network's layers, and their tensors as kohya's scripts and LyCORIS name them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

import torch
import torch.nn.functional as F

__all__ = ["AdapterLayer", "LohaLayer", "LoraLayer", "applied", "attention_layers"]

AdaptableLayer: TypeAlias = torch.nn.Linear | torch.nn.Conv2d


class AdapterLayer(torch.nn.Module):
    """A trainable change of one layer, zero at first."""

    def delta(self) -> torch.Tensor:
        """The change, shaped like the layer's weight."""
        raise NotImplementedError

    def tensors(self) -> dict[str, torch.Tensor]:
        """What a file holds of it."""
        raise NotImplementedError


class LoraLayer(AdapterLayer):
    """scale * up @ down for one layer, zero at first.

    Args:
        layer: a linear layer or a convolution; its own weight is left alone.
        rank: of the product.

    Source: Hu et al., arXiv:2106.09685, section 4.1; alpha is the rank, so that the scale is 1.
    """

    def __init__(self, layer: AdaptableLayer, rank: int):
        super().__init__()
        shape = layer.weight.shape
        self.shape, self.rank = shape, rank
        self.down = torch.nn.Parameter(torch.empty(rank, *shape[1:]))
        self.up = torch.nn.Parameter(torch.zeros(shape[0], rank, *[1] * (len(shape) - 2)))
        torch.nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def delta(self) -> torch.Tensor:
        """The change, shaped like the layer's weight."""
        return (self.up.flatten(1) @ self.down.flatten(1)).reshape(self.shape)

    def tensors(self) -> dict[str, torch.Tensor]:
        """What a file holds of it."""
        alpha = torch.tensor(float(self.rank))
        return {"lora_down.weight": self.down, "lora_up.weight": self.up, "alpha": alpha}


class LohaLayer(AdapterLayer):
    """(w1_a @ w1_b) * (w2_a @ w2_b) for one layer, zero at first; arguments as of `LoraLayer`.

    Source: Hyeon-Woo et al., arXiv:2108.06098, equation 5; the first values are those of LyCORIS' modules/loha.py.
    """

    def __init__(self, layer: AdaptableLayer, rank: int):
        super().__init__()
        shape = layer.weight.shape
        self.shape, self.rank = shape, rank
        columns = math.prod(shape[1:])
        self.w1_a = torch.nn.Parameter(0.1 * torch.randn(shape[0], rank))
        self.w1_b = torch.nn.Parameter(torch.randn(rank, columns))
        self.w2_a = torch.nn.Parameter(torch.zeros(shape[0], rank))
        self.w2_b = torch.nn.Parameter(torch.randn(rank, columns))

    def delta(self) -> torch.Tensor:
        """The change, shaped like the layer's weight."""
        return ((self.w1_a @ self.w1_b) * (self.w2_a @ self.w2_b)).reshape(self.shape)

    def tensors(self) -> dict[str, torch.Tensor]:
        """What a file holds of it."""
        factors = {f"hada_{name}": part for name, part in self.named_parameters()}
        return {**factors, "alpha": torch.tensor(float(self.rank))}


def attention_layers(unet: torch.nn.Module) -> dict[str, AdaptableLayer]:
    """The layers of a UNet's transformers, and its first and last convolutions, by path."""
    return {
        path: module
        for path, module in unet.named_modules()
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d))
        and (".attentions." in path or path in {"conv_in", "conv_out"})
    }


@contextlib.contextmanager
def applied(unet: torch.nn.Module, changes: Iterable[AdapterLayer], paths: list[str]) -> Iterator[None]:
    """The network with its layers changed, differentiably, while the context lasts.

    Args:
        unet: whose layers are at `paths`.
        changes: one for each path.
        paths: of the layers.
    """
    handles = []
    try:
        for path, change in zip(paths, changes, strict=True):
            handles.append(unet.get_submodule(path).register_forward_hook(_adding(change)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _adding(change: AdapterLayer) -> Callable[..., torch.Tensor]:
    def hook(layer: AdaptableLayer, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        if isinstance(layer, torch.nn.Conv2d):
            return output + F.conv2d(given[0], change.delta(), None, layer.stride, layer.padding)
        return output + F.linear(given[0], change.delta())

    return hook
