"""What an accelerator changes of PyTorch while it stands in: dispatch, functions and their names."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests.pipelines.device_streams import StandInStream
from tests.pipelines.device_tensors import (
    KINDS,
    DeviceTensor,
    has_device_tensor,
    map_leaves,
    unwrap,
)

if TYPE_CHECKING:
    from tests.pipelines.accelerator import Accelerator


def compute_attention(func: Any, args: Any, kwargs: dict[str, Any]) -> torch.Tensor:
    """Attention, for which PyTorch asks the device before it dispatches: the CPU's own kernel, the formula where
    gradients are wanted."""
    tensors = [one for one in (*args, *kwargs.values()) if isinstance(one, torch.Tensor)]
    if any(one.requires_grad for one in tensors) and torch.is_grad_enabled():
        return torch.ops.aten._scaled_dot_product_attention_math(*args, **kwargs)[0]
    owner = next(one.owner for one in tensors if isinstance(one, DeviceTensor))
    owner.require_one_device(func, "attention", tensors)
    owner.launch("attention", [one for one in tensors if isinstance(one, DeviceTensor)], [])
    with owner.aside():
        card = next(one.card for one in tensors if isinstance(one, DeviceTensor))
        return DeviceTensor(func(*map_leaves(unwrap, args), **map_leaves(unwrap, kwargs)), owner, card)


class DeviceDispatch(TorchDispatchMode):
    """Sees what makes tensors on the device, and copies to it, which begin with tensors of the CPU."""

    # In the place of FakeTensorMode, while which is on PyTorch starts no driver.
    _mode_key = torch._C._TorchDispatchModeKey.FAKE

    def __init__(self, owner: Accelerator):
        super().__init__()
        self.owner = owner

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.owner.run(func, args, kwargs or {})


class DeviceNames(TorchFunctionMode):
    """Gives a device without an index its own, which PyTorch would ask a driver for; pins memory without one."""

    def __init__(self, owner: Accelerator):
        super().__init__()
        self._owner = owner

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.pin_memory:
            pinned = args[0].clone()
            pinned.pinned = True
            return pinned
        if func is torch.Tensor.is_pinned:
            return getattr(args[0], "pinned", False)
        kwargs = {key: self._indexed(value) for key, value in (kwargs or {}).items()}
        if func is torch.nn.functional.scaled_dot_product_attention and has_device_tensor((*args, *kwargs.values())):
            return compute_attention(func, args, kwargs)
        return func(*(self._indexed(value) for value in args), **kwargs)

    def _indexed(self, value: Any) -> Any:
        if isinstance(value, str) and value in KINDS:
            return torch.device(value, self._owner.current)
        if isinstance(value, torch.device) and value.type in KINDS and value.index is None:
            return torch.device(value.type, self._owner.current)
        return value


def replaced_functions(owner: Accelerator) -> Any:
    """What torch asks of the driver, in its place: events whose times are the host's, and waits, which are logged."""

    class Event:
        def __init__(self, *_: Any, **__: Any):
            self.at, self.number = 0.0, 0
            self.moment: dict[int, int] = {}

        def record(self, stream: StandInStream | None = None) -> None:
            self.at, self.number = time.perf_counter() + owner.behind, owner.record()
            self.moment = owner.streams.reach(owner.streams.current if stream is None else stream.number)

        def synchronize(self) -> None:
            owner.wait_for(self.number, self.moment)

        def wait(self, stream: StandInStream | None = None) -> None:
            owner.streams.wait(owner.streams.current if stream is None else stream.number, self.moment)

        def elapsed_time(self, end: Any) -> float:
            return 1000 * (end.at - self.at)

    def run_on_device(thread: threading.Thread) -> None:
        # Of each thread its own, as in `Accelerator.on`; the thread ends with it.
        torch._C._set_only_lift_cpu_tensors(True)
        with DeviceNames(owner), DeviceDispatch(owner):
            run(thread)

    stack, run = contextlib.ExitStack(), threading.Thread.run
    name = owner.device.type
    module: Any = getattr(torch, name)
    replaced: list[tuple[Any, str, Any]] = [(module, "synchronize", lambda *_: owner.wait())]
    replaced += [(module, "empty_cache", lambda: None), (threading.Thread, "run", run_on_device)]
    if name == "mps":
        replaced += [(torch.mps.event, "Event", Event), (module, "recommended_max_memory", lambda: 24 * 10**9)]
        replaced += [(module, "driver_allocated_memory", lambda: 4 * 10**9)]
        replaced += [(module, "current_allocated_memory", lambda: 3 * 10**9)]
    else:
        streams = owner.streams
        replaced += [(module, "Stream", lambda *_, **__: owner.make_stream()), (module, "stream", streams.applied)]
        replaced += [(module, "current_stream", lambda *_: StandInStream(streams, streams.current))]
        replaced += [(module, "Event", Event), (module, "mem_get_info", lambda *_: (20 * 10**9, 24 * 10**9))]
    if name == "cuda":
        replaced += [(module, "get_device_capability", lambda *_: (8, 9))]
        replaced += [(module, "device", owner.applied), (module, "device_count", lambda: owner.count)]
    for place, attribute, stand_in in replaced:
        stack.callback(setattr, place, attribute, getattr(place, attribute))
        setattr(place, attribute, stand_in)
    return stack
