"""The samplers benchmark: its lines, its arithmetic, and that the docs page shows the last run's figures."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest
import torch

from pipelines.benchmarks import sampler_report, sampler_runs
from pipelines.benchmarks.sampler_baseline import stock_dpm_solver
from pipelines.benchmarks.sampler_overhead import LIMIT, one_evaluation
from pipelines.benchmarks.sampler_plot import choose_lines, plot
from pipelines.benchmarks.sampler_report import (
    BEGIN,
    END,
    FIGURES,
    PAGE,
    PLOT,
    figures_json,
    markdown,
    marks,
    name_file,
    put_between,
    write_report,
)
from pipelines.benchmarks.sampler_runs import BASE, MODELS, open_bench
from pipelines.benchmarks.samplers import EVALUATIONS, SAME, _CellCache, lines, measure, steps_after, steps_for, table
from pipelines.core.errors import StoreError
from pipelines.core.types import Choice, Traits
from pipelines.initializations import INITIALIZATIONS
from pipelines.requests.limits import Limits, check_request
from pipelines.samplers import SAMPLERS
from pipelines.schedules import SCHEDULES
from pipelines.schedules.learned_file import SHIPPED, find_all
from pipelines.weights.network_identity import network_identity

SD = Traits("sd", "epsilon", "unet")


@pytest.fixture(scope="module")
def bench():
    with open_bench(2) as bench:
        yield bench


def test_every_sampler_that_fits_has_a_line_or_is_the_same_as_one_that_has():
    keys = {line.request.sampler.key for line in lines(SD) if line.stock is None}
    assert keys | set(SAME) == {method.key for method in SAMPLERS.fitting(SD)}
    labels = [line.label for line in lines(SD)]
    assert len(set(labels)) == len(labels)
    for line in lines(SD):
        assert not line.base or line.base in labels
        assert set(line.evaluations) <= set(EVALUATIONS)
        check_request(line.request.replace(prompt="a", num_inference_steps=4), Limits())


def test_every_start_every_schedule_and_every_base_of_a_research_sampler_has_a_line():
    requests = [line.request for line in lines(SD) if line.stock is None]
    assert {request.start.key for request in requests} == {start.key for start in INITIALIZATIONS.fitting(SD)}
    assert {request.schedule.key for request in requests} == {one.key for one in SCHEDULES.fitting(SD)} - {"hand_typed"}
    for key in ("time_shift", "dualfast"):
        choices = {field.name: field.metadata for field in dataclasses.fields(SAMPLERS[key].settings)}["base"][
            "choices"
        ]
        bases = {
            request.sampler.settings.get("base", SAMPLERS[key].settings().base)
            for request in requests
            if request.sampler.key == key
        }
        assert bases == set(choices)
    assert any(
        request.sampler.settings.get("slope") for request in requests if request.sampler.key == "epsilon_scaling"
    )


def test_a_start_that_spares_steps_gets_more_of_them_and_one_that_asks_gets_fewer(bench):
    plain = BASE.replace(sampler=Choice("dpmpp_2m"))
    short = {"draft_steps": 4, "steps": 2}
    first = bench.first(1)
    for start, evaluations in ((Choice("gaussian"), 4), (Choice("optimal_transport"), 4), (Choice("mcmc", short), 10)):
        request = plain.replace(start=start)
        steps = steps_after(request, evaluations, bench)
        assert first.run_and_count(request.replace(num_inference_steps=steps))[1] <= evaluations
        assert first.run_and_count(request.replace(num_inference_steps=steps + 1))[1] > evaluations
    latents, spent = bench.run_and_count(plain.replace(start=Choice("mcmc"), num_inference_steps=3))
    assert len(latents) == 2 and spent >= 14, "its draft and its chain are counted"


def test_the_larger_model_has_captions_a_judge_and_learned_lines_of_its_own():
    with open_bench(2, "emoji-128") as larger:
        assert larger.model == "emoji-128" and larger.family.default_size == (128, 128)
        latents = larger.cases.noise * 0  # grey pictures
        assert 0 <= larger.adherence(latents) < 0.5
        learned = [line for line in lines(larger.family.traits, "emoji-128") if line.fitted_steps]
        assert learned and {line.request.model for line in learned} == {"emoji-128"}
        latents, evaluations = larger.run_and_count(BASE.replace(model="emoji-128", num_inference_steps=1))
        assert latents.shape == larger.cases.noise.shape and evaluations == 1


def test_a_models_figures_stand_in_files_and_marks_of_its_own():
    assert name_file(FIGURES, "emoji") == FIGURES
    assert name_file(FIGURES, "emoji-128").name == "samplers-emoji-128.json"
    assert marks("emoji") == (BEGIN, END) and set(marks("emoji-128")).isdisjoint(marks("emoji"))


def test_a_kept_reference_of_more_pictures_serves_fewer(tmp_path, monkeypatch):
    monkeypatch.setattr(sampler_runs, "REFERENCE_STEPS", 2)
    monkeypatch.setattr(sampler_runs, "ROWS", 2)
    with open_bench(4) as four:
        three = four.first(3)
        for count, folder in ((four, tmp_path / "more first"), (three, tmp_path / "fewer first")):
            count.reference(folder)
            assert torch.allclose(three.reference(folder), four.reference(folder)[:3], atol=1e-4)
            assert len(three.reference(folder)) == 3 and len(four.reference(folder)) == 4


@pytest.mark.parametrize("key", SAME)
def test_the_same_is_really_the_same(bench, key):
    ours, other = (bench.run(BASE.replace(sampler=Choice(one), num_inference_steps=3)) for one in (key, SAME[key]))
    torch.testing.assert_close(ours, other, rtol=0, atol=2e-4)


def test_steps_cost_at_most_the_evaluations():
    for method in SAMPLERS.fitting(SD):
        for count in EVALUATIONS:
            steps = steps_for(Choice(method.key), count)
            assert method.build().nfe(steps) <= count < method.build().nfe(steps + 1)


@pytest.mark.parametrize(
    ("spacing", "times"), [("linspace", "999 832 666 500 333 166"), ("leading", "853 711 569 427 285 143")]
)
def test_the_baseline_is_our_sampler_at_diffusers_own_times(bench, spacing, times):
    ours = bench.run(BASE.replace(schedule=Choice("hand_typed", {"values": times}), num_inference_steps=6))
    stock = stock_dpm_solver(bench, 6, spacing)
    assert (stock - ours).norm() / ours.norm() < 0.02


def test_the_common_first_answer_is_the_networks_own(bench):
    part = bench.cases
    answers = [
        one.predict_raw(part.noise, torch.full((2,), 999.0), part.conditionings["positive"])
        for one in (bench.network, bench.network, bench.family)
    ]
    assert torch.equal(answers[0], answers[1])
    assert torch.equal(answers[0], answers[2])


def test_the_shipped_schedules_were_fitted_to_the_shipped_weights(bench):
    assert {one.network for one in find_all(SHIPPED).values() if one.model == BASE.model} == {
        network_identity(bench.family)
    }


def test_a_cell_is_measured_once_and_kept(bench, tmp_path, monkeypatch):
    reference = bench.run(BASE.replace(num_inference_steps=8))
    monkeypatch.setattr(type(bench), "reference", lambda self, folder: reference[: len(self.cases)])
    first = list(table(bench, tmp_path, {4: 2}, only=["DPM-Solver++(2M)"]))
    cell = {line.label: cell for line, _, cell in first}["DPM-Solver++(2M)"]
    assert cell["steps"] == 4 and cell["pictures"] == 2
    assert 0 < cell["error"] < 1.5 and 0 <= cell["adherence"] <= 1
    monkeypatch.setattr("pipelines.benchmarks.samplers.measure", lambda *given: pytest.fail("measured again"))
    assert [one[2] for one in table(bench, tmp_path, {4: 2}, only=["DPM-Solver++(2M)"])] == [one[2] for one in first]
    assert _CellCache(tmp_path, "other").folder != _CellCache(tmp_path, bench.identity).folder


def test_a_solver_with_single_ends_takes_a_step_more_than_its_evaluations(bench):
    (single,) = [line for line in lines(SD) if "single ends" in line.label]
    assert single.evaluations == (6,)
    cell = measure(single, 6, bench, bench.cases.noise)
    assert (cell["steps"], cell["evaluations"]) == (7, 6)


def test_a_sampler_that_costs_too_much_has_no_cell(bench):
    expensive = next(line for line in lines(SD) if line.label == "Heun")
    assert measure(expensive, 0, bench, bench.cases.noise) is None


def rows(stock, ours):
    def cell(error):
        return {"6": {"steps": 6, "pictures": 4, "error": error, "adherence": 0.9}}

    named = "diffusers DPM-Solver++(2M), "
    return {
        f"{named}leading": {"base": "", "cells": cell(stock)},
        f"{named}linspace": {"base": "", "cells": cell(0.4)},
        "B": {"base": "", "cells": cell(ours)},
        "C": {"base": "B", "cells": cell(2 * ours)},
        "D": {"base": "", "cells": cell(None)},
    }


@pytest.mark.parametrize(("ours", "halved"), [(0.2, True), (0.25, True), (0.26, False)])
def test_what_must_be_shown_is_judged_by_the_figures(ours, halved, monkeypatch, tmp_path):
    monkeypatch.setattr(sampler_report, "FIGURES", tmp_path / "none.json")
    figures = figures_json(rows=rows(0.5, ours))
    assert figures["halved"] is halved
    assert figures["best"]["6"]["label"] == "B"
    text = markdown(figures)
    assert f"| C | {2 * ours:.3f} (+100%) · 0.90 |" in text
    assert "| D | not finite |" in text
    assert f"{ours / 0.5:.2f} × the error of diffusers' DPM-Solver++(2M) as" in text
    assert f"{ours / 0.4:.2f} × with linspace spacing" in text
    assert ("not reached" in text) is not halved


def test_the_plot_is_a_picture_of_the_lines():
    given = rows(0.5, 0.2)
    given["DDIM"] = {"base": "", "cells": {"6": {"error": 0.5}, "50": {"error": 0.01}, "8": {"error": 9.0}}}
    assert choose_lines(given)["DDIM"] == [(6, 0.5), (8, 9.0), (50, 0.01)]
    picture = ElementTree.fromstring(plot(given))
    assert len([one for one in picture.iter() if one.tag.endswith("polyline")]) == len(choose_lines(given)) == 3
    ElementTree.fromstring(plot({}))


def test_writing_fills_the_pages_section_only(tmp_path, monkeypatch):
    for name in ("FIGURES", "PLOT", "PAGE"):
        monkeypatch.setattr(sampler_report, name, tmp_path / name)
    (tmp_path / "PAGE").write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_report(figures_json(rows=rows(0.5, 0.2)))
    text = (tmp_path / "PAGE").read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text and "| B | 0.200" in text
    assert json.loads((tmp_path / "FIGURES").read_text())["halved"] is True
    with pytest.raises(StoreError, match="marks"):
        put_between("nothing", BEGIN, END, "x")


def test_lines_that_are_measured_anew_join_the_kept_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(sampler_report, "FIGURES", tmp_path / "FIGURES")
    (tmp_path / "FIGURES").write_text(json.dumps(figures_json(rows(0.5, 0.2), "weights", "a note")))
    anew = {"B": {"base": "", "cells": {"10": {"error": 0.1, "pictures": 4, "adherence": 0.9}}}, "E": {"cells": {}}}
    joined = figures_json(anew, "weights", joins=True)
    assert list(joined["rows"]) == [*rows(0.5, 0.2), "E"] and joined["note"] == "a note"
    assert {count: cell["error"] for count, cell in joined["rows"]["B"]["cells"].items()} == {"6": 0.2, "10": 0.1}
    assert joined["best"]["6"]["label"] == "B"
    assert list(figures_json(anew, "weights")["rows"]) == ["B", "E"]
    with pytest.raises(StoreError, match="other weights or pictures"):
        figures_json(anew, "others", joins=True)


@pytest.mark.parametrize("model", MODELS)
def test_the_page_shows_the_last_runs_figures(model):
    figures = json.loads(name_file(FIGURES, model).read_text())
    begin, end = marks(model)
    assert PAGE.read_text().split(begin)[1].split(end)[0].strip() == markdown(figures)
    assert name_file(PLOT, model).read_text() == plot(figures["rows"])


def test_the_last_run_says_whether_it_halved_the_error_and_which_steps_cost_too_much():
    figures = json.loads(FIGURES.read_text())
    assert set(figures["best"]) == {"6", "8", "10"}
    assert figures["halved"] == all(one["ratio"] <= 0.5 for one in figures["best"].values())
    assert figures["overhead"]["median_share"] < LIMIT
    assert figures["overhead"]["samplers"].keys() == {method.key for method in one_evaluation()}
    for key, row in figures["overhead"]["samplers"].items():
        assert row["share"] <= LIMIT or f"`{key}` {row['share']:.1%}" in PAGE.read_text()


def test_the_command_explains_itself():
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.benchmark", "samplers", "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert "--overhead" in done.stdout
