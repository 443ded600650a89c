"""A studio for each module of tests: on the shipped model, and on what the module's `make_models` makes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from studio.backend import Studio, StudioSettings
from studio.reliability.server import Server, run_server

MEMORY = 2**30
"""Bytes that tiny models may take."""


@pytest.fixture(scope="module")
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models folder, with what the module's `make_models` puts into it."""
    models = tmp_path_factory.mktemp("models")
    if make_models := getattr(request.module, "make_models", None):
        make_models(models)
    return models


@pytest.fixture(scope="module")
def studio(request: pytest.FixtureRequest, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    budget = MEMORY if hasattr(request.module, "make_models") else None
    outputs = tmp_path_factory.mktemp("outputs")
    studio = Studio(StudioSettings(outputs=outputs, models=folder, device="cpu", memory_budget=budget))
    yield studio
    studio.close()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The app in a process of its own, one for all files that ask it as any program may."""
    with run_server(tmp_path_factory.mktemp("server"), rate_limit=False) as running:
        yield running
