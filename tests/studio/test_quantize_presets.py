"""Presets of the Quantize tab: what was measured decides, and only what runs here is chosen."""

from __future__ import annotations

import pytest

from pipelines.core.registry import parse_settings
from pipelines.core.types import Choice
from pipelines.quantizers import QUANTIZERS, Machine
from studio.page.quantize.presets import PRESETS, choose_preset, read_measured
from tests.studio.page_forms import built


def row(key, size, psnr, ssim, time, **settings):
    plain = {"simulated": False, "full_bytes": 100, "pictures": 2, "label": key, "settings": settings}
    return {"key": key, "bytes": size, "psnr": psnr, "ssim": ssim, "time": time, **plain}


MEASURED = {
    "emoji-128": [
        row("int8", 25, 45.0, 0.99, 1.1),
        row("int4", 15, 28.0, 0.9, 1.4),
        row("nf4", 15, 31.0, 0.93, 1.9, block_size=32),
        row("calibrated", 15, 43.0, 0.985, 1.5),
        row("torchao_fp8", 1, 99.0, 1.0, 0.1),
        {**row("vidit_q", 1, 99.0, 1.0, 0.1), "simulated": True},
    ]
}


def test_each_preset_takes_what_its_words_say():
    chosen = {key: choose_preset(key, "sd", Machine("cpu"), MEASURED) for key in PRESETS}
    assert chosen["same"].choice == chosen["four"].choice == Choice("calibrated")
    assert chosen["fastest"].choice == Choice("int8") and "1.10 × the time" in chosen["fastest"].sentence
    assert "“4-bit” is the same choice" in chosen["same"].sentence
    assert "“Smallest that looks the same” is the same choice" in chosen["four"].sentence
    assert "the same choice" not in chosen["fastest"].sentence
    assert "15 % of the bytes" in chosen["four"].sentence and "2 pictures" in chosen["four"].sentence
    without = {"emoji-128": MEASURED["emoji-128"][:3]}
    assert choose_preset("four", "sdxl", Machine("cpu"), without).choice == Choice("nf4", {"block_size": 32})


@pytest.mark.parametrize("key", PRESETS)
def test_a_kind_of_network_that_was_not_measured_takes_the_other_s_figures_and_says_so(key):
    assert "Measured on emoji-128," in choose_preset(key, "flux", Machine("cpu"), MEASURED).sentence
    assert choose_preset(key, "sd", Machine("cpu"), {}) is None


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3", "flux", "stock"])
@pytest.mark.parametrize("key", PRESETS)
def test_the_shipped_figures_serve_every_family(key, family):
    assert choose_preset(key, family, Machine("cpu"), read_measured()) is not None


def test_a_click_chooses_the_quantizer_with_its_settings_and_says_what_was_measured(studio):
    tab = built(studio).tabs["quantize"]
    updates = tab._apply_preset("four", {tab.form.fields["model"]: "emoji"})
    best = choose_preset("four", "sd", Machine("cpu"), read_measured()).choice
    assert updates[tab.variants] == [best.key] == ["calibrated"] and "Measured on emoji-128," in updates[tab.notice]
    settings = QUANTIZERS.build(best).settings
    assert parse_settings(type(settings), tab.settings[best.key].read(updates)) == settings
    assert updates.keys() <= {tab.notice, *tab._tab_components}
