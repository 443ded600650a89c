"""A stand-in for an accelerator: tensors that say `cuda:0`, `mps:0` or `xpu:0`, hold real numbers on the CPU, and
refuse what a device refuses.

Refused are a mix with tensors of the CPU or of another device, a generator of the CPU, `.numpy()`, and float64 on MPS.
Every copy between host and device and every wait of the host is logged with the line of ours that asked for it. What a
non-blocking download brings is garbage until the host has waited, as on a real device.

Once there is a side stream, what one stream uses before it has waited for another is refused, too, and what is let go
while another reads it stands in `streams.races` (`device_streams.py`).

It says nothing of kernels, overflow or allocators: those need a device."""

from __future__ import annotations

import contextlib
import gc
import math
import threading
from collections.abc import Iterator
from typing import Any

import torch

from tests.pipelines.accelerator_modes import DeviceDispatch, DeviceNames, replaced_functions
from tests.pipelines.device_streams import StandInStream, Streams
from tests.pipelines.device_tensors import (
    KINDS,
    MAY_MIX,
    NO_HOST_SCALARS,
    WAITED_FOR,
    Crossing,
    DeviceTensor,
    Meter,
    Refused,
    compute_on_cpu,
    find_our_line,
    is_device_tensor,
    list_argument_names,
    list_leaves,
    map_leaves,
    unwrap,
)

__all__ = ["Accelerator", "Crossing", "DeviceTensor", "Refused"]


class Accelerator:
    """One stand-in device.

    Args:
        kind: "cuda", "mps" or "xpu".
        count: how many cards of the kind there are; they hold no tensor in common.
        gradients: whether autograd runs on it. That asks the device underneath for a guard, which a build for the CPU
            has for "meta" but for no accelerator; then nothing can be moved to the real "meta".

    Attributes:
        beneath: the device that PyTorch's own code sees.
        log: everything that crossed, in order.
        meter: counts the bytes of tensors that are made, where a test asks for it.
        streams: what side streams use, once there is one.
        behind: seconds of work that the device is told to have before it; its events tell their time behind that.
    """

    def __init__(self, kind: str, gradients: bool = False, count: int = 1):
        self.device = torch.device(kind, 0)
        self.beneath = torch.device("meta") if gradients else self.device
        self.count, self._threads = count, threading.local()
        self.log: list[Crossing] = []
        self.behind = 0.0
        self.meter: Meter | None = None
        self.streams = Streams()
        self._arriving: list[tuple[int, torch.Tensor, torch.Tensor, tuple[int, int]]] = []
        self._launched = self._passed = 0

    @property
    def current(self) -> int:
        """The number of the card that this thread means where it names none."""
        return getattr(self._threads, "current", 0)

    @contextlib.contextmanager
    def applied(self, device: torch.device) -> Iterator[None]:
        """Make a card the current one of this thread."""
        before, self._threads.current = self.current, device.index or 0
        try:
            yield
        finally:
            self._threads.current = before

    @contextlib.contextmanager
    def on(self) -> Iterator[Accelerator]:
        """The device is there while the context lasts, in this thread and in those that are started meanwhile."""
        before = torch._C._only_lift_cpu_tensors()
        overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
        with contextlib.ExitStack() as stack:
            stack.callback(torch._C._set_only_lift_cpu_tensors, before)
            stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, overwrite)
            torch._C._set_only_lift_cpu_tensors(True)
            torch.__future__.set_overwrite_module_params_on_conversion(True)
            stack.enter_context(replaced_functions(self))
            stack.enter_context(DeviceNames(self))
            stack.enter_context(DeviceDispatch(self))
            yield self

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """What runs in the context is the CPU's own work."""
        with torch._C._DisableTorchDispatch(), torch._C.DisableTorchFunction():
            yield

    @contextlib.contextmanager
    def measuring(self) -> Iterator[Meter]:
        """Count the bytes of what is made on the device while the context lasts, beside what is there already."""
        gc.collect()
        self.meter = Meter(self.allocated())
        try:
            yield self.meter
        finally:
            self.meter = None

    @staticmethod
    def allocated() -> int:
        """Bytes of all tensors of stand-ins that there are, each storage once."""
        storages = [
            one.untyped_storage() for one in gc.get_objects() if type(one) is DeviceTensor or is_device_tensor(one)
        ]
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())

    def waits(self, since: int = 0) -> list[Crossing]:
        """Everything in the log, from an index on, for which the host stood still."""
        return [one for one in self.log[since:] if one.blocks]

    def wait(self) -> None:
        """The host stands still until all is done; what non-blocking copies brought is there."""
        self.log.append(Crossing("wait", True, 0, find_our_line()))
        self.streams.synchronize()
        self._pass(self._launched)

    def record(self) -> int:
        """Set an event behind all that was launched; its number."""
        self._launched += 1
        return self._launched

    def wait_for(self, event: int, moment: dict[int, int]) -> None:
        """The host stands still until the device has passed an event; not where it has."""
        self.streams.wait(None, moment)
        if event > self._passed:
            self.log.append(Crossing("wait", True, 0, find_our_line()))
            self._pass(event)

    def _pass(self, event: int) -> None:
        self._passed = max(self._passed, event)
        late = []
        for number, target, numbers, done in self._arriving:
            if number <= self._passed and (not self.streams.is_watching or self.streams.has_passed(done)):
                target.copy_(numbers)
            else:
                late.append((number, target, numbers, done))
        self._arriving = late

    def crosses(self, kind: str, tensor: torch.Tensor, blocks: bool = True) -> None:
        """Log a copy; a blocking one waits for all before it."""
        self.log.append(Crossing(kind, blocks, tensor.numel() * tensor.element_size(), find_our_line()))
        if blocks:
            self.streams.wait(None, self.streams.reach(self.streams.current))
            self._pass(self._launched)

    def make_stream(self) -> StandInStream:
        """Make a side stream; from the first on, what streams use is watched."""
        if not self.streams.is_watching:
            for one in [one for one in gc.get_objects() if is_device_tensor(one)]:
                self.streams.hold(one, one.data_ptr_of_memory())
        return StandInStream(self.streams)

    def launch(self, func: Any, reads: list[Any], writes: list[Any]) -> None:
        """Watch an operation of the current stream, once there is a side stream."""
        if self.streams.is_watching:
            addresses = [[one.data_ptr_of_memory() for one in some] for some in (reads, writes)]
            self.streams.launch(str(func), *addresses)

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """One operation, on the numbers that the tensors hold."""
        with self.aside():
            return self._run(func, args, kwargs)

    def _run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        name = func._schema.name.removeprefix("aten::")
        if name == "_has_compatible_shallow_copy_type":
            return False
        if name == "to":
            return self._to(func, args, kwargs)
        leaves = list_leaves((args, kwargs))
        mine = [one for one in leaves if isinstance(one, DeviceTensor)]
        wanted = self._device_of(kwargs.get("device"))
        place = wanted if wanted is not None else (mine[0].device if mine else None)
        if name == "_to_copy":
            return self._copied(func, args, kwargs)
        if name == "copy_":
            return self._copied_into(func, args, kwargs)
        if mine:
            self.require_one_device(func, name, leaves)
        generator = kwargs.get("generator")
        if generator is not None and place is not None and generator.device.type != place.type:
            raise Refused(
                f"expected a {place.type} generator and found a {generator.device.type} one at {find_our_line()}"
            )
        if mine and name in WAITED_FOR:
            self.wait()
        on_device = place is not None and place.type in KINDS
        if on_device:
            self._require_dtype(kwargs.get("dtype"), func)
        if mine and self.streams.is_watching and not func.is_view:
            self.launch(func, mine, self._list_written(func, args, kwargs))
        if wanted is not None and on_device:
            kwargs = {**kwargs, "device": torch.device("cpu"), "pin_memory": False}
            kwargs = {key: value for key, value in kwargs.items() if key in list_argument_names(func)}
        result = compute_on_cpu(func, map_leaves(unwrap, args), map_leaves(unwrap, kwargs))
        return self._wrapped(result, mine, func, place) if on_device else result

    @staticmethod
    def _list_written(func: Any, args: Any, kwargs: dict[str, Any]) -> list[DeviceTensor]:
        arguments = func._schema.arguments
        named = {**dict(zip((one.name for one in arguments), args, strict=False)), **kwargs}
        marked = [one.name for one in arguments if one.alias_info is not None and one.alias_info.is_write]
        return [leaf for name in marked for leaf in list_leaves(named.get(name)) if isinstance(leaf, DeviceTensor)]

    def _device_of(self, device: Any) -> torch.device | None:
        """A device as it is asked for; what is beneath the stand-in means the stand-in."""
        asked = None if device is None else torch.device(device)
        return self.device if asked == self.beneath else asked

    def _to(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """`Tensor.to` in inference mode, where PyTorch does not take it apart."""
        source, rest = args[0], list(args[1:])
        kind = func._overloadname
        device, dtype = kwargs.get("device"), kwargs.get("dtype")
        if kind == "device":
            device, dtype = rest[0], rest[1]
        elif kind == "dtype":
            dtype = rest[0]
        elif kind == "other":
            device, dtype = rest[0].device, rest[0].dtype
        blocking = {} if "non_blocking" not in kwargs else {"non_blocking": kwargs["non_blocking"]}
        given = {"device": self._device_of(device) or source.device, "dtype": dtype or source.dtype}
        flags = rest[2:] if kind == "device" else rest[1:]
        if flags and isinstance(flags[0], bool):
            blocking = {"non_blocking": flags[0]}
        if (given["device"], given["dtype"]) == (source.device, source.dtype) and not kwargs.get("copy"):
            return source
        return self._copied(torch.ops.aten._to_copy.default, (source,), {**given, **blocking})

    def _copied(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        source = args[0]
        target = self._device_of(kwargs.get("device")) or source.device
        if target.type in KINDS:
            self._require_dtype(kwargs.get("dtype") or source.dtype, func)
        held = unwrap(source)
        plain = {key: value for key, value in kwargs.items() if key not in {"device", "non_blocking", "pin_memory"}}
        result = (
            compute_on_cpu(func, (held,), plain) if target.type != "meta" else compute_on_cpu(func, (held,), kwargs)
        )
        if result is held or result.data_ptr() == held.data_ptr():
            result = held.clone()
        free = bool(kwargs.get("non_blocking"))
        self.launch(func, [source] if isinstance(source, DeviceTensor) else [], [])
        if source.device.type == target.type or "meta" in (source.device.type, target.type):
            pass
        elif target.type in KINDS:
            self.crosses("upload", result, not (free and getattr(source, "pinned", False)))
        else:
            self.crosses("download", result, not free)
            if free:
                result = self._late(result)
        return DeviceTensor(result, self, target) if target.type in KINDS else result

    def _late(self, result: torch.Tensor) -> torch.Tensor:
        """What a non-blocking download gives before the host has waited: anything."""
        garbage = torch.full_like(result, math.nan if result.is_floating_point() else 77)
        self._launched += 1
        self._arriving.append((self._launched, garbage, result, self.streams.last()))
        return garbage

    def _copied_into(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        target, source = args[0], args[1]
        free = bool(args[2] if len(args) > 2 else kwargs.get("non_blocking"))
        if mine := [one for one in (target, source) if isinstance(one, DeviceTensor)]:
            self.launch(func, mine, [one for one in mine if one is target])
        if isinstance(source, DeviceTensor) and not isinstance(target, DeviceTensor):
            free = free and getattr(target, "pinned", False)
            self.crosses("download", source, not free)
            if free:
                self._launched += 1
                numbers = source.held.clone().to(target.dtype)
                self._arriving.append((self._launched, target, numbers, self.streams.last()))
                target.fill_(math.nan if target.is_floating_point() else 77)
                return target
        elif isinstance(target, DeviceTensor) and not isinstance(source, DeviceTensor) and source.ndim:
            self.crosses("upload", source, not (free and getattr(source, "pinned", False)))
        compute_on_cpu(func, (unwrap(target), unwrap(source)), {})
        return target

    def require_one_device(self, func: Any, name: str, leaves: list[Any]) -> None:
        """Raise Refused where an operation mixes tensors of the device and of the CPU."""
        tensors = [one for one in leaves if isinstance(one, torch.Tensor)]
        cards = {one.device for one in tensors if isinstance(one, DeviceTensor)}
        if len(cards) > 1 and name not in {"copy_", "_to_copy"}:
            raise Refused(f"tensors of {sorted(map(str, cards))} are mixed in {func} at {find_our_line()}")
        hosts = [one for one in tensors if not isinstance(one, DeviceTensor) and one.device.type == "cpu"]
        if name in {"index", "index_put", "index_put_", "_index_put_impl_"}:
            if not isinstance(tensors[0], DeviceTensor):
                raise Refused(f"a tensor of the CPU is indexed by one on {self.device} in {func} at {find_our_line()}")
            for one in hosts:
                if one.ndim:
                    self.crosses("upload", one)
            if any(isinstance(one, DeviceTensor) and one.dtype == torch.bool for one in tensors[1:]):
                self.wait()
        elif name not in MAY_MIX:
            wrong = [tuple(one.shape) for one in hosts if one.ndim or name in NO_HOST_SCALARS]
            if wrong:
                raise Refused(f"{self.device} is mixed with tensors {wrong} of the CPU in {func} at {find_our_line()}")

    def _require_dtype(self, dtype: Any, func: Any) -> None:
        if dtype == torch.float64 and self.device.type == "mps":
            raise Refused(f"MPS has no float64, asked for by {func} at {find_our_line()}")

    def _wrapped(self, result: Any, mine: list[DeviceTensor], func: Any, card: torch.device) -> Any:
        same = {id(one.held): one for one in mine}

        def wrap(value: Any) -> Any:
            if not isinstance(value, torch.Tensor) or isinstance(value, DeviceTensor):
                return value
            if id(value) in same:
                return same[id(value)]
            self._require_dtype(value.dtype, func)
            return DeviceTensor(value, self, card)

        return map_leaves(wrap, result)
