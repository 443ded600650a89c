"""Caches, guidances and searches that cannot be are refused before a job is queued, by tasks and cells alike."""

from __future__ import annotations

import pytest

from pipelines.core.errors import SettingsError, StepwiseError
from studio.tasks import TASKS

BASE = {"model": "emoji-128", "prompt": "a (red:1.3) fox and an owl", "num_inference_steps": 25}
WORDED = {"key": "attend_and_excite", "words": "fox, owl"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "emoji", "cache": "cachequant"}, "is of emoji-128, 25 steps"),
        ({"num_inference_steps": 20, "cache": "cachequant"}, "is of emoji-128, 25 steps"),
        ({"cache": {"key": "cachequant", "fit": "typed", "starts": "0, 30"}}, "has the step 30"),
        ({"model": "emoji", "num_inference_steps": 20, "guidance": "linear"}, "fitted to emoji-128, 20 steps"),
        ({"guidance": "linear"}, "fitted to emoji-128, 20 steps"),
        ({"guidance": {**WORDED, "words": "zebra"}}, "looks for 'zebra', which is not in the prompt"),
        ({"guidance": {"key": "a_star", "words": "fox, zebra"}}, "looks for 'zebra'"),
        ({"guidance": WORDED, "prompt": "a [fox:owl:0.5] AND a cat"}, "says the same at every step"),
        ({"guidance": {"key": "attend_and_excite"}, "prompt": "a, the"}, "word"),
        ({"guidance": WORDED, "made_like": "comfyui"}, "Stepwise"),
        ({"model": "emoji-128-flow", "cache": "deepcache"}, "has no UNet"),
        ({"model": "emoji-128-motion", "cache": "deepcache"}, "No cache"),
        (
            {"model": "emoji-128-flow", "guidance": "slg"},
            "6 blocks, none from 7 to 9. Choose lower ones, such as 2 to 2",
        ),
        (
            {"model": "emoji-128-flow", "guidance": {"key": "slg", "first_block": 3, "last_block": 2}},
            "before the first",
        ),
        ({"model": "emoji-128-flow", "cache": {"key": "taylorseer", "depth": 6}}, "depth of at most 5"),
        ({"cache": {"key": "deepcache", "depth": 6}}, "6 skip connections. Choose a depth of at most 5"),
        ({"cache": {"key": "taylorseer", "depth": 9}}, "depth of at most 5"),
        ({"made_like": {"key": "here", "clip_skip": 5}}, "this model has 4 of them"),
        ({"made_like": {"key": "invokeai", "skipped_layers": 11}}, "layer 12 from the end"),
        ({"made_like": "comfyui", "variation_strength": 0.4}, "ComfyUI has no variation seed"),
        ({"made_like": {"key": "comfyui", "batch_index": 3, "batch_total": 2}}, "Picture 3 is asked of a batch of 2"),
    ],
)
def test_it_is_refused_before_it_queues(studio, changes, words):
    values = {**BASE, **changes}
    with pytest.raises(SettingsError, match=words):
        TASKS["text_to_image"].parse(values, studio)
    if values["model"] != "emoji-128-motion":
        with pytest.raises(SettingsError, match=words):
            base = {**BASE, "model": values["model"], "prompt": values["prompt"]}
            TASKS["compare"].parse({"base": base, "cells": [{"seed": 3}, changes]}, studio)


@pytest.mark.parametrize(
    "changes",
    [
        {"cache": "cachequant"},
        {"num_inference_steps": 20, "guidance": "linear"},
        {"guidance": {"key": "linear", "guidance_scale": 1.0}},
        {"guidance": {**WORDED, "words": "RED  fox, an owl"}},
        {"guidance": "attend_and_excite"},
        {"model": "emoji-128-flow", "guidance": {"key": "slg", "first_block": 5, "last_block": 9}},
        {"model": "emoji-128-flow", "guidance": {"key": "slg", "perturbed_scale": 0}},
        {"model": "emoji-128-flow", "cache": {"key": "taylorseer", "depth": 5}},
        {"cache": {"key": "deepcache", "depth": 5}},
        {"made_like": {"key": "here", "clip_skip": 4}},
        # Another number of steps may come of typed levels: it is held against the fit with the model.
        {"cache": "cachequant", "num_inference_steps": 3, "schedule": {"key": "hand_typed", "values": "900, 500, 0"}},
    ],
)
def test_what_may_be_is_left_to_the_run(studio, changes):
    TASKS["text_to_image"].parse({**BASE, **changes}, studio)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schedule": {"key": "hand_typed"}}, "The list of levels is empty. Type 25 time steps"),
        ({"schedule": {"key": "hand_typed", "values": "900, 500"}}, "2 time steps for 25 steps"),
        ({"schedule": {"key": "karras", "sigma_max": 200}}, "noise goes from"),
        ({"schedule": {"key": "align_your_steps", "table": "svd"}}, "Choose the table of this model"),
        ({"schedule": "learned", "num_inference_steps": 7}, "No schedule has been fitted for 7 steps"),
        ({"model": "emoji-128-flow", "schedule": {"key": "uniform", "spacing": "leading"}}, "starts below full noise"),
        ({"model": "emoji-128-flow", "schedule": {"key": "uniform", "final": "first"}}, "the clean end itself"),
        ({"start": "mcmc"}, "A classifier of its noise levels is needed"),
        ({"start": {"key": "gaussian", "share": 0.5}}, "mean and covariance of its data"),
        ({"start": "short_time"}, "mean and covariance of its data"),
        ({"start": {"key": "optimal_transport", "share": 0.5}}, "A transport map"),
        ({"model": "emoji", "start": "mcmc", "batch_size": 2}, "makes 1 picture at a time"),
        ({"model": "emoji-128-flow", "width": 72}, "multiples of 16: choose 64 or 80"),
        ({"height": 100}, "multiples of 8: choose 96 or 104"),
        ({"model": "emoji-128-flow", "width": 272}, "longer side is 272 pixels. This model makes at most 256"),
    ],
)
def test_levels_and_files_that_a_run_lacks_are_refused_before_it_queues(studio, changes, words):
    """A comparison's cell has a note of its own, beside the others."""
    with pytest.raises(StepwiseError, match=words):
        TASKS["text_to_image"].parse({**BASE, **changes}, studio)
    base = {**BASE, "model": changes.get("model", BASE["model"])}
    if "batch_size" not in changes:
        TASKS["compare"].parse({"base": base, "cells": [{"seed": 3}, changes]}, studio)


@pytest.mark.parametrize(
    "changes",
    [
        {"schedule": "learned", "num_inference_steps": 8},
        {"schedule": {"key": "hand_typed", "values": "900, 500", "unit": "time steps"}, "num_inference_steps": 2},
        {"schedule": {"key": "karras", "sigma_max": 200}, "made_like": "comfyui"},
        {"start": {"key": "gaussian", "share": 0.0}},
        {"model": "emoji", "start": "mcmc"},
        {"width": 72, "height": 0},
        {"model": "emoji-128-flow", "width": 256, "height": 16},
        {"width": 512, "height": 512},
    ],
)
def test_levels_and_files_that_are_there_are_taken(studio, changes):
    TASKS["text_to_image"].parse({**BASE, **changes}, studio)
