"""A person in the gallery: what was made is found, opened, compared, used again, deleted, taken away."""

from __future__ import annotations

import json
import re
import zipfile

import pytest

pytestmark = pytest.mark.browser

DESKTOP, PHONE = (1440, 900), (390, 844)
PROMPTS = ("a fox on a blue background", "an owl on a yellow background", "a rocket on a purple background")


@pytest.fixture(scope="module")
def made(app_url):
    """Three pictures, made through the endpoint: prompt to id."""
    from gradio_client import Client

    client = Client(app_url, verbose=False)
    for seed, prompt in enumerate(PROMPTS):
        client.predict(
            prompt,
            settings={"num_inference_steps": 2, "seed": 40 + seed, "guidance": {"key": "cfg", "guidance_scale": 3.5}},
            api_name="/generate",
        )
    found = client.predict(search="", kind="text_to_image", limit=50, before="", api_name="/gallery")
    models = client.predict(api_name="/models")
    client.close()
    assert models["models"][0]["key"] == "emoji"
    return {one["prompt"]: one["id"] for one in found["results"]}


@pytest.fixture
def gallery(visit, made):
    def open_gallery(size=DESKTOP, dark=False):
        page = visit(size, dark)
        if size == PHONE:
            page.get_by_role("button", name="More tabs").click()
            page.locator("#tabs .overflow-dropdown button", has_text="Gallery").click()
        else:
            page.get_by_role("tab", name="Gallery").click()
        page.wait_for_selector("#gal-grid .sw-piece")
        return page

    return open_gallery


def piece(page, made, prompt):
    return page.locator(f'#gal-grid .sw-piece[data-id="{made[prompt]}"]')


def search(page, text, count):
    page.fill("#gal-search input, #gal-search textarea", text)
    page.wait_for_function("n => document.querySelectorAll('#gal-grid .sw-piece').length === n", arg=count)


def test_a_picture_is_found_opened_and_its_settings_used_again(gallery, made):
    page = gallery()
    search(page, "rocket PURPLE", 1)
    image = page.locator("#gal-grid .sw-open img")
    assert image.get_attribute("alt") == PROMPTS[2]
    page.wait_for_function("() => document.querySelector('#gal-grid .sw-open img').naturalWidth === 64")
    page.locator("#gal-grid .sw-open").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#gal-opened .sw-whole img")
    page.wait_for_function("() => document.activeElement.tagName === 'H2'")
    told = page.inner_text("#gal-opened")
    assert "Emoji 64" in told and "64 × 64" in told and "42" in told and "DPM-Solver++(2M)" in told
    with page.expect_download() as taken:
        page.click("#gal-opened .sw-download")
    assert taken.value.suggested_filename == f"{made[PROMPTS[2]]}.png"
    page.click("#gal-use-text-to-image")
    page.wait_for_selector("#t2i-run", state="visible")
    page.wait_for_function("prompt => document.querySelector('#t2i-prompt textarea').value === prompt", arg=PROMPTS[2])
    assert page.input_value("#t2i-seed input, #t2i-seed textarea") == "42"
    assert page.input_value("#t2i-steps input[type=number]") == "2"
    assert page.is_checked("#t2i-seed-mode input[value=fixed]")


def test_the_arrows_go_on_and_escape_closes(gallery, made):
    page = gallery()
    piece(page, made, PROMPTS[2]).locator(".sw-open").click()
    page.wait_for_selector(f'#gal-opened [data-id="{made[PROMPTS[2]]}"]')
    page.keyboard.press("ArrowRight")
    page.wait_for_selector(f'#gal-opened [data-id="{made[PROMPTS[1]]}"]')
    page.keyboard.press("Escape")
    page.wait_for_selector("#gal-opened", state="detached")
    page.wait_for_selector("#gal-undo", state="hidden")


def test_two_are_compared_under_a_slider(gallery, made):
    page = gallery()
    for prompt in PROMPTS[:2]:
        piece(page, made, prompt).locator("input").check(force=True)
    assert page.inner_text("#gal-chosen").strip() == "2 chosen"
    page.click("#gal-compare")
    slider = page.get_by_label("How much of the first picture shows")
    slider.focus()
    page.keyboard.press("End")
    assert (
        page.evaluate("() => getComputedStyle(document.querySelector('#gal .sw-lens')).getPropertyValue('--cut')")
        == "100%"
    )
    alts = page.evaluate("() => [...document.querySelectorAll('#gal .sw-lens img')].map(image => image.alt)")
    assert set(alts) == set(PROMPTS[:2])


def test_what_is_deleted_is_gone_and_comes_back(gallery, made):
    page = gallery()
    search(page, "owl", 1)
    piece(page, made, PROMPTS[1]).locator("input").check(force=True)
    page.click("#gal-delete")
    page.wait_for_selector("#gal-undo")
    assert "1 result deleted" in page.inner_text("#gal-notice")
    assert page.locator("#gal-grid .sw-piece").count() == 0
    page.click("#gal-undo")
    piece(page, made, PROMPTS[1]).wait_for()
    assert not page.locator("#gal-grid .sw-pick input").is_checked()


def test_what_is_chosen_is_taken_away_as_a_zip(gallery, made):
    page = gallery()
    for prompt in PROMPTS[::2]:
        piece(page, made, prompt).locator("input").check(force=True)
    with page.expect_download() as taken:
        page.click("#gal-export")
    assert re.fullmatch(r"stepwise-\d{8}-\d{6}\.zip", taken.value.suggested_filename)
    with zipfile.ZipFile(taken.value.path()) as archive:
        assert {f"{made[prompt]}.png" for prompt in PROMPTS[::2]} | {"results.json"} == set(archive.namelist())
        assert {row["prompt"] for row in json.loads(archive.read("results.json"))} == set(PROMPTS[::2])


@pytest.mark.parametrize(("size", "dark"), [(DESKTOP, False), (PHONE, True)], ids=["desktop-light", "phone-dark"])
def test_axe_finds_nothing_of_ours_and_nothing_overflows(gallery, made, size, dark):
    from axe_playwright_python.sync_playwright import Axe

    page = gallery(size, dark)
    piece(page, made, PROMPTS[0]).locator(".sw-open").click()
    page.wait_for_selector("#gal-opened .sw-whole img")
    page.click("#gal-opened summary")
    piece(page, made, PROMPTS[0]).locator("input").check(force=True)
    page.wait_for_timeout(400)
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    found = [
        (one["id"], [node["html"][:160] for node in one["nodes"]]) for one in Axe().run(page).response["violations"]
    ]
    assert found == []
