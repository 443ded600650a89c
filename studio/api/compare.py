"""`/compare`: one prompt from one noise in several cells."""

# No `from __future__ import annotations` here: Gradio reads the functions' annotations as they stand.

from collections.abc import Callable
from typing import TYPE_CHECKING

import gradio as gr

from studio.api.running import fields, run_task

if TYPE_CHECKING:
    from studio.backend import Studio

__all__ = ["endpoint"]


def endpoint(studio: "Studio") -> Callable:
    """The function that Gradio offers to programs, with its annotations and docstring."""

    def compare(prompt: str, request: gr.Request, settings: dict = {}) -> dict:
        """Run one prompt from one noise in several cells; streams progress, then returns pictures and figures.

        Args:
            prompt: for every cell that does not set its own.
            settings: {"base": fields of a request, "cells": [fields that differ, ...], "equal": "steps" or "nfe",
                "reference_steps": 100}, or "x" and "y" axes {"field": ..., "values": [...]} instead of cells.
        """
        values = {**fields(settings), "base": {**fields(settings.get("base", {}), "base"), "prompt": prompt}}
        yield from run_task(studio, "compare", values, request)

    return compare
