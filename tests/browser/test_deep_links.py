"""Links to settings in a real browser."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, urlsplit

import pytest

expect = pytest.importorskip("playwright.sync_api").expect

pytestmark = pytest.mark.browser


def test_a_link_opens_its_tab_with_its_settings_and_runs_nothing(visit, app_url):
    page = visit()
    page.goto(
        f"{app_url}/?tab=compare&prompt=a+crown+on+a+pink+background&num_inference_steps=7&seed=12"
        "&model=elsewhere&sampler=hune"
    )
    page.locator("#cmp-prompt textarea").wait_for(state="visible")
    page.wait_for_function("() => document.querySelector('#cmp-prompt textarea')?.value.includes('a crown')")
    notice = page.locator("#link-notice")
    notice.get_by_text("loaded from the link").wait_for()
    assert "elsewhere" in notice.inner_text() and "hune" in notice.inner_text()
    assert page.input_value("#cmp-steps input[type=number]") == "7"
    # Where scrollbars take room, a fold that is wider inside than outside would show one.
    folds = (
        "() => [...document.querySelectorAll('.gr-accordion')].filter(one => one.scrollWidth > one.clientWidth).length"
    )
    assert page.evaluate(folds) == 0
    page.wait_for_timeout(1000)
    expect(page.locator("#tab-compare .sw-stop:visible")).to_have_count(0)  # nothing runs


def test_markup_in_a_link_stays_text(visit, app_url):
    page = visit()
    page.goto(
        f"{app_url}/?tab=text_to_image&prompt=<img src=x onerror=alert(1)>"
        "&sampler=<img src=x onerror=window.hit=1>&model=<script>hit=1</script>"
    )
    page.wait_for_function("() => document.querySelector('#t2i-prompt textarea')?.value.includes('<img')")
    page.locator("#link-notice").get_by_text("loaded from the link").wait_for()
    expect(page.locator("#link-notice img, #link-notice script")).to_have_count(0)
    assert page.evaluate("() => window.hit") is None


@pytest.mark.slow
def test_the_copied_link_brings_the_settings_back(visit):
    page = visit()
    page.fill("#t2i-prompt textarea", "a guitar on a teal background")
    page.fill("#t2i-steps input[type=number]", "9")
    page.keyboard.press("Tab")
    page.click("#t2i-link")
    page.wait_for_function(
        "() => document.querySelector('#t2i-link-text textarea, #t2i-link-text input')?.value.startsWith('http')"
    )
    url = page.locator("#t2i-link-text textarea, #t2i-link-text input").first.input_value()
    told = parse_qs(urlsplit(url).query)
    assert told["tab"] == ["text_to_image"] and told["num_inference_steps"] == ["9"]
    assert "seed" not in told  # a new one each time
    other = visit()
    other.goto(url)
    other.wait_for_function("() => document.querySelector('#t2i-prompt textarea')?.value.includes('a guitar')")
    assert other.input_value("#t2i-steps input[type=number]") == "9"
    assert re.search(r"loaded from the link", other.inner_text("#link-notice"))
    page.fill("#t2i-prompt textarea", "a guitar on a pink background")
    expect(page.locator("#t2i-link-text")).to_be_hidden()  # it is no longer the link to what stands here
    page.click("#t2i-link")
    expect(page.locator("#t2i-link-text")).to_be_visible()
