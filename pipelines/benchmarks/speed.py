"""`python -m pipelines.benchmark speed`: caches beside the uncached run of the same steps, and what else saves time.

Times are ratios of processor time on one thread, one picture, network and sampler without the decoder; what is compared
takes turns. PSNR is that of a cached run's pictures to those of its own uncached run.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipelines.benchmarks.device_measures import make_family, make_run
from pipelines.benchmarks.device_models import SHAPES
from pipelines.benchmarks.speed_runs import draw, measure_bookkeeping, measure_closeness, time_in_turns
from pipelines.caches import CACHES
from pipelines.caches.cache_quant import read_fit
from pipelines.core.loop import Run, denoise
from pipelines.core.types import Choice, Request
from pipelines.emoji.captions import plain_caption
from pipelines.emoji.objects import shipped_catalog
from pipelines.emoji.scenes import sample_scene
from pipelines.families.base import Family
from pipelines.metrics.classifier import load_classifier
from pipelines.models.cache import ModelCache
from pipelines.models.catalog import Catalog, shipped, shipped_128, shipped_flow
from pipelines.models.loader import Loader

__all__ = ["main"]

PROMPTS = ("a red fox", "a cat left of a rose", "three apples", "a rocket above a house")
_PARTS = ("unet", "transformer", "few steps", "combined")
_MEMORY = 4 * 2**30
_LORA = Path(__file__).resolve().parents[2] / "assets" / "loras" / "emoji-128-four-steps.safetensors"
_FIRST_SEED = 920_000_000
_SINGLE = "emoji-dpmpp-2m-7-bespoke-single-emphasis"

_UNET: tuple[tuple[str, dict[str, Any]], ...] = (
    *(("deepcache", {"interval": interval}) for interval in (2, 3, 5)),
    *(("cachequant", {"fit": fit}) for fit in ("emoji-128-25-13", "emoji-128-25-9")),
    *(("cachequant", {"fit": "emoji-128-25-9", "correction": kind}) for kind in ("variance", "none")),
    *(("taylorseer", {"interval": interval}) for interval in (3, 4, 5)),
    *(("encoder_propagation", {"together": together}) for together in (1, 16)),
    *(("encoder_propagation", {"spacing": "uniform", "interval": interval}) for interval in (2, 3, 5)),
    ("feature_inheritance", {}),
    ("token_merging", {}),
    ("pab", {}),
)
_TRANSFORMER: tuple[tuple[str, dict[str, Any]], ...] = (
    *(("taylorseer", {"interval": interval, "order": order}) for interval in (2, 3) for order in (0, 1)),
    ("taylorseer", {"interval": 4, "order": 1}),
    *(("first_block", {"threshold": threshold}) for threshold in (0.1, 0.2)),
    *(("teacache", {"threshold": threshold}) for threshold in (0.1, 0.3)),
    *(("magcache", {"threshold": threshold}) for threshold in (0.06, 0.12)),
    ("temporal_delta", {}),
    ("pab", {}),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.benchmark speed", description=__doc__)
    parser.add_argument("--steps", type=int, nargs="*", default=[25, 50], help="of the runs that are compared")
    parser.add_argument("--rounds", type=int, default=3, help="the least time of so many counts")
    parser.add_argument("--pictures", type=int, default=len(PROMPTS), help="of each cache, for its PSNR")
    parser.add_argument("--captions", type=int, default=100, help="that the classifier judges, for what is combined")
    parser.add_argument("--full-size", action="store_true", help="a UNet of Stable Diffusion 1.5's size, too: minutes")
    parser.add_argument("--full-steps", type=int, default=6, help="of the full-size runs")
    parser.add_argument("--full-side", type=int, default=SHAPES["sd15"].side, help="pixels of their side")
    parser.add_argument("--only", nargs="*", help="of the caches or of what is combined, what has one of these words")
    parser.add_argument("--parts", nargs="*", default=_PARTS, choices=_PARTS, help="what is measured; all by default")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    entries = [shipped(), shipped_128(), shipped_flow()]
    loader = Loader(ModelCache(_MEMORY, _MEMORY // 8), Catalog(entries=entries), device="cpu")
    for entry, part, candidates in zip(entries[1:], _PARTS, (_UNET, _TRANSFORMER), strict=False):
        if part not in options.parts:
            continue
        with loader.model(entry.key) as family:
            for steps in options.steps:
                request = Request.parse({**entry.defaults, "model": entry.key, "num_inference_steps": steps, "seed": 7})
                chosen = [one for one in candidates if _is_wanted(str(one), options.only) and _serves(one[1], steps)]
                _print(_compare_caches(family, request, chosen, options.rounds, PROMPTS[: options.pictures]))
    if "few steps" in options.parts:
        with loader.model("emoji-128") as family:
            _print(
                _time_few_steps(family, Request.parse({**entries[1].defaults, "prompt": PROMPTS[0]}), options.rounds)
            )
    if "combined" in options.parts:
        with loader.model("emoji") as family:
            request = Request.parse(entries[0].defaults)
            _print(_combine(family, request, options.rounds, options.captions, options.only))
    if options.full_size:
        _print(_time_full_size(options.full_steps, options.full_side))
    return 0


def _is_wanted(name: str, words: Sequence[str] | None) -> bool:
    return not words or any(word in name for word in words)


def _serves(settings: Mapping[str, object], steps: int) -> bool:
    """Whether a cache is one for any number of steps, or was fitted to this one."""
    return "fit" not in settings or read_fit(settings["fit"]).serves(steps)


def _print(lines: Iterator[str]) -> None:
    for line in lines:
        print(line, flush=True)
    print(flush=True)


def _count(family: Family, request: Request) -> Callable[[], float]:
    return lambda: draw(family, request)[1]


def _compare_caches(
    family: Family,
    request: Request,
    candidates: Sequence[tuple[str, Any]],
    rounds: int,
    prompts: Sequence[str],
) -> Iterator[str]:
    """Each cache beside the uncached run, and what its bookkeeping costs."""
    yield f"{request.model}, {request.num_inference_steps} steps:"
    yield ""
    yield "| cache | settings | time ÷ uncached | evaluations ÷ uncached | PSNR, dB | least |"
    yield "| --- | --- | ---: | ---: | ---: | ---: |"
    timed, references = request.replace(prompt=prompts[0]), list[np.ndarray]()
    for key, settings in candidates:
        cache = Choice(key, settings)
        runs = [_count(family, timed), _count(family, timed.replace(cache=cache))]
        plain, cached = time_in_turns(runs, rounds)
        close = measure_closeness(family, prompts, request, cache, references)
        words = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in settings.items()) or "as they are"
        yield (
            f"| {CACHES[key].label} | {words} | {cached.seconds / plain.seconds:.3f} "
            f"| {cached.evaluations / plain.evaluations:.3f} | {close.mean:.1f} | {close.least:.1f} |"
        )
    whole, part = measure_bookkeeping(family, timed.replace(cache=Choice("taylorseer", {"interval": 3})))
    evaluation = plain.seconds / plain.evaluations
    yield ""
    yield (
        f"Bookkeeping of a cache: {1e6 * whole:.0f} µs around a whole evaluation, {1e6 * part:.0f} µs around one in "
        f"part, {100 * part / evaluation:.2f} % of a whole one."
    )


def _time_few_steps(family: Family, request: Request, rounds: int) -> Iterator[str]:
    """Four evaluations of the few-step LoRA beside 25 guided steps, with a cache and adaptive guidance, too."""
    few = request.replace(
        num_inference_steps=4, sampler=Choice("ddim"), guidance=Choice("cfg", {"guidance_scale": 1.0})
    )
    adaptive = request.replace(guidance=Choice("adaptive", {"guidance_scale": 4.0}))
    rows = {
        "4 evaluations of `emoji-128-four-steps`": few,
        "adaptive guidance": adaptive,
        "adaptive guidance, DeepCache with interval 3": adaptive.replace(cache=Choice("deepcache", {"interval": 3})),
    }
    yield "emoji-128, each beside 25 guided steps (50 evaluations):"
    yield ""
    yield "| run | time ÷ 25 guided steps | evaluations |"
    yield "| --- | ---: | ---: |"
    for name, other in rows.items():
        # The LoRA stays applied, in both: applying it is no part of a run.
        with family.loras([(_LORA, 1.0)]) if other is few else contextlib.nullcontext():
            plain, timed = time_in_turns([_count(family, request), _count(family, other)], rounds)
        yield f"| {name} | {timed.seconds / plain.seconds:.3f} | {timed.evaluations:.1f} |"


def _combine(
    family: Family, request: Request, rounds: int, captions: int, only: Sequence[str] | None = None
) -> Iterator[str]:
    """Adaptive guidance, a cache and a learned schedule, alone and together, judged by the classifier."""
    adaptive, cache = Choice("adaptive", {"guidance_scale": 4.0}), Choice("deepcache", {"interval": 2})
    learned = request.replace(num_inference_steps=10, schedule=Choice("learned", {"method": "bespoke"}))
    extrapolated = request.replace(num_inference_steps=7, schedule=Choice("learned", {"name": _SINGLE}))
    ten = request.replace(num_inference_steps=10, guidance=adaptive)
    rows = {
        "25 plain steps": request,
        "adaptive guidance": request.replace(guidance=adaptive),
        "DeepCache": request.replace(cache=cache),
        "adaptive guidance, DeepCache": request.replace(guidance=adaptive, cache=cache),
        "10 steps, adaptive guidance, DeepCache": ten.replace(cache=cache),
        "learned schedule, 6 steps": learned.replace(num_inference_steps=6),
        "learned schedule, 10 steps": learned,
        "learned schedule, 10 steps, DeepCache": learned.replace(cache=cache),
        "learned schedule with prompt extrapolation, 7 steps": extrapolated,
        "learned schedule with prompt extrapolation, 7 steps, DeepCache": extrapolated.replace(cache=cache),
    }
    yield f"emoji, adherence over {captions} captions of one and two objects, DeepCache with interval 2:"
    yield ""
    yield "| run | time ÷ 25 plain steps | evaluations | adherence |"
    yield "| --- | ---: | ---: | ---: |"
    for name, other in rows.items():
        if other is not request and not _is_wanted(name, only):
            continue
        timed = [_count(family, one.replace(prompt=PROMPTS[0])) for one in (request, other)]
        plain, own = time_in_turns(timed, rounds)
        adherence = _judge(family, other, captions)
        yield f"| {name} | {own.seconds / plain.seconds:.3f} | {own.evaluations:.1f} | {adherence:.3f} |"


def _judge(family: Family, request: Request, captions: int) -> float:
    """The mean adherence of pictures to their captions."""
    classifier, catalog, scores = load_classifier(), shipped_catalog(), []
    for number in range(captions):
        scene = sample_scene(catalog, _FIRST_SEED + number, "all", 1 + number % 2)
        latents, _ = draw(family, request.replace(prompt=plain_caption(scene), seed=number))
        with torch.no_grad():
            labels = tuple(placed.label for placed in scene.objects)
            scores.append(classifier.truth_probability(family.decode(latents), labels, scene.background).item())
    return sum(scores) / len(scores)


def _time_full_size(steps: int, side: int) -> Iterator[str]:
    """A UNet of Stable Diffusion 1.5's size with random weights: time only, few steps without guidance."""
    shape = SHAPES["sd15"]
    family = make_family(shape, "cpu", torch.float32, False)

    def run(cache: Choice) -> float:
        made: Run = make_run(shape, family, side, steps, False)
        made.denoiser.cache = CACHES.build(cache)
        *_, step = denoise(made)
        return step.evaluations

    yield f"UNet of Stable Diffusion 1.5's size, random weights, {side} px, {steps} steps without guidance, time only:"
    yield ""
    yield "| cache | settings | time ÷ uncached | evaluations ÷ uncached |"
    yield "| --- | --- | ---: | ---: |"
    choices = [Choice("none"), *(Choice("deepcache", {"interval": interval}) for interval in (2, 3))]
    plain, *others = time_in_turns([functools.partial(run, choice) for choice in choices], 1)
    for choice, timing in zip(choices[1:], others, strict=True):
        yield (
            f"| DeepCache | interval {choice.settings['interval']} | {timing.seconds / plain.seconds:.3f} "
            f"| {timing.evaluations / plain.evaluations:.3f} |"
        )


if __name__ == "__main__":
    sys.exit(main())
