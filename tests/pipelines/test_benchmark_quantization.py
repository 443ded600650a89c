"""The quantization benchmark: its cells, its arithmetic, and that the docs page shows the last run's figures."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.benchmarks import quantization_report
from pipelines.benchmarks.quantization import Kept
from pipelines.benchmarks.quantization_cells import FOUR_BITS, OURS, TIME_AWARE, list_cells, list_missing
from pipelines.benchmarks.quantization_cost import measure_quantizing
from pipelines.benchmarks.quantization_plot import plot_front, plot_steps, plot_time_aware
from pipelines.benchmarks.quantization_report import BEGIN, END, FIGURES, PAGE, format_section, format_table, summarize
from pipelines.benchmarks.quantization_runs import MOST_DECIBELS, Picture, draw_prompts, forced_errors, measure_picture
from pipelines.benchmarks.quantization_targets import four_bit_gain, on_front
from pipelines.benchmarks.quantization_time_aware import find_pairs, format_time_aware
from pipelines.core.errors import ModelError, StepwiseError
from pipelines.core.types import Choice
from pipelines.metrics.detector import load_detector
from pipelines.models.cache import ModelCache
from pipelines.models.catalog import Catalog, shipped
from pipelines.models.loader import Loader
from pipelines.quantizers import QUANTIZERS, Machine
from pipelines.quantizers.calibration import NetworkCall

CPU = Machine("cpu")


def row(label, size, psnr, library=False, **more):
    """What `summarize` makes of a method, without a run."""
    plain = {"key": label, "bits": 4, "simulated": False, "layers": 3, "larger": 0, "seconds": 2.0, "peak": 1e6}
    figures = {"report_seconds": 1.0, "time": 1.1, "sqnr": psnr - 5, "ssim": 0.9, "adherence": 1.0, "pictures": 2}
    curves = {"forced": [30.0, 20.0], "free": [30.0, 10.0], "full_bytes": 9e6}
    return {"label": label, "bytes": size, "psnr": psnr, "library": library, **plain, **figures, **curves, **more}


ROWS = [
    row("big", 8e6, 40.0, bits=0),
    row("ours", 5e6, 33.0),
    row("smaller", 4e6, 29.0),
    row("theirs", 5e6, 28.0, library=True),
    row("theirs, worse", 6e6, 27.0, library=True),
]


def test_every_quantizer_has_a_cell_or_a_reason():
    cells = list_cells(CPU)
    assert {cell.choice.key for cell in cells} | {key for key, one in QUANTIZERS.items() if one.fit(CPU)} == set(
        QUANTIZERS
    )
    assert len({cell.label for cell in cells}) == len(cells) and set(FOUR_BITS) | set(OURS) <= set(QUANTIZERS)
    assert all(cell.choice.key in OURS or cell.library or cell.simulated for cell in cells)
    assert set(list_missing(CPU)) == {one.label for one in QUANTIZERS.values() if one.fit(CPU)}
    for cell in cells:
        QUANTIZERS[cell.choice.key].build(cell.choice.settings)


def test_the_front_is_what_no_other_beats_in_both():
    assert on_front(ROWS) == {"big", "ours", "smaller"}
    assert on_front([*ROWS, row("drawn", 1e6, 99.0, simulated=True)]) == {"big", "ours", "smaller"}


def test_ours_are_compared_with_the_best_library_at_no_more_bytes():
    ours, best, gain = four_bit_gain(ROWS, "psnr")
    assert (ours["label"], best["label"], gain) == ("ours", "theirs", 5.0)
    assert four_bit_gain(ROWS[:3], "psnr") is None and four_bit_gain([ROWS[0], ROWS[3]], "psnr") is None


def test_a_library_that_leaves_most_in_full_is_not_compared_with_ours_of_eight_bits():
    eight, most = {**ROWS[0], "key": "int8", "bytes": 7e6}, row("most in full", 29e6, 39.0, library=True)
    ours, best, gain = four_bit_gain([*ROWS, eight, most], "psnr")
    assert (ours["label"], best["label"], gain) == ("ours", "theirs", 5.0)


def test_a_report_of_one_model_keeps_the_figures_of_the_other(tmp_path, monkeypatch):
    figures = json.loads(FIGURES.read_text("utf-8"))
    for name in ("FIGURES", "FRONT", "STEPS", "TIME", "PAGE"):
        there = tmp_path / Path(getattr(quantization_report, name)).name
        there.write_bytes(Path(getattr(quantization_report, name)).read_bytes())
        monkeypatch.setattr(quantization_report, name, there)
    one = figures["models"]["emoji-128-flow"]
    quantization_report.write_report({**figures, "models": {"emoji-128-flow": {**one, "rows": one["rows"][:3]}}})
    kept = json.loads((tmp_path / FIGURES.name).read_text("utf-8"))["models"]
    assert kept["emoji-128"] == figures["models"]["emoji-128"] and len(kept["emoji-128-flow"]["rows"]) == 3


def test_means_are_over_prompts_and_calls_of_a_step_are_averaged():
    picture = {"psnr": 30.0, "ssim": 0.9, "adherence": 0.4, "free": [30.0, 28.0, 20.0, 18.0]}
    measured = {
        "key": "int8",
        "settings": {},
        **{"library": False, "bits": 0, "simulated": False, "time": 1.0},
        "cost": {
            "bytes": 5,
            "full_bytes": 9,
            "layers": 1,
            "larger": 0,
            "seconds": 1.0,
            "report_seconds": 0.1,
            "peak": 1,
        },
        "prompts": {"0": picture, "1": {**picture, "psnr": 40.0, "adherence": 0.2}},
        "forced": {"0": [30.0, 30.0, 20.0, 20.0]},
    }
    figures = {"steps": 2, "versions": {}, "missing": {}}
    full = {"0": 0.8, "1": 0.4, "2": 0.9}
    summary = summarize({**figures, "models": {"a": {"full": full, "rows": {"int8": measured}}}})
    (found,) = summary["models"]["a"]["rows"]
    assert found["psnr"] == 35 and found["psnr_least"] == 30 and found["pictures"] == 2
    assert found["forced"] == [30, 20] and found["free"] == [29, 19] and found["sqnr"] == 25
    assert found["adherence"] == pytest.approx(0.5), "beside full precision's on the same prompts"


def test_the_table_and_the_plots():
    lines = format_table({"rows": ROWS}).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[3].startswith("| **ours** | 5.00 MB | 3 | 0 | 28.0 dB | 33.0 dB |") and lines[5].startswith(
        "| theirs |"
    )
    models = {"a": {"rows": ROWS}, "b": {"rows": ROWS[:2]}, "empty": {"rows": []}}
    front = ElementTree.fromstring(plot_front(models))
    assert len([one for one in front if one.tag.endswith("circle")]) == 5
    assert len([one for one in front if one.tag.endswith("rect")]) == 3, "the ground, and the libraries' marks"
    ElementTree.fromstring(plot_steps(models))
    assert "(2.00 MB) | 3 | 0" in format_table({"rows": [row("drawn", 1e6, 30.0, simulated=True, nominal_bytes=2e6)]})


def test_time_aware_rows_stand_beside_those_that_differ_in_that_alone():
    settings = [cell.choice.settings for cell in list_cells(CPU) if cell.choice.key == "simulated"]
    rows = [row(str(one), 4e6, 30.0 + len(one), key="simulated", simulated=True, settings=one) for one in settings]
    pairs = find_pairs([*ROWS, *rows])
    assert [(dict(blind["settings"]), {**blind["settings"], **TIME_AWARE}) for blind, _ in pairs] == [
        (dict(blind["settings"]), dict(aware["settings"])) for blind, aware in pairs
    ]
    assert [blind["settings"].get("activations") for blind, _ in pairs] == [None, "int6"]
    text = format_time_aware({"a": {"rows": rows}})
    assert "| a | int6 | time-aware | 28.00 dB | 30.0, 20.0 dB | 33.00 dB | 2.0 s |" in text
    assert len(ElementTree.fromstring(plot_time_aware({"a": {"rows": rows}})).findall(".//{*}polyline")) == 8
    assert not find_pairs(ROWS) and format_time_aware({"a": {"rows": ROWS}}) == ""


def test_prompts_name_what_the_detector_knows():
    prompts = draw_prompts(12, load_detector())
    assert len(set(prompts)) == 12 and draw_prompts(5, load_detector()) == prompts[:5]


def test_errors_are_those_of_the_network_s_whole_output():
    full = torch.nn.Linear(4, 4)
    half = torch.nn.Linear(4, 4)
    half.load_state_dict({name: 1.1 * tensor for name, tensor in full.state_dict().items()})
    inputs = torch.randn(3, 4)
    call = NetworkCall((inputs,), {}, 0.0)
    pixels = np.zeros((16, 16, 3), np.uint8)
    pictures = Picture((call,), (full(inputs).detach(),), pixels, 0.5)
    assert forced_errors(pictures, half) == [pytest.approx(20.0, abs=0.02)] and forced_errors(pictures, full) == [99.0]
    same = measure_picture(pictures, pictures)
    assert same["psnr"] == MOST_DECIBELS and same["ssim"] == 1 and same["free"] == [MOST_DECIBELS]
    broken = Picture((call,), (full(inputs).detach() * float("nan"),), pixels, 0.5)
    with pytest.raises(StepwiseError, match="not finite"):
        measure_picture(pictures, broken)


def test_a_stopped_run_goes_on(tmp_path):
    kept = Kept(tmp_path, 8)
    kept.model("emoji-128")["full"]["0"] = 0.5
    kept.save()
    assert Kept(tmp_path, 8).model("emoji-128")["full"] == {"0": 0.5} and not Kept(tmp_path, 9).figures["models"]
    names = {kept.network_file("emoji-128", cell) for cell in list_cells(CPU)}
    assert len(names) == len(list_cells(CPU))


def test_the_page_shows_the_figures_of_the_last_run():
    text, figures = PAGE.read_text("utf-8"), json.loads(FIGURES.read_text("utf-8"))
    assert text.split(BEGIN)[1].split(END)[0].strip() == format_section(figures)
    assert "emoji-128-flow" in figures["models"]
    for model in figures["models"].values():
        assert {"int8", "int4", "nf4", "calibrated", "dynamic", "onednn_w8a8"} <= {one["key"] for one in model["rows"]}
        assert not any(one["larger"] for one in model["rows"])


def test_quantizing_is_measured_in_a_process_of_its_own(tmp_path):
    file = tmp_path / "network.safetensors"
    with Loader(ModelCache(2**31), Catalog(entries=[shipped()]), device="cpu").model("emoji") as family:
        cost = measure_quantizing(family, Choice("int8"), file)
        assert cost["layers"] == 129 and cost["larger"] == 0 and cost["seconds"] > 0 and cost["report_seconds"] > 0
        assert cost["bytes"] < 0.27 * cost["full_bytes"] and file.stat().st_size > 0.9 * cost["bytes"]
        assert cost["bytes"] / 2 < cost["peak"] < 4 * cost["full_bytes"] and cost["calibration_seconds"] is None
        with pytest.raises(ModelError, match="process of its own failed"):
            measure_quantizing(family, Choice("nf4"), tmp_path / "gone" / "network.safetensors")
