"""A person edits a picture: examples, a mask drawn by hand, stop and reload, on a phone too."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from studio.page.edit.mask_text import decode_mask

expect = pytest.importorskip("playwright.sync_api").expect

pytestmark = pytest.mark.browser

DESKTOP, PHONE = (1440, 900), (390, 844)
UNIQUE = "a bus on a teal background"
"""What no other test asks for: the gallery is everybody's."""

DONE = '#edit-progress [data-status="done"]'


@pytest.fixture
def tab(visit):
    """Open the Edit tab as a new person."""

    def open_tab(size=DESKTOP, dark=False):
        page = visit(size, dark)
        page.click("#tab-edit-button")
        page.wait_for_selector("#edit-run")
        return page

    return open_tab


def choose(page, label):
    page.locator("#edit-examples").get_by_role("button", name=label).click()


def set_number(page, selector, value):
    page.fill(f"{selector} input[type=number]", str(value))
    page.press(f"{selector} input[type=number]", "Tab")


def edit(page, steps=4, selector=DONE):
    set_number(page, "#edit-steps", steps)
    # A short run's stop button may come and go unseen; the last run's progress must not stand for this one's.
    page.evaluate("document.querySelectorAll('#edit-progress .sw-progress').forEach(one => one.dataset.status = 'old')")
    page.click("#edit-run")
    page.wait_for_selector(selector, timeout=60_000)
    page.wait_for_selector("#edit-run")


def pixels(source):
    data = base64.b64decode(source.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def after(page):
    """The finished picture of the slider."""
    page.wait_for_selector("#edit-slider img")
    sources = page.eval_on_selector_all("#edit-slider img", "images => images.map(one => one.src)")
    return [pixels(source) for source in sources]


def test_the_first_example_dissolves_comes_back_and_is_found_in_the_gallery(tab, pick):
    page = tab()
    page.evaluate("""() => { window.seen = {};
        const look = () => ['inversion', 'reconstruction', 'edit', 'picture'].forEach(name =>
            document.querySelectorAll(`#edit-tile-${name} img, #edit-${name} img`).forEach(image =>
                (window.seen[name] ??= new Set()).add(image.src)));
        new MutationObserver(look)
            .observe(document.body, {subtree: true, childList: true, attributes: true, attributeFilter: ['src']}); }""")
    page.evaluate("""() => { window.times = {};
        const fetched = window.fetch, root = document.querySelector('#edit');
        window.fetch = (...asked) => {
            if (String(asked[0]).endsWith('stepwise/edit/run')) window.times.posted = performance.now();
            return fetched(...asked);
        };
        new MutationObserver(() => { window.times.answered ??= performance.now(); })
            .observe(root, {attributes: true, attributeFilter: ['data-running']}); }""")
    edit(page, steps=120)
    times = page.evaluate("() => window.times")
    assert times["answered"] < times["posted"]  # before the server has read the pictures
    counts = page.evaluate(
        "() => Object.fromEntries(Object.entries(window.seen).map(([name, all]) => [name, all.size]))"
    )
    assert all(counts.get(name, 0) >= 3 for name in ("inversion", "reconstruction", "edit", "picture")), counts
    figures = page.inner_text("#edit-figures")
    for name in ("Reconstruction PSNR", "SSIM", "VAE alone", "Shows the prompt", "Classifier sees", "bus on green"):
        assert name in figures
    before, edited = after(page)[:2]
    assert before.shape == edited.shape == (64, 64, 3) and not np.array_equal(before, edited)
    page.fill("#edit-prompt textarea", UNIQUE)
    edit(page, steps=120)
    assert "Reused from an earlier edit" in page.inner_text("#edit-figures")
    edited = after(page)[1]
    page.click("#tab-gallery-button")
    pick(page, "#gal-kind", "Edit")
    page.fill("#gal-search input, #gal-search textarea", UNIQUE)
    page.wait_for_function("() => document.querySelectorAll('#gal-grid .sw-piece').length === 1")
    page.click("#gal-grid .sw-open")
    page.wait_for_selector("#gal-opened .sw-whole img")
    kept = page.eval_on_selector("#gal-opened .sw-whole img", "image => image.src")
    found = Image.open(io.BytesIO(page.request.get(kept).body()))
    assert np.array_equal(np.asarray(found.convert("RGB")), edited)
    assert UNIQUE in page.inner_text("#gal-opened h2")


MASK = "#edit-mask :is(textarea, input)"


def use_tool(page, name):
    page.locator("#edit-pointing").get_by_role("button", name=name, exact=True).click()


def drag(page, places):
    """Draw on the source, in shares of it."""
    canvas = page.locator(".sw-pointing-canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    ways = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in places]
    page.mouse.move(*ways[0])
    page.mouse.down()
    for way in ways[1:]:
        page.mouse.move(*way, steps=4)
    page.mouse.up()


def mask_of(page):
    """What the form holds, at 64 by 64."""
    return decode_mask(page.input_value(MASK), (64, 64))


def test_a_mask_drawn_by_hand_is_all_that_changes(tab, pick):
    page = tab()
    choose(page, "Image to image")
    page.wait_for_function("() => document.querySelector('#edit-source-prompt textarea').value.includes('gem')")
    pick(page, "#edit-edit", "Inpaint")
    page.wait_for_selector(".sw-pointing-canvas img[src]")
    page.click("#edit-run")
    page.wait_for_selector("#edit-notice :text('needs a mask')")
    drag(page, [(0.5, 0.5), (0.55, 0.52), (0.6, 0.55)])
    once = mask_of(page)
    assert once[32, 32] and 0.005 < once.mean() < 0.1 and not once[:24].any()
    use_tool(page, "Box")
    drag(page, [(0.25, 0.25), (0.75, 0.5)])
    boxed = mask_of(page)
    assert boxed[16:32, 16:48].all() and (boxed & once).sum() == once.sum()
    use_tool(page, "Erase")
    drag(page, [(0.25, 0.375), (0.75, 0.375)])
    assert not mask_of(page)[24, 18:46].any()
    page.keyboard.press("Control+z")
    page.wait_for_timeout(200)
    assert np.array_equal(mask_of(page), boxed)
    use_tool(page, "Invert")
    inverted = mask_of(page)
    assert (inverted | boxed).all() and (inverted & boxed).mean() < 0.03  # a pixel on the edge is in both
    use_tool(page, "Clear mask")
    assert page.input_value(MASK) == ""
    use_tool(page, "Undo")
    use_tool(page, "Undo")
    page.wait_for_timeout(200)
    edit(page)
    assert "identical, pasted back" in page.inner_text("#edit-figures")
    before, edited = after(page)[:2]
    changed = (before != edited).any(-1)
    assert 0.003 < changed.mean() < 0.5
    assert not changed[:7].any() and not changed[:, :7].any()


def test_bad_input_is_said_on_the_page(tab):
    page = tab()
    page.fill("#edit-source-prompt textarea", "a carrot")
    edit(page, selector="#edit-notice :text('as many words')")
    page.fill("#edit-source-prompt textarea", "")
    page.click("#edit-run")
    page.wait_for_selector("#edit-notice :text('Write what the source')")


def test_escape_stops_and_a_reload_finds_the_edit_again(tab):
    page = tab()
    set_number(page, "#edit-steps", 200)
    page.click("#edit-run")
    page.wait_for_selector("#edit-tile-inversion img")
    page.keyboard.press("Escape")
    page.wait_for_selector('#edit-progress [data-status="cancelled"]')
    page.wait_for_selector("#edit-run")
    choose(page, "Image to image")
    page.wait_for_function("() => document.querySelector('#edit-source-prompt textarea').value.includes('gem')")
    edit(page)
    page.reload()
    page.wait_for_selector("#tab-edit-button")
    page.click("#tab-edit-button")
    page.wait_for_selector(DONE)
    page.wait_for_selector("#edit-slider img")
    assert "gem" in page.input_value("#edit-source-prompt textarea")
    assert page.locator("#edit-source img").count() >= 1


@pytest.mark.parametrize(
    ("size", "dark"),
    [pytest.param(DESKTOP, False, marks=pytest.mark.slow), (PHONE, True)],
    ids=["desktop light", "phone dark"],
)
def test_nothing_overflows_and_nothing_is_hard_to_read(tab, size, dark):
    from axe_playwright_python.sync_playwright import Axe

    page = tab(size, dark)
    edit(page)
    page.wait_for_timeout(300)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= size[0]
    found = Axe().run(page).response["violations"]
    ours = [(one["id"], [node["html"][:160] for node in one["nodes"]]) for one in found]
    assert [one for one in ours if one[0] in ("color-contrast", "label", "button-name", "image-alt")] == []


def test_several_pictures_are_edited_one_after_the_other(visit, pick, tmp_path):
    page = visit()
    page.get_by_role("tab", name="Edit").click()
    page.get_by_role("button", name="Image to image").click()
    page.wait_for_function("() => document.querySelector('#edit-edit input').value === 'Image to image'")
    page.fill("#edit-steps input[type=number]", "2")
    page.keyboard.press("Tab")
    page.get_by_role("button", name="Several pictures").click()
    paths = []
    for name, color in (("first", "red"), ("second", "green")):
        paths.append(tmp_path / f"{name}.png")
        Image.new("RGB", (64, 64), color).save(paths[-1])
    page.set_input_files("#edit-files input[type=file]", paths)
    page.locator("#edit-files").get_by_text("second").first.wait_for()
    page.click("#edit-all")
    page.get_by_text("2 pictures edited").wait_for()
    source = page.eval_on_selector("#edit-source img", "image => image.src")
    shown = Image.open(io.BytesIO(page.request.get(source).body())).convert("RGB")
    assert shown.getpixel((5, 5)) == (0, 128, 0)
    page.get_by_role("tab", name="Gallery").click()
    page.wait_for_function("() => document.querySelectorAll('#gal-grid .sw-piece').length >= 2")


@pytest.mark.parametrize(("size", "dark"), [(DESKTOP, False), (PHONE, True)])
def test_an_arrow_says_where_the_object_goes(tab, size, dark):
    page = tab(size, dark)
    page.get_by_role("button", name="Mask: draw over").click()
    pressed = page.locator(".sw-pointing [aria-pressed=true]")
    expect(pressed).to_have_text("Brush")  # the edit that stands here takes no arrow
    page.click("#edit-goal input")
    page.get_by_role("option", name="Move or resize an object").click()
    expect(pressed).to_have_text("Arrow")
    canvas = page.locator(".sw-pointing-canvas")
    page.wait_for_selector(".sw-pointing-canvas img[src]")
    canvas.scroll_into_view_if_needed()

    def draw(start, end):
        box = canvas.bounding_box()
        at = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, end)]
        page.mouse.move(*at[0])
        page.mouse.down()
        page.mouse.move(*at[1], steps=4)
        page.mouse.up()

    draw((0.2, 0.5), (0.45, 0.4))
    page.wait_for_function(
        "() => [...document.querySelectorAll('#edit input[type=number]')].some(one => Number(one.value) === 0.25)"
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
