"""What malformed requests have broken once."""

from __future__ import annotations

import pytest

from pipelines.core.errors import SettingsError
from pipelines.core.types import Request
from pipelines.workflows.compare.axis_values import parse_numbers
from studio.api.listings import find_results
from studio.safety.people import PROGRAM


@pytest.mark.parametrize("job_id", [{}, [], None, 7, {"a": []}, "\0"])
def test_a_job_that_is_no_text_is_unknown(studio, job_id):
    with pytest.raises(SettingsError, match="no longer in memory"):
        studio.job(job_id)


HALF = "a \ud83e fox"
"""Text cut in the middle of a character, which JSON can hold and no file can."""


@pytest.mark.parametrize("name", ["frames", "fps"])
@pytest.mark.parametrize("value", [float("inf"), float("nan"), 10**400])
def test_a_clip_without_end_is_refused(studio, name, value):
    with pytest.raises(SettingsError):
        studio.submit("animate", {"base": {"prompt": "a fox"}, name: value})


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 10**400, -(10**400)])
@pytest.mark.parametrize("name", ["num_inference_steps", "width", "seed", "variation_strength"])
def test_a_number_without_end_is_refused(studio, name, value):
    with pytest.raises(SettingsError):
        studio.submit("text_to_image", {"prompt": "a fox", name: value})


@pytest.mark.parametrize("limit", [float("inf"), float("nan"), 10**400, 0, 1.5, True])
def test_a_list_without_end_is_refused(studio, limit):
    with pytest.raises(SettingsError, match="limit"):
        find_results(studio.results(PROGRAM), limit=limit)


@pytest.mark.parametrize("values", [{"search": HALF}, {"kind": HALF}, {"before": HALF}])
def test_a_search_for_half_a_character_is_refused(studio, values):
    with pytest.raises(SettingsError, match="must be text"):
        find_results(studio.results(PROGRAM), **values)


@pytest.mark.parametrize(
    ("task", "values"),
    [
        ("text_to_image", {"prompt": HALF}),
        ("text_to_image", {"prompt": "a fox", "negative_prompt": HALF}),
        ("text_to_image", {"prompt": "a fox", "schedule": {"key": "hand_typed", "values": HALF}}),
        ("edit", {"base": {"prompt": "a fox"}, "source_prompt": HALF, "picture": "AAAA"}),
        ("animate", {"base": {"prompt": "a fox"}, "keys": [{"prompt": HALF}]}),
        ("learn", {"prompts": ["a fox", HALF]}),
    ],
)
def test_half_a_character_is_no_text(studio, task, values):
    with pytest.raises(SettingsError, match="text"):
        studio.submit(task, values)


def test_a_range_with_a_step_without_end_is_none():
    with pytest.raises(SettingsError, match="is not a range"):
        parse_numbers("1-2:" + "9" * 400, True, 16)


def test_whole_numbers_are_taken_however_they_are_written():
    assert (
        Request.parse({"seed": 7.0, "width": 64}).seed == 7
        and Request.parse({"variation_strength": 1}).variation_strength == 1.0
    )
