"""What a person wants to do leads to methods that fit the model, and a choice of their own takes the goal back."""

from __future__ import annotations

import json
import re

import pytest

from pipelines.benchmarks import edit_summary
from pipelines.benchmarks.edit_cases import Combination, Outcome
from pipelines.benchmarks.edit_summary import SUMMARY, summarize, write_best, write_summary
from pipelines.core.types import Choice, Traits
from pipelines.edits import EDITS
from pipelines.inversions import INVERSIONS
from studio.page.edit import measured
from studio.page.edit.goals import GOALS, Goal, Suggestion
from tests.studio.page_forms import built

UNET, FLOW = Traits("sd", "epsilon", "unet"), Traits("sd3", "flow", "transformer")


@pytest.fixture(scope="module")
def tab(studio):
    return built(studio).tabs["edit"]


@pytest.mark.parametrize("goal", GOALS, ids=lambda goal: goal.label)
def test_every_goal_leads_to_methods_that_fit(goal):
    for traits in (UNET, FLOW, None):
        suggestion = goal.suggest(traits)
        assert suggestion.fits(traits) and suggestion.reason.endswith(".")
        EDITS.build(Choice.parse(suggestion.edit)), INVERSIONS.build(Choice.parse(suggestion.inversion))


def test_the_first_that_fits_is_suggested_and_none_that_fits_is_refused_by_name():
    flow = Suggestion({"key": "flow_edit"}, {"key": "direct"}, "For flow.")
    edict = Suggestion({"key": "reprompt"}, {"key": "edict"}, "For the others.")
    assert Goal("x", (flow, edict)).suggest(UNET) is edict and Goal("x", (flow, edict)).suggest(FLOW) is flow
    assert Goal("x", (edict,)).suggest(FLOW) is edict and not edict.fits(FLOW)
    plain = Suggestion({"key": "reprompt"}, {"key": "direct"}, "Before the others.")
    assert Goal("x", (flow,), for_flow=(plain,)).suggest(FLOW) is plain
    assert Goal("x", (edict,), for_flow=(plain,)).suggest(UNET) is edict


def test_a_goal_shows_its_methods_and_why_and_another_choice_takes_it_back(tab):
    form = tab.edit_form
    for goal in GOALS:
        updates = form.suggest_methods(goal.label, "emoji")
        suggestion = goal.suggest(tab.studio.traits("emoji"))
        method = updates[form.edit.method]
        assert (method["value"] if isinstance(method, dict) else method) == suggestion.edit["key"]
        assert suggestion.reason.split("'")[0][:30] in updates[form.reason]
        assert updates[form.mask_section]["open"] == EDITS[suggestion.edit["key"]].build().masked
    assert form.suggest_methods(None, "emoji") == form.no_goal == {form.goal: "", form.reason: ""}
    assert form.apply_example(next(iter(form.examples.values())))[form.goal] == ""


@pytest.mark.parametrize("goal", [goal for goal in GOALS if goal.kinds], ids=lambda goal: goal.label)
def test_a_goal_suggests_what_the_measured_file_has_right_most_often(goal):
    """Of methods without a mask, but for moving; on a diffusion model, which the measured one is."""
    lines = json.loads(SUMMARY.read_text())["lines"]
    tried = [line for line in lines if all(kind in line["kinds"] for kind in goal.kinds)]
    tried = [line for line in tried if goal.takes_mask or not EDITS[line["edit"]].build().masked]
    right = {
        (line["edit"], line["inversion"]): sum(line["kinds"][kind][0] for kind in goal.kinds)
        / sum(line["kinds"][kind][1] for kind in goal.kinds)
        for line in tried
    }
    suggestion = goal.suggest(UNET)
    if not any(right.values()):
        assert suggestion is goal.suggestions[0]
        return
    key = (suggestion.edit["key"], suggestion.inversion["key"])
    assert right[key] == max(right.values())
    found = re.search(r"right in (\d+) of (\d+) measured pairs", suggestion.reason)
    assert int(found[1]) / int(found[2]) == pytest.approx(right[key])
    # What was measured is no flow model, whose own suggestions come before those of all models.
    assert goal.suggest(FLOW) in (goal.for_flow or goal.suggestions)


def test_the_page_reads_the_file_that_the_benchmark_writes(tmp_path, monkeypatch):
    rows = [Outcome(kind, kind == "remove", 20.0, 1, 1, None, 1, None, None, 1, 1, 1) for kind in ("replace", "remove")]
    summary = summarize({Combination("infedit", "direct", 4.0): dict(enumerate(rows))}, ["replace", "remove"], 25)
    assert write_best(summary).splitlines()[1] == "- **remove**: InfEdit (1 of 1)"
    monkeypatch.setattr(edit_summary, "SUMMARY", tmp_path / "edits.json")
    monkeypatch.setattr(measured, "FILE", tmp_path / "edits.json")
    write_summary(summary)
    measured.read_lines.cache_clear()
    assert [(line.edit, line.share, line.background) for line in measured.read_lines("remove")] == [("infedit", 1, 20)]
    measured.read_lines.cache_clear()
