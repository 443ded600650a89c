"""`python -m pipelines.learning.cache_schedule`: fits CacheQuant's schedule and correction to the shipped UNet."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from pipelines.caches.cache_quant import choose_starts, fit_channels
from pipelines.caches.intervals import CutCache
from pipelines.core.caching import CachedRow, Place
from pipelines.core.loop import denoise
from pipelines.core.prediction import Network
from pipelines.core.types import Request
from pipelines.families.base import Family
from pipelines.models.cache import ModelCache
from pipelines.models.catalog import Catalog, shipped_128
from pipelines.models.loader import Loader
from pipelines.requests.text_to_image import build_run, resolve

__all__ = ["fit_schedule", "main", "record_features"]

_MEMORY = 4 * 2**30
_PROMPTS = ("a red fox", "a cat left of a rose", "three apples", "a rocket above a house", "a small tree", "an owl")
_SEED = 40
"""Apart from that of the benchmark."""


@dataclasses.dataclass(frozen=True)
class _Recorder(CutCache):
    """Runs everything, and keeps the feature at the cut of every evaluation."""

    depth: int = 0
    noted: dict[int, list[torch.Tensor]] = dataclasses.field(default_factory=dict, compare=False)

    def is_whole(self, place: Place) -> bool:
        return True

    @contextlib.contextmanager
    def applied(self, network: Network, plan: str, rows: Sequence[CachedRow]) -> Iterator[None]:
        with super().applied(network, plan, rows):
            yield
        for row in rows:
            part = row.pending["past"][0][1]
            self.noted.setdefault(row.place.step, []).append(part.output[part.index].float().clone())


def record_features(family: Family, requests: Sequence[Request]) -> list[torch.Tensor]:
    """Record the features of runs; returns for each step (n, C, h, w), of all pictures and branches."""
    recorder = _Recorder()
    for request in requests:
        run = build_run(resolve(request, family), family)
        run.denoiser.cache = recorder
        for _ in denoise(run):
            pass
    return [torch.stack(recorder.noted[step]) for step in sorted(recorder.noted)]


def fit_schedule(features: Sequence[torch.Tensor], count: int) -> dict[str, Any]:
    """Fit starts, factors, offsets and scales, as plain values.

    Args:
        features: of each step, (n, C, h, w).
        count: whole evaluations.
    """
    costs = [[float((one - start).abs().mean()) for one in features] for start in features]
    starts = choose_starts(costs, count)
    factors, offsets, scales = [], [], []
    for step, feature in enumerate(features):
        start = max(one for one in starts if one <= step)
        factor, offset = fit_channels(features[start], feature)
        factors.append([round(value, 4) for value in factor.tolist()])
        offsets.append([round(value, 4) for value in offset.tolist()])
        scales.append(round(float(feature.std() / features[start].std()), 4))
    return {"starts": list(starts), "factors": factors, "offsets": offsets, "scales": scales}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a fit; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.learning.cache_schedule", description=__doc__)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--whole", type=int, nargs="+", default=[9, 13], help="evaluations that run the whole network")
    parser.add_argument("--out", type=Path, required=True, help="the folder, for MODEL-STEPS-WHOLE.json")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    entry = shipped_128()
    base = Request.parse({**entry.defaults, "model": entry.key, "num_inference_steps": options.steps})
    with Loader(ModelCache(_MEMORY, _MEMORY // 8), Catalog(entries=[entry]), device="cpu").model(entry.key) as family:
        times = [float(level.timestep) for level in resolve(base, family).levels[:-1]]
        requests = [base.replace(prompt=prompt, seed=_SEED + i) for i, prompt in enumerate(_PROMPTS)]
        features = record_features(family, requests)
    for count in options.whole:
        values = {"model": entry.key, "timesteps": times, **fit_schedule(features, count)}
        file = options.out / f"{entry.key}-{options.steps}-{count}.json"
        file.write_text(json.dumps(values) + "\n", "utf-8")
        print(file, "whole steps", values["starts"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
