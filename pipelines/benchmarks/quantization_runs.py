"""Runs of a model beside its quantized copies: outputs of the network by step, pictures, adherence, time."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from pipelines.core.errors import StepwiseError
from pipelines.core.gradients import no_grad
from pipelines.core.loop import denoise
from pipelines.core.types import Request
from pipelines.emoji.composition_captions import describe_plainly
from pipelines.emoji.compositions import sample_composition
from pipelines.emoji.objects import shipped_catalog
from pipelines.families.base import Family
from pipelines.metrics.composition_adherence import adherence
from pipelines.metrics.detector import Detector
from pipelines.metrics.pictures import psnr, ssim
from pipelines.quantizers.base import sqnr
from pipelines.quantizers.calibration import NetworkCall, recorded_calls
from pipelines.requests.encoding import decode
from pipelines.requests.text_to_image import build_run, resolve

__all__ = ["MOST_DECIBELS", "Picture", "draw_prompts", "forced_errors", "make_picture", "measure_picture", "time_ratio"]

FIRST_SEED = 940_000_000
"""Of the prompts and their noise; the calibration's are others (`pipelines.requests.calibration`)."""

MOST_DECIBELS = 99.0
"""What counts for pictures and outputs that are equal."""

WARM_UPS, ROUNDS = 2, 10


@dataclasses.dataclass(frozen=True, eq=False)
class Picture:
    """Holds a run: the network's calls and outputs in their order, and the picture.

    Attributes:
        calls: what the network was called with.
        outputs: what it answered.
        pixels: (H, W, 3), uint8.
        adherence: the detector's probability that the picture shows the prompt.
    """

    calls: tuple[NetworkCall, ...]
    outputs: tuple[torch.Tensor, ...]
    pixels: np.ndarray
    adherence: float


def draw_prompts(count: int, detector: Detector) -> list[str]:
    """Draw prompts of one to four objects whose names the detector knows, on a background."""
    prompts: list[str] = []
    catalog, seed = shipped_catalog(), FIRST_SEED
    while len(prompts) < count:
        composition = sample_composition(catalog, seed, "all")
        seed += 1
        caption = describe_plainly(composition)
        if set(composition.labels) <= set(detector.labels) and caption not in prompts:
            prompts.append(caption)
    return prompts


@contextlib.contextmanager
def _recorded_outputs(network: torch.nn.Module) -> Iterator[list[torch.Tensor]]:
    outputs: list[torch.Tensor] = []

    def record(module: torch.nn.Module, inputs: object, output: Any) -> None:
        outputs.append((output if isinstance(output, torch.Tensor) else output[0]).detach().clone())

    handle = network.register_forward_hook(record)
    try:
        yield outputs
    finally:
        handle.remove()


def make_picture(family: Family, request: Request, index: int, detector: Detector) -> Picture:
    """Run a prompt to its end, from the noise that belongs to its number."""
    request = request.replace(seed=FIRST_SEED + index)
    with recorded_calls(family.network) as calls, _recorded_outputs(family.network) as outputs:
        *_, step = denoise(build_run(resolve(request, family), family))
    pixels = decode(family, step.latents)[0]
    tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        judged = float(adherence(detector, tensor, request.prompt)[0])
    return Picture(tuple(calls), tuple(outputs), pixels, judged)


def _decibels(reference: torch.Tensor, other: torch.Tensor) -> float:
    return round(min(sqnr(reference, other), MOST_DECIBELS), 2)


def measure_picture(full: Picture, other: Picture) -> dict[str, Any]:
    """Compare a quantized copy's run with the full one: pictures, adherence, outputs by call, each going its own way.

    Raises:
        StepwiseError: the copy's picture is not finite.
    """
    if not all(bool(torch.isfinite(one).all()) for one in other.outputs):
        raise StepwiseError("The quantized network's output is not finite. Leave the method out.")
    return {
        "psnr": round(min(psnr(other.pixels, full.pixels), MOST_DECIBELS), 2),
        "ssim": round(ssim(other.pixels, full.pixels), 4),
        "adherence": round(other.adherence, 5),
        "free": [_decibels(*pair) for pair in zip(full.outputs, other.outputs, strict=True)],
    }


@no_grad
def forced_errors(full: Picture, network: torch.nn.Module) -> list[float]:
    """SQNR of the network's whole output in each of the full run's calls, in decibels."""
    return [_decibels(output, call.run(network)) for call, output in zip(full.calls, full.outputs, strict=True)]


@no_grad
def time_ratio(call: NetworkCall, full: torch.nn.Module, other: torch.nn.Module) -> float:
    """Time of an evaluation ÷ full precision's: processor time in turns, the least of each."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(WARM_UPS + ROUNDS):
        for place, network in enumerate((full, other)):
            # Of this thread alone, which does all the work: another program that has the core does not count.
            start = time.thread_time()
            call.run(network)
            if turn >= WARM_UPS:
                seconds[place].append(time.thread_time() - start)
    return min(seconds[1]) / max(min(seconds[0]), 1e-9)


def mean(values: Sequence[float]) -> float:
    """Return the mean; NaN of nothing."""
    return statistics.fmean(values) if values else math.nan
