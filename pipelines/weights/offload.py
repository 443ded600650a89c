"""Parts that wait in the computer's memory and come to the device for the call."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = ["Slot", "offloaded", "streamed"]


def _move(module: torch.nn.Module, device: str) -> None:
    module.to(device)


class Slot:
    """Gives room on the device for one part at a time; the last one called stays until another needs the room.

    Args:
        device: where calls run.
        move: moves a module to a device; tests stand in for it.
    """

    def __init__(self, device: str, move: Callable[[torch.nn.Module, str], None] = _move):
        self.device, self._move = device, move
        self.holds: torch.nn.Module | None = None

    def bring(self, module: torch.nn.Module) -> None:
        """Bring the module to the device, and the one that was there back."""
        if self.holds is not module:
            self.clear()
            self._move(module, self.device)
            self.holds = module

    def clear(self) -> None:
        """Move whatever is there back to the computer's memory."""
        if self.holds is not None:
            self._move(self.holds, "cpu")
            self.holds = None


def offloaded(module: torch.nn.Module, slot: Slot) -> torch.nn.Module:
    """Return the module, made to come to the slot's device when it is called and to take its inputs along.

    The hook stays for as long as the module is loaded, so that several jobs may share it.
    """
    from accelerate.hooks import ModelHook, add_hook_to_module
    from accelerate.utils import send_to_device

    class ToSlot(ModelHook):
        # diffusers reads this to know where inputs belong.
        execution_device = slot.device

        def pre_forward(self, module: torch.nn.Module, *args: object, **kwargs: Any) -> tuple:
            slot.bring(module)
            return send_to_device(args, slot.device), send_to_device(kwargs, slot.device)

    return add_hook_to_module(module, ToSlot())


def streamed(module: torch.nn.Module, device: str) -> torch.nn.Module:
    """Return the module, whose layers come to the device one at a time when they are called.

    Without diffusers' streams, which keep copies of the weights that a LoRA would not reach.

    Source: diffusers, `diffusers.hooks.group_offloading`, "leaf_level".
    """
    import torch
    from diffusers.hooks import apply_group_offloading

    apply_group_offloading(module, torch.device(device), offload_type="leaf_level")
    return module
