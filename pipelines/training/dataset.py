"""The data in one place, and `python -m pipelines.training.dataset` to look at it.

What tests and benchmarks need: `shipped_catalog()`, `sample_scene`, `render`, `caption`,
`parse`, `edit_pairs` and `render_edit`. Nothing is fetched by the shipped catalog.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from pipelines.emoji.captions import Truth, caption, parse, plain_caption
from pipelines.emoji.objects import (
    Catalog,
    EmojiObject,
    packaged_catalog,
    shipped_catalog,
)
from pipelines.emoji.scenes import (
    BACKGROUNDS,
    Placed,
    Rendering,
    Scene,
    is_held_out,
    render,
    sample_scene,
)
from pipelines.training.edits import (
    EDIT_KINDS,
    EditPair,
    EditPictures,
    edit_pair,
    edit_pairs,
    render_edit,
)
from pipelines.training.examples import write_examples
from pipelines.training.latents import pictures_of, to_tensor
from pipelines.training.recipes import catalog_for, find_recipe
from pipelines.training.trainer import picture_sheet

__all__ = [
    "BACKGROUNDS",
    "EDIT_KINDS",
    "Catalog",
    "EditPair",
    "EditPictures",
    "EmojiObject",
    "Placed",
    "Rendering",
    "Scene",
    "Truth",
    "caption",
    "edit_pair",
    "edit_pairs",
    "held_out_pairs",
    "is_held_out",
    "packaged_catalog",
    "parse",
    "pictures_of",
    "plain_caption",
    "render",
    "render_edit",
    "sample_scene",
    "shipped_catalog",
    "to_tensor",
]


def held_out_pairs(catalog: Catalog) -> list[tuple[str, str]]:
    """Return all (label, background) pairs that no training scene has."""
    return [
        (label, background) for label in catalog.labels for background in BACKGROUNDS if is_held_out(label, background)
    ]


def main(arguments: list[str] | None = None) -> None:
    """Fetch what the recipe needs; write a sheet of scenes, their captions and the held-out list."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="cpu", help="cpu or gpu (default: cpu)")
    parser.add_argument("--run-dir", type=Path, required=True, help="where the sheet is written")
    parser.add_argument("--count", type=int, default=48, help="scenes on the sheet")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--examples", type=Path, help="also write example edits to this folder")
    options = parser.parse_args(arguments)
    recipe = find_recipe(options.recipe)
    catalog = catalog_for(recipe)
    folder = options.run_dir / "dataset"
    folder.mkdir(parents=True, exist_ok=True)
    scenes = [sample_scene(catalog, options.seed + index) for index in range(options.count)]
    rng = np.random.default_rng(options.seed)
    captions = [caption(scene, catalog, rng) for scene in scenes]
    picture_sheet(pictures_of(scenes, catalog, recipe.size)).save(folder / "scenes.png")
    held_out = held_out_pairs(catalog)
    facts = {"captions": captions, "held_out": held_out}
    (folder / "scenes.json").write_text(json.dumps(facts, indent=1) + "\n", "utf-8")
    if options.examples:
        write_examples(catalog, options.examples, recipe.size, seed=options.seed)
    print(f"{len(catalog.objects)} objects, {len(held_out)} pairs held out; {options.count} scenes in {folder}")


if __name__ == "__main__":
    main()
