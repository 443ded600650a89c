"""What a finished picture leads to: each button's tab reads what it should."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from pipelines.core.types import Request
from studio.ui.form import FIXED
from studio.ui.result_actions import STRENGTH, VARIATIONS, variations
from tests.browser.stand_in import StandIn
from tests.studio.page_forms import built, read_after

SETTINGS = {**Request(prompt="a fox", seed=2**60 + 1, num_inference_steps=7).to_json(), "model": "emoji"}


@pytest.fixture
def page(tmp_path):
    studio = StandIn(tmp_path)
    studio.store.kinds = lambda *_: []
    return built(studio)


def test_variations_keep_the_seed_and_turn_its_noise_to_four_further_ones(page):
    values = variations({**SETTINGS, "seed_mode": FIXED})
    read = read_after(page.tabs["compare"], page.context.receive["compare"].updates(values))
    assert read["base"]["seed"] == 2**60 + 1 and read["base"]["variation_strength"] == STRENGTH
    assert read["x"]["field"] == "variation_seed" and not read["reference"]
    assert len({int(seed) for seed in read["x"]["values"].split(",")}) == VARIATIONS


def test_only_a_result_of_the_shown_run_is_opened(page, tmp_path):
    tab = page.tabs["text_to_image"]
    job = tab.studio.submit("text_to_image", {"prompt": "a fox", "num_inference_steps": 2})
    while not job.view().status.final:
        job.wait(job.view().version, 5)
    event = next(one for one in page.context.demo.fns.values() if getattr(one.fn, "__name__", "") == "act")
    asked = SimpleNamespace(_data={"action": "edit", "result": "20200101-000000-someone-elses"})
    updates = event.fn({"job": job.id}, asked)
    assert set(updates) == {tab.notice} and "no longer in memory" in updates[tab.notice]
