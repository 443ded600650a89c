"""The plots of a schedule show its levels as they are, for every schedule and both kinds of model."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from pipelines.core.schedule import FlowSchedule
from pipelines.models.catalog import shipped
from pipelines.schedules import SCHEDULES
from pipelines.schedules.learned_file import SHIPPED, find_all
from studio.ui.schedule_plots import find_noise_schedule, schedule_plots, schedule_view
from tests.studio.page_forms import built


def plots(html):
    return [ElementTree.fromstring(found) for found in re.findall(r"<svg.*?</svg>", html, re.S)]


def values(schedule, steps=10, **more):
    return {"model": "emoji", "schedule": schedule, "num_inference_steps": steps, "width": 64, "height": 64, **more}


LEARNED = next(
    one
    for one in find_all(SHIPPED).values()
    if one.model == "emoji" and one.num_inference_steps == 6 and one.sampler.key == "dpmpp_2m"
)


def visited(picture):
    return [tuple(map(float, pair.split(","))) for pair in picture.find("polyline").get("points").split()]


def test_the_shipped_learned_schedule_is_drawn_for_its_sampler_and_no_other(studio):
    drawn = [plots(schedule_view(studio, values(key, 6, sampler="dpmpp_2m"))) for key in ("learned", "karras")]
    noise, karras = (visited(picture) for picture, _ in drawn)
    levels = [find_noise_schedule(studio, "emoji", (64, 64)).at(time) for time in LEARNED.times]
    heights = [math.log10(level.sigma_ve) for level in levels]
    shares = [(height - heights[-1]) / (heights[0] - heights[-1]) for height in heights]
    assert [(noise[-1][1] - y) / (noise[-1][1] - noise[0][1]) for _, y in noise] == pytest.approx(shares, abs=0.002)
    assert [y for _, y in noise] != [y for _, y in karras]
    for wrong in ({"sampler": "deis"}, {"num_inference_steps": 9}):
        assert "No schedule has been fitted for" in schedule_view(studio, {**values("learned", 6), **wrong})


def test_the_panel_draws_with_the_shared_sampler(studio):
    page = built(studio)
    panel = page.tabs["compare"].panels[0]
    drawing = next(one for one in page.context.demo.fns.values() if panel.plots in one.outputs)
    data = {component: component.value for component in drawing.inputs}
    data |= {panel.form.methods["schedule"].method: "learned", panel.form.fields["num_inference_steps"]: 6}
    sampler = panel.form.methods["sampler"].method
    assert {sampler, panel.form.methods["guidance"].method} <= {*drawing.inputs}
    # The page's script presses the button after a change of the form: assets/js/forms.js.
    assert (panel.draw._id, "click") in drawing.targets
    assert "<svg" in panel._draw({**data, sampler: "dpmpp_2m"})[panel.plots]
    assert "6 steps of deis" in panel._draw({**data, sampler: "deis"})[panel.plots]


@pytest.mark.parametrize("key", [key for key in SCHEDULES if key not in ("hand_typed", "learned")])
def test_every_schedule_can_be_seen(studio, key):
    method = SCHEDULES[key]
    html = schedule_view(studio, values(key))
    assert "sw-notice" not in html
    noise, signal = plots(html)
    for plot in (noise, signal):
        points = [tuple(map(float, pair.split(","))) for pair in plot.find("polyline").get("points").split()]
        assert 9 <= len(points) <= 11 and plot.get("role") == "img" and method.label in plot.get("aria-label")
        assert [x for x, _ in points] == sorted(x for x, _ in points)
    falling = [float(pair.split(",")[1]) for pair in noise.find("polyline").get("points").split()]
    rising = [float(pair.split(",")[1]) for pair in signal.find("polyline").get("points").split()]
    assert falling == sorted(falling) and rising == sorted(rising, reverse=True)


def test_the_noise_schedule_is_the_models_own(studio):
    own = find_noise_schedule(studio, "emoji", (64, 64))
    assert own.at(999).sigma_ve == pytest.approx(14.61, abs=0.01) and own.steps_offset == 1
    assert shipped().key == "emoji"


def test_flow_models_begin_without_signal():
    html = schedule_plots(SCHEDULES["uniform"].build().levels(FlowSchedule(), 8), "Uniform")
    assert all(7 <= len(plot.find("polyline").get("points").split()) <= 8 for plot in plots(html))


def test_what_cannot_be_drawn_says_why(studio):
    assert "sw-notice" in schedule_view(studio, values({"key": "hand_typed", "values": "1, 5"}))
    assert "on this machine" in schedule_view(studio, values("uniform", model="sd15"))
