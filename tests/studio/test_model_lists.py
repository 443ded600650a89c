"""Every tab's list of models after one more is there: with the new one, and with what it offered before."""

from __future__ import annotations

import shutil

import pytest

from pipelines.models.catalog import SHIPPED
from studio.backend import Studio, StudioSettings
from tests.studio.page_forms import built

RUNS = ("text_to_image", "compare", "edit", "animate", "quantize")


@pytest.fixture
def studio(tmp_path):
    studio = Studio(StudioSettings(outputs=tmp_path / "outputs", models=tmp_path / "models", device="cpu"))
    yield studio
    studio.close()


def test_a_kept_model_joins_each_list_and_takes_nothing_from_it(studio, tmp_path):
    tabs = built(studio).tabs
    before = {key: {one for _, one in tabs[key].form.fields["model"].choices} for key in RUNS}
    assert "ltx-video" in before["animate"] and "ltx-video" not in before["text_to_image"]
    shutil.copytree(SHIPPED, tmp_path / "models" / "another")
    studio.catalog.rescan()
    updates = tabs["quantize"]._model_lists()
    for key in RUNS:
        offered = {one for _, one in updates[tabs[key].form.fields["model"]]["choices"]}
        assert offered == before[key] | {"another"}, key
