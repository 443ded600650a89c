"""What stands on the page is what runs; what was typed survives a reload and gives way to a link."""

from __future__ import annotations

import pytest

expect = pytest.importorskip("playwright.sync_api").expect

pytestmark = pytest.mark.browser

PROMPT, SEED = "#t2i-prompt textarea", "#t2i-seed input, #t2i-seed textarea"
RUNNING = "document.getElementById('t2i').hasAttribute('data-running')"
DONE = '#t2i-progress [data-status="done"]'
SLOW = """async (milliseconds) => {
    const fetched = window.fetch;
    window.fetch = async (...asked) => {
        if (String(asked[0]).includes("/run/")) await new Promise((go) => setTimeout(go, milliseconds));
        return fetched(...asked);
    };
}"""


def finish(page):
    page.wait_for_selector(DONE)
    page.wait_for_selector("#t2i-run:visible")


def figure(page, name):
    return page.locator("#t2i-figures div", has=page.locator("dt", has_text=name)).locator("dd").inner_text()


def test_what_stands_on_the_page_runs_and_survives_a_reload(visit, app_url):
    page = visit()
    page.evaluate(SLOW, 400)  # a busy server
    page.get_by_role("button", name="Six learned steps").click()
    page.click("#t2i-run")  # before the chip's settings have come back
    assert page.evaluate(RUNNING)  # the button answers at once
    finish(page)
    assert "rocket" in page.input_value(PROMPT) and figure(page, "Steps") == "6"
    drawn = page.input_value(SEED)
    assert figure(page, "Seed") == drawn  # a random seed is shown with its picture

    page.fill(SEED, "77")
    page.evaluate("document.querySelector('#t2i-progress .sw-progress').dataset.status = 'old'")
    page.keyboard.press("Control+Enter")
    finish(page)
    assert (figure(page, "Seed"), page.input_value(SEED)) == ("77", "77")

    page.fill(PROMPT, "typed and not yet run")
    page.wait_for_timeout(400)
    page.reload()
    page.wait_for_function("() => document.querySelector('#t2i-prompt textarea')?.value.startsWith('typed')")
    page.wait_for_selector(DONE)
    assert page.input_value("#t2i-steps input[type=number]") == "6"
    assert page.input_value(SEED) == "77"

    for attempt in range(3):  # it used to lose in half of the loads
        page.goto(f"{app_url}/?prompt=a+crown+{attempt}&num_inference_steps={7 + attempt}")
        page.locator("#link-notice").get_by_text("loaded from the link").wait_for()
        page.wait_for_function(
            "words => document.querySelector('#t2i-prompt textarea').value === words", arg=f"a crown {attempt}"
        )
        page.wait_for_timeout(800)
        assert page.input_value(PROMPT) == f"a crown {attempt}"
        assert page.input_value("#t2i-steps input[type=number]") == str(7 + attempt)
        expect(page.locator("#t2i-run")).to_be_visible()
    notice, tabs = (page.locator(name).bounding_box() for name in ("#link-notice", "#tabs"))
    assert notice["y"] < tabs["y"]

    page.fill(PROMPT, "typed after the link")  # which is opened once
    page.wait_for_timeout(400)
    page.reload()
    page.wait_for_function("() => document.querySelector('#t2i-prompt textarea')?.value.startsWith('typed')")
    assert page.input_value("#t2i-steps input[type=number]") == "9"
    assert page.inner_text("#link-notice").strip() == ""


def test_a_chosen_model_is_the_one_that_runs_however_late_its_settings_come(visit, pick):
    page = visit()
    page.add_init_script(f"({SLOW})(400)")  # before the page's own script, as a slow network is
    page.reload()
    page.wait_for_selector(".sw-run")
    page.wait_for_timeout(2000)  # the page's own first requests
    pick(page, "#t2i-model", "Emoji 64")
    page.click("#t2i-run")
    finish(page)
    assert figure(page, "Model") == "Emoji 64" and figure(page, "Size") == "64 × 64"


def test_an_examples_late_answer_leaves_what_was_chosen_meanwhile(visit, hold):
    page = visit()
    page.wait_for_timeout(1000)  # the page's own first requests
    answer = hold(page, page.get_by_role("button", name="Six learned steps").click)
    page.fill("#t2i-steps input[type=number]", "7")
    page.keyboard.press("Tab")
    page.click("#t2i-seed-roll")
    drawn = page.input_value(SEED)
    answer()
    assert "rocket" in page.input_value(PROMPT)
    assert (page.input_value("#t2i-steps input[type=number]"), page.input_value(SEED)) == ("7", drawn)

    answer = hold(page, page.get_by_role("button", name="Fox on blue").click)
    page.get_by_role("button", name="Three strawberries").click()  # the later chip answers first
    page.wait_for_function("() => document.querySelector('#t2i-prompt textarea').value.includes('strawberries')")
    answer()
    assert "strawberries" in page.input_value(PROMPT)

    answer = hold(page, page.get_by_role("button", name="Fox on blue").click)
    page.click("#t2i-run")
    page.click("#t2i-stop")  # before the run began
    answer()
    assert page.inner_text("#t2i-progress") == "" and not page.evaluate(RUNNING)


ESCAPE_BETWEEN = """() => new Promise((stopped) => {
    const shown = new Set();
    const look = setInterval(() => {
        const result = document.querySelector('#t2i-hero').dataset.result;
        if (result) shown.add(result);
        if (shown.size < 2 || !document.querySelector('#t2i-progress [data-status="done"]')) return;
        clearInterval(look);
        document.dispatchEvent(new KeyboardEvent('keydown', { key: 'Escape', bubbles: true }));
        setTimeout(() => stopped(document.querySelector('#t2i-hero').dataset.result === result), 1500);
    }, 5);
})"""


def test_until_stopped_ends_between_two_pictures_too(visit):
    page = visit()
    page.get_by_label("Until stopped").check()
    page.fill("#t2i-steps input[type=number]", "2")
    page.keyboard.press("Tab")
    page.click("#t2i-run")
    assert page.evaluate(ESCAPE_BETWEEN)
    assert not page.evaluate(RUNNING)


def test_escape_in_a_composition_stops_nothing(visit):
    page = visit()
    page.evaluate(
        "document.body.insertAdjacentHTML('beforeend', '<button class=\"sw-stop\" id=\"probe\">Stop</button>')"
    )
    page.evaluate(
        "document.querySelector('#probe').addEventListener('click', () => (window.stops = (window.stops ?? 0) + 1))"
    )
    page.evaluate("document.querySelectorAll('.sw-stop:not(#probe)').forEach((one) => one.remove())")
    press = (
        "(composing) => document.dispatchEvent(new KeyboardEvent('keydown', {key: 'Escape', isComposing: composing}))"
    )
    page.evaluate(press, True)
    assert page.evaluate("() => window.stops") is None
    page.evaluate(press, False)
    assert page.evaluate("() => window.stops") == 1


def test_a_word_that_the_model_never_learned_is_said_and_chips_write_the_prompt(visit):
    page = visit()
    page.fill(PROMPT, "Napoleon on a blue ro")
    page.get_by_text("has not learned “napoleon”").wait_for()
    page.locator(".sw-offers:visible button", has_text="rocket").click()
    assert page.input_value(PROMPT) == "Napoleon on a blue rocket"
    page.locator(".sw-vocabulary:visible summary").click()
    page.locator(".sw-grounds:visible button", has_text="orange").click()
    page.locator(".sw-subjects:visible button", has_text="owl").click()
    assert page.input_value(PROMPT) == "an owl on an orange background"
    expect(page.locator(".sw-unknown:visible")).to_have_count(0)

    def choose(text, chip, name):
        page.fill(PROMPT, text)
        page.locator(f".sw-{chip}:visible button", has_text=name).first.click()
        return page.input_value(PROMPT)

    teal = "a fox on a teal background"
    for ground in ("on a blue background", "on blue", "on a (blue:1.2) background", "on a {red|pink} background"):
        for tag in ("", " <lora:emoji-ink:0.7>", " embedding:emoji-mint"):
            assert choose(f"a fox {ground}{tag}", "grounds", "teal") == teal + tag
    assert choose("a fox, red background", "grounds", "teal") == choose("a fox", "grounds", "teal") == teal
    assert choose("a fox <lora:emoji-ink:1>", "grounds", "teal") == f"{teal} <lora:emoji-ink:1>"
    assert choose("a cat on a car", "grounds", "teal") == "a cat on a car on a teal background"
    assert choose("a fox (on a blue background:1.3)", "grounds", "teal") == "a fox (on a teal background:1.3)"
    assert choose("a fox on a (blue background:1.3)", "grounds", "teal") == teal
    assert choose("<lora:emoji-ink:1> a cat on a pink background", "subjects", "owl") == (
        "an owl on a pink background <lora:emoji-ink:1>"
    )
    for tab, root in (("compare", "cmp"), ("edit", "edit"), ("animate", "vid"), ("quantize", "qz")):
        page.click(f"#tab-{tab}-button")
        page.fill(f"#{root}-prompt textarea", "Napoleon on a blue background")
        expect(page.locator(".sw-unknown:visible")).to_contain_text("has not learned “napoleon”.")


def test_the_arrows_weigh_what_stands_at_the_cursor_and_break_no_syntax(visit):
    page = visit()

    def weigh(text, key="ArrowUp"):  # the cursor is at the bar
        page.fill(PROMPT, text.replace("|", ""))
        place = text.index("|")
        page.evaluate(f"(place) => document.querySelector('{PROMPT}').setSelectionRange(place, place)", place)
        page.press(PROMPT, f"Control+{key}")
        return page.input_value(PROMPT)

    assert weigh("a f|ox") == "a (fox:1.1)"
    assert weigh("a (red fox:1.|1) b") == "a (red fox:1.2) b"
    assert weigh("a fox <lora:emoji-|ink:0.7>", "ArrowDown") == "a fox <lora:emoji-ink:0.6>"
    assert weigh("a __big_ani|mal__") == "a (__big_animal__:1.1)"
    assert weigh("embedding:emoji-m|int") == "(embedding:emoji-mint:1.1)"
    assert weigh("a fox A|ND a cat") == "a fox AND a cat"
    assert weigh("[fox:cat:0.|5]") == "[fox:cat:0.5]"
    page.fill(PROMPT, "Napoleon on a embedding:emoji-mint background")
    page.get_by_text("has not learned “napoleon”.").wait_for()


def test_try_it_runs_the_shown_example_and_its_result_leads_on(visit):
    page = visit((390, 844))
    expect(page.locator("#tabs [role=tab]")).to_have_count(8)  # all in reach: the bar scrolls
    page.click("#tab-models-button")
    page.wait_for_function("() => document.querySelector('#tabs > .tab-wrapper').scrollLeft > 0")
    page.click("#tab-text-to-image-button")
    expect(page.locator("#t2i-acts")).to_be_hidden()
    page.click("#t2i-empty .sw-try")
    finish(page)
    below = "(id) => document.getElementById(id).getBoundingClientRect().top"
    assert page.evaluate(below, "t2i-acts") < page.evaluate(below, "t2i-trajectory")  # in one column they come first
    assert figure(page, "Seed") == "0"
    assert page.get_attribute("#t2i-hero", "data-seed") == "0"

    page.click("#t2i-acts [data-act=edit]")
    page.wait_for_function("() => document.querySelector('#edit-prompt textarea')?.value.includes('a fox')")
    page.locator("#edit-source img").wait_for()
    page.click("#tab-text-to-image-button")
    page.fill("#t2i-steps input[type=number]", "3")  # four pictures of few steps
    page.keyboard.press("Tab")
    page.evaluate("document.querySelector('#t2i-progress .sw-progress').dataset.status = 'old'")
    page.click("#t2i-run")
    finish(page)
    page.click("#t2i-acts [data-act=variations]")
    page.wait_for_selector('#cmp-progress [data-status="done"]')
    expect(page.locator("#cmp-grid .sw-tile img")).to_have_count(4)


def test_a_list_that_is_entered_and_left_changes_nothing(visit, pick):
    page = visit()
    page.fill("#t2i-steps input[type=number]", "7")
    page.press("#t2i-steps input[type=number]", "Enter")
    page.focus("#t2i-model input")
    page.wait_for_timeout(600)
    page.keyboard.press("Tab")  # through the list, as a keyboard does
    page.wait_for_timeout(600)
    assert page.input_value("#t2i-steps input[type=number]") == "7"

    page.click("#tab-compare-button")
    page.locator("#cmp label", has_text="X/Y grid").click()
    page.fill("#cmp-x-values textarea, #cmp-x-values input", "5, 7")
    page.focus("#cmp-x input")
    page.wait_for_timeout(600)
    page.keyboard.press("Tab")
    page.wait_for_timeout(600)
    assert page.input_value("#cmp-x-values textarea, #cmp-x-values input") == "5, 7"

    page.click("#tab-edit-button")
    pick(page, "#edit-goal", "Extend the picture")
    side = page.locator("input[type=number][id^='edit-edit-outpaint-']").first  # its settings have come
    side.fill("24")
    page.focus("#edit-goal input")
    page.wait_for_timeout(600)
    page.keyboard.press("Tab")
    page.wait_for_timeout(600)
    assert side.input_value() == "24"

    page.click("#tab-live-button")
    page.locator("#tab-live button.label-wrap", has_text="Model").click()
    page.fill("#live-steps input[type=number]", "3")
    page.press("#live-steps input[type=number]", "Enter")
    page.focus("#live-model input")
    page.wait_for_timeout(600)
    page.keyboard.press("Tab")
    page.wait_for_timeout(600)
    assert page.input_value("#live-steps input[type=number]") == "3"


def test_a_refusal_out_of_sight_is_said_where_one_looks(visit):
    page = visit(size=(1440, 500))
    page.fill(SEED, "seven")
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    page.keyboard.press("Control+Enter")
    toast = page.locator(".sw-toast")
    expect(toast).to_contain_text("seed")
    notice = page.locator("#t2i-notice .sw-notice[role=alert]")
    expect(notice).not_to_be_in_viewport()
    toast.click()
    expect(notice).to_be_in_viewport()
    expect(toast).to_have_count(0)
