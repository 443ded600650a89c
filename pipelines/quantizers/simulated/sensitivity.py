"""What rounding a layer's inputs, or its weights, does to the network's output: for all layers by one backward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from pipelines.core.cancelling import Cancelled
from pipelines.core.gradients import no_grad
from pipelines.quantizers.bit_allocation import measure_output_noise
from pipelines.quantizers.calibration import Calibration
from pipelines.quantizers.simulated.activations import ActivationSpec
from pipelines.quantizers.simulated.fitting import fit_rows
from pipelines.quantizers.simulated.layer_spec import LayerSpec

if TYPE_CHECKING:
    from pipelines.quantizers.weighted_layer import WeightedLayer

__all__ = ["measure_input_noise", "measure_weight_noise"]


def measure_input_noise(
    network: torch.nn.Module,
    names: Sequence[str],
    specs: Sequence[ActivationSpec],
    calibration: Calibration,
    seed: int = 0,
    cancelled: Callable[[], bool] = lambda: False,
) -> dict[str, list[float]]:
    """Estimate the squared error that rounding each layer's inputs, alone, makes in the network's output.

    To first order the output changes by J (q(x) - x); its squared length is estimated as `measure_output_noise` does
    for weights, with one random vector of signs for each call.

    Args:
        network: in full precision; its hooks go when this returns.
        names: of the layers.
        specs: ways of rounding, measured live.
        calibration: the calls.
        seed: of the signs.
        cancelled: polled before each call.

    Returns:
        Name to the mean over the calls, of each way.

    Raises:
        Cancelled: the person stopped it.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = {name: [0.0] * len(specs) for name in names}
    given: dict[str, list[torch.Tensor]] = {}
    channels = {name: 1 if isinstance(network.get_submodule(name), torch.nn.Conv2d) else -1 for name in names}

    def listen(name: str) -> Any:
        def keep(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            # A leaf of its own, so that a gradient exists also where nothing before it has one.
            inputs = args[0] if args[0].requires_grad else args[0].detach().requires_grad_()
            given.setdefault(name, []).append(inputs)
            return (inputs, *args[1:])

        return network.get_submodule(name).register_forward_pre_hook(keep)

    handles = []
    try:
        handles += [listen(name) for name in names]
        with torch.inference_mode(False), torch.enable_grad():
            for call in calibration.calls:
                if cancelled():
                    raise Cancelled
                given.clear()
                output = call.run(network)
                signs = torch.randint(0, 2, output.shape, generator=generator).to(output) * 2 - 1
                places = [(name, inputs) for name, found in given.items() for inputs in found]
                tensors = [inputs for _, inputs in places]
                gradients = torch.autograd.grad((output * signs).sum(), tensors, allow_unused=True)
                _add(noise, places, gradients, specs, channels, len(calibration.calls))
    finally:
        for handle in handles:
            handle.remove()
    return noise


@no_grad
def _add(
    noise: dict[str, list[float]],
    places: Sequence[tuple[str, torch.Tensor]],
    gradients: Sequence[torch.Tensor | None],
    specs: Sequence[ActivationSpec],
    channels: Mapping[str, int],
    calls: int,
) -> None:
    from pipelines.quantizers.simulated.activation_quantizer import ActivationQuantizer  # late: needs PyTorch imported

    changes: dict[str, list[float]] = {}
    for (name, inputs), gradient in zip(places, gradients, strict=True):
        if gradient is None:
            continue
        values = inputs.detach()
        sums = changes.setdefault(name, [0.0] * len(specs))
        for place, spec in enumerate(specs):
            rounded = ActivationQuantizer(spec, channels[name])(values)
            sums[place] += float((gradient * (rounded - values)).sum())
    for name, sums in changes.items():
        noise[name] = [old + change**2 / calls for old, change in zip(noise[name], sums, strict=True)]


def measure_weight_noise(
    network: torch.nn.Module,
    layers: Mapping[str, WeightedLayer],
    specs: Sequence[LayerSpec],
    calibration: Calibration,
    cancelled: Callable[[], bool] = lambda: False,
) -> dict[str, list[float]]:
    """Estimate the squared error that rounding each layer's weights, alone, makes in the network's output.

    Args:
        network: in full precision.
        layers: by name.
        specs: ways of rounding.
        calibration: a backward pass for each call and way.
        cancelled: polled before each.

    Returns:
        Name to the mean over the calls, of each way.

    Raises:
        Cancelled: the person stopped it.
    """
    noise: dict[str, list[float]] = {name: [] for name in layers}
    for spec in specs:
        changes = {}
        for name, layer in layers.items():
            rows = layer.weight.detach().flatten(1).float()
            change = (fit_rows(rows, spec)[0] - rows).reshape(layer.weight.shape)
            changes[name] = change.to(layer.weight.dtype)
        found = measure_output_noise(network, changes, calibration, cancelled=cancelled)
        for name in layers:
            noise[name].append(found[name])
    return noise
