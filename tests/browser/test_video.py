"""A person makes a clip: prompts to walk between, the strip as it fills, the clip that plays and is found again."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.browser

DESKTOP, PHONE = (1440, 900), (390, 844)
DONE = '#vid-progress [data-status="done"]'
CLIP = """() => { const clip = document.querySelector('#vid-clip');
    if (clip.hidden || clip.readyState < 2) return null;
    return [clip.duration, clip.videoWidth, clip.videoHeight, clip.error]; }"""


@pytest.fixture
def tab(visit):
    """Open the Video tab as a new person."""

    def open_tab(size=DESKTOP, dark=False):
        page = visit(size, dark)
        page.click("#tab-animate-button")
        page.wait_for_selector("#vid-run")
        page.wait_for_selector("#vid-plan :text('16 frames of 128 × 128')")
        page.wait_for_selector("#vid-key-2", state="hidden")
        page.locator("#vid-examples").get_by_role("button", name="Fox to cat").click()
        page.wait_for_selector("#vid-plan :text('24 frames of 64 × 64')")
        return page

    return open_tab


def set_number(page, name, value):
    page.fill(f"#vid-{name} input[type=number]", str(value))
    page.press(f"#vid-{name} input[type=number]", "Tab")


def short(page, frames=8, steps=3):
    set_number(page, "steps", steps)
    set_number(page, "frames", frames)
    page.wait_for_selector(f"#vid-plan :text('{frames} frames')")


def animate(page):
    page.evaluate("document.querySelectorAll('#vid-progress .sw-progress').forEach(one => one.dataset.status = 'old')")
    page.click("#vid-run")
    page.wait_for_selector(DONE, timeout=60_000)
    page.wait_for_selector("#vid-run")


def test_a_walk_streams_plays_and_is_found_in_the_gallery(tab):
    page = tab()
    page.evaluate("""() => { window.strips = new Set();
        new MutationObserver(() => window.strips.add(document.querySelector('#vid-strip').src))
            .observe(document.querySelector('#vid-strip'), {attributes: true}); }""")
    short(page, frames=24, steps=20)
    page.fill("#vid-prompt textarea", "a violin on a yellow background")
    animate(page)
    assert page.evaluate("window.strips.size") >= 3
    duration, width, height, error = page.wait_for_function(CLIP).json_value()
    assert (duration, width, height, error) == (pytest.approx(2.0, abs=0.01), 64, 64, None)
    page.wait_for_function("() => document.querySelector('#vid-clip').currentTime > 0.3")
    assert "24 at 12 fps" in page.inner_text("#vid-figures")
    with page.expect_download() as download:
        page.locator("#vid-download").click(force=True)
    assert download.value.suggested_filename.endswith(".mp4")
    page.click("#tab-gallery-button")
    tile = page.locator("#gal-grid .sw-piece[data-clip]", has_text="a violin on a yellow background").first
    tile.locator("img").wait_for()
    tile.locator(".sw-open").click()
    page.wait_for_function("() => document.querySelector('#gal-opened video')?.duration > 1.9")
    page.click("#gal-use-animate")
    page.wait_for_selector("#vid-run")
    assert page.input_value("#vid-prompt textarea") == "a violin on a yellow background"
    assert page.input_value("#vid-frames input[type=number]") == "24"


def test_keys_are_added_and_a_picture_that_needs_no_player_is_shown(tab):
    page = tab()
    page.locator("#vid-examples").get_by_role("button", name="Three fruits, looped").click()
    page.wait_for_selector("#vid-plan :text('30 frames')")
    assert page.input_value("#vid-key-3 textarea") == "a lemon on a teal background"
    page.click("#vid-key-more")
    page.wait_for_selector("#vid-key-4 textarea")
    page.click("#vid-key-fewer")
    page.wait_for_selector("#vid-key-4", state="hidden")
    short(page, frames=6)
    page.locator("#vid-format").get_by_text("WebP").click()
    animate(page)
    page.wait_for_function("() => document.querySelector('#vid-hero').src.includes('/stepwise/results/')")
    shown = page.request.get(page.eval_on_selector("#vid-hero", "image => image.src"))
    assert shown.headers["content-type"] == "image/webp"
    assert (
        page.evaluate("document.querySelector('#vid-clip').hidden && document.querySelector('#vid-hero').naturalWidth")
        == 64
    )


def test_what_cannot_be_is_said_and_what_a_model_snaps_to_is_said_before(tab, pick):
    page = tab()
    short(page, frames=1)
    page.click("#vid-run")
    page.wait_for_selector("#vid-notice :text('fewer than the 2 keyframes')")
    pick(page, "#vid-model", "LTX-Video", typed="LTX-Video")
    page.wait_for_selector("#vid-plan :text('161 frames of 704 × 512')")
    page.wait_for_selector("#vid-first")
    page.wait_for_selector("#vid-key-2", state="hidden")
    set_number(page, "frames", 16)
    page.wait_for_selector("#vid-plan :text('16 becomes 17')")
    assert "is downloaded first" in page.inner_text("#vid-plan")


def test_escape_stops_and_a_reload_finds_the_clip_again(tab):
    page = tab()
    short(page, frames=200, steps=20)
    page.click("#vid-run")
    page.wait_for_selector("#vid-strip:not([hidden])")
    page.keyboard.press("Escape")
    page.wait_for_selector('#vid-progress [data-status="cancelled"]')
    page.wait_for_selector("#vid-run")
    short(page)
    animate(page)
    page.reload()
    page.wait_for_selector("#tab-animate-button")
    page.click("#tab-animate-button")
    page.wait_for_selector(DONE)
    duration, *_ = page.wait_for_function(CLIP).json_value()
    assert duration == pytest.approx(8 / 12, abs=0.01)
    assert page.input_value("#vid-frames input[type=number]") == "8"


@pytest.mark.parametrize(
    ("size", "dark"),
    [pytest.param(DESKTOP, False, marks=pytest.mark.slow), (PHONE, True)],
    ids=["desktop light", "phone dark"],
)
def test_nothing_overflows_and_nothing_is_hard_to_read(tab, size, dark):
    from axe_playwright_python.sync_playwright import Axe

    page = tab(size, dark)
    short(page)
    animate(page)
    page.wait_for_timeout(300)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= size[0]
    found = Axe().run(page).response["violations"]
    ours = [(one["id"], [node["html"][:160] for node in one["nodes"]]) for one in found]
    assert [
        one for one in ours if one[0] in ("color-contrast", "label", "button-name", "image-alt", "video-caption")
    ] == []
