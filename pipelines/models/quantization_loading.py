"""Loading a quantized network: from its own file, from the network that is in memory, or by quantizing it anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pipelines.core.errors import MethodFitError, ModelFileError
from pipelines.core.leases import PartKey
from pipelines.models.part_loading import load_checkpoint, load_part, part_class

if TYPE_CHECKING:
    from pipelines.models.files import PartFiles
    from pipelines.models.plan import Plan

__all__ = ["load_quantized"]


def load_quantized(
    plan: Plan, files: PartFiles | None, part: PartKey, source: Any, cancelled: Callable[[], bool]
) -> Any:
    """The quantized network, or all parts of a checkpoint file with the network among them quantized.

    Args:
        plan: of a model whose entry says how it is quantized.
        files: of the network in full precision; None for a checkpoint file.
        part: its key, with dtype and device.
        source: the network in full precision, which is copied; None to load it.
        cancelled: polled between layers.

    Raises:
        MethodFitError: the method cannot run here, or touches no layer.
        ModelFileError: a file is broken.
        Cancelled: the person stopped it.
    """
    from pipelines.quantizers import QUANTIZERS, build_quantizer, this_machine
    from pipelines.quantizers.base import quantized

    chosen = plan.entry.quantized
    quantizer, label = build_quantizer(chosen.choice, this_machine(part.device)), QUANTIZERS[chosen.choice.key].label

    def made(network: Any, in_place: bool) -> Any:
        return quantized(network, quantizer, label, cancelled, in_place)

    if files is None:
        parts = load_checkpoint(plan.checkpoint, plan.entry.pipeline, plan.folder, part.dtype, part.device)
        name = _network(parts)
        return {**parts, name: made(parts[name], in_place=True)}
    if chosen.file is not None:
        return _stored(files, part, chosen, quantizer)
    if source is not None:
        return made(source, in_place=False)
    return made(load_part(files, part.dtype, part.device), in_place=True)


def _network(parts: Any) -> str:
    from pipelines.models.plan import QUANTISED

    names = [name for name in QUANTISED if parts.get(name) is not None]
    if not names:
        raise MethodFitError("This model has no network that could be quantized. Choose another.")
    return names[0]


def _stored(files: PartFiles, part: PartKey, chosen: Any, quantizer: Any) -> Any:
    import torch

    from pipelines.models.files import read_json
    from pipelines.quantizers.files import load_network

    made = part_class(files.library, files.class_name)
    config = read_json(files.folder / "config.json")
    try:
        return load_network(
            chosen.file, made, config, quantizer, chosen.choice, getattr(torch, part.dtype), part.device
        )
    except OSError as error:
        raise ModelFileError(
            f"{chosen.file.parent.name}/{chosen.file.name} cannot be read ({error.strerror}). Quantize the model again."
        ) from error
