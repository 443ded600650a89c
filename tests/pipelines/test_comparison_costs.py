"""What a comparison costs: its order of work, equal evaluations, and the reference."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.core.types import Choice, Request
from pipelines.requests.limits import check_fit
from pipelines.requests.reference import ReferenceCache, likeness, reference_of
from pipelines.samplers import SAMPLERS
from pipelines.schedules.learned import LearnedSchedules
from pipelines.schedules.learned_file import LearnedSchedule, write_learned
from pipelines.workflows.compare.axes import Axis, apply_changes, grid
from pipelines.workflows.compare.request import by_model, equal_steps, evaluations, waves
from tests.pipelines.comparison_requests import EMBEDDED, FLOW, SD


def test_the_costly_axis_is_outermost_whichever_way_the_grid_lies():
    for axes in (
        [Axis("model", ("a", "b")), Axis("num_inference_steps", (4, 8))],
        [Axis("num_inference_steps", (4, 8)), Axis("model", ("a", "b"))],
    ):
        requests = [Request.parse(apply_changes({"prompt": "x"}, cell)) for cell in grid(axes)]
        order = by_model(requests)
        assert [model for (model, _), _ in order] == ["a", "b"]
        assert sorted(index for _, sets in order for indices in sets for index in indices) == [0, 1, 2, 3]


def test_within_a_model_loras_then_sizes_then_prompts_stay_together():
    cells = [
        {"prompt": p, "width": w, "height": w, "loras": ({"name": "ink", "weight": s},), "num_inference_steps": n}
        for n in (4, 8)
        for p in ("x", "y")
        for w in (32, 64)
        for s in (0.0, 1.0)
    ]
    requests = [Request.parse(cell) for cell in cells]
    [(_, sets)] = by_model(requests)
    assert len(sets) == 2
    for indices in sets:
        keys = [(requests[i].width, requests[i].prompt) for i in indices]
        assert keys == [(32, "x")] * 2 + [(32, "y")] * 2 + [(64, "x")] * 2 + [(64, "y")] * 2


def test_waves_keep_the_order_and_the_cap_on_pixels():
    requests = {i: Request(width=10, height=10) for i in range(7)}
    assert waves(range(7), requests, 300) == [[0, 1, 2], [3, 4, 5], [6]]
    assert waves(range(3), requests, 50) == [[0], [1], [2]]


@pytest.mark.parametrize(
    ("sampler", "scale", "traits", "expected"),
    [
        ("dpmpp_2m", 4.0, SD, 20),
        ("heun", 4.0, SD, 38),
        ("heun", 1.0, SD, 19),
        ("flow_heun", 4.0, EMBEDDED, 19),
        ("dpmpp_2m", 4.0, None, 20),
    ],
)
def test_evaluations(sampler, scale, traits, expected):
    request = Request(
        sampler=Choice(sampler), guidance=Choice("cfg", {"guidance_scale": scale}), num_inference_steps=10
    )
    assert evaluations(request, traits) == expected


@pytest.mark.parametrize("sampler", [method.key for method in SAMPLERS.fitting(SD)])
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_equal_steps_are_the_most_within_the_budget(sampler, scale):
    request = Request(sampler=Choice(sampler), guidance=Choice("cfg", {"guidance_scale": scale}))
    for budget in (2, 20, 39, 40):
        fitted = equal_steps(request, SD, budget, 200)
        assert evaluations(fitted, SD) <= budget
        assert evaluations(fitted.replace(num_inference_steps=fitted.num_inference_steps + 1), SD) > budget


def test_a_fitted_solver_with_single_ends_has_a_step_more_at_equal_evaluations(tmp_path):
    known = LearnedSchedules((tmp_path,))
    rows = ((1.0, 0.1), (1.0, *[0.1] * 3), (1.0, *[0.1] * 4))
    write_learned(
        LearnedSchedule(
            "bespoke",
            "emoji",
            "x",
            Choice("dpmpp_2m"),
            Choice("cfg"),
            3,
            2,
            (999.0, 600.0, 300.0),
            (999.0, 600.0, 300.0),
            {"uniform": 0.4, "fitted": 0.2},
            (),
            {},
            rows,
            ("negative", "positive"),
            (0, 2),
        ),
        tmp_path,
    )
    request = Request(sampler=Choice("dpmpp_2m"), schedule=Choice("learned"))
    assert [evaluations(request.replace(num_inference_steps=steps), SD, known) for steps in (2, 3, 4)] == [4, 4, 8]
    assert [equal_steps(request, SD, budget, 50, known).num_inference_steps for budget in (2, 4, 6)] == [1, 3, 3]
    assert equal_steps(request.replace(schedule=Choice("uniform")), SD, 4, 50, known).num_inference_steps == 2


def test_equal_steps_stay_within_the_cap_and_above_zero():
    assert equal_steps(Request(), SD, 10**6, 50).num_inference_steps == 50
    assert equal_steps(Request(), SD, 1, 50).num_inference_steps == 1


def test_cells_that_differ_in_the_way_only_share_a_reference():
    one = Request(prompt="x", sampler=Choice("heun"), num_inference_steps=4)
    other = one.replace(sampler=Choice("ddim", {"eta": 1.0}), schedule=Choice("karras"), num_inference_steps=9)
    assert reference_of(one, False, 100) == reference_of(other, False, 100)
    for change in (
        {"prompt": "y"},
        {"seed": 1},
        {"width": 32},
        {"guidance": Choice("cfg", {"guidance_scale": 2.0})},
        {"model": "b"},
    ):
        assert reference_of(one.replace(**change), False, 100) != reference_of(one, False, 100)


@pytest.mark.parametrize(("traits", "flow"), [(SD, False), (FLOW, True)])
def test_the_reference_fits_its_model(traits, flow):
    check_fit(reference_of(Request(prompt="x"), flow, 100), traits)


def test_references_are_kept_by_bytes_the_least_recently_used_go_first():
    cache, picture = ReferenceCache(max_bytes=300), np.zeros((10, 10, 1), np.uint8)
    requests = [Request(seed=seed) for seed in range(4)]
    for request in requests[:3]:
        cache.put(request, picture)
    cache.get(requests[0])
    cache.put(requests[3], picture)
    assert [cache.get(request) is not None for request in requests] == [True, False, True, True]


def test_likeness_of_a_picture_smaller_than_the_window():
    tiny = np.zeros((8, 8, 3), np.uint8)
    assert likeness(tiny, tiny + 255) == {"psnr": 0.0, "ssim": None}
