"""A person at the tab "Text to image", on the shipped model, in a real Chromium."""

from __future__ import annotations

import re
import time

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pipelines.core.types import Request
from studio.infotext import Labels, write

pytestmark = pytest.mark.browser

DESKTOP, PHONE = (1440, 900), (390, 844)
PICTURE = "#t2i-picture img"


def set_steps(page, steps):
    box = page.locator("#t2i-steps input[type=number]")
    box.fill(str(steps))
    box.press("Tab")


def mark_old(page):
    """So that the progress of an earlier run is not taken for that of the next one."""
    page.evaluate(
        "() => document.querySelectorAll('#t2i-progress [data-status]')."
        "forEach(one => one.setAttribute('data-old', ''))"
    )


def generate(page, steps=4, prompt="a fox on a blue background"):
    page.fill("#t2i-prompt textarea", prompt)
    set_steps(page, steps)
    mark_old(page)
    page.click("#t2i-run")


def wait_done(page):
    page.wait_for_selector('#t2i-progress [data-status="done"]:not([data-old])')
    page.wait_for_selector("#t2i-run")


def progress(page):
    return page.inner_text("#t2i-progress")


def step_of(page):
    found = re.search(r"tep (\d+) of", progress(page))
    return int(found[1]) if found else 0


def wait_step(page, step):
    page.wait_for_function(
        "step => Number((document.querySelector('#t2i-progress')?.innerText.match(/tep (\\d+) of/) || [])[1]) >= step",
        arg=step,
    )


def drop(page, target, path):
    carried = page.evaluate_handle(
        """bytes => { const carrier = new DataTransfer();
        carrier.items.add(new File([new Uint8Array(bytes)], "found.png", {type: "image/png"})); return carrier; }""",
        list(path.read_bytes()),
    )
    page.dispatch_event(target, "dragover", {"dataTransfer": carried})
    page.dispatch_event(target, "drop", {"dataTransfer": carried})


def test_the_picture_emerges_step_by_step_and_is_then_a_file(visit):
    page = visit()
    page.fill("#t2i-prompt textarea", "a fox on a blue background")
    set_steps(page, 40)
    page.evaluate("""() => { window.seen = new Set();
        const look = () => document.querySelectorAll('#t2i-picture img').forEach((image) => window.seen.add(image.src));
        new MutationObserver(look)
            .observe(document.body, {subtree: true, childList: true, attributes: true, attributeFilter: ['src']}); }""")
    page.focus("#t2i-prompt textarea")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#t2i-stop")
    wait_done(page)
    page.wait_for_function("() => !document.querySelector('#t2i-picture img').src.startsWith('data:')")
    previews = [src for src in page.evaluate("() => [...window.seen]") if src.startswith("data:image/jpeg")]
    assert len(previews) >= 3
    assert page.evaluate(
        "() => { const image = document.querySelector('#t2i-picture img'); return [image.naturalWidth, image.alt]; }"
    ) == [128, "The generated picture"]
    figures = page.inner_text("#t2i-figures")
    assert "40" in figures and "80" in figures and "128 × 128" in figures and "Emoji 128" in figures


def test_escape_stops_the_run_and_frees_the_device(visit):
    page = visit()
    generate(page, 200)
    wait_step(page, 3)
    page.keyboard.press("Escape")
    page.wait_for_selector("#t2i-run")
    assert progress(page).startswith("Stopped at step")
    assert step_of(page) < 200
    generate(page, 3)
    wait_done(page)


def test_a_reload_finds_the_running_and_the_finished_job(visit):
    page = visit()
    page.get_by_role("button", name="Four owls").click()  # a batch, so that the run outlasts a slow reload
    page.wait_for_function("() => document.querySelector('#t2i-prompt textarea').value.includes('owl')")
    generate(page, 200, "an owl on a yellow background")
    wait_step(page, 2)
    page.reload()
    page.wait_for_selector("#t2i-stop")
    before = step_of(page)
    wait_step(page, before + 3)
    assert page.input_value("#t2i-prompt textarea") == "an owl on a yellow background"
    page.click("#t2i-stop")
    page.wait_for_selector("#t2i-run")
    generate(page, 3, "a star on a red background")
    wait_done(page)
    page.reload()
    page.wait_for_selector('#t2i-progress [data-status="done"]')
    page.wait_for_function("() => document.querySelector('#t2i-picture img')?.naturalWidth === 128")
    assert page.input_value("#t2i-prompt textarea") == "a star on a red background"


def test_the_scrubber_moves_through_the_run(visit):
    page = visit()
    generate(page, 8)
    wait_done(page)
    final = page.get_attribute(PICTURE, "src")
    shown = {name: page.get_attribute(f"#t2i-{name} img", "src") for name in ("noisy", "denoised")}
    caption = page.inner_text("#t2i-caption")
    slider = page.locator("#t2i-scrubber input[type=range]")
    slider.focus()
    slider.press("Home")
    page.wait_for_function("before => document.querySelector('#t2i-noisy img').src !== before", arg=shown["noisy"])
    page.wait_for_function("before => document.querySelector('#t2i-picture img').src !== before", arg=final)
    assert page.get_attribute("#t2i-denoised img", "src") != shown["denoised"]
    assert page.inner_text("#t2i-caption") != caption
    page.get_by_role("button", name="Play the steps").click()
    page.wait_for_function("() => document.querySelector('#t2i-scrubber-range').value === '8'")
    page.wait_for_function("before => document.querySelector('#t2i-picture img').src === before", arg=final)


def test_a_batch_offers_each_picture(visit):
    page = visit()
    page.get_by_role("button", name="Four owls").click()
    page.wait_for_function("() => document.querySelector('#t2i-prompt textarea').value.includes('owl')")
    set_steps(page, 3)
    page.click("#t2i-run")
    wait_done(page)
    thumbnails = page.locator("#t2i-batch button.thumbnail-item")
    thumbnails.nth(3).wait_for()
    first = page.get_attribute(PICTURE, "src")
    thumbnails.nth(2).click()
    page.wait_for_function("before => document.querySelector('#t2i-picture img').src !== before", arg=first)
    page.click("#t2i-link")
    link = page.locator("#t2i-link-text textarea, #t2i-link-text input").first
    page.wait_for_function("link => link.value.includes('seed=5')", arg=link.element_handle())  # the chosen picture's
    assert "batch_size" not in link.input_value()


def test_the_settings_go_to_the_comparison(visit):
    page = visit()
    page.fill("#t2i-prompt textarea", "a guitar on a pink background")
    page.click("#t2i-send")
    page.locator("#cmp-prompt textarea").wait_for(state="visible")
    assert page.input_value("#cmp-prompt textarea") == "a guitar on a pink background"


def test_a_mistake_is_said_in_one_sentence_and_costs_nothing(visit):
    page = visit()
    generate(page, 7, "   ")
    notice = page.wait_for_selector("#t2i-notice [role=alert]")
    assert "prompt is empty" in notice.inner_text()
    assert page.input_value("#t2i-steps input[type=number]") == "7"
    generate(page, 3)
    wait_done(page)
    assert page.query_selector("#t2i-notice [role=alert]") is None


def test_a_dropped_picture_brings_its_settings(visit, tmp_path):
    request = Request(
        prompt="a crown on a <b>purple</b> background", num_inference_steps=11, seed=2**60 + 1, width=64, height=64
    )
    texts, path = PngInfo(), tmp_path / "found.png"
    texts.add_text(
        "parameters",
        write({**request.to_json(), "sampler": {"key": "ddim", "eta": 0.0}}, Labels(model="elsewhere", version="v1")),
    )
    Image.new("RGB", (8, 8)).save(path, pnginfo=texts)
    page = visit()
    drop(page, ".sw-frame", path)
    page.wait_for_function("() => document.querySelector('#t2i-prompt textarea').value.includes('crown')")
    notice = page.inner_text("#t2i-notice")
    assert "elsewhere" in notice
    assert page.input_value("#t2i-steps input[type=number]") == "11"
    assert page.input_value("#t2i-seed input, #t2i-seed textarea") == str(2**60 + 1)
    assert page.input_value("#t2i-prompt textarea") == request.prompt


def test_a_broken_picture_is_refused_in_one_sentence(visit, tmp_path):
    path = tmp_path / "broken.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(200))
    page = visit()
    drop(page, ".sw-frame", path)
    page.get_by_text("not a readable picture").wait_for()  # refused at the door, before any handler sees it
    assert page.input_value("#t2i-prompt textarea")


def test_the_page_is_light_and_asks_nobody_else(visit, app_url, chromium):
    context = chromium.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    session = context.new_cdp_session(page)
    session.send("Network.enable")
    weights, hosts = [], set()
    session.on("Network.loadingFinished", lambda event: weights.append(event["encodedDataLength"]))
    page.on("request", lambda request: hosts.add(request.url.split("/")[2] if request.url.startswith("http") else ""))
    page.goto(app_url)
    page.wait_for_selector("#t2i-run")
    page.wait_for_timeout(2000)  # a tab may hold a connection open, so the network is never idle
    context.close()
    assert hosts - {""} == {app_url.split("/")[2]}
    assert sum(weights) <= 1_000_000


def test_on_a_phone_the_picture_follows_the_prompt_and_nothing_overflows(visit):
    page = visit(PHONE)
    generate(page, 3)
    wait_done(page)
    boxes = {
        name: page.locator(name).bounding_box()
        for name in (".sw-compose", ".sw-frame", ".sw-trajectory", ".sw-settings")
    }
    tops = [box["y"] for box in boxes.values()]
    assert tops == sorted(tops)
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= 390 for box in boxes.values())
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize(
    ("size", "dark"),
    [
        (DESKTOP, False),
        *(pytest.param(*one, marks=pytest.mark.slow) for one in ((DESKTOP, True), (PHONE, False))),
        (PHONE, True),
    ],
    ids=["desktop light", "desktop dark", "phone light", "phone dark"],
)
def test_axe_finds_nothing_of_ours(visit, size, dark):
    from axe_playwright_python.sync_playwright import Axe

    page = visit(size, dark)
    generate(page, 2)
    wait_done(page)
    for heading in ("Style and negative prompt", "Sampler and schedule", "Settings from a picture"):
        page.get_by_role("button", name=heading).click()
    page.fill("#t2i-prompt textarea", "")
    page.click("#t2i-run")
    page.wait_for_selector("#t2i-notice [role=alert]")
    time.sleep(0.3)
    found = [
        (violation["id"], [node["html"][:160] for node in violation["nodes"]])
        for violation in Axe().run(page).response["violations"]
    ]
    assert found == []


def test_the_switch_between_light_and_dark_is_remembered(visit, app_url):
    page = visit()
    page.goto(app_url)
    page.wait_for_selector("#t2i-run")
    before = page.evaluate("() => document.body.classList.contains('dark')")
    page.click("button.sw-theme")
    assert page.evaluate("() => document.body.classList.contains('dark')") is not before
    page.reload()
    page.wait_for_selector("#t2i-run")
    assert page.evaluate("() => document.body.classList.contains('dark')") is not before
