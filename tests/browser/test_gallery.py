"""A person in the gallery: what was made is found, opened, compared, used again, deleted, taken away."""

from __future__ import annotations

import io
import json
import re
import zipfile

import numpy as np
import pytest
from PIL import Image

expect = pytest.importorskip("playwright.sync_api").expect

pytestmark = pytest.mark.browser

DESKTOP, PHONE = (1440, 900), (390, 844)
# In words that no other browser test draws: the server and its results are shared. SHARED stands in all three.
SHARED = "exhibited"
PROMPTS = tuple(
    f"{subject} background, {SHARED}"
    for subject in ("a cactus on a blue", "a teapot on a yellow", "a robot on a purple")
)


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
        page.get_by_role("tab", name="Gallery").click()
        page.wait_for_selector("#gal-grid .sw-piece")
        return page

    return open_gallery


def piece(page, made, prompt):
    return page.locator(f'#gal-grid .sw-piece[data-id="{made[prompt]}"]')


def search(page, text, count):
    page.fill("#gal-search input, #gal-search textarea", text)
    # By their words too: the search before may have found as many.
    found = """([words, count]) => {
        const pieces = [...document.querySelectorAll('#gal-grid .sw-piece')];
        const says = (piece) => piece.querySelector('.sw-open img').alt.toLowerCase();
        return pieces.length === count && pieces.every((piece) => words.every((word) => says(piece).includes(word)));
    }"""
    page.wait_for_function(found, arg=[text.lower().split(), count])


def test_a_picture_is_found_opened_and_its_settings_used_again(gallery, made):
    page = gallery()
    search(page, "robot PURPLE", 1)
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
    page.get_by_role("button", name="File names of downloads").click()
    page.fill("#gal-names textarea, #gal-names input", "{prompt} {seed}")
    with page.expect_download() as taken:
        page.click("#gal-opened .sw-download")
    assert taken.value.suggested_filename == f"{PROMPTS[2]} 42.png"
    page.click("#gal-use-text-to-image")
    page.wait_for_selector("#t2i-run", state="visible")
    page.wait_for_function("prompt => document.querySelector('#t2i-prompt textarea').value === prompt", arg=PROMPTS[2])
    assert page.input_value("#t2i-seed input, #t2i-seed textarea") == "42"
    assert page.input_value("#t2i-steps input[type=number]") == "2"
    assert page.is_checked("#t2i-seed-mode input[value=fixed]")


def open_only(page, made, key):
    page.locator(f'#gal-grid .sw-piece[data-id="{made[key]}"] .sw-open').click()
    page.wait_for_selector(f'#gal-opened [data-id="{made[key]}"]')


def test_use_in_edit_puts_the_pictures_own_pixels_under_the_brush(gallery, made, pick):
    page = gallery()
    open_only(page, made, PROMPTS[2])
    shown = page.eval_on_selector("#gal-opened .sw-whole img", "image => image.src")
    page.click("#gal-use-edit")
    page.wait_for_selector("#edit-run", state="visible")
    page.wait_for_function(
        "text => document.querySelector('#edit-source-prompt textarea').value === text", arg=PROMPTS[2]
    )
    own = Image.open(io.BytesIO(page.request.get(shown).body())).convert("RGB")
    page.wait_for_function("() => document.querySelector('#edit-source img')?.naturalWidth === 64")
    source = page.eval_on_selector("#edit-source img", "image => image.src")
    assert Image.open(io.BytesIO(page.request.get(source).body())).convert("RGB").tobytes() == own.tobytes()
    pick(page, "#edit-edit", "Inpaint")
    canvas = page.locator(".sw-pointing-canvas")
    canvas.scroll_into_view_if_needed()
    page.wait_for_timeout(500)
    board = np.asarray(Image.open(io.BytesIO(canvas.screenshot())).convert("RGB"))
    small, wanted = (
        np.asarray(one.resize((16, 16), Image.Resampling.BOX), float)[:, 3:] for one in (Image.fromarray(board), own)
    )
    assert abs(board.shape[0] - board.shape[1]) <= 2 and np.abs(small - wanted).mean() < 8, np.abs(
        small - wanted
    ).mean()


@pytest.mark.slow
def test_use_in_compare_and_in_quantize_bring_cells_and_methods(gallery, app_url):
    from gradio_client import Client

    client = Client(app_url, verbose=False)
    base = {"num_inference_steps": 2, "seed": 3}
    cells = [{"sampler": "heun"}, {"sampler": "lms", "guidance.guidance_scale": 2.5}]
    client.predict(
        "a crown on a teal background", settings={"base": base, "cells": cells, "reference": False}, api_name="/compare"
    )
    variants = [{"key": "int4", "group_size": 16}]
    client.predict(
        "a gem on a teal background",
        settings={"base": base, "variants": variants, "measure": False},
        api_name="/quantize",
    )
    client.close()
    page = gallery()
    search(page, "crown teal", 2)
    page.locator("#gal-grid .sw-open").first.click()
    page.click("#gal-use-compare")
    page.wait_for_selector("#cmp-run", state="visible")
    page.wait_for_function(
        "() => document.querySelector('#cmp-cell-2-guidance input, #cmp-cell-2-guidance textarea')?.value === '2.5'"
    )
    expect(page.locator("#cmp-cell-3")).to_be_hidden()
    assert [page.input_value(f"#cmp-cell-{place}-sampler input") for place in (1, 2)] == ["Heun", "LMS"]
    page.get_by_role("tab", name="Gallery").click()
    search(page, "gem teal", 2)
    page.locator("#gal-grid .sw-open").first.click()
    page.click("#gal-use-quantize")
    page.wait_for_selector("#qz-run", state="visible")
    page.wait_for_function("() => document.querySelector('#qz-prompt textarea').value.includes('a gem')")
    ticked = page.eval_on_selector_all("#qz-variants input:checked", "boxes => boxes.map(box => box.value ?? box.name)")
    assert len(ticked) == 1
    assert not page.is_checked("#qz-measure input")


def test_the_arrows_go_on_and_escape_closes(gallery, made):
    page = gallery()
    piece(page, made, PROMPTS[2]).locator(".sw-open").click()
    page.wait_for_selector(f'#gal-opened [data-id="{made[PROMPTS[2]]}"]')
    page.keyboard.press("ArrowRight")
    page.wait_for_selector(f'#gal-opened [data-id="{made[PROMPTS[1]]}"]')
    page.keyboard.press("Escape")
    page.wait_for_selector("#gal-opened", state="detached")
    page.wait_for_selector("#gal-undo", state="hidden")


def test_a_late_answer_leaves_what_was_searched_for_meanwhile(visit, made, hold):
    page = visit()
    page.wait_for_timeout(1000)  # the page's own first requests
    answer = hold(page, lambda: page.get_by_role("tab", name="Gallery").click())  # asks for the whole list
    page.locator("#gal-search input, #gal-search textarea").wait_for()
    search(page, f"teapot {SHARED}", 1)
    page.get_by_label("Favorites", exact=True).check()
    expect(page.locator("#gal-grid .sw-piece")).to_have_count(0)
    answer()
    expect(page.locator("#gal-grid .sw-piece")).to_have_count(0)
    assert page.get_by_label("Favorites", exact=True).is_checked()
    page.get_by_label("Favorites", exact=True).uncheck()
    expect(page.locator("#gal-grid .sw-piece")).to_have_count(1)


def test_two_are_compared_under_a_slider(gallery, made):
    page = gallery()
    for prompt in PROMPTS[:2]:
        piece(page, made, prompt).locator("input").check(force=True)
    assert page.inner_text("#gal-chosen").strip() == "2 selected"
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
    search(page, "teapot", 1)
    piece(page, made, PROMPTS[1]).locator("input").check(force=True)
    page.click("#gal-delete")
    page.wait_for_selector("#gal-undo")
    assert "1 result deleted" in page.inner_text("#gal-notice")
    expect(page.locator("#gal-grid .sw-piece")).to_have_count(0)
    page.click("#gal-undo")
    piece(page, made, PROMPTS[1]).wait_for()
    assert not page.locator("#gal-grid .sw-pick input").is_checked()


def test_a_star_stays_and_the_favorites_are_listed_alone(gallery, made, pick):
    page = gallery()
    search(page, SHARED, 3)
    page.get_by_label("Sort").click()
    page.get_by_role("option", name="Oldest first").click()
    expect(page.locator("#gal-summary")).to_contain_text("oldest first")
    expect(page.locator("#gal-grid .sw-piece").first).to_have_attribute("data-id", made[PROMPTS[0]])
    star = piece(page, made, PROMPTS[1]).locator(".sw-star")
    star.focus()
    with page.expect_response(lambda response: '"star"' in (response.request.post_data or "")):
        page.keyboard.press("Enter")
    expect(star).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#gal-opened")).to_have_count(0)
    page.get_by_label("Favorites", exact=True).check()
    expect(page.locator("#gal-grid .sw-piece")).to_have_count(1)
    expect(star).to_have_attribute("aria-pressed", "true")
    with page.expect_response(lambda response: '"unstar"' in (response.request.post_data or "")):
        star.click()
    expect(star).to_have_attribute("aria-pressed", "false")
    page.get_by_label("Favorites", exact=True).uncheck()
    pick(page, "#gal-model", "Emoji 64")
    expect(page.locator("#gal-grid .sw-piece")).to_have_count(3)
    expect(star).to_have_attribute("aria-pressed", "false")


@pytest.mark.slow
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


@pytest.mark.parametrize(
    ("size", "dark"),
    [pytest.param(DESKTOP, False, marks=pytest.mark.slow), (PHONE, True)],
    ids=["desktop-light", "phone-dark"],
)
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


@pytest.mark.slow
def test_show_more_puts_the_next_page_behind_the_last_tile_and_a_deletion_keeps_the_place(gallery, app_url):
    """Stands last: what it makes fills the gallery's first page."""
    from gradio_client import Client

    client = Client(app_url, verbose=False)
    for seed in range(7):
        settings = {"num_inference_steps": 1, "seed": 100 * seed, "batch_size": 8}
        client.predict("a lemon on a teal background", settings=settings, api_name="/generate")
    client.predict("an anchor on a teal background", settings={"num_inference_steps": 1}, api_name="/generate")
    client.close()
    page = gallery()
    search(page, "lemon teal", 48)
    page.wait_for_function(  # before the search 48 were shown as well, the anchor first
        "() => [...document.querySelectorAll('#gal-grid .sw-open img')].every(one => one.alt.includes('lemon'))"
    )
    page.evaluate("() => { document.querySelector('#gal-grid .sw-piece').dataset.kept = 'yes'; }")
    page.click("#gal-more")
    page.wait_for_function("() => document.querySelectorAll('#gal-grid .sw-piece').length === 56")
    ids = page.eval_on_selector_all("#gal-grid .sw-piece", "all => all.map(one => one.dataset.id)")
    times = [one.rpartition("-")[0] for one in ids]
    assert times == sorted(times, reverse=True) and len(set(ids)) == 56
    expect(page.locator("#gal-grid .sw-piece[data-kept]")).to_have_count(1)  # the first page was not drawn again
    page.wait_for_selector("#gal-more", state="hidden")
    last = page.locator("#gal-grid .sw-piece").last
    last.scroll_into_view_if_needed()
    page.wait_for_function("() => [...document.querySelectorAll('#gal-grid .sw-open img')].at(-1).naturalWidth === 64")
    for one in (page.locator("#gal-grid .sw-piece").first, last):
        one.locator("input").check(force=True)
    assert page.inner_text("#gal-chosen").strip() == "2 selected"
    page.click("#gal-delete")
    page.wait_for_function("() => document.querySelectorAll('#gal-grid .sw-piece').length === 54")
