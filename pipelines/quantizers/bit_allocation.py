"""How many bits each layer gets: what its error does to the network's output, and the best choice within a budget."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence

import torch

from pipelines.core.cancelling import Cancelled
from pipelines.quantizers.calibration import Calibration

__all__ = ["allocate_bits", "measure_output_noise"]


def measure_output_noise(
    network: torch.nn.Module,
    differences: Mapping[str, torch.Tensor],
    calibration: Calibration,
    seed: int = 0,
    cancelled: Callable[[], bool] = lambda: False,
) -> dict[str, float]:
    """Estimate the squared error that each layer's change of weights, alone, makes in the network's output.

    To first order the output changes by J dW. For a random vector v of signs the mean of (v^T J dW)^2 is its squared
    length, and v^T J is one backward pass, which serves all layers at once.

    Args:
        network: in full precision; it stays as it is.
        differences: name of a layer to the change of its weight, of the weight's shape.
        calibration: one random vector and one backward pass for each call.
        seed: of the vectors.
        cancelled: polled before each call.

    Returns:
        Name to the mean over the calls.

    Source: Hutchinson's estimator of a trace; the squared output error by layer is the sensitivity of Dong et al.,
    HAWQ-V2, arXiv:1911.03852, with the output's Jacobian in place of the loss's Hessian.

    Raises:
        Cancelled: the person stopped it.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = dict.fromkeys(differences, 0.0)
    with torch.inference_mode(False), torch.enable_grad():
        weights = {
            f"{name}.weight": network.get_parameter(f"{name}.weight").detach().requires_grad_() for name in differences
        }
        for call in calibration.calls:
            if cancelled():
                raise Cancelled
            output = torch.func.functional_call(network, weights, call.args, dict(call.kwargs))
            output = output if isinstance(output, torch.Tensor) else output[0]
            signs = torch.randint(0, 2, output.shape, generator=generator).to(output) * 2 - 1
            gradients = torch.autograd.grad((output * signs).sum(), list(weights.values()), allow_unused=True)
            for name, gradient in zip(differences, gradients, strict=True):
                if gradient is not None:
                    change = float((gradient * differences[name]).sum())
                    noise[name] += change**2 / len(calibration.calls)
    return noise


def allocate_bits(noise: Sequence[Sequence[float]], costs: Sequence[Sequence[int]], budget: int) -> list[int]:
    """Choose an option for each layer by the steepest descent of noise for its cost.

    Every layer begins with its cheapest option; the step that saves most noise a byte comes first, and steps go on as
    long as one fits. The steps are those of the lower convex hull, so that what is chosen is the optimum for the budget
    that it uses; for another budget an integer program could find a better one.

    Args:
        noise: of each layer and option, the cheapest option first.
        costs: in bytes, alike; they increase.
        budget: bytes in all.

    Returns:
        The option of each layer.
    """
    chosen = [0] * len(noise)
    left = budget - sum(one[0] for one in costs)
    queue: list[tuple[float, int, int]] = []

    def offer(layer: int) -> None:
        start = chosen[layer]
        steps = [
            ((noise[layer][option] - noise[layer][start]) / (costs[layer][option] - costs[layer][start]), option)
            for option in range(start + 1, len(costs[layer]))
        ]
        if steps and min(steps)[0] < 0:
            heapq.heappush(queue, (min(steps)[0], layer, min(steps)[1]))

    for layer in range(len(noise)):
        offer(layer)
    while queue:
        _, layer, option = heapq.heappop(queue)
        price = costs[layer][option] - costs[layer][chosen[layer]]
        if price <= left:
            left -= price
            chosen[layer] = option
            offer(layer)
    return chosen
