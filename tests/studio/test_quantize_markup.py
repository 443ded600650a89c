"""A quantization's figures as HTML and SVG: well formed, told in words too, and nothing of a person's is markup."""

from __future__ import annotations

import base64
import io
import re
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from pipelines.core.types import Request
from pipelines.quantizers import QUANTIZERS, Machine
from studio.jobs.job import Cell, Job, JobStatus
from studio.page.quantize.markup import build_missing_list
from studio.page.quantize.plots import (
    COLORS,
    NONE,
    build_legend,
    draw_error_plot,
    draw_heat_maps,
    draw_scatter_plot,
    find_front,
)
from studio.page.quantize.tab import QuantizeTab

ERRORS = [
    {"label": "int8", "forced": [32.4, None, 36.7], "free": [32.4, 31.0, 30.1]},
    {"label": "<b>int4</b>", "forced": [13.6, 12.8, 16.2], "free": [13.6, 11.0, 9.5]},
]


def row(label, size, psnr=None, ratio=1.0, method=True):
    return {
        "label": label,
        "bytes": size,
        "psnr": psnr,
        "identical": False,
        "step_ratio": ratio,
        "method": {"key": label} if method else None,
    }


def numbers(svg: str, name: str) -> list[float]:
    return [float(value) for value in re.findall(rf'<circle[^>]* {name}="([\d.]+)"', svg)]


def test_the_errors_by_step_are_drawn_and_told():
    svg = draw_error_plot(ERRORS)
    root = ElementTree.fromstring(svg)
    assert root.attrib["role"] == "img" and "int8: from 32 to 37 dB teacher-forced" in root.attrib["aria-label"]
    lines = [one for one in root if one.tag == "polyline"]
    assert [len(one.attrib["points"].split()) for one in lines] == [2, 3, 3, 3]
    assert "<b>int4" not in svg and draw_error_plot([]) == ""
    assert draw_error_plot([{"label": "exact", "forced": [None], "free": [None]}]) == ""


def test_a_smaller_size_is_to_the_left_and_a_better_picture_above():
    rows = [row("Full", 40e6, method=False), row("int8", 10e6, 40.0, 1.2), row("int4", 5e6, 25.0, 2.0)]
    svg = draw_scatter_plot(rows)
    ElementTree.fromstring(svg)
    (x, y, radius) = (numbers(svg, name) for name in ("cx", "cy", "r"))
    assert x[0] > x[1] > x[2] and y[0] < y[1] < y[2] and radius[0] < radius[1] < radius[2]
    assert "int4: 5.0 MB, 25.0 dB, 2.00 ×" in svg and draw_scatter_plot(rows[:1]) == ""


def test_earlier_runs_are_rings_that_say_what_they_are_and_the_front_is_of_all():
    rows = [row("Full", 40e6, method=False), row("int8", 10e6, 40.0), row("int4", 5e6, 25.0)]
    earlier = [row("Full", 40e6, method=False), row("<nf4>", 5e6, 30.0), row("fp8", 11e6, 31.0)]
    svg = draw_scatter_plot(rows, earlier)
    ElementTree.fromstring(svg)
    assert svg.count('class="qz-ring"') == 2 and svg.count("<title>") == 5
    assert "<title>earlier: &lt;nf4&gt;: 5.0 MB, 30.0 dB, 1.00 × the time</title>" in svg
    assert [one["label"] for one in find_front([*rows[1:], *earlier[1:]])] == ["<nf4>", "int8"]
    assert "qz-front" in svg and "qz-ring" not in draw_scatter_plot(rows)


def test_a_heat_map_has_a_pixel_for_each_layer_and_step():
    outcome = {
        "layers": ["down_blocks.0.a", "mid_block.b", "up_blocks.1.c"],
        "heat": [{"label": "int8", "steps": [[60.0, None, 0.0], [90.0, None, -5.0]]}],
    }
    html = draw_heat_maps(outcome)
    (data,) = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    assert pixels.shape == (3, 2, 3)
    assert np.array_equal(pixels[0], [COLORS[-1]] * 2) and np.array_equal(pixels[2], [COLORS[0]] * 2)
    assert np.array_equal(pixels[1], [NONE] * 2), "what is not quantized is gray"
    assert "lowest in up_blocks.1.c at step 2, -5 dB" in html and ">mid<" in html
    assert draw_heat_maps({"layers": [], "heat": []}) == ""


def test_what_cannot_run_is_listed_with_its_reason():
    html = build_missing_list(Machine("cpu"))
    assert html.count("<li") == len([one for one in QUANTIZERS.values() if one.fit(Machine("cpu"))]) >= 2
    assert html.count("it needs an NVIDIA GPU") == 2
    assert build_legend(["<i>"]).count("<i ") == 1 and "&lt;i&gt;" in build_legend(["<i>"])


def test_the_tab_draws_a_run_while_it_waits_and_after_it_ended():
    tab = object.__new__(QuantizeTab)  # of the tab, what draws a job: no page is built
    tab.root, tab.studio = "qz", SimpleNamespace(store=None, list_finished_jobs=lambda job: [])
    job = Job("quantize", SimpleNamespace(base=Request("a fox"), variants=(None,)))
    job.set_cells([Cell("Full precision", num_steps=2), Cell("<int8>", num_steps=2)])
    render = tab._build_renderer(job)
    parts = render(job.view())
    assert {"qz-progress", "qz-grid", "qz-tile-0", "qz-tile-1", "qz-figures", "qz-game"} < parts.keys()
    assert "&lt;int8&gt;" in parts["qz-tile-1"]["html"] and parts["qz"] == {"data-finished": None}
    job.set_outcome({"rows": [], "errors": [], "layers": [], "heat": [], "skipped": []})
    job.set_status(JobStatus.DONE)
    assert render(job.view())["qz-figures"] == {"html": ""}
