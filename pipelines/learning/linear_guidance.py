"""`python -m pipelines.learning.linear_guidance`: fits LinearAG's coefficients to the shipped 128 px model."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from pipelines.core.loop import denoise_together
from pipelines.core.prediction import Prediction
from pipelines.core.types import Choice, Request
from pipelines.emoji.captions import plain_caption
from pipelines.emoji.objects import shipped_catalog
from pipelines.emoji.scenes import sample_scene
from pipelines.families.base import Family
from pipelines.guidance.linear import solve
from pipelines.models.cache import ModelCache
from pipelines.models.catalog import Catalog, shipped_128
from pipelines.models.loader import Loader
from pipelines.requests.text_to_image import build_run, resolve

__all__ = ["fit_linear", "main", "record"]

Combine = Callable[[Mapping[str, Prediction]], Prediction]

_MEMORY = 4 * 2**30
_FIRST_SEED = 940_000_000


def record(family: Family, requests: Sequence[Request]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Run requests together and keep what both branches said.

    Args:
        family: the loaded model.
        requests: of equal steps, guided, by a sampler of one evaluation a step.

    Returns:
        The conditional and the unconditional outputs of each evaluation, (B, C, h, w).
    """
    runs, said = [build_run(resolve(one, family), family) for one in requests], list[list[Prediction]]()
    for run in runs:
        kept: list[Prediction] = []
        said.append(kept)
        guidance = run.denoiser.guidance
        guidance.__dict__["combine"] = _keep(guidance.combine, kept)
    for _ in denoise_together(runs):
        pass
    outputs = []
    for name in ("positive", "negative"):
        by_step = zip(*([one.branches[name].raw for one in kept] for kept in said), strict=True)
        outputs.append([torch.cat(rows) for rows in by_step])
    return outputs[0], outputs[1]


def _keep(combine: Combine, kept: list[Prediction]) -> Combine:
    def keep(branches: Mapping[str, Prediction]) -> Prediction:
        prediction = combine(branches)
        kept.append(dataclasses.replace(prediction, branches=branches))
        return prediction

    return keep


def fit_linear(positives: Sequence[torch.Tensor], negatives: Sequence[torch.Tensor]) -> list[list[float]]:
    """Fit the coefficients of every evaluation."""
    return [solve(positives, negatives, index) for index in range(len(positives))]


def main(arguments: Sequence[str] | None = None) -> int:
    """Fit and write; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.learning.linear_guidance", description=__doc__)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--pictures", type=int, default=64, help="trajectories that are fitted to")
    parser.add_argument("output", type=Path, help="the file, e.g. assets/guidance/emoji-128-20.json")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    entry, catalog = shipped_128(), shipped_catalog(None)
    base = Request.parse({**entry.defaults, "model": entry.key, "num_inference_steps": options.steps})
    base = base.replace(guidance=Choice("cfg", {"guidance_scale": 4.0}))
    scenes = [sample_scene(catalog, _FIRST_SEED + one, "all", 1 + one % 2) for one in range(options.pictures)]
    prompts = [plain_caption(scene) for scene in scenes]
    requests = [base.replace(prompt=prompt, seed=_FIRST_SEED + number) for number, prompt in enumerate(prompts)]
    parts: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
    with Loader(ModelCache(_MEMORY, _MEMORY // 8), Catalog(entries=[entry]), device="cpu").model(entry.key) as family:
        levels = resolve(requests[0], family).levels
        for start in range(0, len(requests), 8):
            for part, rows in zip(parts, record(family, requests[start : start + 8]), strict=True):
                part[:] = [torch.cat(pair) for pair in zip(part, rows, strict=True)] if part else rows
    values = {
        "model": entry.key,
        "sampler": base.sampler.key,
        "guidance_scale": 4.0,
        "pictures": options.pictures,
        "timesteps": [float(level.timestep) for level in levels[:-1]],
        "coefficients": [[round(value, 6) for value in row] for row in fit_linear(*parts)],
    }
    options.output.write_text(json.dumps(values, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
