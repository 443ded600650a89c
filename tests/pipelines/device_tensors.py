"""Tensors that say they are on another device, and refuse what that device would refuse."""

from __future__ import annotations

import collections
import dataclasses
import functools
import sys
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from tests.pipelines.accelerator import Accelerator

KINDS = ("cuda", "mps", "xpu")

MAY_MIX = {"copy_", "_to_copy", "index", "index_put", "index_put_", "_index_put_impl_", "detach", "lift_fresh", "set_"}
NO_HOST_SCALARS = {"addmm", "mm", "bmm", "baddbmm", "convolution", "cat", "stack", "embedding"}
WAITED_FOR = {
    *("nonzero", "masked_select", "unique_dim", "_unique2", "_local_scalar_dense", "equal", "is_nonzero", "bincount"),
    "allclose",
}
_HALF = (torch.float16, torch.bfloat16)


class Refused(RuntimeError):
    """Raised where a device would refuse."""


@dataclasses.dataclass(frozen=True)
class Crossing:
    """Something that passes between host and device.

    Attributes:
        kind: "upload", "download" or "wait" (the host stands still until the device has done all before).
        blocks: whether the host stands still for it.
        bytes: that are copied; 0 for a wait.
        place: file and line of ours that asked for it.
    """

    kind: str
    blocks: bool
    bytes: int
    place: str


def list_leaves(value: Any) -> list[Any]:
    """What tuples, lists and dicts within each other hold: arguments of an operation know no other containers, and
    PyTorch's own walk over them took two thirds of the stand-in's time."""
    leaves: list[Any] = []
    _gather_leaves(value, leaves)
    return leaves


def _gather_leaves(value: Any, leaves: list[Any]) -> None:
    if isinstance(value, (tuple, list)):
        for one in value:
            _gather_leaves(one, leaves)
    elif isinstance(value, dict):
        for one in value.values():
            _gather_leaves(one, leaves)
    else:
        leaves.append(value)


def map_leaves(function: Callable[[Any], Any], value: Any) -> Any:
    """The same containers with the function of what they hold."""
    kind = type(value)
    if kind is tuple or kind is list:
        return kind([map_leaves(function, one) for one in value])
    if kind is dict:
        return {name: map_leaves(function, one) for name, one in value.items()}
    # A named tuple of PyTorch's takes its fields as one sequence, and a size is one value.
    if isinstance(value, tuple) and kind is not torch.Size:
        return kind([map_leaves(function, one) for one in value])
    return function(value)


def find_our_line() -> str:
    """The nearest line in pipelines/ or studio/ that asked."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        for package in ("/pipelines/", "/studio/"):
            if package in name and "/tests/" not in name and "site-packages" not in name:
                return f"{package[1:]}{name.rpartition(package)[2]}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"


class Meter:
    """Counts the bytes of a device's tensors while they are made and let go, each storage once.

    Attributes:
        bytes: that there are now.
        peak: that there were at most.
    """

    def __init__(self, bytes_before: int) -> None:
        self.bytes = self.peak = bytes_before
        self._counts: collections.Counter[int] = collections.Counter()

    def add(self, tensor: DeviceTensor) -> None:
        """Count a tensor for as long as it is there."""
        storage = tensor.held.untyped_storage()
        place, size = storage.data_ptr(), storage.nbytes()
        if not self._counts[place]:
            self.bytes += size
            self.peak = max(self.peak, self.bytes)
        self._counts[place] += 1
        weakref.finalize(tensor, self._drop, place, size)

    def _drop(self, place: int, size: int) -> None:
        self._counts[place] -= 1
        if not self._counts[place]:
            self.bytes -= size


class DeviceTensor(torch.Tensor):
    """A tensor of the stand-in device; its numbers are those of `held`, which lies on the CPU."""

    held: torch.Tensor
    owner: Accelerator
    card: torch.device

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: torch.Tensor, owner: Accelerator, card: torch.device | None = None) -> DeviceTensor:
        card = card or owner.device
        beneath = owner.beneath if card == owner.device else card
        made = torch.Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), dtype=held.dtype, device=beneath
        )
        made.held, made.owner, made.card = held, owner, card
        if owner.meter is not None:
            owner.meter.add(made)
        if owner.streams.is_watching:
            owner.streams.hold(made, made.data_ptr_of_memory(), is_new=True)
        return made

    def data_ptr_of_memory(self) -> int:
        """Where its memory begins, which it may share with views."""
        return self.held.untyped_storage().data_ptr()

    def record_stream(self, stream: Any) -> None:
        self.owner.streams.record(self.data_ptr_of_memory(), stream)

    @property
    def device(self) -> torch.device:
        return self.card

    @property
    def is_cuda(self) -> bool:
        return self.owner.device.type == "cuda"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        owner = next(one.owner for one in list_leaves((args, kwargs)) if isinstance(one, DeviceTensor))
        return owner.run(func, args, kwargs or {})

    def __repr__(self, **_: Any) -> str:
        return f"DeviceTensor({tuple(self.shape)}, {self.dtype}, {self.device})"

    def _read(self) -> torch.Tensor:
        """The numbers on the host, which has waited for them."""
        self.owner.wait()
        return self.held

    # What Python asks a tensor for without a dispatch, or with a device guard that a build for the CPU has not.

    def item(self) -> Any:
        return self._read().item()

    def tolist(self) -> Any:
        return self._read().tolist()

    def __bool__(self) -> bool:
        return bool(self._read())

    def __float__(self) -> float:
        return float(self._read())

    def __int__(self) -> int:
        return int(self._read())

    def __index__(self) -> int:
        return self._read().__index__()

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise Refused(f"can't convert {self.device} tensor to numpy at {find_our_line()}: copy it to host memory first")

    def __array__(self, *_: Any, **__: Any) -> Any:
        return self.numpy()

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(self.unbind(0))

    def nonzero(self) -> torch.Tensor:
        return torch.ops.aten.nonzero(self)

    def contiguous(self, memory_format: torch.memory_format = torch.contiguous_format) -> torch.Tensor:
        same = self.is_contiguous(memory_format=memory_format)
        return self if same else torch.clone(self, memory_format=memory_format)

    def new_tensor(self, data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Any:
        return torch.tensor(data, dtype=dtype or self.dtype, device=device or self.device, requires_grad=requires_grad)

    def __getitem__(self, index: Any) -> torch.Tensor:
        if self.requires_grad and torch.is_grad_enabled():
            return super().__getitem__(index)
        with self.owner.aside():
            return DeviceTensor(self.held[map_leaves(self._as_index, index)], self.owner, self.card)

    def __setitem__(self, index: Any, value: Any) -> None:
        if isinstance(value, torch.Tensor) and not isinstance(value, DeviceTensor) and value.ndim:
            self.owner.crosses("upload", value)
        self.owner.launch("setitem", [one for one in (self, value) if isinstance(one, DeviceTensor)], [self])
        with self.owner.aside():
            self.held[map_leaves(self._as_index, index)] = unwrap(value)

    def _as_index(self, index: Any) -> Any:
        if isinstance(index, DeviceTensor) and index.dtype == torch.bool:
            self.owner.wait()
        elif isinstance(index, torch.Tensor) and not isinstance(index, DeviceTensor) and index.ndim:
            self.owner.crosses("upload", index)
        return unwrap(index)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        made: Any = DeviceTensor(self.held.clone(), self.owner, self.card)
        if getattr(self, "_is_param", False):
            made = torch.nn.Parameter(made, requires_grad=self.requires_grad)
        memo[id(self)] = made
        return made

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def untyped_storage(self) -> Any:
        return self.held.untyped_storage()

    @property
    def data(self) -> DeviceTensor:
        return DeviceTensor(self.held.detach(), self.owner, self.card)

    @data.setter
    def data(self, value: torch.Tensor) -> None:
        if not isinstance(value, DeviceTensor):
            raise Refused(f"a parameter on {self.device} is given data of the CPU at {find_our_line()}")
        torch.Tensor.data.__set__(self, value)  # type: ignore[attr-defined]
        self.held, self.card = value.held, value.card


def is_device_tensor(value: Any) -> bool:
    """Whether an object of any kind is one of the stand-in's; proxies answer for others when asked for their class."""
    return isinstance(type(value), type) and issubclass(type(value), DeviceTensor)


def unwrap(value: Any) -> Any:
    return value.held if isinstance(value, DeviceTensor) else value


def has_device_tensor(values: Any) -> bool:
    return any(isinstance(one, DeviceTensor) for one in values)


@functools.cache
def list_argument_names(func: Any) -> frozenset[str]:
    return frozenset(argument.name for argument in func._schema.arguments)


def compute_on_cpu(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The operation on the CPU; through float32 where the CPU has no kernel for half precision."""
    try:
        return func(*args, **kwargs)
    except RuntimeError as error:
        if "not implemented for" not in str(error) and "could not create a primitive" not in str(error):
            raise
    halves = [one.dtype for one in list_leaves((args, kwargs)) if isinstance(one, torch.Tensor) and one.dtype in _HALF]

    def up(value: Any) -> Any:
        return value.float() if isinstance(value, torch.Tensor) and value.dtype in _HALF else value

    def down(value: Any) -> Any:
        return value.to(halves[0]) if isinstance(value, torch.Tensor) and value.dtype == torch.float32 else value

    result = func(*map_leaves(up, args), **map_leaves(up, kwargs))
    return map_leaves(down, result) if halves else result
