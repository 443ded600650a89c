"""Every change to a network, as a context manager that undoes itself.

What is changed is kept and put back as it was, never computed back, so the network leaves bit for bit as it
came, also after an exception or a cancel.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator

import torch

__all__ = ["in_dtype", "replaced_weights"]


@contextlib.contextmanager
def replaced_weights(
    changes: Iterable[tuple[torch.nn.Parameter, Callable[[torch.Tensor], torch.Tensor]]],
    keep_on_host: bool = False,
) -> Iterator[None]:
    """Provide parameters with other values while the context lasts.

    The parameter objects stay the same; only the touched ones are held twice.

    Args:
        changes: (parameter, its data to the new data) pairs, each applied on the result of those before.
            The function must return a new tensor.
        keep_on_host: keep the originals in the computer's memory, so that a device holds nothing twice.
    """
    originals: dict[torch.nn.Parameter, torch.Tensor] = {}
    try:
        with torch.no_grad():
            for parameter, change in changes:
                new_data = change(parameter.data)
                if parameter not in originals:
                    originals[parameter] = parameter.data.cpu() if keep_on_host else parameter.data
                parameter.data = new_data
        yield
    finally:
        for parameter, data in originals.items():
            # An offload hook may have moved the network meanwhile; a move changes no bit.
            parameter.data = data.to(parameter.device)


@contextlib.contextmanager
def in_dtype(module: torch.nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Provide a module whose floating-point parameters have this dtype while the context lasts."""
    other = [one for one in module.parameters() if one.is_floating_point() and one.dtype != dtype]
    with replaced_weights([(parameter, lambda data: data.to(dtype)) for parameter in other]):
        yield
