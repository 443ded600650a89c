"""The short way between page and jobs: its routes, what they refuse, and what they stream."""

from __future__ import annotations

import json
from types import SimpleNamespace

import gradio as gr
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.testclient import TestClient

from pipelines.core.errors import BusyError
from studio.api.running import run_task
from studio.jobs.stream import follow
from studio.page.page import build_page
from studio.ui.form import FIXED
from tests.browser.stand_in import StandIn


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    studio = StandIn(tmp_path_factory.mktemp("live"))
    demo = build_page(studio)
    return studio, demo, TestClient(Starlette(routes=demo.routes), client=("127.0.0.1", 50_000))


def form_values(demo, **changes):
    """The values that the page's script sends for an untouched form, with some fields changed."""
    run = next(block for block in demo.blocks.values() if getattr(block, "elem_id", None) == "t2i-run")
    event = next(event for event in demo.fns.values() if (run._id, "click") in event.targets)
    values = []
    for component in event.inputs[:-1]:  # the last is the browser's memory
        name = (component.elem_id or "").removeprefix("t2i-").replace("-", "_")
        values.append(changes.get(name, component.value))
    return values


def run(client, values, owner="me"):
    return client.post("/stepwise/text_to_image/run", json={"values": values, "owner": owner})


def test_the_browser_remembers_a_seed_beyond_its_own_numbers(page):
    studio, demo, client = page
    session = run(client, form_values(demo, seed_mode=FIXED, seed=str(2**63 - 1))).json()["session"]
    assert studio.job(session["job"]).request.seed == 2**63 - 1
    assert session["draft"]["seed"] == str(2**63 - 1)


def events(client, job):
    with client.stream("GET", f"/stepwise/text_to_image/jobs/{job}/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        return [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: ")]


def test_a_click_becomes_a_job_whose_steps_stream_to_the_end(page):
    studio, demo, client = page
    answer = run(client, form_values(demo, prompt="a <b>fox</b>", steps=7, seed_mode=FIXED, seed="12"))
    assert answer.status_code == 200
    session = answer.json()["session"]
    job = studio.job(session["job"])
    assert (job.request.prompt, job.request.num_inference_steps, job.request.seed) == ("a <b>fox</b>", 7, 12)
    assert session["draft"]["prompt"] == "a <b>fox</b>" and job.owner == "127.0.0.1 me"
    said = events(client, job.id)
    assert [one["final"] for one in said] == [False] * (len(said) - 1) + [True]
    assert said[-1]["status"] == "done" and said[-1]["notice"] == ""
    shown = {name: part for one in said for name, part in one["parts"].items()}
    assert shown["t2i-hero"].keys() == {"file", "data-result", "data-seed"} and shown["t2i-noisy-image"][
        "src"
    ].startswith("data:image/jpeg")


def test_nobody_from_elsewhere_chooses_whose_job_it_is(page):
    studio, demo, _ = page
    elsewhere = TestClient(Starlette(routes=demo.routes), client=("203.0.113.5", 50_000))
    jobs = [
        studio.job(run(elsewhere, form_values(demo), owner).json()["session"]["job"]) for owner in ("", "ann", "x" * 99)
    ]
    assert {job.owner for job in jobs} == {"203.0.113.5"}


def test_a_programs_session_does_not_choose_its_owner_either():
    owners = []

    def submit(task, values, owner):
        owners.append(owner)
        raise BusyError("enough")

    for client in ("127.0.0.1", "203.0.113.9"):
        for session in ("one", "two", None):
            asked = Request({"type": "http", "client": (client, 1), "headers": []})
            with pytest.raises(gr.Error, match="enough"):
                next(run_task(SimpleNamespace(submit=submit), "generate", {}, gr.Request(asked, session_hash=session)))
    assert owners == ["127.0.0.1 one", "127.0.0.1 two", "127.0.0.1 ", *["203.0.113.9"] * 3]


def test_only_what_changed_is_sent_and_a_finished_job_says_all_of_it_at_once(page):
    studio, _demo, client = page
    job = studio.submit("text_to_image", {"prompt": "a fox", "num_inference_steps": 5})
    list(follow(job))
    (said,) = events(client, job.id)
    assert said["final"] and {"t2i-progress", "t2i-hero", "t2i-figures"} <= said["parts"].keys()


def test_the_scrubber_asks_for_a_step(page):
    studio, _demo, client = page
    job = studio.submit("text_to_image", {"prompt": "a fox", "num_inference_steps": 5})
    list(follow(job))
    first, second = (
        client.get(f"/stepwise/text_to_image/jobs/{job.id}/steps/{step}").json()["parts"] for step in (1, 2)
    )
    assert first["t2i-hero"]["src"] != second["t2i-hero"]["src"]
    assert client.get("/stepwise/compare/jobs/x/steps/1").status_code == 422


@pytest.mark.parametrize(
    "values",
    [
        None,
        {},
        "text",
        [],
        [None] * 3,
        [[]] * 200,
        [{}] * 200,
    ],
)
def test_a_form_that_cannot_be_read_is_refused_in_a_sentence(page, values):
    studio, _demo, client = page
    before = len(studio.jobs)
    answer = client.post("/stepwise/text_to_image/run", json={"values": values})
    assert answer.status_code == 422 and answer.json()["detail"].endswith(".")
    assert len(studio.jobs) == before


@pytest.mark.parametrize("odd", [None, [], {}, "x" * 10, -3, 1e400, True])
@pytest.mark.parametrize("field", ["prompt", "model", "steps", "seed", "sampler", "style", "loras", "width"])
def test_no_single_odd_value_is_more_than_refused(page, field, odd):
    _studio, demo, client = page
    body = json.dumps({"values": form_values(demo, **{field: odd}), "owner": 5})
    answer = client.post("/stepwise/text_to_image/run", content=body)
    assert answer.status_code in (200, 422)
    assert "Traceback" not in answer.text


def test_a_mistake_is_answered_with_its_notice(page):
    _, demo, client = page
    answer = run(client, form_values(demo, seed="seven", seed_mode=FIXED))
    assert answer.status_code == 422
    assert "whole number" in answer.json()["detail"] and 'role="alert"' in answer.json()["notice"]


@pytest.mark.parametrize("path", ["nowhere/run", "gallery/run"])
def test_a_tab_that_runs_nothing_has_no_routes(page, path):
    assert page[2].post(f"/stepwise/{path}", json={"values": []}).status_code == 404


def test_a_job_is_stopped_and_belongs_to_its_own_tab(page):
    studio, _, client = page
    studio.step_seconds = 0.05
    try:
        job = studio.submit("text_to_image", {"prompt": "a fox", "num_inference_steps": 200})
        assert client.post(f"/stepwise/compare/jobs/{job.id}/stop").status_code == 422
        assert not job.cancelled()
        assert client.post(f"/stepwise/text_to_image/jobs/{job.id}/stop").status_code == 200
    finally:
        studio.step_seconds = 0.0
    assert events(client, job.id)[-1]["status"] == "cancelled"
    assert client.get("/stepwise/text_to_image/jobs/unknown/events").status_code == 422
