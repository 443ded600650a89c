"""Two studios in one process know their own learned schedules only."""

from __future__ import annotations

import pytest

from pipelines.core.errors import SettingsError
from pipelines.core.types import Choice
from pipelines.schedules.learned_file import LearnedSchedule, write_learned
from studio.backend import Studio, StudioSettings
from studio.tasks.runs.text_to_image import parse_request

RECORD = LearnedSchedule(
    method="ld3",
    model="emoji",
    network="x",
    sampler=Choice("unipc"),
    guidance=Choice("cfg"),
    num_inference_steps=3,
    evaluations=3,
    times=(999.0, 700.0, 400.0),
    model_times=(999.0, 710.0, 390.0),
    held_out={"uniform": 0.4, "fitted": 0.2},
    curve=(),
    fit_details={},
)


@pytest.fixture
def studios(tmp_path):
    made = [
        Studio(StudioSettings(outputs=tmp_path / name / "outputs", models=tmp_path / name / "models", device="cpu"))
        for name in ("one", "other")
    ]
    yield made
    for studio in made:
        studio.close()


@pytest.mark.parametrize("owner", [0, 1])
def test_a_studio_refuses_the_learned_schedule_of_another(studios, owner):
    own, foreign = studios[owner], studios[1 - owner]
    name = write_learned(RECORD, own.catalog.folder / "schedules").stem
    values = {
        "prompt": "a fox",
        "sampler": "unipc",
        "num_inference_steps": 3,
        "schedule": {"key": "learned", "name": name},
    }
    assert parse_request(values, own).schedule.settings["name"] == name
    with pytest.raises(SettingsError, match=f"Unknown learned schedule '{name}'"):
        parse_request(values, foreign)
