"""Measure the 128 px model: `python -m pipelines.training.composition_measures`.

One picture for each caption of a kind, its noise fixed by its number, judged by the detector. Writes the table into
the model's card and `figures.json` beside it.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from safetensors.torch import load_file, save_file

from pipelines.core.gradients import no_grad
from pipelines.emoji.composition_captions import Description, describe, parse_description
from pipelines.emoji.compositions import SIZES, Composition, sample_composition
from pipelines.emoji.objects import Catalog
from pipelines.metrics.detector import SHIPPED as JUDGE
from pipelines.metrics.detector import Detector, View, load_detector
from pipelines.training.card import Floor, figure_table, write_card
from pipelines.training.composition_autoencoder import composition_psnr
from pipelines.training.exchange import FILES, FLOW_FILES, fingerprint
from pipelines.training.fit import PARTS, require_fit
from pipelines.training.history import history_of
from pipelines.training.latents import encode, pictures_of
from pipelines.training.measures import FRESH, call_options, file_bytes, load_pipeline, seconds_for_one
from pipelines.training.recipes import catalog_for, find_recipe
from pipelines.training.trainer import pick_device, picture_sheet, use_threads

__all__ = ["CASES", "COMPOSITION_FLOORS", "detector_accuracy", "generate", "is_shown", "measure", "named_compositions"]

STEPS, GUIDANCE = 25, 4.0
CASES: dict[str, tuple[str, str]] = {
    "trained": ("train", "single"),
    "held_out": ("held-out", "single"),
    "sides": ("train", "left of"),
    "above": ("train", "above"),
    "in_front": ("train", "in front of"),
    "counts": ("train", "count"),
    "held_out_sides": ("held-out", "left of"),
}
"""The split and the kind of the captions of each figure."""

FULL = ("trained", "held_out", "sides")
"""The figures that get all captions; the others get half as many."""

COMPOSITION_FLOORS: dict[str, Floor] = {
    "psnr": Floor("autoencoder PSNR, held-out compositions", 30, " dB"),
    "detector": Floor("detector on fresh renderings that passed the autoencoder: all right", 0.99),
    "detector_small": Floor("detector on such renderings of single small objects of held-out pairs", 0.95),
    "detector_large": Floor("detector on such renderings of single large objects of held-out pairs", 0.95),
    "trained": Floor("one object, trained pairs: object, size and background right", 0.97),
    "held_out_both": Floor("one object, held-out pairs: object, size and background right", 0.95),
    "sides": Floor("two objects left and right: both, their sides and background right", 0.85),
    "above": Floor("two objects above each other: all right", 0.85),
    "in_front": Floor("one object in front of another: all right", 0.85),
    "counts": Floor("two to four of one object: all right", 0.85),
    "held_out_sides": Floor("two objects, both pairs held out: all right", 0.85),
    "seconds": Floor("seconds for 25 guided steps and decoding", 3, " s", at_most=True),
    "megabytes": Floor("the model's folder", 48, " MB", at_most=True),
}


def is_shown(view: View, description: Description) -> bool:
    """Say whether a picture shows what its caption says, and nothing else: objects, places, sizes, background.

    A size is right when it is nearer to the range that its word means than to that of no word.
    """
    if description.background is not None and view.background != description.background:
        return False
    if len(view.objects) != description.count:
        return False
    objects = sorted(view.objects, key=lambda item: item.y if description.kind == "above" else item.x)
    labels = tuple(item.label for item in objects)
    if description.kind == "count":
        return labels == description.labels * description.count
    if description.kind == "in front of":
        front, back = sorted(objects, key=lambda item: item.size)
        return (front.label, back.label) == description.labels and front.y > back.y
    return labels == description.labels and _is_sized(objects[0].size, description.size)


def _is_sized(size: float, word: str | None) -> bool:
    if word == "small":
        return size < (SIZES["small"][1] + SIZES[None][0]) / 2
    if word == "large":
        return size > (SIZES["large"][0] + SIZES[None][1]) / 2
    return True


def named_compositions(
    catalog: Catalog, count: int, split: str, kind: str
) -> list[tuple[Composition, str, Description]]:
    """Draw fresh compositions with captions of the training grammar that name the background."""
    compositions: list[tuple[Composition, str, Description]] = []
    seed = FRESH
    while len(compositions) < count:
        seed += 1
        composition = sample_composition(catalog, seed, split, kind)
        text = describe(composition, catalog, np.random.default_rng(seed))
        description = parse_description(text, catalog)
        if description.background is not None:
            compositions.append((composition, text, description))
    return compositions


def generate(
    pipeline: DiffusionPipeline,
    captions: list[str],
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    latents_file: Path | None = None,
) -> torch.Tensor:
    """Draw one picture for each caption, the noise fixed by its number.

    Args:
        latents_file: a file of scaled latents: read if it is there, else written, so that a decoder can be measured
            again without drawing again.
    Returns: (B, 3, H, W) in [0, 1].
    """
    if latents_file is not None and latents_file.is_file():
        latents = load_file(latents_file)["latents"]
    else:
        latents = _draw_latents(pipeline, captions, steps, guidance)
        if latents_file is not None:
            latents_file.parent.mkdir(parents=True, exist_ok=True)
            save_file({"latents": latents.contiguous()}, latents_file)
    vae = pipeline.vae
    with torch.no_grad():
        decoded = [vae.decode(part / vae.config.scaling_factor).sample for part in latents.to(vae.device).split(25)]
    return (torch.cat(decoded).float() / 2 + 0.5).clamp(0, 1).cpu()


def _draw_latents(pipeline: DiffusionPipeline, captions: list[str], steps: int, guidance: float) -> torch.Tensor:
    latents = []
    for start in range(0, len(captions), 25):
        numbers = range(start, min(start + 25, len(captions)))
        result = pipeline(
            [captions[number] for number in numbers],
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=[torch.Generator().manual_seed(number) for number in numbers],
            output_type="latent",
            **call_options(pipeline),
        )
        latents.append(result.images.float().cpu())
    return torch.cat(latents)


@no_grad
def detector_accuracy(
    detector: Detector, vae: AutoencoderKL, catalog: Catalog, count: int = 400, size: str | None = None
) -> float:
    """Measure the share of fresh renderings, passed through the autoencoder, that are read all right.

    Args:
        detector, vae, catalog: the judge, what blurs the renderings, and the objects.
        count: renderings, a multiple of 50.
        size: of `SIZES`, for single objects of held-out pairs in that size; None for compositions of every kind.
    """
    right = []
    for start in range(0, count, 50):
        seeds = range(FRESH + 10**6 + start, FRESH + 10**6 + start + 50)
        if size is None:
            compositions = [sample_composition(catalog, seed, "all") for seed in seeds]
        else:
            compositions = [sample_composition(catalog, seed, "held-out", "single", sizes=(size,)) for seed in seeds]
        latents = encode(vae, pictures_of([item.scene for item in compositions], catalog, detector.size))
        images = (vae.decode(latents / vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)
        for item, view in zip(compositions, detector.read(images), strict=True):
            right.append(is_shown(view, _describe_fully(item)))
    return float(np.mean(right))


def _describe_fully(composition: Composition) -> Description:
    return Description(
        composition.kind,
        composition.labels,
        composition.count,
        composition.size,
        composition.scene.background,
    )


def measure(
    folder: Path,
    detector: Detector,
    catalog: Catalog,
    captions: int,
    sheets: Path | None,
    bf16: bool = False,
    latents_folder: Path | None = None,
) -> dict[str, float]:
    """Measure all figures of a model folder.

    Args:
        folder: a stock pipeline.
        detector: the judge.
        catalog: the objects.
        captions: how many for each generated figure.
        sheets: where to draw 64 pictures of each kind, or None.
        bf16: draw the judged pictures in bfloat16, which takes half the time.
        latents_folder: a folder for their latents, see `generate`; None keeps none.
    """
    pipeline = load_pipeline(folder, pick_device().type)
    figures = {"psnr": composition_psnr(pipeline.vae, catalog, detector.size)}
    figures["detector"] = detector_accuracy(detector, pipeline.vae, catalog)
    for size in ("small", "large"):
        figures[f"detector_{size}"] = detector_accuracy(detector, pipeline.vae, catalog, size=size)
    for name, (split, kind) in CASES.items():
        count = captions if name in FULL else captions // 2
        cases = named_compositions(catalog, count, split, kind)
        with torch.autocast(pick_device().type, torch.bfloat16, enabled=bf16):
            file = latents_folder / f"{name}.safetensors" if latents_folder else None
            images = generate(pipeline, [text for _, text, _ in cases], latents_file=file)
        views = detector.read(images)
        right = [is_shown(view, case[2]) for view, case in zip(views, cases, strict=True)]
        whole = [is_shown(view, replace(case[2], background=None)) for view, case in zip(views, cases, strict=True)]
        key = "held_out_both" if name == "held_out" else name
        figures[key] = float(np.mean(right))
        print(f"{name}: {np.mean(right):.3f} (without the background {np.mean(whole):.3f})", flush=True)
        if sheets:
            sheets.mkdir(parents=True, exist_ok=True)
            picture_sheet(images[:64], 8).save(sheets / f"{name}.png")
    figures["seconds"], figures["seconds_median"] = seconds_for_one(pipeline)
    figures["megabytes"] = file_bytes(folder) / 1e6
    return {name: round(float(value), 4) for name, value in figures.items()}


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table, and with --write put it into the card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="emoji-128")
    parser.add_argument("--model", type=Path, required=True, help="a stock folder")
    parser.add_argument("--detector", type=Path, default=JUDGE, help="the judge")
    parser.add_argument("--captions", type=int, default=200, help="for each generated figure")
    parser.add_argument("--sheets", type=Path, help="a folder for sheets of 64 pictures")
    parser.add_argument("--write", action="store_true", help="write the card's table and figures.json")
    parser.add_argument("--latents", type=Path, help="a folder that keeps the drawn latents, or has them")
    parser.add_argument("--bf16", action="store_true", help="draw the judged pictures in bfloat16")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's own choice)")
    options = parser.parse_args(arguments)
    use_threads(options.threads)
    recipe = find_recipe(options.recipe)
    network = "transformer" if (options.model / "transformer").is_dir() else "unet"
    require_fit(options.model, recipe, (*(part for part in PARTS if part != "unet"), network))
    detector = load_detector(options.detector, pick_device().type)
    figures = measure(
        options.model, detector, catalog_for(recipe), options.captions, options.sheets, options.bf16, options.latents
    )
    print(figure_table(figures, history_of(options.model), COMPOSITION_FLOORS), flush=True)
    if options.write:
        identity = {
            "captions": options.captions,
            "judge": fingerprint(options.detector, ("config.json", "model.safetensors")),
            "model": fingerprint(options.model, FILES if network == "unet" else FLOW_FILES),
        }
        solver = "DPM-Solver++(2M)" if network == "unet" else "Euler"
        note = (
            f"{options.captions} captions for each of the first three generated figures and "
            f"{options.captions // 2} for each other, {STEPS} steps of {solver}, guidance {GUIDANCE:g}"
            f"{', in bfloat16' if options.bf16 else ''}, judged by the shipped detector. Seconds are the least of five "
            "runs in float32."
        )
        write_card(options.model, figures | identity, note, COMPOSITION_FLOORS)


if __name__ == "__main__":
    main()
