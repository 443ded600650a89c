"""The plots of a schedule show its levels as they are, for every schedule and both kinds of model."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import pytest

from pipelines.catalog import shipped
from pipelines.schedule import FlowSchedule
from pipelines.schedules import SCHEDULES
from studio.backend import Studio, StudioSettings
from studio.schedule_plots import noise_schedule_of, schedule_plots, schedule_view


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studio")
    studio = Studio(StudioSettings(outputs=folder / "outputs", models=folder / "models", device="cpu"))
    yield studio
    studio.close()


def plots(html):
    return [ElementTree.fromstring(found) for found in re.findall(r"<svg.*?</svg>", html, re.S)]


@pytest.mark.parametrize("key", [key for key in SCHEDULES if key not in ("hand_typed",)])
def test_every_schedule_can_be_seen(studio, key):
    method = SCHEDULES[key]
    html = schedule_view(studio, "emoji", {"key": key}, 10, (64, 64))
    if "sw-notice" in html:  # a learned schedule that nobody has fitted yet says so
        assert key.startswith("learned")
        return
    noise, signal = plots(html)
    for plot in (noise, signal):
        points = [tuple(map(float, pair.split(","))) for pair in plot.find("polyline").get("points").split()]
        assert 9 <= len(points) <= 11 and plot.get("role") == "img" and method.label in plot.get("aria-label")
        assert [x for x, _ in points] == sorted(x for x, _ in points)
    falling = [float(pair.split(",")[1]) for pair in noise.find("polyline").get("points").split()]
    rising = [float(pair.split(",")[1]) for pair in signal.find("polyline").get("points").split()]
    assert falling == sorted(falling) and rising == sorted(rising, reverse=True)


def test_the_noise_schedule_is_the_models_own(studio):
    own = noise_schedule_of(studio, "emoji", (64, 64))
    assert own.at(999).sigma_ve == pytest.approx(14.61, abs=0.01) and own.steps_offset == 1
    assert shipped().key == "emoji"


def test_flow_models_begin_without_signal():
    html = schedule_plots(SCHEDULES["uniform"].build().levels(FlowSchedule(), 8), "Uniform")
    assert all(7 <= len(plot.find("polyline").get("points").split()) <= 8 for plot in plots(html))


def test_what_cannot_be_drawn_says_why(studio):
    assert "sw-notice" in schedule_view(studio, "emoji", {"key": "hand_typed", "values": "1, 5"}, 10, (64, 64))
    assert "on this machine" in schedule_view(studio, "sd15", {"key": "uniform"}, 10, (512, 512))
