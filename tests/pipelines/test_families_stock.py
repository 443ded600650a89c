"""A stock pipeline through its own call: the same picture, with steps, previews and a cancel."""

from __future__ import annotations

import threading

import pytest
import torch
from diffusers import DiffusionPipeline
from tiny_models import tiny_flux, tiny_sd

from pipelines.denoiser import Cancelled
from pipelines.errors import MethodFitError
from pipelines.families.stock import StockPipeline, StockResult, StockStep

ARGUMENTS = {"prompt": "a red fox", "height": 32, "width": 32, "num_inference_steps": 4, "output_type": "latent"}


def seeded(**more):
    return {**ARGUMENTS, "generator": torch.Generator().manual_seed(1), **more}


class OldStyle(DiffusionPipeline):
    """A pipeline with the older callback."""

    def __call__(self, num_inference_steps: int = 3, callback=None, callback_steps: int = 1):
        for index in range(num_inference_steps):
            if callback is not None and index % callback_steps == 0:
                callback(index, 0, torch.zeros(1, 4, 8, 8))
        return {"images": ["done"]}


class Silent(DiffusionPipeline):
    """A pipeline that reports nothing."""

    def __call__(self, num_inference_steps: int = 3):
        return {"images": ["done"]}


def test_the_result_is_the_pipelines_own_and_every_step_is_seen():
    pipe = tiny_sd()
    expected = pipe(**seeded()).images
    stock = StockPipeline(pipe)
    *steps, result = stock.run(seeded(negative_prompt="", eta=None))
    assert isinstance(result, StockResult) and torch.equal(result.output.images, expected)
    assert [(step.index, step.num_steps) for step in steps] == [(i, 4) for i in range(4)]
    assert torch.equal(steps[-1].latents, expected)
    previews = [stock.preview(step) for step in steps]
    assert previews[0].shape == (1, 3, 8, 8) and not torch.equal(previews[0], previews[-1])


def test_packed_latents_are_unpacked_for_the_preview():
    stock = StockPipeline(tiny_flux())
    *steps, _ = stock.run(seeded(max_sequence_length=8))
    assert stock.preview(steps[0]).shape == (1, 3, 8, 8)
    assert stock.traits.prediction_type == "flow" and stock.traits.backbone == "pipeline"


def test_a_cancel_ends_the_call_at_the_next_step_and_gives_no_result():
    stock, events = StockPipeline(tiny_sd()), []
    threads = threading.active_count()
    with pytest.raises(Cancelled):
        for event in stock.run(seeded(num_inference_steps=50), cancelled=lambda: len(events) >= 2):
            events.append(event)
    assert all(isinstance(event, StockStep) for event in events) and len(events) < 10
    assert threading.active_count() == threads
    *_, result = stock.run(seeded())
    assert isinstance(result, StockResult)


def test_closing_the_iterator_ends_the_call():
    threads = threading.active_count()
    events = StockPipeline(tiny_sd()).run(seeded(num_inference_steps=50))
    next(events)
    events.close()
    assert threading.active_count() == threads


def test_an_error_inside_the_call_reaches_the_caller():
    with pytest.raises(ValueError, match="divisible by 8"):
        list(StockPipeline(tiny_sd()).run(seeded(height=33)))


def test_an_argument_the_pipeline_does_not_take_is_refused():
    with pytest.raises(MethodFitError, match="true_cfg_scale"):
        StockPipeline(tiny_sd()).run(seeded(true_cfg_scale=2.0))


def test_the_older_callback_reports_and_cancels():
    stock = StockPipeline(OldStyle())
    assert stock.watched == "callback"
    *steps, result = stock.run({"num_inference_steps": 3})
    assert len(steps) == 3 and result.output["images"] == ["done"]
    with pytest.raises(Cancelled):
        list(stock.run({}, cancelled=lambda: True))


def test_a_pipeline_without_a_callback_says_so_and_a_cancelled_one_gives_no_result():
    stock = StockPipeline(Silent())
    assert stock.watched == "none"
    assert [type(event) for event in stock.run({})] == [StockResult]
    with pytest.raises(Cancelled):
        list(stock.run({}, cancelled=lambda: True))
