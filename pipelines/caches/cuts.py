"""Where a network is cut: an evaluation can keep the feature that stands there, or go on from one that is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import torch

from pipelines.caches.stack_cut import StackCut
from pipelines.caches.unet_cut import UNetCut
from pipelines.core.errors import MethodFitError

__all__ = ["Cut", "find_cut"]


class Cut(Protocol):
    """A cut is a place in a network behind which an evaluation may begin.

    Attributes:
        skipped: the layers that an evaluation leaves out when it goes on from a given feature.
    """

    @property
    def skipped(self) -> Sequence[torch.nn.Module]: ...

    def captured(self, keep: Callable[[torch.Tensor], None]) -> AbstractContextManager[None]:
        """Let the network run as it is, and give `keep` the feature (R, ...) that stands at the cut."""

    def resumed(self, feature: torch.Tensor) -> AbstractContextManager[None]:
        """Let the network go on from this feature (R, ...) without the skipped layers."""


def find_cut(module: torch.nn.Module, depth: int) -> Cut:
    """Find where a network is cut.

    Args:
        module: a UNet, or a transformer whose blocks pass pictures' and text's tokens on.
        depth: skip connections of a UNet that are run afresh, beside the first; of a transformer, its first blocks that
            are.

    Raises:
        MethodFitError: the network has neither, or is not so deep.
    """
    if hasattr(module, "up_blocks"):
        return UNetCut(module, depth)
    if hasattr(module, "transformer_blocks"):
        return StackCut(module, depth)
    raise MethodFitError("This network has neither a UNet's blocks nor a transformer's, which a cache could leave out.")
