"""What a program leaves out at the end of an endpoint's arguments has its default."""

from __future__ import annotations

import gradio as gr
import pytest

from studio.api.arguments import add_defaults


@pytest.fixture(scope="module")
def functions():
    def draw(prompt: str, request: gr.Request, settings: dict = {}, order: str = "newest") -> dict:  # noqa: B006
        return {}

    with gr.Blocks() as demo:
        gr.api(draw, api_name="draw")
        gr.Button().click(lambda first, second="x": first, [gr.Textbox(), gr.Textbox()], gr.Textbox(), api_name="click")
    return {fn.api_name: fn for fn in demo.fns.values()}


def test_further_arguments_of_an_endpoint_break_no_program_that_knows_the_first(functions):
    assert add_defaults(functions["draw"], ["a fox"]) == ["a fox", {}, "newest"]
    assert add_defaults(functions["draw"], ["a fox", {"seed": 1}]) == ["a fox", {"seed": 1}, "newest"]


def test_a_default_is_nobody_elses(functions):
    add_defaults(functions["draw"], ["a fox"])[1]["seed"] = 1
    assert add_defaults(functions["draw"], ["a fox"])[1] == {}


@pytest.mark.parametrize("inputs", [[], ["a fox", {}, "newest"], ["a fox", {}, "newest", 1], None, {"prompt": "a fox"}])
def test_what_must_be_given_and_what_is_whole_stays_as_it_is(functions, inputs):
    assert add_defaults(functions["draw"], inputs) == inputs


def test_an_event_of_the_page_is_sent_whole_or_refused(functions):
    assert add_defaults(functions["click"], ["a"]) == ["a"]
