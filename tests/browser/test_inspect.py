"""A person looks inside a picture: a word's map follows pointer and keyboard."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.browser

MAP = "document.getElementById('t2i-inspect-map').src"


def test_pointing_at_a_word_lays_its_map_over_the_picture(visit):
    page = visit((390, 844))
    page.click("#t2i-run")
    page.wait_for_selector('#t2i-progress [data-status="done"]')
    page.click("#t2i-inspect-fold button.label-wrap")
    page.click("#t2i-inspect-run")
    words = page.locator("#t2i-inspect .sw-words button")
    words.first.wait_for()
    words.first.hover()
    first = page.evaluate(MAP)
    words.last.focus()
    assert page.evaluate(MAP) != first
    assert words.last.get_attribute("aria-pressed") == "true"
    assert words.first.get_attribute("aria-pressed") == "false"
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_pointing_at_a_word_of_an_edit_shows_where_the_model_looks(visit):
    page = visit((390, 844))
    asked = []
    page.on("request", lambda request: asked.append(request.url) if request.url.endswith("edit_words/run") else None)
    page.click("#tab-edit-button")
    page.wait_for_selector("#edit-run")
    assert not page.is_visible("#edit-words-fold")
    page.fill("#edit-steps input[type=number]", "4")
    page.press("#edit-steps input[type=number]", "Tab")
    page.click("#edit-run")
    page.wait_for_selector('#edit-progress [data-status="done"]', timeout=60_000)
    page.wait_for_selector("#edit-words-fold")
    page.click("#edit-words-fold button.label-wrap")
    assert not asked  # nothing is looked at unasked
    page.click("#edit-words-run")
    words, shown = page.locator("#edit-words .sw-words button"), "document.getElementById('edit-words-map').src"
    words.first.wait_for()
    words.first.hover()
    first = page.evaluate(shown)
    words.last.focus()
    by_keyboard = page.evaluate(shown)
    words.nth(1).dispatch_event("click")
    assert len({first, by_keyboard, page.evaluate(shown)}) == 3 and len(asked) == 1
    assert words.nth(1).get_attribute("aria-pressed") == "true"
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
