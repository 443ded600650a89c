"""A person at the tab "Models": memory, load and release, what cannot be fetched, the folder looked into again."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

pytestmark = pytest.mark.browser

DESKTOP, PHONE = (1440, 900), (390, 844)


@pytest.fixture
def tab(visit):
    def open_tab(size=DESKTOP, dark=False):
        page = visit(size, dark)
        page.get_by_role("tab", name="Models").click()
        page.wait_for_selector("#mod-cards .sw-model")
        return page

    return open_tab


def used(page):
    return int(page.get_attribute("#mod-memory .sw-memory", "data-used"))


def test_memory_grows_with_a_load_and_shrinks_with_a_release_and_a_model_is_used(tab, pick):
    page = tab()
    emoji = "#mod-cards .sw-model[data-key=emoji]"
    if page.locator(f"{emoji}[data-state=loaded]").count():
        page.get_by_role("button", name="Unload Emoji 64").click()
    page.wait_for_selector(f"{emoji}[data-state=here]")
    idle = "() => !/No model|in use/.test(document.querySelector('#mod-memory').innerText)"
    page.wait_for_function(idle)  # the first model, which is loaded and tried once the page stands
    before = used(page)
    page.get_by_role("button", name="Load Emoji 64").click()
    page.wait_for_selector(f"{emoji}[data-state=loaded]")
    assert used(page) > before + 10**6
    assert "Emoji 64" in page.inner_text("#mod-memory")
    page.get_by_role("button", name="Unload Emoji 64").click()
    page.wait_for_selector(f"{emoji}[data-state=here]")
    assert used(page) == before
    everything = page.locator("#mod-cards .sw-model").count()
    pick(page, "#mod-where", "On this machine")
    page.wait_for_function("n => document.querySelectorAll('#mod-cards .sw-model').length < n", arg=everything)
    page.get_by_role("button", name="Use Emoji 64").click()
    page.wait_for_selector("#t2i-run", state="visible")
    page.click("#tab-animate-button")
    page.get_by_role("button", name="Fox to cat").click()  # a walk, on another model
    page.wait_for_function("() => document.querySelector('#vid-model input').value === 'Emoji 64'")
    page.click("#tab-models-button")
    page.get_by_role("button", name="Use Emoji 128 motion").click()
    page.wait_for_selector("#vid-run", state="visible")
    page.wait_for_function("() => document.querySelector('#vid-model input').value === 'Emoji 128 motion'")
    assert page.input_value("#vid input[aria-label=Method]") == "AnimateDiff"


def test_a_download_without_a_network_says_what_is_missing_and_a_new_lora_is_found(tab, app_home):
    page = tab()
    page.get_by_role("button", name="Download Stable Diffusion 1.5").click()
    told = page.wait_for_selector(".sw-model[data-key=sd15] [role=alert]").inner_text()
    assert "not on this machine" in told and "models" in told and "/tmp/" not in told.replace("~", "")
    loras = app_home / "models" / "loras"
    loras.mkdir(parents=True, exist_ok=True)
    save_file({"a": torch.zeros(1)}, loras / "sketch.safetensors")
    try:
        page.click("#mod-rescan")
        page.wait_for_selector("#mod-loras tr[data-key=sketch]")
        assert "no LoRA" in page.inner_text("#mod-loras")
    finally:
        (loras / "sketch.safetensors").unlink()


@pytest.mark.parametrize(
    ("size", "dark"),
    [pytest.param(DESKTOP, True, marks=pytest.mark.slow), (PHONE, False)],
    ids=["desktop-dark", "phone-light"],
)
def test_axe_finds_nothing_of_ours_and_nothing_overflows(tab, size, dark):
    from axe_playwright_python.sync_playwright import Axe

    page = tab(size, dark)
    page.wait_for_timeout(300)
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    found = [
        (one["id"], [node["html"][:160] for node in one["nodes"]]) for one in Axe().run(page).response["violations"]
    ]
    assert found == []
