"""A loader of the tiny models that conftest.py puts into a folder, for the tests of loading."""

from __future__ import annotations

import json
import time

from pipelines.models.cache import ModelCache
from pipelines.models.catalog import Catalog
from pipelines.models.loader import Loader

UNET = "unet/diffusion_pytorch_model.safetensors"


def loader_of(folder, budget=10**9, **options):
    return Loader(ModelCache(budget, clock=time.monotonic), Catalog(folder), device="cpu", **options)


def set_index(folder, **changes):
    index = json.loads((folder / "model_index.json").read_text())
    index.update(changes)
    (folder / "model_index.json").write_text(json.dumps(index))
