"""A schedule is learned on the page: its curve appears, and the result can be chosen at once."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.browser

FIELDS = (
    ("#cmp-steps", "2"),
    ("#cmp-learn-fitted", "2"),
    ("#cmp-learn-held-out", "2"),
    ("#cmp-learn-teacher-steps", "10"),
    ("#cmp-learn-learner-ld3-rounds", "2"),
    ("#cmp-learn-learner-ld3-batch", "2"),
)


def test_a_fit_shows_its_curve_and_its_result(visit):
    page = visit()
    page.get_by_role("tab", name="Compare").click()
    page.get_by_role("button", name="Learn a schedule for the shared model, sampler and steps").click()
    run = page.locator("#cmp-learn-run")
    page.wait_for_selector("#cmp-learn-run")
    for name, value in FIELDS:
        box = page.locator(f"{name} input[type=number]")
        box.fill(value)
        box.press("Tab")
    run.click()
    page.locator("#cmp-learn-result").wait_for(timeout=120_000)
    assert page.locator("#cmp-learn-plot svg polyline").count() == 1
    assert "emoji-dpmpp-2m-2-ld3" in page.locator("#cmp-learn-result").inner_text()
    assert run.is_visible()
