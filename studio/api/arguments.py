"""The arguments of an endpoint's call, as a list."""

from __future__ import annotations

import copy
from typing import Any

from gradio.components.api_component import Api
from gradio.utils import get_function_params

__all__ = ["add_defaults"]


def add_defaults(block_fn: Any, inputs: list[Any]) -> list[Any]:
    """Return the arguments of an endpoint with the defaults of those that were left out at their end."""
    if not isinstance(inputs, list) or not 0 <= len(inputs) < len(block_fn.inputs):
        return inputs
    parameters = get_function_params(block_fn.fn) if all(isinstance(one, Api) for one in block_fn.inputs) else []
    left_out = [(has_default, default) for _, has_default, default, _ in parameters[len(inputs) :]]
    if len(parameters) != len(block_fn.inputs) or not all(has_default for has_default, _ in left_out):
        return inputs
    return [*inputs, *(copy.deepcopy(default) for _, default in left_out)]
