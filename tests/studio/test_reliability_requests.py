"""What malformed requests have broken once."""

from __future__ import annotations

import pytest

from pipelines.errors import SettingsError
from studio.backend import Studio, StudioSettings


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    home = tmp_path_factory.mktemp("studio")
    studio = Studio(StudioSettings(outputs=home / "outputs", models=home / "models", device="cpu"))
    yield studio
    studio.close()


@pytest.mark.parametrize("job_id", [{}, [], None, 7, {"a": []}, "\0"])
def test_a_job_that_is_no_text_is_unknown(studio, job_id):
    with pytest.raises(SettingsError, match="no longer known"):
        studio.job(job_id)
