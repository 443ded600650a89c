"""Which tensors of a module are kept in a dtype of their own when it is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["StoredAs", "keep_all"]

StoredAs = Callable[["torch.nn.Module"], "Mapping[str, torch.dtype]"]
"""From a module without its weights to the names of tensors and the dtypes that they are cast to when they are read."""


def keep_all(module: torch.nn.Module) -> Mapping[str, torch.dtype]:
    """Keep every tensor in the module's dtype."""
    return {}
