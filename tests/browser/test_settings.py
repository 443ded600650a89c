"""The settings of a method: drawn for the chosen one, and what stands there is what runs, is linked and comes back."""

from __future__ import annotations

import json

import pytest

expect = pytest.importorskip("playwright.sync_api").expect

pytestmark = pytest.mark.browser

ETA = "#t2i-sampler-ddim-eta"
BOX, RANGE = f"{ETA} input[type=number]", f"{ETA} input[type=range]"
DONE = '#t2i-progress [data-status="done"]'


def unfold(page, fold):
    page.locator("#t2i button.label-wrap:visible", has_text=fold).first.click()


def run(page):
    """Press Generate, and return the settings of methods that the page sent."""
    with page.expect_request(lambda request: "/stepwise/text_to_image/" in request.url and request.post_data) as asked:
        page.click("#t2i-run")
    page.wait_for_selector(DONE)
    page.wait_for_selector("#t2i-run:visible")
    sent = json.loads(asked.value.post_data)["values"]
    return {key: settings for one in sent if isinstance(one, dict) for key, settings in one.items()}


def test_the_chosen_samplers_settings_are_drawn_run_and_kept(visit, pick, app_url):
    page = visit()
    page.fill("#t2i-steps input[type=number]", "2")
    unfold(page, "Sampler and schedule")
    pick(page, "#t2i-sampler", "DDIM")
    expect(page.locator("#t2i-sampler")).to_contain_text("any share of fresh noise")
    expect(page.locator(f"{ETA} label")).to_have_text("Eta")
    page.fill(BOX, "0.35")
    assert run(page)["ddim"] == {"eta": 0.35}  # at once: the field was not left
    assert page.input_value(RANGE) == "0.35"

    page.focus(RANGE)
    page.keyboard.press("ArrowRight")
    assert page.input_value(BOX) == "0.4"
    for typed, left in (("7", "1"), ("", "0"), ("0.6", "0.6")):  # its end, its default
        page.fill(BOX, typed)
        page.press(BOX, "Tab")
        assert page.input_value(BOX) == left
    pick(page, "#t2i-sampler", "Euler a")
    expect(page.locator(ETA)).to_have_count(0)
    pick(page, "#t2i-sampler", "DDIM")
    assert page.input_value(BOX) == "0.6"  # it waited

    page.wait_for_timeout(600)
    page.reload()
    page.wait_for_selector("#t2i-run")
    unfold(page, "Sampler and schedule")
    expect(page.locator(BOX)).to_have_value("0.6")
    page.goto(f"{app_url}/?sampler=ddim,eta%3D0.25")
    page.locator("#link-notice").get_by_text("loaded from the link").wait_for()
    unfold(page, "Sampler and schedule")
    expect(page.locator(BOX)).to_have_value("0.25")


def test_every_kind_of_control_sets_its_value(visit, pick):
    from axe_playwright_python.sync_playwright import Axe

    page = visit((390, 844), True)
    page.fill("#t2i-steps input[type=number]", "2")
    unfold(page, "Sampler and schedule")
    pick(page, "#t2i-sampler", "UniPC")
    page.uncheck("#t2i-sampler-unipc-corrector input")
    page.locator("#t2i-schedule-uniform-spacing select").select_option(label="leading")
    unfold(page, "Guidance")
    pick(page, "#t2i-guidance", "Two prompts blended")
    page.fill("#t2i-guidance-blended-second textarea", "a crown")
    unfold(page, "Several models")
    pick(page, "#t2i-ensemble", "Several models")
    second = page.locator("#t2i-ensemble-composition-second select")
    expect(second.locator("option")).to_have_text(["None", "Emoji 128 flow"])
    pick(page, "#t2i-ensemble", "One model")
    found = [
        (violation["id"], [node["html"][:160] for node in violation["nodes"]])
        for violation in Axe().run(page).response["violations"]
    ]
    assert found == []
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    sent = run(page)
    assert (sent["unipc"], sent["uniform"]) == ({"corrector": False}, {"spacing": "leading"})
    assert sent["blended"]["second"] == "a crown"

    pick(page, "#t2i-model", "Emoji 64")  # it brings its own, and has no companion
    expect(page.locator("#t2i-guidance-blended-second")).to_have_count(0)
    expect(page.locator("#t2i-schedule-uniform-spacing select")).to_have_value("trailing")
