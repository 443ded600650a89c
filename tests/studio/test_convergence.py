"""The convergence task streams its points, and the plot shows every one of them, legibly and in words."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import pytest

from pipelines.core.errors import SettingsError
from studio.jobs.job import JobStatus
from studio.page.compare.convergence_plot import COLORS, EMPTY, draw_convergence
from tests.studio.task_examples import FOX as FOX_RUN
from tests.studio.task_examples import Example
from tests.studio.waiting import ended

EXAMPLE = Example(
    {"base": FOX_RUN, "samplers": ["ddim", "heun"], "evaluations": [8, 12], "reference_steps": 20},
    {"samplers": ["ddim", "heun", "euler", "dpmpp_2m"], "evaluations": [8, 12, 20, 30]},
    has_results=False,
)
"""For the tests of all tasks."""


BASE = {"prompt": "a fox on a blue background", "seed": 3, "guidance": {"key": "cfg", "guidance_scale": 1.0}}
SETTINGS = {"base": BASE, "samplers": ["ddim", "heun"], "evaluations": [3, 6], "reference_steps": 20}


def test_points_come_one_by_one_and_a_second_view_keeps_the_reference(studio):
    job = studio.submit("convergence", SETTINGS)
    counts, view = [], job.view()
    while not view.status.final:
        counts.append(len(view.outcome.get("points", ())))
        view = job.wait(view.version, 5)
    assert view.status is JobStatus.DONE, view.message
    points = view.outcome["points"]
    assert [(point["label"], point["evaluations"]) for point in points] == [
        ("DDIM", 3),
        ("Heun", 3),
        ("Heun", 5),
        ("DDIM", 6),
    ]  # Heun's three steps end first
    assert counts == sorted(counts)
    assert all(0 < point["error"] < 2 and min(point["seconds"].values()) > 0 for point in points)
    assert points[3]["error"] < points[0]["error"]
    assert [len(cell.rows) for cell in view.cells] == [2, 2, 20]
    again = ended(studio.submit("convergence", SETTINGS))
    assert len(again.cells[-1].rows) == 0 and "Reused" in again.cells[-1].note
    assert [point["error"] for point in again.outcome["points"]] == [point["error"] for point in points]


def test_a_stop_keeps_the_points_that_are_there(studio):
    job = studio.submit("convergence", {**SETTINGS, "evaluations": [2, 200], "base": {**BASE, "seed": 4}})
    view = job.view()
    while not view.outcome.get("points") and not view.status.final:
        view = job.wait(view.version, 5)
    job.cancel()
    view = ended(job)
    assert view.status is JobStatus.CANCELLED and view.outcome["points"]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"samplers": "flow_euler"}, "flow"),
        ({"samplers": "hune"}, "hune"),
        ({"base": {**BASE, "prompt": ""}}, "prompt"),
    ],
)
def test_what_cannot_be_is_refused_before_it_runs(studio, change, word):
    with pytest.raises(SettingsError, match=word):
        studio.submit("convergence", {**SETTINGS, **change})


def test_points_that_the_schedule_cannot_serve_are_told_and_none_left_is_refused_before_the_reference(studio):
    typed = {**BASE, "seed": 5, "schedule": {"key": "hand_typed", "values": "999 700 400 200 80 20"}}
    view = ended(studio.submit("convergence", {**SETTINGS, "base": typed}))
    assert view.status is JobStatus.DONE, view.message
    assert [(one["label"], one["steps"]) for one in view.outcome["points"]] == [("DDIM", 6)]
    assert [(one["label"], one["steps"]) for one in view.outcome["left_out"]] == [("DDIM", 3), ("Heun", 2), ("Heun", 3)]
    shown = draw_convergence(view.outcome)
    assert "DDIM at 3 steps; Heun at 2, 3 steps. The list has 6 time steps for 3 steps" in shown
    refused = ended(studio.submit("convergence", {**SETTINGS, "base": {**typed, "seed": 6}, "samplers": ["heun"]}))
    assert refused.status is JobStatus.FAILED and "None of the 2 planned runs is possible" in refused.message
    assert sum(len(cell.rows) for cell in refused.cells) == 0


def test_a_shared_learned_schedule_is_measured_where_it_was_fitted(studio):
    learned = {
        "base": {**BASE, "schedule": "learned", "seed": 7},
        "samplers": ["dpmpp_2m", "ddim"],
        "evaluations": [5, 6],
    }
    view = ended(studio.submit("convergence", {**SETTINGS, **learned}))
    assert view.status is JobStatus.DONE, view.message
    assert [(one["label"], one["steps"]) for one in view.outcome["points"]] == [("DPM-Solver++(2M)", 6)]
    assert [(one["sampler"], one["steps"]) for one in view.outcome["left_out"]] == [(0, 5), (1, 5), (1, 6)]


# The plot.


def outcome(series=3, counts=(4, 8, 16)):
    points = [
        {
            "sampler": index,
            "label": f"S{index}",
            "evaluations": count,
            "steps": count,
            "error": (index + 1) / count**2,
            "seconds": {"network": 0.9, "own": 0.05, "preview": 0.03, "decode": 0.02},
        }
        for index in range(series)
        for count in counts
    ]
    return {"labels": [f"S<{index}>" for index in range(series)], "points": points, "reference_steps": 999}


def test_the_plot_shows_every_point_on_logarithmic_scales():
    html = draw_convergence(outcome())
    plot = ElementTree.fromstring(re.search(r"<svg.*?</svg>", html, re.S)[0])
    groups = plot.findall("g")
    assert len(groups) == 3
    for group in groups:
        places = [tuple(map(float, pair.split(","))) for pair in group.find("polyline").get("points").split()]
        (x0, y0), (x1, y1), (x2, y2) = places
        assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)  # doublings are equally far apart
        assert y1 - y0 == pytest.approx(y2 - y1, abs=0.2) and y1 > y0  # a power law is straight, and falls
    assert plot.get("role") == "img" and "16" in plot.get("aria-label") and "S<0>" in plot.get("aria-label")
    assert html.count("S&lt;1&gt;") >= 4 and "S<1>" not in html
    assert "999 steps" in html and "5.6 %" in html  # the arithmetic over the network


def test_without_points_there_is_a_word_on_what_to_do():
    assert draw_convergence({}) == EMPTY and "Measure" in EMPTY
    assert draw_convergence({**outcome(), "points": [{**outcome()["points"][0], "error": float("nan")}]}) == EMPTY


def test_one_point_and_thirty_series_can_be_drawn():
    assert "<svg" in draw_convergence(outcome(1, (8,)))
    assert len(set(re.findall(r'<g style="--own:(#\w+)', draw_convergence(outcome(30))))) == len(COLORS)


def contrast(one, two):
    def luminance(color):
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted((luminance(one), luminance(two)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("ground", ["#ffffff", "#181a18"])
def test_every_line_stands_out_in_light_and_dark(ground):
    assert min(contrast(color, ground) for color in COLORS) >= 3
