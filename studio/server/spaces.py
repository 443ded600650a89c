"""What is different on a Hugging Face Space with ZeroGPU hardware, and nothing anywhere else."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from pipelines.core.errors import SettingsError

__all__ = ["find_gpu_decorator"]

_TRUE = ("1", "t", "true")


def find_gpu_decorator(environ: Mapping[str, str] | None = None) -> Callable[..., Any] | None:
    """Find `spaces.GPU` on ZeroGPU hardware; None elsewhere, where it would change nothing.

    Call it before anything starts CUDA: the package refuses to be imported later. On a Space without ZeroGPU it is
    imported all the same, if it is there, so that a Space can be given other hardware at any time.

    Args:
        environ: default: that of this process.

    Raises:
        SettingsError: ZeroGPU without its package.
    """
    environ = os.environ if environ is None else environ
    if not environ.get("SPACE_ID"):
        return None
    is_zero = environ.get("SPACES_ZERO_GPU", "").lower() in _TRUE
    try:
        import spaces
    except ImportError:
        if is_zero:
            raise SettingsError("ZeroGPU needs a package that is not installed. Run: pip install spaces") from None
        return None
    return spaces.GPU if is_zero else None
