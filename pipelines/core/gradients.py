"""Decorators of functions that compute no gradients, which import PyTorch no sooner than it is needed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

__all__ = ["inference_mode", "no_grad"]

_Arguments = ParamSpec("_Arguments")
_Value = TypeVar("_Value")


def no_grad(function: Callable[_Arguments, _Value]) -> Callable[_Arguments, _Value]:
    """Decorate a function or a generator as `torch.no_grad()` does, without importing PyTorch before its first call.

    A generator's caller keeps its own mode between the steps.
    """
    return _decorate_at_first_call(function, lambda: torch.no_grad())


def inference_mode(function: Callable[_Arguments, _Value]) -> Callable[_Arguments, _Value]:
    """Decorate a function as `torch.inference_mode()` does, without importing PyTorch before its first call."""
    return _decorate_at_first_call(function, lambda: torch.inference_mode())


def _decorate_at_first_call(
    function: Callable[_Arguments, _Value], build: Callable[[], Callable[..., Callable[_Arguments, _Value]]]
) -> Callable[_Arguments, _Value]:
    decorated: Callable[_Arguments, _Value] | None = None

    @functools.wraps(function)
    def call(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Value:
        nonlocal decorated
        if decorated is None:
            decorated = build()(function)
        return decorated(*args, **kwargs)

    return call
