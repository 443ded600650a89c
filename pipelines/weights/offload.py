"""Parts that wait in the computer's memory and come to the device for the call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pipelines.weights.prefetch import Prefetch

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

        def pre_forward(self, module: torch.nn.Module, *args: object, **kwargs: object) -> tuple:
            slot.bring(module)
            return send_to_device(args, slot.device), send_to_device(kwargs, slot.device)

    return add_hook_to_module(module, ToSlot())


def streamed(module: torch.nn.Module, device: str) -> torch.nn.Module:
    """Return the module, whose weights stay in the computer's memory; each layer's come to the device for its call.

    Nothing is copied back: after a call the layer has the tensors again that it had before, so that a LoRA may change
    them between calls. On GPUs of NVIDIA, AMD and Intel the next layer's come while the present one computes.

    Args:
        module: whose parameters are on the CPU.
        device: where calls run.

    Source: diffusers, `diffusers.hooks.group_offloading`, "leaf_level".
    Differs: diffusers copies the weights back after each call, or with streams keeps copies that a LoRA does not reach;
    streams are `prefetch.py`'s.
    """
    from accelerate.hooks import ModelHook, add_hook_to_module
    from accelerate.utils import send_to_device
    from torch.nn import MultiheadAttention

    ahead = Prefetch(device) if device.partition(":")[0] in ("cuda", "xpu") else None

    class ToDevice(ModelHook):
        # diffusers reads this to know where inputs belong.
        execution_device = device

        def pre_forward(self, module: torch.nn.Module, *args: object, **kwargs: object) -> tuple:
            if ahead is not None:
                ahead.begin()
            return send_to_device(args, device), send_to_device(kwargs, device)

    inside: set[torch.nn.Module] = set()
    for one in module.modules():
        if one in inside:
            continue
        if isinstance(one, MultiheadAttention):  # it reads its last layer's weights without calling it
            inside.update(one.modules())
            _Visit([*one.modules()], device, ahead).attach(one)
        elif one._parameters or one._buffers:
            _Visit([one], device, ahead).attach(one)
    return add_hook_to_module(module, ToDevice())


class _Visit:
    """The tensors of a layer on the device while it is called."""

    def __init__(self, modules: Sequence[torch.nn.Module], device: str, ahead: Prefetch | None):
        self._modules, self._device, self._ahead = modules, device, ahead
        self._waiting: list[tuple[dict, dict]] = []

    def attach(self, caller: torch.nn.Module) -> None:
        """Bring the tensors for each call of a module."""
        caller.register_forward_pre_hook(lambda module, args: self._bring(), prepend=True)
        caller.register_forward_hook(lambda module, args, output: self._leave(), always_call=True)

    def _bring(self) -> None:
        places: list[dict[str, Any]] = [held for one in self._modules for held in (one._parameters, one._buffers)]
        self._waiting = [(place, dict(place)) for place in places]
        tensors = [tensor for place in places for tensor in place.values() if tensor is not None]
        copies = iter(self._copy(tensors))
        for place in places:
            for name, tensor in place.items():
                place[name] = tensor if tensor is None else self._like(tensor, next(copies))

    def _copy(self, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        if self._ahead is not None:
            return self._ahead.bring(id(self), tensors)
        return [tensor.detach().to(self._device) for tensor in tensors]

    @staticmethod
    def _like(tensor: torch.Tensor, copied: torch.Tensor) -> torch.Tensor:
        from torch.nn import Parameter

        return Parameter(copied, requires_grad=False) if type(tensor) is Parameter else copied

    def _leave(self) -> None:
        for place, tensors in self._waiting:
            place.update(tensors)
        self._waiting = []
