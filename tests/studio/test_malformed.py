"""The malformed requests of the reliability figure: right before something was made wrong, and wrong everywhere."""

from __future__ import annotations

import dataclasses
import json

import pytest

from pipelines.core.errors import SettingsError, StepwiseError
from pipelines.core.types import Request
from studio.backend import Studio, StudioSettings
from studio.page.page import build_page
from studio.reliability import malformed
from studio.reliability.page import read_forms
from studio.reliability.server import Answer, run_server
from studio.reliability.valid import build_endpoint_requests, list_fields, shrink_form
from studio.tasks import TASKS

COUNT = 500
RUNS = {task.endpoint.name: task for task in TASKS.values() if task.endpoint}
_SET_BY_THE_TASK = {"notes", "described"}
BUTTONS = [key for key in TASKS if key != "keep"]  # it keeps what a finished run measured


class Unworked(Studio):
    """A studio whose queue takes everything and does nothing of it."""

    def __init__(self, settings):
        super().__init__(settings)
        self.engine.submit = lambda job: None


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    home = tmp_path_factory.mktemp("malformed")
    studio = Unworked(StudioSettings(outputs=home / "outputs", models=home / "models", device="cpu"))
    yield studio
    studio.close()


@pytest.fixture(scope="module")
def pages(studio):
    return read_forms(json.loads(json.dumps(build_page(studio).get_config_file(), default=str)))


def submit(studio, endpoint, values):
    """As the endpoint does it."""
    task = RUNS[endpoint]
    texts = [values[one.name] for one in task.endpoint.arguments]
    return studio.submit(task.key, task.endpoint.values(texts, values["settings"]))


@pytest.mark.parametrize("endpoint", RUNS)
def test_they_begin_as_right_requests_that_leave_nothing_out(studio, endpoint):
    jobs = [submit(studio, endpoint, values) for values in build_endpoint_requests()[endpoint]]
    kinds = {Request, *(type(job.request) for job in jobs)}
    fields = {field.name for kind in kinds for field in dataclasses.fields(kind)} - _SET_BY_THE_TASK
    assert fields - RUNS[endpoint].endpoint.overrules <= list_fields(endpoint)


@pytest.mark.parametrize("endpoint", RUNS)
def test_what_asks_for_more_than_a_cap_is_refused_before_it_is_queued(studio, endpoint):
    asked = [one.wrong for one in malformed.draw_endpoint_malformed(endpoint, 1000) if one.wrong and one.wrong.beyond]
    assert len(asked) == 100
    for wrong in asked:
        with pytest.raises(SettingsError):
            submit(studio, endpoint, wrong.values)
            pytest.fail(str(wrong.fields))


@pytest.mark.parametrize("endpoint", sorted(build_endpoint_requests()))
def test_every_field_of_an_endpoint_is_made_wrong(endpoint):
    requests = [*malformed.draw_endpoint_malformed(endpoint, COUNT)]
    reached = {field for one in requests if one.wrong for field in one.wrong.fields}
    assert list_fields(endpoint) <= reached
    assert len(requests) == COUNT and sum(one.wrong is None for one in requests) == COUNT / 5
    assert repr(requests) == repr([*malformed.draw_endpoint_malformed(endpoint, COUNT)])


@pytest.mark.parametrize("tab", BUTTONS)
def test_every_field_of_a_run_button_is_made_wrong(pages, tab):
    form, requests = pages[tab], [*malformed.draw_form_malformed(pages[tab], COUNT)]
    reached = {field for one in requests if one.wrong for field in one.wrong.fields}
    assert {*form.names} <= reached
    assert all(
        0 <= len(form.names) - len(one.wrong.values) <= 3  # of one to three changes each may take a value away
        for one in requests
        if one.wrong
    )
    # The words of an edit are an inspection that another button begins.
    assert {*pages} == {*BUTTONS, "edit_words"} and shrink_form(form).values != form.values
    # An inspection takes its run from the picture, and a comparison of edits the fields of Edit under that tab's
    # names: their own forms have nothing whose size is capped.
    assert tab in {"inspect", "compare_edits"} or any(one.wrong and one.wrong.beyond for one in requests)


def test_a_form_without_the_field_that_makes_it_small_is_told(pages):
    with pytest.raises(StepwiseError, match="no field"):
        shrink_form(dataclasses.replace(pages["animate"], names=("prompt",), values=("a fox",)))


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        (Answer(422, "", '{"detail": "The seed is -1. Choose a value from 0."}'), True),
        (Answer(422, "", '{"detail": "The form could not be read. Reload the page and try again."}'), False),
        (Answer(422, "", '{"detail": "The request is not readable JSON with a list of values."}'), False),
        (Answer(400, "", "{}"), False),
        (Answer(200, "error", {"error": "The prompt is empty."}), True),
        (Answer(200, "error", {"error": "Unknown setting 'nonsense'. Choose one of: prompt."}), False),
        (Answer(200, "error", {"error": "The values could not be read. Send as many"}), False),
        (Answer(200, "error", None), False),
    ],
)
def test_a_refusal_tells_how_far_a_request_came(answer, read):
    assert malformed.is_read(answer) is read


def test_what_asked_for_more_than_a_cap_and_became_a_job_is_past_it():
    made = Answer(200, "complete", [{"status": "done", "images": []}], begun=True)
    assert malformed.judge_answer(made) == "answered" and malformed.judge_answer(made, beyond=True) == "past_a_cap"
    assert malformed.judge_answer(Answer(422, "", "no"), beyond=True) == "refused"


@pytest.mark.parametrize(
    ("size", "frames", "kind"), [((2049, 8), 1, "past_a_cap"), ((64, 64), 300, "past_a_cap"), ((64, 64), 3, "answered")]
)
def test_the_size_of_what_was_made_is_judged(tmp_path, size, frames, kind):
    from PIL import Image

    path = tmp_path / "clip.gif"
    pictures = [Image.new("L", size, 100 + number % 100) for number in range(frames)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:])
    answer = Answer(200, "complete", [{"status": "done", "images": [{"path": str(path)}]}], begun=True)
    assert malformed.judge_answer(answer) == kind


@pytest.mark.parametrize(
    "told",
    ["Something broke inside the studio; its log has the details.", "The page lost sight of the run; reload it."],
)
def test_a_mistake_of_the_studio_counts_as_one(told):
    assert malformed.judge_answer(Answer(200, "error", told)) == "server_error"


@pytest.mark.slow
def test_a_few_of_each_break_nothing(tmp_path):
    with run_server(tmp_path, rate_limit=False) as server:
        found = malformed.run(server, 15)
    assert (found["server_errors"], found["past_a_cap"], found["tracebacks_shown"]) == (0, 0, 0), found["examples"]
    assert found["tracebacks_logged"] == 0
    assert found["unknown_refused"] == found["unknown"] > 0, found["unknown_examples"]
    assert found["requests"] == 15 * (found["endpoints"] + found["buttons"]) and found["buttons"] == len(BUTTONS) + 1
    assert found["read"] > found["requests"] / 2 and found["jobs"] > 15
