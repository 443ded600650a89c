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
