"""Loading a quantized network: from its own file, from the network that is in memory, or by quantizing it anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pipelines.core.errors import MethodFitError, ModelFileError
from pipelines.core.leases import PartKey
from pipelines.models.part_loading import load_part, part_class

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from pipelines.core.types import Choice
    from pipelines.models.files import PartFiles
    from pipelines.models.plan import Plan
    from pipelines.quantizers.base import Quantizer
    from pipelines.quantizers.calibrated import Progress
    from pipelines.quantizers.calibration import Calibration

__all__ = ["Calibrate", "load_eight_bits", "load_outline", "load_quantized"]

Calibrate = Callable[[], "Calibration"]
"""Records calls of the network in full precision."""


def load_quantized(
    plan: Plan,
    files: PartFiles,
    part: PartKey,
    source: torch.nn.Module | None,
    cancelled: Callable[[], bool],
    calibrate: Calibrate | None = None,
    progress: Progress | None = None,
) -> Any:
    """Load the quantized network.

    Args:
        plan: of a model whose entry says how it is quantized.
        files: of the network in full precision.
        part: its key, with dtype and device.
        source: the network in full precision, which is copied; None to load it.
        cancelled: polled between tensors and between layers.
        calibrate: records calls of `source`, for methods that are calibrated.
        progress: called with a sentence of what such a method does.

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

    def quantize(network: torch.nn.Module, in_place: bool, device: str | None = None) -> torch.nn.Module:
        calibration = None
        if calibrate is not None and isinstance(quantizer, CalibratedQuantizer):
            calibration = calibrate()
        tell = progress or (lambda stage, done, total: None)
        return quantize_network(network, quantizer, label, cancelled, in_place, calibration, tell, device)

    if quantized_as.file is not None:
        return _load_stored(files, part, quantized_as.file, quantizer, quantized_as.choice)
    if source is not None and _stands_on(source, part.device):
        return quantize(source, in_place=False)
    if isinstance(quantizer, CalibratedQuantizer):
        return quantize(load_part(files, part.dtype, part.device, cancelled), in_place=True)
    # Through the computer's memory, so that the device never holds the network in full precision.
    return quantize(load_part(files, part.dtype, "cpu", cancelled), in_place=True, device=part.device)


def _stands_on(network: torch.nn.Module, device: str) -> bool:
    """Whether a network is on a device for good; one that comes and goes has a hook for it."""
    first = next(network.parameters())
    return not hasattr(network, "_hf_hook") and first.device.type == device.partition(":")[0]


def load_eight_bits(files: PartFiles, dtype: str, cancelled: Callable[[], bool]) -> torch.nn.Module:
    """Load a network onto the CPU with weights in fp8, which diffusers' layerwise casting casts up for each call.

    Each weight is cast when it is read, so that the network is never whole in memory in full precision.

    Args:
        files: of the network in full precision.
        dtype: that it computes in.
        cancelled: polled between tensors.

    Raises:
        ModelFileError: the files do not make this network.
        Cancelled: the load was stopped.
    """
    import torch

    from pipelines.quantizers.layer_plan import get_layer, plan_layers
    from pipelines.quantizers.layerwise import Layerwise

    quantizer = Layerwise()

    def list_stored(network: torch.nn.Module) -> dict[str, torch.dtype]:
        names = plan_layers(network, quantizer).quantized_layers
        return {f"{name}.{end}": torch.float8_e4m3fn for name in names for end in ("weight", "bias")}

    network = load_part(files, dtype, "cpu", cancelled, list_stored)
    for name in plan_layers(network, quantizer).quantized_layers:
        quantizer.add_hook(get_layer(network, name), getattr(torch, dtype))
    return network


def load_outline(files: PartFiles) -> torch.nn.Module:
    """Make a network without its weights, whose layers have their shapes.

    Args:
        files: of the network.

    Raises:
        ModelFileError: its configuration is broken.
    """
    from pipelines.models.checkpoint_loading import empty_module

    return empty_module(part_class(files.library, files.class_name), files.folder, _read_config(files))


def _read_config(files: PartFiles) -> dict[str, Any]:
    from pipelines.models.checkpoint_loading import infer_config
    from pipelines.models.files import read_json
    from pipelines.weights.gguf_files import read_weights_header
    from pipelines.weights.network_kinds import bare_names

    config = read_json(files.folder / "config.json")
    return (
        config | infer_config(bare_names(read_weights_header(files.weights[0]).tensors)[1]) if files.within else config
    )


def _load_stored(files: PartFiles, part: PartKey, file: Path, quantizer: Quantizer, choice: Choice) -> torch.nn.Module:
    import torch

    from pipelines.quantizers.base import StorableQuantizer
    from pipelines.quantizers.files import load_network

    if not isinstance(quantizer, StorableQuantizer):
        raise ModelFileError(f"{file.parent.name} was made by a method that has no files. Quantize the model again.")
    part_type = part_class(files.library, files.class_name)
    config = _read_config(files)
    try:
        return load_network(file, part_type, config, quantizer, choice, getattr(torch, part.dtype), part.device)
    except OSError as error:
        raise ModelFileError(
            f"{file.parent.name}/{file.name} cannot be read ({error.strerror}). Quantize the model again."
        ) from error
