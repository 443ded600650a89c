"""Tiny models in a folder, for the tests of loading."""

from __future__ import annotations

import shutil

import pytest
import tiny_models


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
