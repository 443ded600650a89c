"""Loading a quantized network: from its own file, from the network that is in memory, or by quantizing it anew."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pipelines.core.errors import MethodFitError, ModelFileError
from pipelines.core.leases import PartKey
from pipelines.models.part_loading import load_checkpoint, load_part, part_class

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from pipelines.core.types import Choice
    from pipelines.models.files import PartFiles
    from pipelines.models.plan import Plan
    from pipelines.quantizers.base import Quantizer
    from pipelines.quantizers.calibrated import Progress
    from pipelines.quantizers.calibration import Calibration

__all__ = ["Calibrate", "load_quantized"]

Calibrate = Callable[[], "Calibration"]
"""Records calls of the network in full precision."""


def load_quantized(
    plan: Plan,
    files: PartFiles | None,
    part: PartKey,
    source: torch.nn.Module | None,
    cancelled: Callable[[], bool],
    calibrate: Calibrate | None = None,
    progress: Progress | None = None,
) -> Any:
    """Load the quantized network, or all parts of a checkpoint file with the network among them quantized.

    Args:
        plan: of a model whose entry says how it is quantized.
        files: of the network in full precision; None for a checkpoint file.
        part: its key, with dtype and device.
        source: the network in full precision, which is copied; None to load it.
        cancelled: polled between tensors and between layers.
        calibrate: records calls of `source`, for methods that are calibrated.
        progress: told what such a method does.

    Raises:
        MethodFitError: the method cannot run here, touches no layer, or is calibrated and has nothing to learn from.
        ModelFileError: a file is broken.
        Cancelled: the person stopped it.
    """
    from pipelines.quantizers import QUANTIZERS, CalibratedQuantizer, build_quantizer, this_machine
    from pipelines.quantizers.base import quantize_network

    quantized_as = plan.entry.quantized
    if quantized_as is None:
        raise MethodFitError(f"{plan.entry.label} is not a quantized model. Name how its network is to be quantized.")
    quantizer = build_quantizer(quantized_as.choice, this_machine(part.device))
    label = QUANTIZERS[quantized_as.choice.key].label

    def quantize(network: torch.nn.Module, in_place: bool) -> torch.nn.Module:
        calibration = None
        if calibrate is not None and isinstance(quantizer, CalibratedQuantizer):
            calibration = calibrate()
        tell = progress or (lambda stage, done, total: None)
        return quantize_network(network, quantizer, label, cancelled, in_place, calibration, tell)

    if files is None:
        parts = load_checkpoint(
            plan.checkpoint, plan.entry.pipeline, plan.folder, part.dtype, part.device, plan.entry.file, cancelled
        )
        name = _find_network(parts)
        return {**parts, name: quantize(parts[name], in_place=True)}
    if quantized_as.file is not None:
        return _load_stored(files, part, quantized_as.file, quantizer, quantized_as.choice)
    if source is not None:
        return quantize(source, in_place=False)
    return quantize(load_part(files, part.dtype, part.device, cancelled), in_place=True)


def _find_network(parts: Mapping[str, object]) -> str:
    from pipelines.models.plan import QUANTIZED_PARTS

    names = [name for name in QUANTIZED_PARTS if parts.get(name) is not None]
    if not names:
        raise MethodFitError("This model has no network that could be quantized. Choose another.")
    return names[0]


def _load_stored(files: PartFiles, part: PartKey, file: Path, quantizer: Quantizer, choice: Choice) -> torch.nn.Module:
    import torch

    from pipelines.models.files import read_json
    from pipelines.quantizers.base import StorableQuantizer
    from pipelines.quantizers.files import load_network

    if not isinstance(quantizer, StorableQuantizer):
        raise ModelFileError(f"{file.parent.name} was made by a method that has no files. Quantize the model again.")
    part_type = part_class(files.library, files.class_name)
    config = read_json(files.folder / "config.json")
    try:
        return load_network(file, part_type, config, quantizer, choice, getattr(torch, part.dtype), part.device)
    except OSError as error:
        raise ModelFileError(
            f"{file.parent.name}/{file.name} cannot be read ({error.strerror}). Quantize the model again."
        ) from error
