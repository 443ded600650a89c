"""A long evaluation that can be stopped: while one is watched, it is asked between its operations."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn

from pipelines.core.cancelling import Cancelled

__all__ = ["LEAST_ELEMENTS", "drop_copied_hooks", "interruptible", "large_modules"]

LEAST_ELEMENTS = 8192
"""Elements of a network's input from which on its evaluation is watched: 128 x 128 pixels with guidance for the usual
latents. Asking takes some 3 us an operation, 1% of an evaluation of this size and ever less of larger ones."""


@contextlib.contextmanager
def interruptible(modules: Iterable[nn.Module], cancelled: Callable[[], bool]) -> Iterator[None]:
    """Modules whose evaluations of large inputs end at the next operation after a cancel, while the context lasts.

    They get a hook before and one after their forward, which go with the context; small inputs pay nothing more.

    Args:
        modules: whole networks, not their parts.
        cancelled: polled.

    Raises:
        Cancelled: from within a module's evaluation.
    """
    from pipelines.core.parted_operations import Interruptible  # late: a subclass of PyTorch's needs it imported

    handles = []
    entered: list[tuple[nn.Module, contextlib.ExitStack]] = []

    def begin(module: nn.Module, args: object, kwargs: object) -> None:
        if _size(args, kwargs) >= LEAST_ELEMENTS and not entered:
            if cancelled():
                raise Cancelled
            stack = contextlib.ExitStack()
            stack.enter_context(Interruptible(cancelled))
            entered.append((module, stack))

    def end(module: nn.Module, *_: object) -> None:
        if entered and entered[-1][0] is module:
            entered.pop()[1].close()

    begin.goes_with_context = end.goes_with_context = True  # type: ignore[attr-defined]
    try:
        for module in modules:
            handles.append(module.register_forward_pre_hook(begin, with_kwargs=True))
            handles.append(module.register_forward_hook(end, always_call=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def drop_copied_hooks(network: nn.Module) -> None:
    """Remove what a copy has of `interruptible`, in which the original stood: its context ends without the copy.

    Whoever was stopped then would stop the copy's evaluations ever after, and what was asked for would stay in memory.
    """
    for module in network.modules():
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for number in [number for number, hook in hooks.items() if getattr(hook, "goes_with_context", False)]:
                del hooks[number]
                for flags in (
                    module._forward_pre_hooks_with_kwargs,
                    module._forward_hooks_with_kwargs,
                    module._forward_hooks_always_called,
                ):
                    flags.pop(number, None)


def _size(args: Any, kwargs: Any) -> int:
    """Elements of a network's input: its first argument, or the one of diffusers' names for it."""
    given = [*args[:1], *(kwargs[name] for name in ("sample", "hidden_states") if name in kwargs)]
    return max((one.numel() for one in given if isinstance(one, torch.Tensor)), default=0)


def large_modules(components: Iterable[object]) -> list[nn.Module]:
    """Those of a model's parts that evaluate pictures or latents: networks, and both halves of a VAE.

    Args:
        components: of a model, of whatever kind.
    """
    found: list[nn.Module] = []
    for one in components:
        if not isinstance(one, nn.Module):
            continue
        halves = [half for name in ("encoder", "decoder") if isinstance(half := getattr(one, name, None), nn.Module)]
        is_vae = hasattr(one, "encode") and hasattr(one, "decode")
        found += halves if is_vae and halves else [one]
    return list(dict.fromkeys(found))
