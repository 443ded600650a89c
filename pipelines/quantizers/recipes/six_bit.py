"""6Bit-Diffusion's choice of precision: a block that changes its input much keeps eight bits, the others get four."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch

from pipelines.core.cancelling import Cancelled
from pipelines.core.errors import MethodFitError
from pipelines.core.gradients import no_grad
from pipelines.core.registry import setting
from pipelines.quantizers.calibration import Calibration
from pipelines.quantizers.simulated.activations import ActivationSpec
from pipelines.quantizers.simulated.layer_spec import LayerSpec
from pipelines.quantizers.simulated.observing import list_edges
from pipelines.quantizers.simulated.quantizer import Given, Plan, SimulatedQuantizer

__all__ = ["SixBit", "SixBitSettings", "choose_volatile", "find_blocks", "measure_differences"]

_BLOCK = re.compile(r"(?:.*\.)?(?:single_)?transformer_blocks\.\d+")
STABLE, VOLATILE = "fp4_e2m1", "int8"


@dataclasses.dataclass(frozen=True)
class SixBitSettings:
    volatile: float = setting(
        0.5,
        "Share of the transformer blocks' inputs that keep eight bits: those where a block changes its input most.",
        low=0.0,
        high=1.0,
        step=0.05,
    )
    weights: str = setting("fp4", "Number format of the weights.", choices=("fp4", "int8", "full"))
    intervals: int = setting(8, "Intervals of steps for which each block is decided.", low=1, high=50)


def find_blocks(network: torch.nn.Module) -> list[str]:
    """Find the names of a network's transformer blocks.

    Raises:
        MethodFitError: there are none.
    """
    names = [name for name, _ in network.named_modules() if _BLOCK.fullmatch(name)]
    if not names:
        raise MethodFitError(
            "6Bit-Diffusion chooses by transformer blocks, and this model has none. Choose another recipe."
        )
    return names


@no_grad
def measure_differences(
    network: torch.nn.Module,
    names: Sequence[str],
    calibration: Calibration,
    cancelled: Callable[[], bool] = lambda: False,
) -> torch.Tensor:
    """Measure how much each block changes what it is given, |F(x) - x| / |x|, in each call.

    Args:
        network: evaluated on every call; its hooks go when this returns.
        names: of its blocks, whose hidden states come in and out in one shape.
        calibration: the calls.
        cancelled: polled before each.

    Returns:
        (blocks, calls), float64; 0 where a block is not called.

    Raises:
        Cancelled: the person stopped it.
    """
    table = torch.zeros(len(names), len(calibration.calls), dtype=torch.float64)
    call = 0

    def listen(row: int) -> Callable[..., None]:
        def measure(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            given = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
            answers = output if isinstance(output, (tuple, list)) else (output,)
            answer = [one for one in answers if isinstance(one, torch.Tensor) and one.shape == given.shape][-1]
            table[row, call] = ((answer - given).double().norm() / given.double().norm()).cpu()

        return measure

    handles = []
    try:
        for row, name in enumerate(names):
            block = network.get_submodule(name)
            handles.append(block.register_forward_hook(listen(row), with_kwargs=True))
        for call, one in enumerate(calibration.calls):  # noqa: B007 - the hooks read it
            if cancelled():
                raise Cancelled
            one.run(network)
    finally:
        for handle in handles:
            handle.remove()
    return table


def choose_volatile(
    differences: torch.Tensor, times: Sequence[float], edges: torch.Tensor, share: float
) -> torch.Tensor:
    """Choose for each block and interval of times whether its inputs keep eight bits.

    Args:
        differences: (blocks, calls).
        times: of the calls.
        edges: times between the intervals, ascending.
        share: of all pairs of block and interval that do; those of the largest mean difference.

    Returns:
        (blocks, intervals), bool.
    """
    places = torch.bucketize(torch.tensor(times, dtype=edges.dtype), edges)
    means = torch.stack([differences[:, places == one].mean(1) for one in range(len(edges) + 1)], 1)
    chosen = torch.zeros(means.numel(), dtype=torch.bool)
    chosen[means.flatten().argsort(descending=True, stable=True)[: round(share * means.numel())]] = True
    return chosen.reshape(means.shape)


class SixBit(SimulatedQuantizer):
    """Rounds inputs of the layers in a transformer block to FP4 at times where the block changes little, else to INT8.

    How much a block changes its input stands for what rounding does to its layers. With `volatile` 1 all inputs have
    eight bits, with 0 those in blocks have four. Layers outside blocks have eight bits, by token.

    Source: Su et al., 6Bit-Diffusion, arXiv:2603.18742, as its abstract states it: a predictor by a block's
    input-output difference allocates NVFP4 or INT8. Its temporal delta cache is the cache of that name.
    Differs: written from the abstract. Theirs decides while a run goes on; here a network's call may belong to several
    runs at once and remembers none, so that blocks are decided by interval of steps, from calibration runs. Weights
    have one format. FP4 has float32 scales in groups of 16, where NVFP4 has scales in eight bits.
    """

    def __init__(self, settings: SixBitSettings = SixBitSettings()):
        self.settings = settings

    def plan(self, given: Given) -> Plan:
        chosen, calibration = self.settings, given.calibration
        blocks = find_blocks(given.network)
        given.progress("Measuring what blocks change", 0, 1)
        differences = measure_differences(given.network, blocks, calibration, given.cancelled)
        times = [call.time for call in calibration.calls]
        edges = list_edges(times, chosen.intervals)
        volatile = choose_volatile(differences, times, edges, chosen.volatile)
        weights = {"fp4": STABLE, "int8": VOLATILE, "full": "full"}[chosen.weights]
        spec = LayerSpec(
            weights=weights,
            scope="group" if chosen.weights == "fp4" else "channel",
            group_size=16,
            search=chosen.weights == "fp4",
            activations=ActivationSpec(VOLATILE, "token"),
        )
        specs = dict.fromkeys(given.layers, spec)
        for name in given.layers:
            block = next((one for one in blocks if name.startswith(f"{one}.")), None)
            if block is not None:
                forms = [VOLATILE if one else STABLE for one in volatile[blocks.index(block)].tolist()]
                activations = ActivationSpec(
                    VOLATILE, "switched", group_size=16, edges=tuple(edges.tolist()), forms=tuple(forms)
                )
                specs[name] = dataclasses.replace(spec, activations=activations)
        return Plan(specs, calibration)
