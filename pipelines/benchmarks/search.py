"""`python -m pipelines.benchmark search`: each search's reward against the evaluations that it used.

Prompts name two objects and how they stand. Each search is led by the shipped detector, which is also what is measured;
its pictures are read again by a judge that led nothing, the shipped classifier of the 64 px model, on the half of the
prompts that it can read.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipelines.benchmarks.search_report import FIGURES, PLOT, SECTION, draw_table, plot, write_section
from pipelines.core.gradients import no_grad
from pipelines.core.types import Choice, Request
from pipelines.emoji.captions import with_article
from pipelines.families.base import Family
from pipelines.metrics.classifier import Classifier, load_classifier
from pipelines.metrics.detector import Detector, load_detector
from pipelines.models.cache import ModelCache
from pipelines.models.catalog import Catalog, shipped_128, shipped_flow
from pipelines.models.loader import Loader
from pipelines.requests.search import resolve_search, run_search
from pipelines.rewards.base import RewardSources

__all__ = ["Cell", "main"]

_LORA = Path(__file__).resolve().parents[2] / "assets" / "loras" / "emoji-128-four-steps.safetensors"
_MEMORY = 4 * 2**30
_SEED = 930_000_000
_RELATIONS = ("above", "in front of")
MULTIPLES = (1, 2, 4, 8, 16)
"""Budgets that are read off, in pictures."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One search on one model.

    Attributes:
        label: in the table.
        model: key of the catalog.
        search: with its settings, without the budget.
        request: fields that differ from the model's own.
        few: whether the four-step LoRA is applied.
    """

    label: str
    model: str
    search: Choice
    request: dict[str, Any] = dataclasses.field(default_factory=dict)
    few: bool = False


def _list_cells(steps: int) -> list[Cell]:
    run = {"num_inference_steps": steps}
    ancestral, ddim = {**run, "sampler": Choice("euler_a")}, {**run, "sampler": Choice("ddim")}
    four = {
        "num_inference_steps": 4,
        "sampler": Choice("lcm"),
        "guidance": Choice("cfg", {"guidance_scale": 1.0}),
    }
    log = {"reward": Choice("adherence", {"measure": "logarithm"})}
    cells = [
        Cell("Best of N", "emoji-128", Choice("random", {"together": 1}), run),
        Cell("Zero-order", "emoji-128", Choice("zero_order"), run),
        Cell("Over paths", "emoji-128", Choice("paths"), run),
        Cell("FIND", "emoji-128", Choice("find"), run),
        Cell("FK steering", "emoji-128", Choice("fk_steering"), ancestral),
        Cell("DOIT", "emoji-128", Choice("doit"), ancestral),
        Cell("Latent beam search", "emoji-128", Choice("beam"), ancestral),
        Cell("AdjointDPM", "emoji-128", Choice("adjoint"), {**ddim, **log}),
        Cell("Best of N, four steps", "emoji-128", Choice("random", {"together": 1}), four, few=True),
        Cell("ReNO, four steps", "emoji-128", Choice("reno"), {**four, **log}, few=True),
    ]
    flow = {**run, "sampler": Choice("flow_euler")}
    return [
        *cells,
        Cell("Best of N, flow", "emoji-128-flow", Choice("random", {"together": 1}), flow),
        Cell("Rollover budget forcing, flow", "emoji-128-flow", Choice("rollover"), flow),
    ]


def _draw_prompts(count: int, classifier: Classifier, detector: Detector) -> list[str]:
    """Prompts of two objects on a background; every other one side by side, of objects that both judges know."""
    rng, prompts = np.random.default_rng(_SEED), []
    for index in range(count):
        both = index % 2 == 0
        labels, relation = (classifier.labels, "left of") if both else (detector.labels, _RELATIONS[index // 2 % 2])
        backgrounds = classifier.backgrounds if both else detector.backgrounds
        first, second = rng.choice(len(labels), 2, replace=False)
        objects = f" {relation} ".join(with_article(labels[place], True) for place in (first, second))
        prompts.append(f"{objects} on a {backgrounds[rng.integers(len(backgrounds))]} background")
    return prompts


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.benchmark search", description=__doc__)
    parser.add_argument("--prompts", type=int, default=4, help="of two objects")
    parser.add_argument("--steps", type=int, default=6, help="of a run without the four-step LoRA")
    parser.add_argument("--only", nargs="*", help="keys of searches; all by default")
    parser.add_argument(
        "--write", action="store_true", help=f"write {FIGURES.name}, {PLOT.name} and the section of {SECTION.name}"
    )
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    classifier = load_classifier()
    prompts = _draw_prompts(options.prompts, classifier, load_detector())
    entries = {entry.key: entry for entry in (shipped_128(), shipped_flow())}
    loader = Loader(ModelCache(_MEMORY, _MEMORY // 8), Catalog(entries=list(entries.values())), device="cpu")
    rows: list[dict[str, Any]] = []
    for cell in _list_cells(options.steps):
        if options.only and cell.search.key not in options.only:
            continue
        base = Request.parse({**entries[cell.model].defaults, "model": cell.model})
        with loader.model(cell.model) as family, family.loras([(_LORA, 1.0)] if cell.few else []):
            rows.append(_measure(cell, base, family, prompts, classifier))
        print(draw_table(rows[-1:]).splitlines()[-1], flush=True)
        if options.write:
            _write({"prompts": prompts, "steps": options.steps, "rows": rows})
    print()
    print(draw_table(rows))
    return 0


def _write(figures: dict[str, Any]) -> None:
    FIGURES.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
    PLOT.write_text(plot(figures["rows"]), "utf-8")
    write_section(figures)


def _measure(
    cell: Cell, base: Request, family: Family, prompts: Sequence[str], classifier: Classifier
) -> dict[str, Any]:
    """One row: the best picture's adherence at each multiple of a picture's cost, the mean of all prompts."""
    curves, others, seconds, cost = [], [], 0.0, 0.0
    for index, prompt in enumerate(prompts):
        request = base.replace(
            **{"reward": Choice("adherence"), **cell.request}, prompt=prompt, seed=_SEED + 100 * index
        )
        plain = _search(request.replace(search=Choice("random", {"budget": 10_000})), family)
        cost = plain[1].cost
        budget = round(MULTIPLES[-1] * cost)
        settings = {**cell.search.settings, "budget": budget}
        start = time.process_time()
        search, problem = _search(request.replace(search=Choice(cell.search.key, settings)), family)
        reward = _to_probability(request)
        points, last = [], None
        for found in run_search(search, problem):
            if found.best.finished:
                points.append((found.spent / cost, reward(found.best.reward)))
                last = found.best.image
        seconds += time.process_time() - start
        curves.append(points)
        if last is not None and index % 2 == 0:
            others.append(_read_again(classifier, last, prompt))
    means = [_mean_at(curves, multiple) for multiple in MULTIPLES]
    return {
        "label": cell.label,
        "key": cell.search.key,
        "cost": cost,
        "means": means,
        "other": sum(others) / len(others) if others else 0.0,
        "shares": _share_at(curves, MULTIPLES[-1]),
        "seconds": seconds / len(prompts),
    }


def _search(request: Request, family: Family) -> Any:
    return resolve_search(request, family, RewardSources(Path("models")))


def _to_probability(request: Request) -> Callable[[float], float]:
    is_logarithm = request.reward.settings.get("measure") == "logarithm"
    return (lambda reward: float(np.exp(reward))) if is_logarithm else (lambda reward: reward)


def _best_at(points: Sequence[tuple[float, float]], multiple: float) -> float | None:
    """The best reward within so many pictures' cost; None where no picture was finished by then."""
    within = [reward for spent, reward in points if spent <= multiple + 1e-6]
    return max(within) if within else None


def _mean_at(curves: Sequence[Sequence[tuple[float, float]]], multiple: float) -> float | None:
    values = [_best_at(points, multiple) for points in curves]
    finished = [value for value in values if value is not None]
    return sum(finished) / len(values) if len(finished) == len(values) else None


def _share_at(curves: Sequence[Sequence[tuple[float, float]]], multiple: float) -> float:
    """The share of prompts whose best picture is adherent with a probability above one half."""
    return sum((_best_at(points, multiple) or 0.0) > 0.5 for points in curves) / len(curves)


@no_grad
def _read_again(classifier: Classifier, image: np.ndarray, prompt: str) -> float:
    """The other judge's probability of the prompt, of the picture at its own size."""
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255
    return float(classifier.adherence(pixels, prompt)[0])


if __name__ == "__main__":
    sys.exit(main())
