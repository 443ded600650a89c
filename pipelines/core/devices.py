"""What differs between devices: their clocks, their copies, their memory and how they say that it is full."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

__all__ = [
    "Mark",
    "Readback",
    "Timer",
    "applied_device",
    "has_float64",
    "is_out_of_memory",
    "mark_time",
    "read_free_memory",
    "release_unused_memory",
    "synchronize",
    "upload",
]

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that memory ran out; MPS and the CPU raise a plain RuntimeError for it."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _OUT_OF_MEMORY)


def has_float64(device: torch.device) -> bool:
    """Say whether a device computes in float64, which Apple's does not."""
    return device.type != "mps"


def _module(device: torch.device) -> Any:
    """torch.cuda, torch.mps or torch.xpu."""
    return getattr(torch, device.type)


def release_unused_memory(device: torch.device) -> None:
    """Give memory that PyTorch keeps for later back to the device, whatever device it is."""
    if device.type in ("cuda", "mps", "xpu"):
        _module(device).empty_cache()


def read_free_memory(device: torch.device) -> int | None:
    """Read the bytes that a device can still give, those included that PyTorch keeps for later; of the CPU, what the
    system says it could give without swapping. None where nobody tells."""
    if device.type in ("cuda", "xpu"):
        module = _module(device)
        kept = module.memory_reserved(device) - module.memory_allocated(device)
        return int(module.mem_get_info(device)[0] + max(0, kept))
    if device.type == "mps":
        return max(0, int(torch.mps.recommended_max_memory()) - int(torch.mps.current_allocated_memory()))
    if device.type != "cpu":
        return None
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)


def synchronize(device: torch.device) -> None:
    """Wait until a device has done all that it was given; on the CPU everything is done already."""
    if device.type == "mps":
        torch.mps.synchronize()
    elif device.type in ("cuda", "xpu"):
        _module(device).synchronize(device)


def applied_device(name: str) -> contextlib.AbstractContextManager[Any]:
    """Make a card the current one of this thread while the context lasts: events and kernels of libraries go there.

    Args:
        name: "cuda:1", ...; one without an index, or with 0, is what each thread begins with.
    """
    device = torch.device(name)
    if device.type in ("cuda", "xpu") and device.index:
        context: contextlib.AbstractContextManager[Any] = _module(device).device(device)
        return context
    return contextlib.nullcontext()


def upload(tensor: torch.Tensor, device: torch.device, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Copy a tensor of the CPU to a device without waiting for what the device still has to do.

    Args:
        tensor: on the CPU.
        device: where it is wanted.
        dtype: of the copy; None for the tensor's own.

    Returns:
        The copy; the tensor itself where nothing has to change.
    """
    tensor = tensor.to(dtype or tensor.dtype)
    if device.type in ("cuda", "xpu"):
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class Mark:
    """A moment in a device's work: on the CPU the time, elsewhere an event that the device passes."""

    def __init__(self, device: torch.device):
        self._event: Any = None
        self._at = 0.0
        if device.type in ("cuda", "mps", "xpu"):
            module = _module(device)
            self._event = (module.event if device.type == "mps" else module).Event(enable_timing=True)
            self._event.record()
        else:
            self._at = time.perf_counter()

    def wait(self) -> None:
        """Wait until the device has passed it."""
        if self._event is not None:
            self._event.synchronize()

    def seconds_since(self, earlier: Mark) -> float:
        """Find the seconds from an earlier moment of the same device to this; waits until it has passed both."""
        if self._event is None:
            return self._at - earlier._at
        self._event.synchronize()
        milliseconds: float = earlier._event.elapsed_time(self._event)
        return milliseconds / 1000


def mark_time(device: torch.device) -> Mark:
    """Mark the present moment in a device's work."""
    return Mark(device)


class Timer:
    """Adds up spans of a device's work. They are read off the device when somebody asks, so that nobody waits before.

    On a device the host only launches work, so the host's own clock would tell the time of launching.
    """

    def __init__(self) -> None:
        self._spans: list[tuple[Mark, Mark, float]] = []
        self._sums = [0.0]

    def add(self, start: Mark, end: Mark, share: float = 1.0) -> None:
        """Count a share of the time between two moments."""
        self._spans.append((start, end, share))

    def reading(self) -> Callable[[], float]:
        """Make a function that gives the seconds of all spans that there are now."""
        count = len(self._spans)
        return lambda: self._seconds(count)

    @property
    def seconds(self) -> float:
        """Seconds of all spans so far; waits for the device."""
        return self._seconds(len(self._spans))

    def _seconds(self, count: int) -> float:
        while len(self._sums) <= count:
            start, end, share = self._spans[len(self._sums) - 1]
            self._sums.append(self._sums[-1] + share * end.seconds_since(start))
        return self._sums[count]


class Readback:
    """Tensors on their way to the host, all in one copy that does not block; of the CPU, the tensors themselves.

    Args:
        tensors: on one device.
    """

    def __init__(self, tensors: Sequence[torch.Tensor]):
        self._shapes = [(tensor.shape, tensor.dtype) for tensor in tensors]
        self._tensors: Sequence[torch.Tensor] | None = None
        device = tensors[0].device
        if device.type == "cpu":
            self._tensors = tensors
            return
        packed = torch.cat([tensor.contiguous().flatten().view(torch.uint8) for tensor in tensors])
        # On CUDA PyTorch makes the target of such a copy in pinned memory.
        self._packed = packed.to("cpu", non_blocking=True)
        self._arrival = Mark(device)

    def tensors(self) -> Sequence[torch.Tensor]:
        """The tensors on the CPU; waits until they have arrived."""
        if self._tensors is None:
            self._arrival.wait()
            found, start = [], 0
            for shape, dtype in self._shapes:
                stop = start + shape.numel() * dtype.itemsize
                # A copy begins at an address that suits every dtype.
                found.append(self._packed[start:stop].clone().view(dtype).reshape(shape))
                start = stop
            self._tensors = found
        return self._tensors
