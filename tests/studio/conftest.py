"""A studio on the shipped model, for the modules whose tests need no other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from studio.backend import Studio, StudioSettings


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    home = tmp_path_factory.mktemp("home")
    studio = Studio(StudioSettings(outputs=home / "outputs", models=home / "models", device="cpu"))
    yield studio
    studio.close()
