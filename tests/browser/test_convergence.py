"""A person measures samplers in the tab "Compare", on the shipped model, in a real Chromium."""

from __future__ import annotations

import pytest

expect = pytest.importorskip("playwright.sync_api").expect

pytestmark = pytest.mark.browser

DESKTOP, PHONE = (1440, 900), (390, 844)
DONE = '#cmp-conv-progress [data-status="done"]'
WATCH = """() => { window.counts = new Set();
    const points = "#cmp-conv-plot svg g > :not(polyline)";
    new MutationObserver(() => window.counts.add(document.querySelectorAll(points).length))
    .observe(document.querySelector('#cmp-conv'), {subtree: true, childList: true}); }"""


@pytest.fixture
def panel(visit):
    def open_panel(size=DESKTOP, dark=False):
        page = visit(size, dark)
        page.get_by_role("tab", name="Compare").click()
        page.get_by_role("button", name="Convergence: error").click()
        page.wait_for_selector("#cmp-conv-run")
        return page

    return open_panel


def measure(page, samplers, evaluations="4, 8, 16"):
    page.fill("#cmp-conv-samplers textarea", samplers)
    page.locator("#cmp-conv-evaluations").locator("textarea, input").fill(evaluations)
    box = page.locator("#cmp-conv-reference input[type=number]")
    box.fill("20")
    box.press("Tab")
    page.click("#cmp-conv-run")


def test_points_appear_one_by_one_and_a_reload_finds_them_again(panel):
    page = panel()
    page.evaluate(WATCH)
    measure(page, "all first order, heun")
    page.wait_for_selector(DONE)
    counts = sorted(page.evaluate("() => [...window.counts]"))
    assert counts[-1] == 3 * 3 + 3 and len(counts) >= 3
    plot = page.locator('#cmp-conv-plot svg[role="img"]').first
    assert "Relative error against network evaluations" in plot.get_attribute("aria-label")
    names = page.locator("#cmp-conv-plot .sw-legend span").all_inner_texts()
    assert sorted(names) == ["DDIM", "DPM-Solver++(1)", "Euler", "Heun"]
    expect(page.locator("#cmp-conv-plot .sw-shares")).to_have_count(4)
    assert page.is_visible("#cmp-conv-run") and page.is_visible("#cmp-run")
    page.reload()
    page.get_by_role("tab", name="Compare").click()
    page.get_by_role("button", name="Convergence: error").click()
    page.wait_for_selector('#cmp-conv-plot svg[role="img"]')
    page.wait_for_function("() => document.querySelector('#cmp-conv-samplers textarea').value.startsWith('all first')")


@pytest.mark.slow
def test_a_mistake_is_told_and_a_stop_keeps_the_points(panel):
    page = panel(PHONE, dark=True)
    measure(page, "all zeroth order")
    page.wait_for_selector("#cmp-conv-notice .sw-notice")
    assert "zeroth" in page.inner_text("#cmp-conv-notice") and "first order" in page.inner_text("#cmp-conv-notice")
    measure(page, "ddim, heun", "4, 8, 400")
    page.wait_for_selector("#cmp-conv-plot svg g")
    page.click("#cmp-conv-stop")
    page.wait_for_selector('#cmp-conv-progress [data-status="cancelled"]')
    assert page.locator("#cmp-conv-plot svg g > :not(polyline)").count() >= 1
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize(
    ("size", "dark"),
    [pytest.param(DESKTOP, False, marks=pytest.mark.slow), (PHONE, True)],
    ids=["desktop light", "phone dark"],
)
def test_axe_finds_nothing_of_ours_and_the_schedule_is_drawn(panel, size, dark, pick):
    from axe_playwright_python.sync_playwright import Axe

    page = panel(size, dark)
    page.get_by_role("button", name="The shared schedule").click()
    page.wait_for_selector("#cmp-schedule-plots svg")
    measure(page, "ddim, unipc", "4, 8")
    page.wait_for_selector(DONE)
    page.get_by_text("All errors, by evaluations").click()
    found = Axe().run(page)
    assert [(one["id"], [node["html"][:160] for node in one["nodes"]]) for one in found.response["violations"]] == []
    curve = page.locator("#cmp-schedule-plots polyline").first.get_attribute("points")
    page.get_by_role("button", name="Shared sampler and guidance").click()
    pick(page, "#cmp-schedule", "Karras")
    page.wait_for_function(
        "old => document.querySelector('#cmp-schedule-plots polyline').getAttribute('points') !== old", arg=curve
    )


def test_a_whole_family_fills_the_cells(panel, pick):
    page = panel()
    pick(page, "#cmp-family", "All DPM-Solver++ (4)")
    page.wait_for_selector("#cmp-cell-5", state="hidden")
    chosen = [page.locator(f"#cmp-cell-{place}-sampler input").input_value() for place in range(1, 5)]
    assert chosen == ["DPM-Solver++(2M)", "DPM-Solver++(2S)", "DPM-Solver++(1)", "DPM-Solver++(3M)"]
