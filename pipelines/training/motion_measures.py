"""Measure the motion adapter: `python -m pipelines.training.motion_measures`.

One clip for each caption, its noise fixed by its number; the detector reads every frame, and the object's track says
which way it went. Writes the table into the model's card and `figures.json` beside it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from diffusers import AnimateDiffPipeline, AutoencoderKL, MotionAdapter
from transformers import CLIPTextModel

from pipelines.core.gradients import no_grad
from pipelines.emoji.clips import FRAMES, MOTIONS, Clip, describe_clip, sample_clip
from pipelines.emoji.objects import Catalog
from pipelines.metrics.detector import SHIPPED as JUDGE
from pipelines.metrics.detector import Detector, View, load_detector
from pipelines.models.catalog import SHIPPED_128
from pipelines.training.card import Floor, figure_table, write_card
from pipelines.training.exchange import fingerprint
from pipelines.training.history import history_of
from pipelines.training.latents import encode, pictures_of
from pipelines.training.measures import FRESH, file_bytes
from pipelines.training.motion_drawing import draw_clips, draw_from_frame
from pipelines.training.recipes import catalog_for, find_recipe
from pipelines.training.trainer import pick_device, picture_sheet, use_threads

__all__ = [
    "MOTION_FLOORS",
    "flicker",
    "is_kept",
    "load_motion_pipeline",
    "measure_clips",
    "measure_given_frames",
    "moves_as_said",
]

LEAST = 0.15
"""The least way, or change of width, in parts of the picture, that counts as a motion."""
STEADY = 0.8
"""The least correlation of a way with time: what jumps about goes nowhere."""
SEEN = 12
"""Frames of sixteen in which the track has to find an object."""

MOTION_FLOORS: dict[str, Floor] = {
    "rendered": Floor("the judge on rendered clips that passed the autoencoder: direction right", 0.95),
    "direction": Floor("direction right, by the object's track", 0.85),
    "kept": Floor("object kept: the one that was asked for, alone, in 14 of 16 frames", 0.9),
    "background": Floor("background color right in 14 of 16 frames", 0.9),
    "still": Floor("without a word of motion: nothing moves", 0.85),
    "given_direction": Floor("from a given first frame, object anywhere: direction right", 0.85),
    "given_kept": Floor("from a given first frame: object kept", 0.9),
    "given_leap": Floor(
        "from a given first frame to the next: change of place and width, of the picture", 0.1, at_most=True
    ),
    "flicker": Floor("flicker of the background between frames, of 255", 3, "", at_most=True),
    "rendered_flicker": Floor("the same of rendered clips that passed the autoencoder", 3, "", at_most=True),
    "megabytes": Floor("the model's folder", 5.3, " MB", at_most=True),
}


def moves_as_said(views: list[View], motion: str) -> bool:
    """Say whether a clip's largest change is the one that its caption asks for.

    The track takes the surest object of each frame, whatever it is. A way is that of a straight line through all
    frames, which has to follow it: a correlation with time of STEADY. One that bounces has to go up and down twice.

    Args:
        views: of all frames.
        motion: one of `MOTIONS`, or "" for nothing that moves.
    """
    surest = [max(view.objects, key=lambda item: item.probability) if view.objects else None for view in views]
    found = np.array([number for number, item in enumerate(surest) if item is not None])
    if len(found) < SEEN * len(views) / FRAMES:
        return False
    track = np.array([[item.x, item.y, item.size] for item in surest if item is not None])
    right, down, wider = np.polyfit(found, track, 1)[0] * (len(views) - 1)
    steady = [abs(np.corrcoef(found, row)[0, 1]) >= STEADY if np.ptp(row) > 1e-6 else False for row in track.T]
    if motion == "bouncing":
        return _count_turns(track[:, 1]) >= 3 and max(abs(right), abs(wider)) < LEAST
    changes = {
        "moving right": right,
        "moving left": -right,
        "moving down": down,
        "moving up": -down,
        "growing": wider,
        "shrinking": -wider,
    }
    if motion == "":
        return max(changes.values()) < LEAST and _count_turns(track[:, 1]) == 0
    followed = steady[list(changes).index(motion) // 2]
    return bool(followed and changes[motion] >= LEAST and changes[motion] == max(changes.values()))


def _count_turns(heights: np.ndarray) -> int:
    """How often a height turns round, after a way of at least half of LEAST."""
    turns, direction, extreme = 0, 0, heights[0]
    for height in heights[1:]:
        way = height - extreme
        if direction and way * direction > 0:
            extreme = height
        elif abs(way) >= LEAST / 2:
            turns += direction != 0
            direction, extreme = int(np.sign(way)), height
    return turns


def is_kept(views: list[View], label: str) -> bool:
    """Say whether the object, and nothing else, is in seven of eight frames."""
    return bool(np.mean([[item.label for item in view.objects] == [label] for view in views]) >= 7 / 8)


def flicker(clip: torch.Tensor, views: list[View]) -> float:
    """Measure how much the background changes from frame to frame: the mean absolute difference, of 255.

    Args:
        clip: (F, 3, H, W) in [0, 1].
        views: of its frames; where an object is in either of two frames, with a tenth of its width around it, nothing
            is compared.
    """
    size = clip.shape[-1]
    grid = (torch.arange(size) + 0.5) / size
    free = torch.ones(len(clip), size, size, dtype=torch.bool)
    for number, view in enumerate(views):
        for item in view.objects:
            reach = 0.6 * item.size
            free[number] &= ~(((grid - item.y).abs() < reach)[:, None] & ((grid - item.x).abs() < reach)[None])
    both = (free[1:] & free[:-1])[:, None].expand(-1, 3, -1, -1)
    return float(clip.diff(dim=0).abs()[both].mean() * 255) if both.any() else 0.0


def load_motion_pipeline(folder: Path, base: Path = SHIPPED_128) -> AnimateDiffPipeline:
    """Load the stock pipeline in float32.

    Args:
        folder: holds "motion_adapter", and an export of a run also "text_encoder", which else is the base's.
        base: the stock folder of the model whose pictures move.
    """
    given = {}
    if (folder / "text_encoder").is_dir():
        given["text_encoder"] = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)
    adapter = MotionAdapter.from_pretrained(folder / "motion_adapter", dtype=torch.float32)
    pipeline = AnimateDiffPipeline.from_pretrained(base, motion_adapter=adapter, dtype=torch.float32, **given)
    return pipeline.to(pick_device())


def _list_clips(catalog: Catalog, count: int, motions: tuple[str, ...]) -> list[tuple[Clip, str]]:
    """Fresh clips of all motions in turn, each with a caption."""
    cases = []
    for number in range(count):
        clip = sample_clip(catalog, FRESH + number, motion=motions[number % len(motions)])
        cases.append((clip, describe_clip(clip, catalog, np.random.default_rng(FRESH + number))))
    return cases


@no_grad
def _render(clip: Clip, vae: AutoencoderKL, catalog: Catalog, size: int) -> torch.Tensor:
    latents = encode(vae, pictures_of(list(clip.scenes), catalog, size))
    return (vae.decode(latents / vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)


def measure_clips(
    pipeline: AnimateDiffPipeline,
    detector: Detector,
    catalog: Catalog,
    count: int = 100,
    steps: int = 25,
    sheets: Path | None = None,
) -> dict[str, float]:
    """Measure everything that needs clips.

    Args:
        pipeline: see `load_motion_pipeline`.
        detector: the judge.
        catalog: the objects.
        count: clips with motion; a tenth as many have none.
        steps: of each.
        sheets: a folder for a sheet of each motion's first clips, or None.
    """
    rendered = []
    for clip, _ in _list_clips(catalog, 2 * len(MOTIONS), MOTIONS):
        pictures = _render(clip, pipeline.vae, catalog, detector.size)
        views = detector.read(pictures)
        rendered.append((moves_as_said(views, clip.motion), flicker(pictures, views)))
    figures = dict(zip(("rendered", "rendered_flicker"), np.mean(rendered, axis=0), strict=True))
    rows: list[tuple[str, bool, bool, bool, float]] = []
    shown: dict[str, list[torch.Tensor]] = {}
    for number, (clip, caption) in enumerate(_list_clips(catalog, count, MOTIONS)):
        pictures = draw_clips(pipeline, [caption], steps, first=number)[0].cpu()
        views = detector.read(pictures)
        right, kept = moves_as_said(views, clip.motion), is_kept(views, clip.label)
        color = bool(np.mean([view.background == clip.background for view in views]) >= 7 / 8)
        rows.append((clip.motion, right, kept, color, flicker(pictures, views)))
        shown.setdefault(clip.motion, []).append(pictures)
        print(f"{number} {caption}: direction {right}, kept {kept}, background {color}", flush=True)
    for motion in MOTIONS:
        print(f"{motion}: {np.mean([row[1] for row in rows if row[0] == motion]):.2f}", flush=True)
    names = ("direction", "kept", "background", "flicker")
    figures |= dict(zip(names, np.mean(np.array([row[1:] for row in rows], dtype=float), axis=0), strict=True))
    still = []
    for number, (_, caption) in enumerate(_list_clips(catalog, max(1, count // 10), ("",))):
        pictures = draw_clips(pipeline, [caption], steps, first=count + number)[0].cpu()
        still.append(moves_as_said(detector.read(pictures), ""))
    figures["still"] = np.mean(still)
    if sheets:
        sheets.mkdir(parents=True, exist_ok=True)
        for motion, clips in shown.items():
            picture_sheet(torch.cat(clips[:6]), FRAMES).save(sheets / f"{motion.replace(' ', '_')}.png")
    return {name: round(float(value), 4) for name, value in figures.items()}


def measure_given_frames(
    pipeline: AnimateDiffPipeline,
    detector: Detector,
    catalog: Catalog,
    count: int = 50,
    steps: int = 25,
    sheets: Path | None = None,
) -> dict[str, float]:
    """Measure clips that begin with a rendered picture, whose object stands anywhere.

    Args:
        pipeline, detector, catalog, steps, sheets: as of `measure_clips`.
        count: clips.
    """
    rows, shown = [], []
    for number in range(count):
        seed = FRESH + 10_000 + number
        clip = sample_clip(catalog, seed, motion=MOTIONS[number % len(MOTIONS)], anywhere=True)
        caption = describe_clip(clip, catalog, np.random.default_rng(seed))
        pictures = draw_from_frame(
            pipeline, caption, pictures_of([clip.scenes[0]], catalog, detector.size), steps, seed=number
        ).cpu()
        views = detector.read(pictures)
        row = moves_as_said(views, clip.motion), is_kept(views, clip.label), _measure_leap(views)
        rows.append(row)
        shown.append(pictures)
        print(f"{number} {caption}: direction {row[0]}, kept {row[1]}, leap {row[2]:.3f}", flush=True)
    if sheets:
        sheets.mkdir(parents=True, exist_ok=True)
        picture_sheet(torch.cat(shown[:14]), FRAMES).save(sheets / "given_first_frames.png")
    direction, kept, leap = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    figures = {"given_direction": direction.mean(), "given_kept": kept.mean(), "given_leap": np.nanmedian(leap)}
    return {name: round(float(value), 4) for name, value in figures.items()}


def _measure_leap(views: list[View]) -> float:
    """How far the object goes and how much wider it gets from the first frame to the second; NaN without one."""
    if not (views[0].objects and views[1].objects):
        return float("nan")
    before, after = (max(view.objects, key=lambda item: item.probability) for view in views[:2])
    return float(np.hypot(after.x - before.x, after.y - before.y) + abs(after.size - before.size))


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table, and with --write put it into the card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="emoji-128")
    parser.add_argument("--model", type=Path, required=True, help="a folder with motion_adapter, as a run exports it")
    parser.add_argument("--base", type=Path, default=SHIPPED_128, help="the stock folder whose pictures move")
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--sheets", type=Path, help="a folder for sheets of clips, a row each")
    parser.add_argument("--write", action="store_true", help="write the card's table and figures.json")
    parser.add_argument("--bf16", action="store_true", help="draw in bfloat16")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's own choice)")
    options = parser.parse_args(arguments)
    use_threads(options.threads)
    detector, catalog = load_detector(JUDGE, pick_device().type), catalog_for(find_recipe(options.recipe))
    pipeline = load_motion_pipeline(options.model, options.base)
    with torch.autocast(pick_device().type, torch.bfloat16, enabled=options.bf16):
        figures = measure_clips(pipeline, detector, catalog, options.clips, options.steps, options.sheets)
        given = options.clips // 2, options.steps, options.sheets
        figures |= measure_given_frames(pipeline, detector, catalog, *given)
    figures["megabytes"] = round(file_bytes(options.model) / 1e6, 4)
    print(figure_table(figures, history_of(options.base), MOTION_FLOORS), flush=True)
    if options.write:
        identity = {
            "clips": options.clips,
            "judge": fingerprint(JUDGE, ("config.json", "model.safetensors")),
            "model": fingerprint(options.model, ("motion_adapter",)),
        }
        note = (
            f"{options.clips} clips of the six directions and bouncing in turn, half as many from a given first frame, "
            f"and a tenth as many without motion, of trained pairs of object and background; {options.steps} steps of "
            "DPM-Solver++(2M), guidance 4"
            f"{', in bfloat16' if options.bf16 else ''}; each frame read by the shipped detector."
        )
        write_card(options.model, figures | identity, note, MOTION_FLOORS)


if __name__ == "__main__":
    main()
