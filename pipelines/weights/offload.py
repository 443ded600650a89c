"""Parts that wait in the computer's memory and come to the device for the call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["Slot", "offloaded"]


def _move(module: Any, device: Any) -> None:
    module.to(device)


class Slot:
    """Room on the device for one part at a time; the last one called stays until another needs the room.

    Args:
        device: where calls run.
        move: moves a module to a device; tests stand in for it.
    """

    def __init__(self, device: Any, move: Callable[[Any, Any], None] = _move):
        self.device, self._move = device, move
        self.holds: Any = None

    def bring(self, module: Any) -> None:
        """The module to the device, the one that was there back."""
        if self.holds is not module:
            self.clear()
            self._move(module, self.device)
            self.holds = module

    def clear(self) -> None:
        """Whatever is there back to the computer's memory."""
        if self.holds is not None:
            self._move(self.holds, "cpu")
            self.holds = None


def offloaded(module: Any, slot: Slot) -> Any:
    """The module, made to come to the slot's device when it is called and to take its inputs along.

    The hook stays for as long as the module is loaded, so that several jobs may share it.
    """
    from accelerate.hooks import ModelHook, add_hook_to_module
    from accelerate.utils import send_to_device

    class ToSlot(ModelHook):
        # diffusers reads this to know where inputs belong.
        execution_device = slot.device

        def pre_forward(self, module: Any, *args: Any, **kwargs: Any) -> tuple:
            slot.bring(module)
            return send_to_device(args, slot.device), send_to_device(kwargs, slot.device)

    return add_hook_to_module(module, ToSlot())
