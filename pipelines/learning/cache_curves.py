"""`python -m pipelines.learning.cache_curves`: measures what MagCache goes by on the shipped flow model."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from pipelines.caches.intervals import CutCache
from pipelines.core.caching import CachedRow, Place
from pipelines.core.loop import denoise
from pipelines.core.prediction import Network
from pipelines.core.types import Request
from pipelines.families.base import Family
from pipelines.models.cache import ModelCache
from pipelines.models.catalog import Catalog, shipped_flow
from pipelines.models.loader import Loader
from pipelines.requests.text_to_image import build_run, resolve

__all__ = ["main", "measure_curve"]

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


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the curve; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.learning.cache_curves", description=__doc__)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--points", type=int, default=21)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    entry = shipped_flow()
    base = Request.parse({**entry.defaults, "model": entry.key, "num_inference_steps": options.steps, "seed": 31})
    with Loader(ModelCache(_MEMORY, _MEMORY // 8), Catalog(entries=[entry]), device="cpu").model(entry.key) as family:
        curve = measure_curve(family, [base.replace(prompt=prompt) for prompt in _PROMPTS], options.points)
    print(", ".join(f"{value:.4f}" for value in curve))
    return 0


if __name__ == "__main__":
    sys.exit(main())
