"""What of a model is to be loaded, and how."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from pipelines.core.types import Choice
from pipelines.models.activations import Work
from pipelines.models.extras import Extras
from pipelines.models.quantization_loading import Calibrate

if TYPE_CHECKING:
    import torch

__all__ = ["LoadRequest"]


@dataclasses.dataclass(frozen=True)
class LoadRequest:
    """Says in which form a model is taken; without anything, as it stands in the catalog.

    Attributes:
        extras: parts of the models folder that are taken besides, or in the place of the model's own.
        quantization: makes it the quantized model, as if that stood in the catalog.
        source: the model's network in full precision, where the caller holds it: it is copied and not read again.
        calibrate: records calls of that network, where a method of quantization is calibrated.
        work: what the network is to be given, for which the device keeps room.
    """

    extras: Extras = Extras()
    quantization: Choice | None = None
    source: torch.nn.Module | None = None
    calibrate: Calibrate | None = None
    work: Work | None = None
