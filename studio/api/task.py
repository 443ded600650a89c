"""The endpoint of a task, made from what the task says of it."""

# No `from __future__ import annotations` here: Gradio reads the functions' annotations as they stand.

import inspect
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, cast

import gradio as gr

from pipelines.core.errors import SettingsError
from studio.api.running import run_task

if TYPE_CHECKING:
    from studio.backend import Studio
    from studio.tasks.entry import Endpoint

__all__ = ["build_task_endpoint"]


def build_task_endpoint(studio: "Studio", task: str, endpoint: "Endpoint") -> Callable:
    """Build the function that Gradio offers to programs: texts, the program's request, and settings that may be left
    out.

    Args:
        studio: runs the jobs.
        task: key of the task.
        endpoint: how it is asked for.
    """

    def run(*arguments: Any) -> Iterator[dict[str, Any]]:
        # Gradio gives all arguments in their order, and fills in the request and what was left out.
        *texts, request, settings = arguments
        try:
            settings, previews = _take_previews(settings)
            values = endpoint.values(texts, settings)
        except SettingsError as error:
            raise gr.Error(str(error), print_exception=False) from None
        yield from run_task(studio, task, values, request, previews)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [
        *(inspect.Parameter(one.name, kind, annotation=str) for one in endpoint.arguments),
        inspect.Parameter("request", kind, annotation=gr.Request),
        inspect.Parameter("settings", kind, annotation=dict, default={}),
    ]
    run.__name__ = run.__qualname__ = endpoint.name
    run.__doc__ = endpoint.description
    cast(Any, run).__signature__ = inspect.Signature(parameters, return_annotation=dict)
    run.__annotations__ = {**{one.name: one.annotation for one in parameters}, "return": dict}
    return run


def _take_previews(settings: object) -> tuple[Any, bool]:
    """The settings without the flag that asks for the pictures of the steps, and the flag.

    Raises:
        SettingsError: the flag is no truth value.
    """
    if not isinstance(settings, dict) or "previews" not in settings:
        return settings, False
    previews = settings["previews"]
    if not isinstance(previews, bool):
        raise SettingsError(f"previews is {str(previews)[:80]!r}. Give true or false.")
    return {name: value for name, value in settings.items() if name != "previews"}, previews
