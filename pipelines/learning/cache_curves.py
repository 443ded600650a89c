"""`python -m pipelines.learning.cache_curves`: measures what MagCache and TeaCache go by on the shipped flow model."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch

from pipelines.caches.decisions import relative_change
from pipelines.caches.intervals import CutCache
from pipelines.caches.networks import find_module
from pipelines.caches.stack_cut import list_blocks
from pipelines.core.caching import CachedRow, Place
from pipelines.core.loop import denoise
from pipelines.core.prediction import Network
from pipelines.core.types import Request
from pipelines.families.base import Family
from pipelines.models.cache import ModelCache
from pipelines.models.catalog import Catalog, shipped_flow
from pipelines.models.loader import Loader
from pipelines.requests.text_to_image import build_run, resolve

__all__ = ["fit_polynomial", "main", "measure_changes", "measure_curve"]

_MEMORY = 4 * 2**30
_PROMPTS = ("a red fox", "a cat left of a rose", "three apples", "a rocket above a house")


@dataclasses.dataclass(frozen=True)
class _Recorder(CutCache):
    """Runs everything, and notes the mean length of what the blocks add to a token, beside the network's time."""

    depth: int = 0
    noted: list[tuple[float, float]] = dataclasses.field(default_factory=list, compare=False)

    def is_whole(self, place: Place) -> bool:
        return True

    @contextlib.contextmanager
    def applied(self, network: Network, plan: str, rows: Sequence[CachedRow]) -> Iterator[None]:
        with super().applied(network, plan, rows):
            yield
        for row in rows:
            time, part = row.pending["past"][0]
            self.noted.append((time, float(part.output[part.index].float().norm(dim=-1).mean())))


def measure_curve(family: Family, requests: Sequence[Request], points: int) -> list[float]:
    """Measure lengths at even times from 1000 to 0, relative to the first.

    Args:
        family: the loaded model, a transformer.
        requests: one picture each, without a cache.
        points: of the curve.
    """
    recorder = _Recorder()
    for request in requests:
        run = build_run(resolve(request, family), family)
        run.denoiser.cache = recorder
        for _ in denoise(run):
            pass
    times = sorted({time for time, _ in recorder.noted})
    means = [float(np.mean([length for one, length in recorder.noted if one == time])) for time in times]
    curve = np.interp(np.linspace(1000, 0, points), times, means)
    return [float(value) for value in curve / curve[0]]


@contextlib.contextmanager
def _noted(family: Family) -> Iterator[list[tuple[torch.Tensor, torch.Tensor]]]:
    """Note the first block's modulated input and the output of each evaluation of a transformer."""
    noted: list[tuple[torch.Tensor, torch.Tensor]] = []
    inputs: list[torch.Tensor] = []
    module = find_module(family)
    norm = list_blocks(module)[0].norm1
    handles = [
        norm.register_forward_hook(lambda _module, _arguments, output: inputs.append(output[0])),
        module.register_forward_hook(lambda _module, _arguments, output: noted.append((inputs[-1], output[0]))),
    ]
    try:
        yield noted
    finally:
        for handle in handles:
            handle.remove()


def measure_changes(family: Family, requests: Sequence[Request]) -> tuple[list[float], list[float]]:
    """Measure by how much, relative and from step to step, the modulated input and the output of a transformer change.

    Args:
        family: the loaded model.
        requests: one picture each, without a cache.
    """
    before, after = list[float](), list[float]()
    for request in requests:
        with _noted(family) as noted:
            for _ in denoise(build_run(resolve(request, family), family)):
                pass
        for (first, output), (second, next_output) in pairwise(noted):
            if first.shape == second.shape:
                before += relative_change(second, first)
                after += relative_change(next_output, output)
    return before, after


def fit_polynomial(before: Sequence[float], after: Sequence[float], degree: int = 4) -> list[float]:
    """Fit the change of the output as a polynomial of that of the input, by least squares; highest power first.

    Source: Liu et al., TeaCache, arXiv:2411.19108, equation 7.
    """
    return [float(value) for value in np.polyfit(before, after, degree)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the curve; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.learning.cache_curves", description=__doc__)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--points", type=int, default=21)
    parser.add_argument(
        "--polynomial", action="store_true", help="print TeaCache's polynomial in the place of MagCache's curve"
    )
    parser.add_argument("--degree", type=int, default=4, help="of the polynomial")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    entry = shipped_flow()
    base = Request.parse({**entry.defaults, "model": entry.key, "num_inference_steps": options.steps, "seed": 31})
    with Loader(ModelCache(_MEMORY, _MEMORY // 8), Catalog(entries=[entry]), device="cpu").model(entry.key) as family:
        requests = [base.replace(prompt=prompt) for prompt in _PROMPTS]
        if options.polynomial:
            values = fit_polynomial(*measure_changes(family, requests), options.degree)
        else:
            values = measure_curve(family, requests, options.points)
    print(", ".join(f"{value:.4f}" for value in values))
    return 0


if __name__ == "__main__":
    sys.exit(main())
