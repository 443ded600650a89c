"""Rounding learned block by block: each block's outputs are brought back to those of the full-precision network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch

from pipelines.core.cancelling import Cancelled
from pipelines.core.gradients import no_grad
from pipelines.quantizers.calibrated import Progress
from pipelines.quantizers.calibration import Calibration
from pipelines.quantizers.simulated.fitting import Basis, fit_rows, transform_weight
from pipelines.quantizers.simulated.neighbors import Neighbors
from pipelines.quantizers.simulated.rounding import Annealing, choose_sides, initial_logits, soft_choice, undecided

if TYPE_CHECKING:
    from pipelines.quantizers.simulated.layers import SimulatedLayer
    from pipelines.quantizers.weighted_layer import WeightedLayer

__all__ = ["find_blocks", "reconstruct"]

MOST_CALLS = 16
"""Of the calibration, evenly spaced, for each block."""


@dataclasses.dataclass(frozen=True, eq=False)
class _BlockCall:
    """What a block was given in one call of the quantized network, and what it and its layers gave in the other's."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outputs: tuple[torch.Tensor, ...]
    inner: Mapping[str, torch.Tensor]


def find_blocks(network: torch.nn.Module, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Group layers into blocks: residual and transformer blocks, and each other layer alone.

    A block is an innermost element of a list of modules that holds several of the layers.

    Returns:
        Name of a block to those of its layers, in the network's order.
    """
    inside = {
        f"{name}.{place}": tuple(one for one in names if one.startswith(f"{name}.{place}."))
        for name, module in network.named_modules()
        if isinstance(module, torch.nn.ModuleList)
        for place in range(len(module))
    }
    several = {name: layers for name, layers in inside.items() if len(layers) > 1}
    innermost = {
        name: layers for name, layers in several.items() if not any(other.startswith(f"{name}.") for other in several)
    }
    home = {layer: block for block, layers in innermost.items() for layer in layers}
    blocks: dict[str, tuple[str, ...]] = {}
    for name in names:
        block = home.get(name, name)
        blocks[block] = (*blocks.get(block, ()), name)
    return blocks


def reconstruct(
    network: torch.nn.Module,
    quantized: torch.nn.Module,
    layers: Mapping[str, SimulatedLayer],
    calibration: Calibration,
    annealing: Annealing,
    only: frozenset[str] | None,
    layer_weight: float,
    cancelled: Callable[[], bool],
    progress: Progress,
) -> None:
    """Learn the rounding of all layers' weights, block after block; a block that gets no better stays as it was.

    Args:
        network: in full precision.
        quantized: of simulated layers, which are changed.
        layers: these, by name.
        calibration: the calls; at most 16 of them are used.
        annealing: of the optimization.
        only: layers whose rounding is learned; None for all.
        layer_weight: of the squared error of each of the block's layers, beside that of its outputs.
        cancelled: polled before each iteration.
        progress: called for each block.

    Source: Li et al., BRECQ, arXiv:2102.05426, with the rounding of Nagel et al., arXiv:2004.10568, as Q-Diffusion,
    arXiv:2302.04304, uses both: a block's inputs are the quantized network's, its targets the full-precision one's.
    Differs: the squared error is not weighted with Fisher information; hundreds of iterations, not twenty thousand;
    ranges of activations stay as they were calibrated.

    Raises:
        Cancelled: the person stopped it.
    """
    names = [name for name in layers if only is None or name in only]
    blocks = _in_order_of_use(network, find_blocks(network, names), calibration)
    for index, (block, members) in enumerate(blocks):
        progress("Reconstructing block", index, len(blocks))
        inside = {name.removeprefix(block).removeprefix("."): name for name in members}
        watched = inside if layer_weight and len(members) > 1 else {}
        calls = _record_block(network, quantized, block, watched, calibration.thin(MOST_CALLS), cancelled)
        if calls:
            chosen = {short: layers[name] for short, name in inside.items()}
            originals = {short: network.get_submodule(name) for short, name in inside.items()}
            block_error = _BlockError(quantized.get_submodule(block), tuple(watched), layer_weight)
            _reconstruct_block(block_error, chosen, originals, calls, annealing, cancelled)


@no_grad
def _in_order_of_use(
    network: torch.nn.Module, blocks: Mapping[str, tuple[str, ...]], calibration: Calibration
) -> list[tuple[str, tuple[str, ...]]]:
    """Those that an evaluation calls, as it calls them."""
    order: list[str] = []
    listeners = [
        network.get_submodule(block).register_forward_pre_hook(lambda module, args, name=block: order.append(name))
        for block in blocks
    ]
    try:
        calibration.calls[0].run(network)
    finally:
        for listener in listeners:
            listener.remove()
    return [(block, blocks[block]) for block in dict.fromkeys(order)]


@no_grad
def _record_block(
    network: torch.nn.Module,
    quantized: torch.nn.Module,
    block: str,
    watched: Mapping[str, str],
    calibration: Calibration,
    cancelled: Callable[[], bool],
) -> list[_BlockCall]:
    given: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    wanted: list[tuple[torch.Tensor, ...]] = []
    inner: list[dict[str, torch.Tensor]] = []
    listeners = [
        network.get_submodule(name).register_forward_hook(
            lambda module, args, output, short=short: inner[-1].__setitem__(short, output)
        )
        for short, name in watched.items()
    ]
    listeners += [
        quantized.get_submodule(block).register_forward_pre_hook(
            lambda module, args, kwargs: given.append((args, kwargs)), with_kwargs=True
        ),
        network.get_submodule(block).register_forward_hook(
            lambda module, args, output: wanted.append(tuple(_list_tensors(output)))
        ),
    ]
    try:
        for call in calibration.calls:
            if cancelled():
                raise Cancelled
            inner.append({})
            call.run(network)
            call.run(quantized)
    finally:
        for listener in listeners:
            listener.remove()
    return [_BlockCall(*one, outputs, found) for one, outputs, found in zip(given, wanted, inner, strict=True)]


def _list_tensors(output: object) -> Iterator[torch.Tensor]:
    if isinstance(output, torch.Tensor):
        yield output
    elif isinstance(output, (tuple, list)):
        for one in output:
            yield from _list_tensors(one)


class _BlockError:
    """Computes the squared error of a block of the quantized network, and of its layers if asked."""

    def __init__(self, block: torch.nn.Module, watched: tuple[str, ...], layer_weight: float):
        self._block, self._watched, self._layer_weight = block, watched, layer_weight

    def of_call(self, call: _BlockCall, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Run the block with these weights in place of its own."""
        found: dict[str, torch.Tensor] = {}
        listeners = [
            self._block.get_submodule(name).register_forward_hook(
                lambda module, args, output, name=name: found.__setitem__(name, output)
            )
            for name in self._watched
        ]
        try:
            outputs = torch.func.functional_call(self._block, dict(weights), call.args, dict(call.kwargs))
        finally:
            for listener in listeners:
                listener.remove()
        pairs = zip(_list_tensors(outputs), call.outputs, strict=True)
        errors = [(output - wanted).float().square().sum() for output, wanted in pairs]
        errors += [
            self._layer_weight * (output - call.inner[name]).float().square().sum() for name, output in found.items()
        ]
        return torch.stack(errors).sum()

    @no_grad
    def measure(self, calls: Sequence[_BlockCall]) -> float:
        """Sum the error over all calls, with the block's own weights."""
        return sum(float(self.of_call(call, {})) for call in calls)


def _neighbors_of(layer: SimulatedLayer, original: torch.nn.Module) -> tuple[torch.Tensor, Neighbors | None]:
    """The weights before rounding, in the layer's own basis and without its branch, and their neighbors."""
    weight = cast("WeightedLayer", original).weight.detach().float()
    rows = transform_weight(weight, Basis(layer.factors, layer.rotation)).flatten(1)
    if layer.down is not None and layer.up is not None:
        rows = rows - layer.up.float() @ layer.down.float().flatten(1)
    return rows, fit_rows(rows, layer.spec)[1]


def _reconstruct_block(
    error: _BlockError,
    layers: Mapping[str, SimulatedLayer],
    originals: Mapping[str, torch.nn.Module],
    calls: Sequence[_BlockCall],
    annealing: Annealing,
    cancelled: Callable[[], bool],
) -> None:
    rows, neighbors = {}, {}
    for name, layer in layers.items():
        weights, found = _neighbors_of(layer, originals[name])
        if found is not None:
            rows[name], neighbors[name] = weights, found
    if not rows:
        return
    before = {name: layers[name].weight.detach().clone() for name in rows}
    base = error.measure(calls)
    if base == 0:
        return
    generator = torch.Generator().manual_seed(0)
    count = sum(one.numel() for one in rows.values())
    with torch.inference_mode(False), torch.enable_grad():
        logits = {name: _start(rows[name], neighbors[name], before[name]) for name in rows}
        optimizer = torch.optim.Adam(list(logits.values()), lr=annealing.rate)
        for iteration in range(annealing.iterations):
            if cancelled():
                _put(layers, before)
                raise Cancelled
            call = calls[int(torch.randint(len(calls), (), generator=generator))]
            choices = {name: soft_choice(one) for name, one in logits.items()}
            soft = {}
            for name, choice in choices.items():
                near = neighbors[name]
                value = near.down + (near.up - near.down) * choice
                soft[f"{name}.weight" if name else "weight"] = value.reshape(before[name].shape).to(before[name].dtype)
            loss = error.of_call(call, soft) * (len(calls) / base)
            exponent = annealing.exponent(iteration)
            if exponent is not None:
                loss = loss + annealing.weight * sum(undecided(one, exponent) for one in choices.values()) / count
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    chosen = {
        name: choose_sides(one.detach(), neighbors[name]).reshape(before[name].shape).to(before[name].dtype)
        for name, one in logits.items()
    }
    _put(layers, chosen)
    if error.measure(calls) >= base:
        _put(layers, before)


def _start(rows: torch.Tensor, neighbors: Neighbors, present: torch.Tensor) -> torch.Tensor:
    """Logits of where the weights were; on the side of the present rounding if that is no longer the nearest."""
    logits = initial_logits(rows.clone(), neighbors)
    is_up = present.flatten(1).float() > (neighbors.down + neighbors.up) / 2
    return torch.where(is_up == (logits >= 0), logits, 0.0).clone().requires_grad_()


def _put(layers: Mapping[str, SimulatedLayer], weights: Mapping[str, torch.Tensor]) -> None:
    for name, weight in weights.items():
        layers[name].weight.data = weight
