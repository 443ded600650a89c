"""A person quantizes a model: cells stream, figures and plots follow, a game is played, a model is kept and used."""

from __future__ import annotations

import pytest

expect = pytest.importorskip("playwright.sync_api").expect

pytestmark = pytest.mark.browser

DESKTOP, PHONE = (1440, 900), (390, 844)
UNIQUE = "a violin on a purple background"
"""What no other test asks for: the gallery is everybody's."""

DONE = '#qz-progress [data-status="done"]'


@pytest.fixture
def tab(visit):
    """Open the Quantize tab as a new person."""

    def open_tab(size=DESKTOP, dark=False):
        page = visit(size, dark)
        page.click("#tab-quantize-button")
        page.wait_for_selector("#qz-run")
        return page

    return open_tab


def quantize(page, steps=4):
    page.fill("#qz-steps input[type=number]", str(steps))
    page.press("#qz-steps input[type=number]", "Tab")
    page.click("#qz-run")
    page.wait_for_selector(DONE, timeout=120_000)


def test_a_comparison_streams_is_measured_kept_and_found_in_the_gallery(tab, pick):
    page = tab()
    assert "cannot run on this machine" in page.inner_text("#qz-missing")
    page.click("#qz-missing summary")
    assert "it needs an NVIDIA GPU" in page.inner_text(
        "#qz-missing"
    ) and "pip install -r requirements-" in page.inner_text("#qz-missing")
    page.fill("#qz-prompt textarea", UNIQUE)
    quantize(page)
    expect(page.locator("#qz-grid .sw-cell img")).to_have_count(4)
    labels = page.locator("#qz-grid .sw-cell-label").all_inner_texts()
    assert labels == ["Full precision", "int8", "int4", "NF4"]
    rows = page.locator("#qz-figures tbody tr").all_inner_texts()
    assert len(rows) == 4 and "35.5 MB" in rows[0] and "9.3 MB" in rows[1] and "5.4 MB" in rows[2]
    expect(page.locator("#qz-figures svg.qz-plot[role=img][aria-label]")).to_have_count(2)
    maps = page.locator("#qz-figures .qz-map img")
    assert maps.count() == 3 and "lowest in" in maps.first.get_attribute("alt")
    assert maps.first.evaluate("one => [one.naturalWidth, one.naturalHeight]") == [4, 129]

    page.click("#qz-game .qz-start")
    page.locator("#qz-game .qz-guess").first.click()
    assert page.inner_text("#qz-game .qz-score").endswith("of 1 right so far.")
    page.click("#qz-game .qz-start")
    page.locator("#qz-game .qz-guess").last.click()
    assert page.inner_text("#qz-game .qz-score").endswith("of 2 right so far.")

    page.click("#qz-use")
    page.wait_for_selector("#t2i-run:visible")
    page.wait_for_function("() => document.querySelector('#t2i-model input').value === 'Emoji 64, int8'")
    page.click("#t2i-run")
    page.wait_for_selector('#t2i-progress [data-status="done"]', timeout=60_000)
    page.click("#tab-gallery-button")
    page.wait_for_selector("#tab-gallery-button[aria-selected=true]")
    page.fill("#gal-search input, #gal-search textarea", UNIQUE)
    pick(page, "#gal-kind", "Quantize")
    page.wait_for_function("() => document.querySelectorAll('#gal-grid .sw-piece').length === 4")
    names = page.eval_on_selector_all("#gal-grid .sw-open img", "images => images.map(one => one.alt)")
    assert names == [UNIQUE] * 4
    page.locator("#gal-grid .sw-open").last.click()  # the oldest of the run
    page.wait_for_selector("#gal-opened .sw-whole img")
    assert "Emoji 64" in page.inner_text("#gal-opened") and UNIQUE in page.inner_text("#gal-opened h2")


def test_no_method_is_a_sentence_escape_stops_and_a_reload_finds_the_run(tab):
    page = tab()
    for label in ("int8", "int4", "NF4"):
        page.locator("#qz-variants label", has_text=label).first.click()
    page.click("#qz-run")
    page.wait_for_selector("#qz-notice :text('Give a list of 1 to 7')")
    page.locator("#qz-variants label", has_text="fp8").first.click()
    page.get_by_role("button", name="Settings of the methods").click()
    page.select_option("#qz-int4-group-size-input", "32")
    page.fill("#qz-steps input[type=number]", "200")
    page.press("#qz-steps input[type=number]", "Tab")
    page.click("#qz-run")
    page.wait_for_selector("#qz-grid .sw-cell img")
    page.keyboard.press("Escape")
    page.wait_for_selector('#qz-progress [data-status="cancelled"]')
    page.wait_for_selector("#qz-run:visible")
    page.reload()
    page.wait_for_selector("#tab-quantize-button")
    page.click("#tab-quantize-button")
    page.wait_for_selector('#qz-progress [data-status="cancelled"]')
    page.wait_for_function("() => document.querySelector('#qz-steps input[type=number]').value === '200'")
    expect(page.locator("#qz-variants input:checked")).to_have_count(1)
    page.get_by_role("button", name="Settings of the methods").click()
    expect(page.locator("#qz-int4-group-size-input")).to_have_value("32")


@pytest.mark.parametrize(
    ("size", "dark"),
    [pytest.param(DESKTOP, False, marks=pytest.mark.slow), (PHONE, True)],
    ids=["desktop light", "phone dark"],
)
def test_nothing_overflows_and_nothing_is_hard_to_read(tab, size, dark):
    from axe_playwright_python.sync_playwright import Axe

    page = tab(size, dark)
    quantize(page, 2)
    page.click("#qz-missing summary")
    page.click("#qz-game .qz-start")
    page.wait_for_timeout(300)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= size[0]
    found = Axe().run(page).response["violations"]
    ours = [(one["id"], [node["html"][:160] for node in one["nodes"]]) for one in found]
    assert [one for one in ours if one[0] in ("color-contrast", "label", "button-name", "image-alt")] == []
