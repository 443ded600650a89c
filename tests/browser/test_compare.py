"""A person at the tab "Compare", on the shipped model, in a real Chromium."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from PIL import Image

expect = pytest.importorskip("playwright.sync_api").expect

pytestmark = pytest.mark.browser

DESKTOP, PHONE = (1440, 900), (390, 844)
DONE = '#cmp-progress [data-status="done"]:not([data-old])'
MARK_OLD = (
    "() => document.querySelectorAll('#cmp-progress [data-status]').forEach(one => one.setAttribute('data-old', ''))"
)
WATCH = """() => { window.seen = {};
    new MutationObserver(() => document.querySelectorAll('#cmp-grid button.sw-tile').forEach(tile => {
        (window.seen[tile.dataset.cell] ??= new Set()).add(tile.querySelector('img').src); }))
    .observe(document.querySelector('#cmp'),
             {subtree: true, childList: true, attributes: true, attributeFilter: ['src']}); }"""


@pytest.fixture
def tab(visit):
    def open_tab(size=DESKTOP, dark=False):
        page = visit(size, dark)
        page.get_by_role("tab", name="Compare").click()
        page.wait_for_selector("#cmp-run")
        return page

    return open_tab


def run(page):
    page.evaluate(MARK_OLD)
    page.click("#cmp-run")
    page.wait_for_selector(f"#cmp-stop:visible, {DONE}")  # a short run may be over before its stop button was seen


def set_number(page, identity, value):
    box = page.locator(f"{identity} input[type=number]")
    box.fill(str(value))
    box.press("Tab")


def without_reference(page):
    page.get_by_role("button", name="Reference").click()
    page.uncheck("#cmp-reference input")


def test_the_default_comparison_runs_with_one_click(tab):
    page = tab()
    page.evaluate(WATCH)
    run(page)
    page.wait_for_selector(DONE, timeout=90_000)
    page.wait_for_selector("#cmp-run")
    seen = page.evaluate("() => Object.values(window.seen).map(sources => sources.size)")
    assert len(seen) == 7 and min(seen) >= 3
    figures = page.locator("#cmp-grid .sw-cell:not([data-reference]) .sw-likeness").all_inner_texts()
    assert len(figures) == 6 and all("PSNR" in text and "SSIM" in text for text in figures)
    assert 1 <= page.locator("#cmp-grid .sw-badge").count() <= 2
    evaluations = page.evaluate(
        "() => [...document.querySelectorAll('.sw-table td:nth-of-type(2)')].map(cell => Number(cell.textContent))"
    )
    assert len(evaluations) == 6 and all(18 <= one <= 20 for one in evaluations)
    alts = page.evaluate("() => [...document.querySelectorAll('#cmp-grid img')].map(image => image.alt)")
    assert all("finished picture" in alt for alt in alts) and len(set(alts)) == 7


def test_the_labeled_picture_and_the_table_are_downloaded_and_a_reload_finds_the_run(tab):
    page = tab()
    page.get_by_role("button", name="Steps 4 to 32").click()
    page.wait_for_selector("#cmp-cell-4-steps")
    page.wait_for_selector("#cmp-cell-5", state="hidden")
    without_reference(page)
    run(page)
    page.wait_for_selector(DONE, timeout=60_000)
    with page.expect_download() as taken:
        page.click("#cmp-csv")
    rows = list(csv.DictReader(io.StringIO(Path(taken.value.path()).read_text(encoding="utf-8-sig"))))
    assert [row["steps"] for row in rows] == ["4", "8", "16", "32"]
    with page.expect_download() as taken:
        page.click("#cmp-png")
    with Image.open(taken.value.path()) as sheet:
        assert sheet.width > 4 * 192
    page.reload()
    page.get_by_role("tab", name="Compare").click()
    page.wait_for_selector("#cmp-grid .sw-cell:nth-of-type(4) img")
    expect(page.locator("#cmp-grid .sw-cell")).to_have_count(4)
    page.wait_for_function(
        "() => document.querySelector('#cmp-cell-4-steps').querySelector('input, textarea').value === '32'"
    )
    page.get_by_role("button", name="Reference").click()
    assert not page.is_checked("#cmp-reference input")


def test_two_pictures_under_the_slider_and_escape_stops_nothing_behind_them(tab):
    page = tab()
    set_number(page, "#cmp-steps", 60)
    run(page)
    page.wait_for_selector("#cmp-grid button.sw-tile")
    page.locator("#cmp-grid button.sw-tile").first.click()
    page.get_by_label("Compare with").select_option(label="Heun")
    slider = page.get_by_label("How much of the first picture shows")
    slider.focus()
    page.keyboard.press("Home")
    assert page.evaluate("() => getComputedStyle(document.querySelector('.sw-lens')).getPropertyValue('--cut')") == "0%"
    page.keyboard.press("Escape")
    page.wait_for_selector(".sw-viewer", state="hidden")
    assert page.is_visible("#cmp-stop")
    page.keyboard.press("Escape")
    page.wait_for_selector('#cmp-progress [data-status="cancelled"]')


@pytest.mark.slow
def test_a_stop_keeps_the_finished_cells(tab):
    page = tab()
    page.get_by_role("button", name="Steps 4 to 32").click()
    page.wait_for_selector("#cmp-cell-4-steps")
    page.locator("#cmp-cell-4-steps").locator("input, textarea").fill("200")
    run(page)
    page.wait_for_selector('#cmp-grid .sw-cell[data-state="done"]')
    page.click("#cmp-stop")
    page.wait_for_selector('#cmp-progress [data-status="cancelled"]')
    page.wait_for_selector("#cmp-run")
    states = page.evaluate("() => [...document.querySelectorAll('#cmp-grid .sw-cell')].map(cell => cell.dataset.state)")
    assert states[0] == "done" and states[3] == "stopped"
    assert page.is_visible("#cmp-png")


def test_a_grid_on_a_phone_scrolls_in_its_own_frame_and_a_mistake_loses_nothing(tab):
    page = tab(PHONE, dark=True)
    page.get_by_role("button", name="Steps × guidance").click()
    page.wait_for_selector("#cmp-x-values")
    box = page.locator("#cmp-x-values textarea, #cmp-x-values input")
    box.fill("4-nine")
    page.click("#cmp-run")
    page.wait_for_selector("#cmp-notice .sw-notice")
    assert "4-nine" in page.inner_text("#cmp-notice") and box.input_value() == "4-nine"
    box.fill("2, 3, 4")
    without_reference(page)
    run(page)
    page.wait_for_selector(DONE, timeout=60_000)
    assert page.inner_text("#cmp-notice").strip() == ""
    expect(page.locator("#cmp-grid .sw-cell")).to_have_count(9)
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    assert page.locator("#cmp-grid .sw-scroll").evaluate("frame => frame.scrollWidth > frame.clientWidth")


def test_a_sliders_knob_is_whole_on_a_phone(tab):
    hangs = """block => {
        const track = block.querySelector("input[type=range]").getBoundingClientRect();
        return (track.top + track.bottom) / 2 + 8 - block.getBoundingClientRect().bottom; }"""
    assert tab(PHONE).locator("#cmp-steps").evaluate(hangs) <= 0


def test_a_folds_arrow_is_whole_on_a_phone(tab):
    """A title of two lines stretched it, and its rotation then moved it past the edge."""
    past = """() => [...document.querySelectorAll('button.label-wrap > .icon')].filter(icon => icon.offsetParent)
        .map(icon => [icon.closest('button').getBoundingClientRect(), icon.getBoundingClientRect()])
        .map(([button, icon]) => icon.right - button.right)"""
    gaps = tab(PHONE).evaluate(past)
    assert len(gaps) >= 3 and max(gaps) <= 5, gaps


def test_cells_are_copied_and_removed_between_two_and_eight(tab):
    page = tab()
    shown = page.locator("#cmp .sw-cell-row:visible")
    expect(shown).to_have_count(6)
    for expected in (7, 8):
        page.click("#cmp-cell-1-copy")
        page.wait_for_selector(f"#cmp-cell-{expected}:visible")
    assert page.locator("#cmp-cell-2-sampler input").input_value() == "DPM-Solver++(2M)"
    page.wait_for_function("() => document.querySelector('#cmp-cell-1-copy').disabled")
    for left in range(7, 1, -1):
        page.click("#cmp-cell-1-remove")
        page.wait_for_selector(f"#cmp-cell-{left + 1}", state="hidden")
    page.wait_for_function("() => document.querySelector('#cmp-cell-1-remove').disabled")
    assert page.locator("#cmp-cell-2-sampler input").input_value() == "Euler a"


@pytest.mark.parametrize(
    ("size", "dark"),
    [pytest.param(DESKTOP, False, marks=pytest.mark.slow), (PHONE, True)],
    ids=["desktop light", "phone dark"],
)
def test_axe_finds_nothing_of_ours(tab, size, dark):
    from axe_playwright_python.sync_playwright import Axe

    page = tab(size, dark)
    set_number(page, "#cmp-steps", 2)
    without_reference(page)
    run(page)
    page.wait_for_selector(DONE, timeout=60_000)
    page.get_by_text("All figures").click()
    for heading in ("Style and negative prompt", "Shared sampler and guidance"):
        page.get_by_role("button", name=heading).click()
    page.wait_for_timeout(300)
    assert violations(Axe().run(page)) == []
    page.locator("#cmp-grid button.sw-tile").first.click()
    page.get_by_label("Compare with").select_option(label="Heun")
    assert violations(Axe().run(page)) == []


def violations(found):
    return [(one["id"], [node["html"][:160] for node in one["nodes"]]) for one in found.response["violations"]]
