"""Pictures with metadata for a store, and the files that it writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.core.types import Request
from studio.results.store import Store

ROOT = Path(__file__).resolve().parents[2]


def picture(seed: int = 0, side: int = 32) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8))


def metadata(prompt: str = "a cat", **more) -> dict:
    return {"request": Request(prompt=prompt, seed=3).to_json(), "evaluations": 50, **more}


def files(folder: Path) -> list[str]:
    return sorted(
        path.name for path in folder.rglob("*") if path.is_file() and not path.name.startswith("index.sqlite")
    )


def every(store: Store) -> list:
    return [*store.list(1000), *store.list(1000, trashed=True)]
