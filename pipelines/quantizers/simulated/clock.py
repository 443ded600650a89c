"""The time of the present evaluation, for layers whose ranges depend on it."""

from __future__ import annotations

import inspect
from typing import Any, Protocol, runtime_checkable

import torch

__all__ = ["Clock", "ReadsTime", "attach_clock", "read_times"]


class Clock:
    """Holds the times of the rows of the network's present call, (B,), or (1,) where all rows share one."""

    def __init__(self) -> None:
        self.times: torch.Tensor | None = None

    def read(self, network: torch.nn.Module, args: tuple[object, ...], kwargs: dict[str, Any]) -> None:
        """Take the times of a call; a hook before the network's forward."""
        self.times = read_times(network, args, kwargs)


@runtime_checkable
class ReadsTime(Protocol):
    """Declares a part of a network that asks a clock."""

    needs_clock: bool
    clock: Clock | None


def read_times(network: torch.nn.Module, args: tuple[object, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    """Return the times (B,) or (1,), float32, with which a network is called; zero for one that takes none."""
    bound = inspect.signature(network.forward).bind_partial(*args, **kwargs).arguments
    time = bound.get("timestep", 0.0)
    return (time if isinstance(time, torch.Tensor) else torch.tensor(float(time))).float().flatten()


def attach_clock(network: torch.nn.Module) -> None:
    """Give those parts of a quantized network that ask for the time one clock, set before each of its calls."""
    parts = [part for part in network.modules() if isinstance(part, ReadsTime) and part.needs_clock]
    if not parts:
        return
    clock = Clock()
    network.register_forward_pre_hook(clock.read, with_kwargs=True)
    for part in parts:
        part.clock = clock
