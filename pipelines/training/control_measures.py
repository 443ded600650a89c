"""Measure the control of the 128 px model: `python -m pipelines.training.control_measures`.

New compositions of held-out pairs give maps and captions; each is drawn without the adapter and with it, from the same
noise. How far a picture follows its map is read from the picture's own edges and shape, and a detector reads whether it
shows what the caption says. Writes the table into the adapter's card and `figures.json` beside it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline, T2IAdapter

from pipelines.controls.edges import find_edges
from pipelines.emoji.objects import Catalog
from pipelines.emoji.scenes import render
from pipelines.metrics.detector import SHIPPED as JUDGE
from pipelines.metrics.detector import Detector, load_detector
from pipelines.models.catalog import SHIPPED_128
from pipelines.training.card import put_table
from pipelines.training.composition_measures import GUIDANCE, STEPS, is_shown, named_compositions
from pipelines.training.control import join_adapter
from pipelines.training.control_pictures import find_silhouette
from pipelines.training.exchange import fingerprint
from pipelines.training.latents import pictures_of
from pipelines.training.measures import load_pipeline
from pipelines.training.recipes import catalog_for, find_recipe
from pipelines.training.trainer import pick_device, picture_sheet, use_threads

__all__ = ["control_table", "draw_edges", "find_foreground", "match_edges", "match_shapes", "measure_control"]

LOW, HIGH = 0.1, 0.2
"""The thresholds of the page's edges."""
KINDS = ("single", "left of", "above", "in front of")
REACH = 2
"""Pixels that an edge may lie aside."""
DIFFERENT = 0.12
"""Of a channel in [0, 1], from which a pixel is no background."""

ROWS = {
    "edges": "edges on those of the map (F1)",
    "shapes": "shape over that of the map (IoU)",
    "shown": "what the caption says is there, by the detector",
}
COLUMNS = {
    "without": "without the adapter",
    "edges": "with the edges",
    "shapes": "with the silhouette",
    "rendered": "the composition itself, through the autoencoder",
}


def draw_edges(pictures: torch.Tensor) -> torch.Tensor:
    """Find the edges of pictures (B, 3, H, W) in [0, 1]; returns (B, 1, H, W), 0 or 1."""
    pixels = (pictures.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return torch.stack([torch.from_numpy(find_edges(one, LOW, HIGH)[None, ..., 0] > 0).float() for one in pixels])


def find_foreground(pictures: torch.Tensor) -> torch.Tensor:
    """Find what stands before a plain background that may change from row to row.

    Args:
        pictures: (B, 3, H, W) in [0, 1].

    Returns:
        (B, 1, H, W), 0 or 1.
    """
    rim = torch.cat([pictures[..., :3], pictures[..., -3:]], dim=-1).median(dim=-1, keepdim=True).values
    return ((pictures - rim).abs().amax(dim=1, keepdim=True) > DIFFERENT).float()


def match_edges(edges: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Compute F1 of edges (B, 1, H, W) against those wanted, each within REACH pixels of one of the others: (B,)."""
    near_wanted, near_edges = (F.max_pool2d(one, 2 * REACH + 1, 1, REACH) for one in (wanted, edges))
    precision = (edges * near_wanted).sum((1, 2, 3)) / edges.sum((1, 2, 3)).clamp(min=1)
    recall = (wanted * near_edges).sum((1, 2, 3)) / wanted.sum((1, 2, 3)).clamp(min=1)
    return 2 * precision * recall / (precision + recall).clamp(min=1e-6)


def match_shapes(shapes: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Compute intersection over union of shapes (B, 1, H, W), 0 or 1: (B,)."""
    both, either = (shapes * wanted).sum((1, 2, 3)), shapes.maximum(wanted).sum((1, 2, 3))
    return both / either.clamp(min=1)


def measure_control(
    pipeline: StableDiffusionPipeline,
    adapter: T2IAdapter,
    detector: Detector,
    catalog: Catalog,
    count: int = 48,
    sheet: Path | None = None,
) -> dict[str, float]:
    """Measure everything that needs pictures.

    Args:
        pipeline: the model.
        adapter: what is measured.
        detector: the judge.
        catalog: the objects.
        count: of the compositions.
        sheet: where to draw maps and pictures, or None.
    """
    each = -(-count // len(KINDS))
    cases = [case for kind in KINDS for case in named_compositions(catalog, each, "held-out", kind)][:count]
    scenes = [composition.scene for composition, _, _ in cases]
    renderings = [render(scene, catalog, detector.size) for scene in scenes]
    originals = pictures_of(scenes, catalog, detector.size)
    maps = {
        "edges": draw_edges(originals),
        "shapes": torch.stack([find_silhouette(one)[None].float() for one in renderings]),
    }
    captions = [text for _, text, _ in cases]
    pictures = {"rendered": _through_autoencoder(pipeline, originals)}
    pictures["without"] = _draw(pipeline, adapter, captions, maps["edges"], 0.0)
    pictures |= {name: _draw(pipeline, adapter, captions, one, 1.0) for name, one in maps.items()}
    figures = {}
    for name, drawn in pictures.items():
        figures[f"edges {name}"] = float(match_edges(draw_edges(drawn), maps["edges"]).mean())
        figures[f"shapes {name}"] = float(match_shapes(find_foreground(drawn), maps["shapes"]).mean())
        right = [is_shown(view, case[2]) for view, case in zip(detector.read(drawn), cases, strict=True)]
        figures[f"shown {name}"] = float(np.mean(right))
    if sheet is not None:
        rows = [pictures["without"], maps["edges"], pictures["edges"], maps["shapes"], pictures["shapes"]]
        chosen = torch.linspace(0, len(cases) - 1, 12).long()
        picture_sheet(torch.cat([one[chosen].expand(-1, 3, -1, -1) for one in rows])).save(sheet)
    return {name: round(value, 4) for name, value in figures.items()}


def control_table(figures: dict[str, float]) -> str:
    """Lay the figures of `measure_control` out, as Markdown."""
    lines = ["| | " + " | ".join(COLUMNS.values()) + " |", "| --- " * (len(COLUMNS) + 1) + "|"]
    for row, label in ROWS.items():
        cells = " | ".join(f"{figures[f'{row} {column}']:.3f}" for column in COLUMNS)
        lines.append(f"| {label} | {cells} |")
    return "\n".join(lines)


@torch.no_grad()
def _through_autoencoder(pipeline: StableDiffusionPipeline, pictures: torch.Tensor) -> torch.Tensor:
    vae = pipeline.vae
    latents = torch.cat([vae.encode(one * 2 - 1).latent_dist.mean for one in pictures.to(vae.device).split(16)])
    return torch.cat([vae.decode(one).sample for one in latents.split(16)]).float().cpu() / 2 + 0.5


def _draw(
    pipeline: StableDiffusionPipeline, adapter: T2IAdapter, captions: list[str], maps: torch.Tensor, strength: float
) -> torch.Tensor:
    joined, drawn = join_adapter(pipeline, adapter), []
    for start in range(0, len(captions), 16):
        numbers = range(start, min(start + 16, len(captions)))
        result = joined(
            [captions[number] for number in numbers],
            maps[list(numbers)],
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            adapter_conditioning_scale=strength,
            generator=[torch.Generator().manual_seed(number) for number in numbers],
            output_type="np",
        )
        drawn.append(torch.from_numpy(result.images).permute(0, 3, 1, 2).float())
    return torch.cat(drawn)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table, and with --write put it into the card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="emoji-128")
    parser.add_argument("--model", type=Path, required=True, help="the adapter's folder, as a run exports it")
    parser.add_argument("--base", type=Path, default=SHIPPED_128, help="the stock folder that it steers")
    parser.add_argument("--pictures", type=int, default=48)
    parser.add_argument("--sheet", type=Path, help="a file for a sheet of maps and pictures")
    parser.add_argument("--write", action="store_true", help="write the card's table and figures.json")
    parser.add_argument("--bf16", action="store_true", help="draw in bfloat16")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's own choice)")
    options = parser.parse_args(arguments)
    use_threads(options.threads)
    device = pick_device().type
    detector, catalog = load_detector(JUDGE, device), catalog_for(find_recipe(options.recipe))
    pipeline = load_pipeline(options.base, device)
    adapter = T2IAdapter.from_pretrained(options.model, dtype=torch.float32).to(device)
    with torch.autocast(device, torch.bfloat16, enabled=options.bf16):
        figures = measure_control(pipeline, adapter, detector, catalog, options.pictures, options.sheet)
    table = control_table(figures)
    print(table, flush=True)
    if options.write:
        identity = {
            "pictures": options.pictures,
            "judge": fingerprint(JUDGE, ("config.json", "model.safetensors")),
            "model": fingerprint(options.model, ("diffusion_pytorch_model.safetensors",)),
            "base": fingerprint(options.base, ("unet",)),
        }
        note = (
            f"{options.pictures} new compositions of held-out pairs, of one object and of two in the three relations; "
            f"{STEPS} steps of DPM-Solver++(2M), guidance {GUIDANCE:g}{', in bfloat16' if options.bf16 else ''}, the "
            f"same noise with and without. An edge counts within {REACH} pixels."
        )
        put_table(options.model, figures | identity, f"{table}\n\n{note}")


if __name__ == "__main__":
    main()
