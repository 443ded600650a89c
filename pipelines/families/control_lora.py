"""A Control-LoRA: a ControlNet stored as low-rank changes of the UNet that it steers."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import torch

from pipelines.core.errors import ModelError
from pipelines.core.gradients import no_grad

__all__ = ["ControlLora"]


class ControlLora(torch.nn.Module):
    """Runs a ControlNet whose weights are the UNet's own plus products of two small matrices.

    Each layer's weight is W + up down, with W of the UNet's layer of the same name. What only a ControlNet has (what
    reads the map, and the layers that its outputs go through) is stored whole, and so may any other tensor be.

    Args:
        controlnet: with those whole tensors in it.
        whole: their names.
        low_rank: name of a weight to (up, down), (out, r) and (r, in) and, of a convolution, of as many dimensions as
            its weight.

    Source: the format of Stability AI's Control-LoRAs for SDXL, whose layers ComfyUI (0.3.64, comfy/controlnet.py)
        computes so.
    """

    def __init__(
        self,
        controlnet: torch.nn.Module,
        whole: frozenset[str],
        low_rank: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
    ):
        super().__init__()
        self.controlnet = controlnet
        self._whole, self._names = whole, tuple(low_rank)
        self._ups = torch.nn.ParameterList(up for up, _ in low_rank.values())
        self._downs = torch.nn.ParameterList(down for _, down in low_rank.values())
        self._network: weakref.ReferenceType[torch.nn.Module] | None = None

    @property
    def config(self) -> Any:
        """The ControlNet's."""
        return self.controlnet.config

    @no_grad
    def complete(self, network: torch.nn.Module) -> None:
        """Take the UNet's weights, unless they were taken already.

        Raises:
            ModelError: the UNet has other layers, or its weights are packed.
        """
        if self._network is not None and self._network() is network:
            return
        own = network.state_dict()
        changes = dict(zip(self._names, zip(self._ups, self._downs, strict=True), strict=True))
        for name, parameter in self.controlnet.named_parameters():
            if name in self._whole:
                continue
            base = own.get(name)
            if base is None or base.shape != parameter.shape or not base.is_floating_point():
                raise ModelError(
                    f"The Control-LoRA changes the UNet's own weights, and {name[:80]} is missing there, of another "
                    "shape or packed. Choose the model in full precision, or a ControlNet that is stored whole."
                )
            parameter.copy_(base)
            if name in changes:
                up, down = (one.flatten(1).to(parameter.device, torch.float32) for one in changes[name])
                parameter.add_((up @ down).reshape(parameter.shape).to(parameter.dtype))
        self._network = weakref.ref(network)

    def forward(self, *arguments: object, **options: object) -> Any:
        """Run the ControlNet, which `complete` has made."""
        return self.controlnet(*arguments, **options)
