"""The first import of diffusers and transformers, by one thread at a time."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["find_execution_device", "import_libraries"]

_LOCK = threading.Lock()


def import_libraries() -> None:
    """Import diffusers and transformers, which take seconds, if nothing has yet; call it before anything of them.

    Both put another module in their place at the end of their import. Python gives the first one, which has no classes,
    to a thread that has waited for another's import (findings/diffusers-imported-by-two-threads.sh): here it waits
    before it begins one.
    """
    with _LOCK:
        import torch

        torch.Tensor  # noqa: B018 - imports it, where that was put off, on its own and not from within another's import
        import diffusers  # noqa: F401
        import transformers  # noqa: F401


def find_execution_device(module: torch.nn.Module) -> torch.device:
    """Find where a module of diffusers runs, which is not where its weights are while they are offloaded."""
    import_libraries()
    from diffusers.utils.torch_utils import get_module_execution_device

    device: torch.device = get_module_execution_device(module)
    return device
