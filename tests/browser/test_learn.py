"""A schedule is learned on the page: its curve appears, and the result can be chosen at once."""

from __future__ import annotations

import pytest

expect = pytest.importorskip("playwright.sync_api").expect

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
    page.locator("#cmp-learn-preset-bespoke-solver").click()
    expect(page.locator("#cmp-learn-learner input")).to_have_value("Bespoke solver")
    page.locator("#cmp-learn-preset-quick-try").click()
    expect(page.locator("#cmp-learn-learner-ld3-rounds input[type=number]")).to_have_value("16")
    expect(page.locator("#cmp-learn-fitted input[type=number]")).to_have_value("8")
    for name, value in FIELDS:
        box = page.locator(f"{name} input[type=number]")
        box.fill(value)
        box.press("Tab")
    run.click()
    page.locator("#cmp-learn-result").wait_for(timeout=120_000)
    expect(page.locator("#cmp-learn-plot svg polyline")).to_have_count(1)
    assert "emoji-dpmpp-2m-2-ld3" in page.locator("#cmp-learn-result").inner_text()
    expect(run).to_be_visible()

    page.get_by_role("button", name="Compare with uniform").click()
    expect(page.locator("#cmp-cell-1-schedule input")).to_have_value("Uniform")
    expect(page.locator("#cmp-cell-2-schedule input")).to_have_value("Learned")
    expect(page.locator("#cmp-cell-3")).to_be_hidden()
    page.get_by_role("button", name="Use it").click()
    page.wait_for_selector("#t2i-run", state="visible")
    expect(page.locator("#t2i-steps input[type=number]")).to_have_value("2")
    page.get_by_role("button", name="Sampler and schedule").click()
    expect(page.locator("#t2i-schedule input").first).to_have_value("Learned")
    expect(page.locator("#t2i-schedule-learned-name textarea")).to_have_value("emoji-dpmpp-2m-2-ld3")
