"""Everything of a network that a method could leave behind changed, and a way to break one in the middle of a run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

__all__ = ["assert_unchanged", "broken_at", "state_of"]

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks")


def state_of(network: torch.nn.Module) -> dict[str, Any]:
    """Name to value: weights and buffers, whose tensors they are, classes, hooks, attention processors and flags."""
    found: dict[str, Any] = {}
    for name, module in network.named_modules():
        found[f"{name} class"] = type(module)
        found[f"{name} training"] = module.training
        found[f"{name} forward"] = module.__dict__.get("forward")
        found[f"{name} processor"] = id(getattr(module, "processor", None))
        found |= {f"{name} {kind}": [(key, id(hook)) for key, hook in getattr(module, kind).items()] for kind in _HOOKS}
    found |= {f"{name} data": tensor.clone() for name, tensor in network.state_dict().items()}
    found |= {f"{name} itself": (id(one), one.requires_grad) for name, one in network.named_parameters()}
    return found


def assert_unchanged(network: torch.nn.Module, before: dict[str, Any]) -> None:
    """Fail with the first thing that is not as `state_of` had found it."""
    now = state_of(network)
    assert now.keys() == before.keys(), now.keys() ^ before.keys()
    for name, value in now.items():
        same = torch.equal(value, before[name]) if isinstance(value, torch.Tensor) else value == before[name]
        assert same, name


@contextlib.contextmanager
def broken_at(network: torch.nn.Module, call: int) -> Iterator[list[int]]:
    """A network whose n-th call (from 1, 0 for none) raises RuntimeError("broken"); gives a list that grows by call."""
    calls: list[int] = []

    def count(*_: Any) -> None:
        calls.append(1)
        if len(calls) == call:
            raise RuntimeError("broken")

    hook = network.register_forward_pre_hook(count)
    try:
        yield calls
    finally:
        hook.remove()
