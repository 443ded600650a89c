"""What the shipped model is measured by: one function for each figure."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, DPMSolverMultistepScheduler, StableDiffusion3Pipeline

from pipelines.emoji.captions import caption, parse
from pipelines.emoji.objects import Catalog
from pipelines.emoji.scenes import Scene, sample_scene
from pipelines.metrics.classifier import Classifier
from pipelines.models.files import part_folder
from pipelines.training.latents import pictures_of

__all__ = [
    "call_options",
    "classifier_accuracy",
    "file_bytes",
    "generated_accuracy",
    "judged",
    "load_pipeline",
    "named_captions",
    "seconds_for_one",
    "seconds_of",
]

STEPS, GUIDANCE = 25, 4.0
FRESH = 900_000_000  # seeds of scenes that no training run draws


def load_pipeline(folder: Path, device: str = "cpu") -> DiffusionPipeline:
    """Load the stock pipeline in float32: a flow with its Euler, any other with DPM-Solver++(2M)."""
    given = {"text_encoder_3": None, "tokenizer_3": None} if (folder / "transformer").is_dir() else {}
    if (vae := part_folder(folder, "vae")).parent != folder:
        given["vae"] = AutoencoderKL.from_pretrained(vae, dtype=torch.float32)
    pipeline = DiffusionPipeline.from_pretrained(folder, dtype=torch.float32, **given)
    if not isinstance(pipeline, StableDiffusion3Pipeline):
        pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def call_options(pipeline: DiffusionPipeline) -> dict[str, int]:
    """Say what a call needs besides: the flow transformer is used without empty tokens in the absent T5's place."""
    return {"max_sequence_length": 0} if isinstance(pipeline, StableDiffusion3Pipeline) else {}


def judged(classifier: Classifier, images: torch.Tensor, scenes: list[Scene]) -> np.ndarray:
    """Judge for each picture: are all objects right and on their sides, is the background right?

    Args:
        classifier: the judge.
        images: (B, 3, H, W) in [0, 1].
        scenes: the truth, B of them.
    Returns: (B, 2), bool.
    """
    rows = [
        (reading.labels == tuple(placed.label for placed in scene.objects), reading.background == scene.background)
        for reading, scene in zip(classifier.read(images), scenes, strict=True)
    ]
    return np.array(rows, dtype=bool)


def classifier_accuracy(classifier: Classifier, catalog: Catalog, count: int = 1_000) -> tuple[float, float]:
    """Measure the shares of fresh renderings whose objects, and whose background, are read right."""
    rows = []
    for start in range(0, count, 100):
        seeds = range(FRESH + start, FRESH + min(start + 100, count))
        scenes = [sample_scene(catalog, seed, "all") for seed in seeds]
        rows.append(judged(classifier, pictures_of(scenes, catalog, classifier.size), scenes))
    accuracy = np.concatenate(rows).mean(axis=0)
    return float(accuracy[0]), float(accuracy[1])


def named_captions(catalog: Catalog, count: int, split: str, objects: int) -> list[tuple[Scene, str]]:
    """Return fresh scenes with captions of the training grammar that name the background."""
    captions: list[tuple[Scene, str]] = []
    seed = FRESH
    while len(captions) < count:
        seed += 1
        scene = sample_scene(catalog, seed, split, objects)
        text = caption(scene, catalog, np.random.default_rng(seed))
        if parse(text, catalog).background is not None:
            captions.append((scene, text))
    return captions


def generated_accuracy(
    pipeline: DiffusionPipeline, classifier: Classifier, cases: list[tuple[Scene, str]]
) -> tuple[np.ndarray, torch.Tensor]:
    """Draw one picture for each caption, the noise fixed by its number, and judge it.

    Returns: (B, 2) bool as in `judged`, and the pictures (B, 3, H, W) in [0, 1].
    """
    rows, pictures = [], []
    for numbers in _split_range(len(cases), 25):
        batch = [cases[number] for number in numbers]
        generators = [torch.Generator().manual_seed(number) for number in numbers]
        images = (
            pipeline(
                [text for _, text in batch],
                num_inference_steps=STEPS,
                guidance_scale=GUIDANCE,
                generator=generators,
                output_type="pt",
            )
            .images.float()
            .cpu()
        )
        rows.append(judged(classifier, images, [scene for scene, _ in batch]))
        pictures.append(images)
    return np.concatenate(rows), torch.cat(pictures)


def seconds_for_one(pipeline: DiffusionPipeline, repeats: int = 5) -> tuple[float, float]:
    """Measure the least and median seconds for one picture of 25 guided steps, after one to warm up."""
    seconds = [seconds_of(pipeline, STEPS, GUIDANCE) for _ in range(repeats + 1)][1:]
    return min(seconds), statistics.median(seconds)


def seconds_of(pipeline: DiffusionPipeline, steps: int, guidance: float, output_type: str = "pil") -> float:
    """Measure the seconds of one picture, or with the output type "latent" of its denoising alone."""
    began = time.perf_counter()
    pipeline(
        "a fox on a blue background",
        num_inference_steps=steps,
        guidance_scale=guidance,
        output_type=output_type,
        **call_options(pipeline),
    )
    return time.perf_counter() - began


def file_bytes(path: Path) -> int:
    """Count the bytes of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else (path,)
    return sum(file.stat().st_size for file in files if file.is_file())


def _split_range(count: int, size: int) -> Iterator[range]:
    for start in range(0, count, size):
        yield range(start, min(start + size, count))
