"""Measure a few-step LoRA beside its model: `python -m pipelines.training.few_steps_measures`.

Adherence of the same captions and noises, by the same judge, at each number of steps; and the time of four steps over
that of the model's own 25 guided ones, alternating in one run.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline

from pipelines.emoji.objects import Catalog
from pipelines.metrics.detector import SHIPPED as JUDGE
from pipelines.metrics.detector import Detector, load_detector
from pipelines.training.composition_measures import CASES, GUIDANCE, STEPS, generate, is_shown, named_compositions
from pipelines.training.few_steps import few_step_scheduler
from pipelines.training.measures import load_pipeline, seconds_of
from pipelines.training.recipes import catalog_for, find_recipe
from pipelines.training.trainer import pick_device, picture_sheet, use_threads
from pipelines.weights.lora import applied_loras

__all__ = ["few_step_adherence", "time_ratios"]


def few_step_adherence(
    pipeline: StableDiffusionPipeline,
    detector: Detector,
    catalog: Catalog,
    steps: int,
    guidance: float,
    captions: int,
    sheet: Path | None = None,
) -> dict[str, float]:
    """Measure the share of pictures that show what their caption says, of each of CASES and of all.

    Args:
        pipeline: with the scheduler and the weights to measure.
        detector: the judge.
        catalog: the objects.
        steps, guidance: of each picture.
        captions: of each case.
        sheet: where to draw the first 64 pictures, or None.
    """
    shares, first = {}, []
    for name, (split, kind) in CASES.items():
        cases = named_compositions(catalog, captions, split, kind)
        images = generate(pipeline, [text for _, text, _ in cases], steps, guidance)
        views = detector.read(images)
        shares[name] = float(np.mean([is_shown(view, case[2]) for view, case in zip(views, cases, strict=True)]))
        first.append(images[:10])
    if sheet:
        sheet.parent.mkdir(parents=True, exist_ok=True)
        picture_sheet(torch.cat(first)[:64], 8).save(sheet)
    return shares | {"all": float(np.mean(list(shares.values())))}


def time_ratios(pipeline: StableDiffusionPipeline, fast: StableDiffusionPipeline, steps: int) -> dict[str, float]:
    """Compare the least times of five alternating runs each: with the decoder, and of the denoising alone."""
    ratios = {}
    for name, output in (("with_decoder", "np"), ("denoising", "latent")):
        slow_times, fast_times = [], []
        for _ in range(5):
            slow_times.append(seconds_of(pipeline, STEPS, GUIDANCE, output))
            fast_times.append(seconds_of(fast, steps, 1.0, output))
        ratios[name] = min(fast_times) / min(slow_times)
    return ratios


def main(arguments: list[str] | None = None) -> None:
    """Measure and print, and with --write store the figures beside the LoRA."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="emoji-128")
    parser.add_argument("--model", type=Path, required=True, help="the stock folder that the LoRA is for")
    parser.add_argument("--lora", type=Path, required=True, help="its file")
    parser.add_argument("--segments", type=int, default=4, help="that it was trained with (default: 4)")
    parser.add_argument("--steps", type=int, nargs="*", default=[1, 2, 4, 8])
    parser.add_argument("--captions", type=int, default=100, help="of each case")
    parser.add_argument("--sheets", type=Path, help="a folder for sheets of 64 pictures")
    parser.add_argument("--write", action="store_true", help="write figures.json beside the LoRA")
    parser.add_argument("--bf16", action="store_true", help="draw the judged pictures in bfloat16")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's own choice)")
    chosen = parser.parse_args(arguments)
    use_threads(chosen.threads)
    catalog, device = catalog_for(find_recipe(chosen.recipe)), pick_device().type
    detector = load_detector(JUDGE, device)
    pipeline, fast = load_pipeline(chosen.model, device), load_pipeline(chosen.model, device)
    fast.scheduler = few_step_scheduler(chosen.segments, dict(fast.scheduler.config))
    networks = {"unet": fast.unet, "text_encoder": fast.text_encoder}
    figures: dict[str, dict[str, float]] = {}
    with applied_loras(networks, [(chosen.lora, 1.0)], "stable-diffusion"):
        figures["time"] = time_ratios(pipeline, fast, 4)
        with torch.autocast(device, torch.bfloat16, enabled=chosen.bf16):
            runs = [("25 guided", pipeline, STEPS, GUIDANCE), *((f"{n}", fast, n, 1.0) for n in chosen.steps)]
            for name, measured, steps, guidance in runs:
                sheet = chosen.sheets / f"{name}.png" if chosen.sheets else None
                figures[name] = few_step_adherence(measured, detector, catalog, steps, guidance, chosen.captions, sheet)
                print(name, {key: round(value, 3) for key, value in figures[name].items()}, flush=True)
    base = figures["25 guided"]["all"]
    for steps in chosen.steps:
        print(f"{steps} steps: {figures[str(steps)]['all'] / base:.3f} of the adherence of 25 guided steps")
    print("time over 25 guided steps:", {name: round(value, 3) for name, value in figures["time"].items()})
    if chosen.write:
        rounded = {key: {name: round(value, 4) for name, value in group.items()} for key, group in figures.items()}
        (chosen.lora.parent / "figures.json").write_text(json.dumps(rounded, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
