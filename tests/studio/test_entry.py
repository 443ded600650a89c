"""Endpoints and commands derive from the task table: a task says its own, and nothing else names it."""

from __future__ import annotations

import argparse
import inspect
from types import SimpleNamespace

import gradio as gr
import pytest
from gradio.utils import get_function_description, get_function_params

from pipelines.core.errors import SettingsError
from studio.api import ENDPOINTS
from studio.api.task import build_task_endpoint
from studio.cli.main import _build_parser
from studio.jobs.job import Job, JobStatus
from studio.tasks import TASKS
from studio.tasks.context import TaskContext
from studio.tasks.entry import Argument, Endpoint, build_prompt_argument
from studio.tasks.forked import ForkedContext

COUNT = Endpoint(
    "count",
    "Count.",
    '{"base": {}, "to": 3}. ' + "A help is longer than a line. " * 8,
    (build_prompt_argument("what to count."), Argument("unit", "of what.", ("base", "size", "unit"))),
)


def commands() -> dict[str, argparse.ArgumentParser]:
    (found,) = (one for one in _build_parser()._actions if isinstance(one, argparse._SubParsersAction))
    return found.choices


def test_a_text_goes_to_its_place_and_what_was_given_stays_as_it_was():
    given = {"base": {"seed": 7, "prompt": "another"}, "to": 3}
    values = COUNT.values(["sheep", "legs"], given)
    assert values == {"base": {"seed": 7, "prompt": "sheep", "size": {"unit": "legs"}}, "to": 3}
    assert given == {"base": {"seed": 7, "prompt": "another"}, "to": 3}


@pytest.mark.parametrize(
    ("settings", "words"),
    [([], "settings is '\\[\\]'"), ({"base": "x"}, "base is 'x'"), ({"base": {"size": 3}}, "size is '3'")],
)
def test_what_is_no_object_is_refused_by_its_name(settings, words):
    with pytest.raises(SettingsError, match=f"{words}, and must be an object"):
        COUNT.values(["sheep", "legs"], settings)


def test_gradio_reads_texts_and_settings_and_the_whole_help():
    function = build_task_endpoint(None, "count", COUNT)
    parameters = get_function_params(function)
    assert parameters == [("prompt", False, None, str), ("unit", False, None, str), ("settings", True, {}, dict)]
    said, helps, _ = get_function_description(function)
    assert said == "Count." and helps["settings"] == COUNT.settings.strip() and helps["unit"] == "of what."
    assert inspect.isgeneratorfunction(function) and inspect.signature(function).return_annotation is dict


class Counting:
    """As much of a studio as an endpoint asks for: a job is over as soon as it is asked for."""

    def __init__(self):
        self.submitted = []

    def submit(self, task, values, owner):
        self.submitted.append((task, values))
        job = Job(task, None, owner)
        job.set_status(JobStatus.DONE)
        return job


def test_an_endpoint_submits_its_task_and_refuses_with_a_sentence():
    studio, scope = Counting(), {"type": "http", "headers": [], "client": ("127.0.0.1", 1)}
    request = SimpleNamespace(request=SimpleNamespace(scope=scope), session_hash="s")
    run = build_task_endpoint(studio, "count", COUNT)
    (answer,) = run("sheep", "legs", request, {"to": 3})
    assert answer["status"] == "done"
    assert studio.submitted == [("count", {"base": {"prompt": "sheep", "size": {"unit": "legs"}}, "to": 3})]
    with pytest.raises(gr.Error, match="settings is '3', and must be an object"):
        next(run("sheep", "legs", request, 3))


@pytest.mark.parametrize("key", TASKS)
def test_a_task_has_the_endpoint_and_the_command_that_it_says(key):
    task = TASKS[key]
    assert task.key == key
    if task.endpoint:
        function = ENDPOINTS[task.endpoint.name].make(None)
        assert function.__name__ == task.endpoint.name
        named = [*(one.name for one in task.endpoint.arguments), "request", "settings"]
        assert list(inspect.signature(function).parameters) == named
    if task.command:
        flags = {flag for action in commands()[task.command.name]._actions for flag in action.option_strings}
        assert "--out" in flags and ("--sampler" in flags)
        assert ("--negative-prompt" in flags) == task.command.takes_request


def test_no_two_tasks_share_a_name():
    for names in ([one.endpoint.name for one in TASKS.values() if one.endpoint], [*commands()]):
        assert len(names) == len(set(names))


@pytest.mark.parametrize("name", [name for name in vars(TaskContext) if not name.startswith("_")])
def test_the_studio_and_a_spaces_worker_have_all_that_tasks_may_use(name, studio):
    parent = SimpleNamespace(**{one: object() for one in vars(TaskContext) if not one.startswith("_")})
    forked = ForkedContext(parent, {}, {})
    assert hasattr(studio, name) and hasattr(forked, name)
