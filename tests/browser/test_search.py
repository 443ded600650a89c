"""A person searches for a picture: the section's choices, the population, the best one's seed, and a look inside."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.browser


def test_a_search_shows_its_population_and_its_best_has_a_seed_of_its_own(visit, app_url, pick):
    page = visit((390, 844))
    page.goto(f"{app_url}/?num_inference_steps=2&seed=7&search=random,budget=16&reward=sharpness")
    page.wait_for_function("document.querySelector('#t2i-steps input[type=number]')?.value === '2'")
    page.click("button.label-wrap:has-text('Search')")
    page.wait_for_selector("#t2i-search-random-budget")
    assert page.input_value("#t2i-search-random-budget input[type=number]") == "16"
    page.click("#t2i-run")
    page.wait_for_selector('#t2i-progress [data-status="done"]')
    strip = page.locator("#t2i-batch button")
    assert strip.count() == 4 and strip.first.inner_text().startswith("best ")
    assert page.locator("#t2i-caption svg.sw-of-a-search").is_visible()
    seed = page.locator("#t2i-hero").get_attribute("data-seed")
    assert strip.first.get_attribute("title").startswith(f"seed {seed},") and 7 <= int(seed) <= 10
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.click("#t2i-inspect-fold button.label-wrap")
    page.click("#t2i-inspect-run")
    page.locator("#t2i-inspect .sw-words button").first.wait_for()

    # The same page, without another load: a picture that no seed alone makes has none to copy.
    pick(page, "#t2i-search", "Over paths")
    page.wait_for_selector("#t2i-search-paths-budget")
    page.fill("#t2i-steps input[type=number]", "3")
    page.press("#t2i-steps input[type=number]", "Tab")
    page.click("#t2i-run")
    page.wait_for_selector('#t2i-progress [data-status="running"]')
    page.wait_for_selector('#t2i-progress [data-status="done"]')
    assert page.locator("#t2i-hero").get_attribute("data-seed") is None
    page.get_by_role("button", name="Copy seed").click()
    page.get_by_role("button", name="No seed alone").wait_for()
