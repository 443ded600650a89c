"""Example inputs for editing: rendered pairs with masks and captions, listed in an index."""

from __future__ import annotations

import json
from pathlib import Path

from pipelines.emoji.objects import Catalog
from pipelines.training.edits import edit_pair, render_edit

__all__ = ["read_index", "write_examples"]

INDEX = "index.json"
KINDS = ("replace", "background", "add", "remove", "swap")


def read_index(folder: Path) -> dict:
    """Read the index of a folder of examples: "edits" and "photographs", lists of records."""
    path = folder / INDEX
    return json.loads(path.read_text("utf-8")) if path.is_file() else {"edits": [], "photographs": []}


def write_examples(catalog: Catalog, folder: Path, size: int, each: int = 3, seed: int = 0) -> None:
    """Write `each` examples of every kind of edit; the index keeps its photographs.

    Args:
        catalog: the objects.
        folder: receives `edits/NAME-source.png`, `-target.png`, `-mask.png` and `index.json`.
        size: pixels; the mask is white where the edit may change the picture.
        each: examples of a kind.
        seed: of the first example of each kind.
    """
    (folder / "edits").mkdir(parents=True, exist_ok=True)
    records = []
    for kind in KINDS:
        for number in range(each):
            pair = edit_pair(catalog, seed + number, kind)
            pictures = render_edit(pair, catalog, size)
            name = f"{kind}-{number + 1}"
            files = {part: f"edits/{name}-{part}.png" for part in ("source", "target", "mask")}
            for part, file in files.items():
                getattr(pictures, part).save(folder / file, optimize=True)
            captions = {"source_caption": pair.source_caption, "target_caption": pair.target_caption}
            records.append({"name": name, "kind": kind, **files, **captions})
    index = {"edits": records, "photographs": read_index(folder)["photographs"]}
    (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n", "utf-8")
