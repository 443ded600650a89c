"""Tiny models in a folder, and a loader of them, for the tests of loading."""

from __future__ import annotations

import json
import shutil
import time

import pytest
import tiny_models

from pipelines.models.cache import ModelCache
from pipelines.models.catalog import Catalog
from pipelines.models.loader import Loader

UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="session")
def originals(tmp_path_factory):
    """Tiny models made once: two that differ in all weights, an SDXL and an SD3."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_models.tiny_sd(folder / "one", seed=1)
    tiny_models.tiny_sd(folder / "two", seed=2)
    tiny_models.tiny_sdxl(folder / "xl", seed=3)
    tiny_models.tiny_sd3(folder / "three", seed=4)
    return folder


@pytest.fixture
def models(originals, tmp_path):
    """A models folder of one's own."""
    folder = tmp_path / "models"
    shutil.copytree(originals, folder)
    return folder


def loader_of(folder, budget=10**9, **options):
    return Loader(ModelCache(budget, clock=time.monotonic), Catalog(folder), device="cpu", **options)


def set_index(folder, **changes):
    index = json.loads((folder / "model_index.json").read_text())
    index.update(changes)
    (folder / "model_index.json").write_text(json.dumps(index))
