"""A stock pipeline through its own call: the same picture, with steps, previews and a cancel."""

from __future__ import annotations

import threading

import pytest
import torch
from diffusers import DiffusionPipeline
from tiny_models import tiny_flux, tiny_sd
from tiny_stock import tiny_sana_sprint

from pipelines.core.cancelling import Cancelled
from pipelines.core.errors import MethodFitError, SettingsError
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


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"height": 33}, "`height` and `width` have to be divisible by 8"), ({"prompt": 5}, "`prompt` has to be of type")],
)
def test_what_a_pipeline_says_of_its_arguments_is_a_sentence_for_the_person(changes, words):
    with pytest.raises(SettingsError) as caught:
        list(StockPipeline(tiny_sd()).run(seeded(**changes)))
    assert words.replace("`", "") in str(caught.value) and "`" not in str(caught.value)
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_value_error_of_another_library_or_in_the_middle_of_a_run_is_no_sentence_for_the_person(monkeypatch):
    pipe = tiny_sd()
    stock = StockPipeline(pipe)

    def broken(*_, **__):
        raise ValueError("too many values to unpack")

    monkeypatch.setattr(pipe.text_encoder, "forward", broken)
    with pytest.raises(ValueError, match="unpack") as caught:
        list(stock.run(seeded()))
    assert not isinstance(caught.value, SettingsError)
    monkeypatch.undo()
    step = pipe.scheduler.step

    def late(*given, **named):
        if len(seen) == 2:
            pipe.check_inputs("x", 33, 33, 1)
        return step(*given, **named)

    seen = []
    monkeypatch.setattr(pipe.scheduler, "step", late)
    with pytest.raises(ValueError, match="divisible") as caught:
        for event in stock.run(seeded()):
            seen.append(event)
    assert not isinstance(caught.value, SettingsError)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_sana_sprint_runs_with_any_number_of_steps(steps):
    pipe = tiny_sana_sprint()
    run = StockPipeline(pipe).run(
        {
            "prompt": "a red fox",
            "num_inference_steps": steps,
            "output_type": "latent",
            "generator": torch.Generator().manual_seed(1),
        }
    )
    *seen, result = run
    middle = {} if steps == 2 else {"intermediate_timesteps": None}
    expected = pipe(
        "a red fox",
        num_inference_steps=steps,
        output_type="latent",
        generator=torch.Generator().manual_seed(1),
        **middle,
    ).images
    assert len(seen) == steps and torch.equal(result.output.images, expected)
