"""What calibrated methods learn from: recorded calls of the network, and statistics of its layers' inputs in them."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from pipelines.core.cancelling import Cancelled
from pipelines.core.errors import MethodFitError
from pipelines.core.gradients import no_grad

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

__all__ = [
    "Calibration",
    "NetworkCall",
    "collect_moments",
    "layer_rows",
    "recorded_calls",
    "replay",
    "require_calibration",
]

LEAST_COLUMNS = 4096
"""Of a layer's inputs, at least so many vectors make its second moments, and four times as many as they are wide."""


@dataclasses.dataclass(frozen=True, eq=False)
class NetworkCall:
    """Holds the arguments of one evaluation.

    Attributes:
        args, kwargs: as the network was called, its tensors detached.
        time: the network's own, the mean of the rows.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    time: float

    def run(self, network: torch.nn.Module) -> torch.Tensor:
        """Evaluate a network on it; returns the output."""
        output = network(*self.args, **self.kwargs)
        return output if isinstance(output, torch.Tensor) else output[0]


@dataclasses.dataclass(frozen=True, eq=False)
class Calibration:
    """Holds recorded calls, in the order of the run that made them."""

    calls: tuple[NetworkCall, ...]

    def thin(self, most: int) -> Calibration:
        """Keep so many calls, evenly spaced."""
        step = max(1.0, len(self.calls) / most)
        return Calibration(tuple(self.calls[int(index * step)] for index in range(min(most, len(self.calls)))))


def require_calibration(calibration: Calibration | None, label: str) -> Calibration:
    """Return the calibration.

    Raises:
        MethodFitError: there is none, or it is empty.
    """
    if calibration is None or not calibration.calls:
        raise MethodFitError(
            f"{label} is calibrated on runs of the model, and there are none here. Quantize the model on the tab "
            "Quantize, or choose a method without calibration."
        )
    return calibration


@contextlib.contextmanager
def recorded_calls(network: torch.nn.Module) -> Iterator[list[NetworkCall]]:
    """Collect every call of a network while the context lasts."""
    calls: list[NetworkCall] = []
    signature = inspect.signature(network.forward)

    def record(module: torch.nn.Module, args: tuple[object, ...], kwargs: dict[str, Any]) -> None:
        bound = signature.bind_partial(*args, **kwargs).arguments
        time = bound.get("timestep", 0.0)
        mean = float(time.float().mean()) if isinstance(time, torch.Tensor) else float(time)
        calls.append(NetworkCall(_detach(args), _detach(kwargs), mean))

    handle = network.register_forward_pre_hook(record, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


def _detach(value: object) -> Any:
    if isinstance(value, torch.Tensor):
        # A run's tensors are made for inference alone; gradients, and some libraries' tensors, need ordinary ones.
        with torch.inference_mode(False):
            return value.detach().clone()
    if isinstance(value, Mapping):
        return {name: _detach(one) for name, one in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(_detach(one) for one in value)
    return value


def layer_rows(layer: torch.nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """Return a layer's inputs as the vectors (N, C) that its weights (R, C) are multiplied with.

    Of a convolution these are its patches; one with groups has no such vectors, and its patches are (N * groups, C).
    """
    if isinstance(layer, torch.nn.Linear):
        return inputs.flatten(0, -2)
    if not isinstance(layer, torch.nn.Conv2d):
        raise TypeError(f"{type(layer).__name__} is no linear layer and no convolution.")
    padding = layer.padding
    if layer.padding_mode != "zeros" or isinstance(padding, str):
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        inputs = functional.pad(inputs, layer._reversed_padding_repeated_twice, mode=mode)
        padding = (0, 0)
    if layer.groups > 1:
        inputs = inputs.unflatten(1, (layer.groups, -1)).flatten(0, 1)
    patches = functional.unfold(inputs, layer.kernel_size, layer.dilation, padding, layer.stride)
    return patches.transpose(1, 2).flatten(0, 1)


def replay(
    network: torch.nn.Module,
    names: Sequence[str],
    calibration: Calibration,
    note: Callable[[str, torch.nn.Module, torch.Tensor], None],
    cancelled: Callable[[], bool],
) -> None:
    """Evaluate a network on every recorded call, and hand over what its layers are given.

    Args:
        network: its hooks go when this returns.
        names: of the layers.
        calibration: the calls.
        note: is given a layer's name, the layer and its input, detached, each time that it is called.
        cancelled: polled before each call.

    Raises:
        Cancelled: the person stopped it.
    """

    def listen(name: str) -> RemovableHandle:
        def hook(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            note(name, module, args[0].detach())

        return network.get_submodule(name).register_forward_pre_hook(hook)

    handles: list[RemovableHandle] = []
    try:
        handles += [listen(name) for name in names]
        for call in calibration.calls:
            if cancelled():
                raise Cancelled
            call.run(network)
    finally:
        for handle in handles:
            handle.remove()


@no_grad
def collect_moments(
    network: torch.nn.Module,
    names: Sequence[str],
    calibration: Calibration,
    cancelled: Callable[[], bool] = lambda: False,
) -> dict[str, torch.Tensor]:
    """Compute the mean of x x^T over the input vectors x of each layer, (C, C) float32.

    Args:
        network: evaluated on every call; its hooks go when this returns.
        names: of the layers; one that is never called has no entry.
        calibration: the calls.
        cancelled: polled before each.

    Raises:
        Cancelled: the person stopped it.
    """
    sums: dict[str, torch.Tensor] = {}
    counts: dict[str, int] = {}

    def add(name: str, module: torch.nn.Module, given: torch.Tensor) -> None:
        rows = layer_rows(module, given)
        columns = rows.shape[1]
        share = math.ceil(max(LEAST_COLUMNS, 4 * columns) / len(calibration.calls))
        rows = rows[:: max(1, len(rows) // share)].float()
        product = rows.T @ rows
        sums[name] = sums[name].add_(product) if name in sums else product
        counts[name] = counts.get(name, 0) + len(rows)

    replay(network, names, calibration, add, cancelled)
    return {name: total / counts[name] for name, total in sums.items()}
