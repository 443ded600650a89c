"""Keeping a quantized model after its run: written into the models folder, and in every tab's list from then on."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from pipelines.core.errors import MethodFitError
from pipelines.families.base import Family
from pipelines.models.load_request import LoadRequest
from pipelines.models.quantization_folder import keep_network, quantized_key
from pipelines.quantizers import CalibratedQuantizer, build_quantizer, this_machine
from pipelines.requests.calibration import record_calibration

if TYPE_CHECKING:
    from pipelines.core.types import Choice
    from pipelines.models.catalog import Catalog
    from pipelines.models.loader import Loader

__all__ = ["ModelStock", "find_saved_key", "keep"]


class ModelStock(Protocol):
    """Declares where models are and how they are loaded, as the Studio has it."""

    @property
    def catalog(self) -> Catalog:
        """Return the models that there are."""

    @property
    def loader(self) -> Loader:
        """Loads them."""

    def require_keeping(self) -> None:
        """Raise SettingsError where a quantized model that is made now could not be used later."""


def find_saved_key(studio: ModelStock, model: str, choice: Choice) -> str | None:
    """Find the key of the saved model; None while it is not saved."""
    key = quantized_key(model, choice)
    return key if key in studio.catalog else None


def keep(studio: ModelStock, model: str, choice: Choice, cancelled: Callable[[], bool] = lambda: False) -> str:
    """Write the quantized model into the models folder and look into that again; returns the new model's key.

    Args:
        studio: whose loader still has both networks in memory, most likely.
        model: in full precision.
        choice: as `plain_choice` gives it.
        cancelled: polled while loading.

    Raises:
        StepwiseError: it cannot be made or written, and why.
    """
    studio.require_keeping()
    quantizer = build_quantizer(choice, this_machine(studio.loader.device))
    outline = studio.loader.outline(model)
    with contextlib.ExitStack() as stack:
        source = calibrate = None
        if isinstance(quantizer, CalibratedQuantizer):
            full = _require_family(stack.enter_context(studio.loader.model(model, cancelled)))
            source, calibrate = full.network, functools.partial(record_calibration, full, cancelled)
        # Of a method that needs no runs of the model, the device never holds the network in full precision.
        lease = studio.loader.model(
            model, cancelled, request=LoadRequest(quantization=choice, source=source, calibrate=calibrate)
        )
        family = _require_family(stack.enter_context(lease))
        key = keep_network(studio.catalog.folder, studio.catalog[model], choice, outline, family.network, quantizer)
    studio.catalog.rescan()
    return key


def _require_family(model: object) -> Family:
    if not isinstance(model, Family):
        raise MethodFitError(
            "This model runs through its own pipeline only and cannot be quantized here. Choose another."
        )
    return model
