"""A person draws and the picture follows; the prompt counts at once; another tab ends it."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.browser

SHOWN = "document.getElementById('live-empty').hidden"
RUNNING = "document.getElementById('live').hasAttribute('data-running')"


def picture(page) -> str:
    return page.get_attribute("#live-picture", "src")


def changes(page, before: str) -> None:
    page.wait_for_function("before => document.getElementById('live-picture').src !== before", arg=before)


def test_a_drawing_becomes_a_picture_that_follows_brush_and_prompt_until_another_tab_is_opened(visit):
    page = visit()
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.click("#tab-live-button")
    page.wait_for_selector("#live-canvas")
    page.click("#live-run")
    page.wait_for_function(SHOWN)
    before = picture(page)
    box = page.locator("#live-canvas").bounding_box()
    page.click('[data-color="#3ca046"]')
    page.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + 0.3 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + 0.8 * box["height"], steps=8)
    page.mouse.up()
    changes(page, before)
    page.wait_for_timeout(1500)  # the last frames of the stroke
    before = picture(page)
    page.fill("#live-prompt textarea", "a cat on a red background")
    changes(page, before)
    page.click("#live-save")
    page.wait_for_selector("#live-progress >> text=saved to the gallery")
    page.click("#tab-gallery-button")
    page.wait_for_function(f"!({RUNNING})")
    assert not errors


@pytest.mark.parametrize(
    ("size", "dark"),
    [pytest.param((1440, 900), False, marks=pytest.mark.slow), ((390, 844), True)],
    ids=["desktop light", "phone dark"],
)
def test_the_board_fits_undo_takes_a_stroke_back_and_axe_finds_nothing(visit, size, dark):
    from axe_playwright_python.sync_playwright import Axe

    page = visit(size, dark)
    page.click("#tab-live-button")
    page.wait_for_selector("#live-canvas")
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    page.get_by_role("button", name="Model").click()
    page.wait_for_timeout(400)
    assert not [
        (one["id"], [node["html"][:160] for node in one["nodes"]]) for one in Axe().run(page).response["violations"]
    ]
    drawn = "document.getElementById('live-canvas').toDataURL()"
    before = page.evaluate(drawn)
    page.locator("#live-canvas").click(position={"x": 200, "y": 60})
    assert page.evaluate(drawn) != before
    page.click('[data-do="undo"]')
    assert page.evaluate(drawn) == before
