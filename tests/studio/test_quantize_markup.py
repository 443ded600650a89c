"""A quantization's figures as HTML and SVG: well formed, told in words too, and nothing of a person's is markup."""

from __future__ import annotations

import base64
import io
import re
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from pipelines.quantizers import QUANTIZERS, Machine
from studio.benchmarks.quantization import markdown
from studio.page.quantize.markup import missing_list
from studio.page.quantize.plots import COLOURS, NONE, error_plot, heat_maps, legend, scatter_plot

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
    svg = error_plot(ERRORS)
    root = ElementTree.fromstring(svg)
    assert root.attrib["role"] == "img" and "int8: from 32 to 37 dB teacher-forced" in root.attrib["aria-label"]
    lines = [one for one in root if one.tag == "polyline"]
    assert [len(one.attrib["points"].split()) for one in lines] == [2, 3, 3, 3]
    assert "<b>int4" not in svg and error_plot([]) == ""
    assert error_plot([{"label": "exact", "forced": [None], "free": [None]}]) == ""


def test_a_smaller_size_is_to_the_left_and_a_better_picture_above():
    rows = [row("Full", 40e6, method=False), row("int8", 10e6, 40.0, 1.2), row("int4", 5e6, 25.0, 2.0)]
    svg = scatter_plot(rows)
    ElementTree.fromstring(svg)
    (x, y, radius) = (numbers(svg, name) for name in ("cx", "cy", "r"))
    assert x[0] > x[1] > x[2] and y[0] < y[1] < y[2] and radius[0] < radius[1] < radius[2]
    assert "int4: 5.0 MB, 25.0 dB, 2.00 ×" in svg and scatter_plot(rows[:1]) == ""


def test_a_heat_map_has_a_pixel_for_each_layer_and_step():
    outcome = {
        "layers": ["down_blocks.0.a", "mid_block.b", "up_blocks.1.c"],
        "heat": [{"label": "int8", "steps": [[60.0, None, 0.0], [90.0, None, -5.0]]}],
    }
    html = heat_maps(outcome)
    (data,) = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    assert pixels.shape == (3, 2, 3)
    assert np.array_equal(pixels[0], [COLOURS[-1]] * 2) and np.array_equal(pixels[2], [COLOURS[0]] * 2)
    assert np.array_equal(pixels[1], [NONE] * 2), "what is not quantized is gray"
    assert "worst in up_blocks.1.c at step 2, -5 dB" in html and ">mid<" in html
    assert heat_maps({"layers": [], "heat": []}) == ""


def test_what_cannot_run_is_listed_with_its_reason():
    html = missing_list(Machine("cpu"))
    assert html.count("<li") == len([one for one in QUANTIZERS.values() if one.fit(Machine("cpu"))]) >= 2
    assert html.count("it needs an NVIDIA GPU") == 2
    assert legend(["<i>"]).count("<i ") == 1 and "&lt;i&gt;" in legend(["<i>"])


def test_the_benchmark_s_table():
    figures = {"bytes": 9_300_000, "disk": None, "peak": 88_000_000, "step_ratio": 1.234, "layers": 129}
    full = {**figures, "label": "Full precision", "psnr": None, "ssim": None, "layers": 0}
    lines = markdown([full, {**figures, "label": "int8", "psnr": 43.21, "ssim": 0.9987}]).splitlines()
    assert lines[3] == "| int8 | 9.3 MB | – | 88.0 MB | 1.23 × | 43.2 dB | 0.999 | 129 |"
    assert len({line.count("|") for line in lines}) == 1 and lines[2].endswith("| – | – | – |")
