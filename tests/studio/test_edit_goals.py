"""What a person wants to do leads to methods that fit the model, and a choice of their own takes the goal back."""

from __future__ import annotations

import pytest

from pipelines.benchmarks.edit_cases import Combination
from pipelines.benchmarks.edits import PAGE
from pipelines.core.types import Choice, Traits
from pipelines.edits import EDITS
from pipelines.inversions import INVERSIONS
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


def test_a_goal_shows_its_methods_and_why_and_another_choice_takes_it_back(tab):
    form = tab.edit_form
    for goal in GOALS:
        updates = form.suggest_methods(goal.label, "emoji")
        suggestion = goal.suggest(tab.studio.traits("emoji"))
        method = updates[form.edit.method]
        assert (method["value"] if isinstance(method, dict) else method) == suggestion.edit["key"]
        assert suggestion.reason.split(" (")[0][:40] in updates[form.reason]
        assert updates[form.mask_section]["open"] == EDITS[suggestion.edit["key"]].build().masked
    assert form.suggest_methods(None, "emoji") == form.no_goal == {form.goal: None, form.reason: ""}
    assert form.apply_example(next(iter(form.examples.values())))[form.goal] is None


def test_moving_is_suggested_with_the_shares_of_the_page():
    (goal,) = (one for one in GOALS if one.label == "Move or resize an object")
    for traits in (UNET, FLOW):
        suggestion = goal.suggest(traits)
        assert suggestion.edit["key"] == "move"
        row = next(line for line in PAGE.read_text().splitlines() if line.startswith("| Move or resize | 20 |"))
        moved, resized = (round(20 * float(part)) for part in row.split("|")[3:5])
        assert f"right in {moved} of 20 moves and {resized} of 20 resizes" in suggestion.reason


KINDS = {
    "Replace an object": "replace",
    "Change the background": "background",
    "Add an object": "add",
    "Remove an object": "remove",
    "Let two things change places": "swap",
}


@pytest.mark.parametrize("label", KINDS)
def test_the_share_that_a_goal_names_is_the_highest_of_the_measured_table(label):
    lines = [[part.strip() for part in line.split("|")[1:-1]] for line in PAGE.read_text().splitlines() if "|" in line]
    start = next(index for index, line in enumerate(lines) if line[0] == "method")
    head, rows = lines[start], [line for line in lines[start + 2 :] if len(line) == len(lines[start])]
    column = head.index(KINDS[label])
    (goal,) = (one for one in GOALS if one.label == label)
    suggestion = goal.suggest(UNET)
    name = Combination(suggestion.edit["key"], suggestion.inversion["key"], 4.0).label
    share = next(float(row[column]) for row in rows if row[0] == name)
    assert share == max(float(row[column]) for row in rows)
    assert f"right in {share * 10:.0f} of 10 measured pairs" in suggestion.reason
