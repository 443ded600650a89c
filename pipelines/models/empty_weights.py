"""What building a network whose weights take no memory can do without."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch.overrides import TorchFunctionMode

__all__ = ["WithoutNoise"]


class WithoutNoise(TorchFunctionMode):
    """Leaves out normal noise for tensors without memory while it is entered, in this thread.

    PyTorch computes it for them in Python, and imports SymPy for that, which takes half a second; the tensors stay as
    they are.
    """

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") == "normal_":  # a tensor's own, or the one of `torch.nn.init`
            tensor = args[0] if args else kwargs["tensor"]
            if isinstance(tensor, torch.Tensor) and tensor.is_meta:
                return tensor
        return func(*args, **kwargs)
