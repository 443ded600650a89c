"""The contract in the middle: predictions in every form, branches, batches, counting, canceling."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from pipelines.core import devices
from pipelines.core.cancelling import Cancelled
from pipelines.core.denoiser import Denoiser, predict_together
from pipelines.core.prediction import Conditioning, Prediction, Query
from pipelines.core.rows import halve_rows
from pipelines.core.schedule import Level
from pipelines.guidance.cfg import Cfg, CfgSettings, Unguided, rescale

LEVEL = Level(0.8, 0.6, 500.0)


class Echo:
    """A network whose output tells what it was given."""

    prediction_type = "epsilon"

    def __init__(self, max_rows=0):
        self.max_rows, self.batches = max_rows, []

    def predict_raw(self, latents, timesteps, conditioning):
        self.batches.append(len(latents))
        return latents * 0 + timesteps[:, None, None, None] + conditioning.tensors["word"][:, :, None, None]


def word(value, rows=1):
    return Conditioning({"word": torch.full((rows, 1), float(value))})


def denoiser(network, guidance_scale=3.0, cancelled=lambda: False, rows=1):
    return Denoiser(
        network, Cfg(CfgSettings(guidance_scale)), {"negative": word(1, rows), "positive": word(2, rows)}, cancelled
    )


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_every_form_of_a_prediction_agrees(kind):
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(2, 3, 4, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    latents = LEVEL.alpha * clean + LEVEL.sigma * noise
    raw = {"epsilon": noise, "v_prediction": LEVEL.alpha * noise - LEVEL.sigma * clean, "sample": clean}[kind]
    prediction = Prediction(raw, latents, LEVEL, kind)
    torch.testing.assert_close(prediction.denoised, clean)
    torch.testing.assert_close(prediction.noise, noise)


def test_a_flow_prediction_is_noise_minus_data():
    level = Level(0.3, 0.7, 700.0)
    clean, noise = torch.ones(1, 1, 2, 2), torch.full((1, 1, 2, 2), -2.0)
    prediction = Prediction(noise - clean, level.alpha * clean + level.sigma * noise, level, "flow")
    torch.testing.assert_close(prediction.denoised, clean)
    torch.testing.assert_close(prediction.noise, noise)


def test_guidance_is_the_formula_and_counts_both_branches():
    one = denoiser(Echo(), guidance_scale=3.0)
    raw = one.predict(torch.zeros(1, 1, 2, 2), LEVEL).raw
    assert raw.unique().tolist() == [500 + 1 + 3 * (2 - 1)]
    assert one.evaluations == 2


def test_without_guidance_there_is_one_branch_and_half_the_work():
    one = denoiser(Echo(), guidance_scale=1.0)
    assert one.predict(torch.zeros(1, 1, 2, 2), LEVEL).raw.unique().tolist() == [502]
    assert one.evaluations == 1


def test_a_query_can_want_one_branch_which_is_half_the_work_and_in_one_batch_with_whole_ones():
    network, level = Echo(), Level(0.6, 0.8, 700.0)
    alone, whole = denoiser(network), denoiser(network)
    asked = [
        (alone, Query(torch.zeros(1, 1, 2, 2), level, branches=("positive",))),
        (whole, Query(torch.zeros(1, 1, 2, 2), LEVEL)),
    ]
    one, both = predict_together(asked)
    assert one.raw.unique().tolist() == [702] and list(one.branches) == ["positive"]
    assert both.raw.unique().tolist() == [504] and set(both.branches) == {"negative", "positive"}
    assert network.batches == [3] and (alone.evaluations, whole.evaluations) == (1, 2)


def test_a_query_can_give_a_branch_another_conditioning_beside_runs_that_keep_theirs():
    network = Echo()
    changed, plain = denoiser(network), denoiser(network)
    asked = []

    def conditioning(name, conditionings):
        asked.append((name, set(conditionings)))
        return word(conditionings[name].tensors["word"].item() + 10 * (name == "positive"))

    latents = torch.zeros(1, 1, 2, 2)
    one, own = predict_together(
        [(changed, Query(latents, LEVEL, conditioning=conditioning)), (plain, Query(latents, LEVEL))]
    )
    assert one.raw.unique().tolist() == [501 + 3 * (512 - 501)] and own.raw.unique().tolist() == [501 + 3 * (502 - 501)]
    assert asked == [
        ("negative", {"negative", "positive"}),
        ("positive", {"negative", "positive"}),
    ] and network.batches == [4]
    assert changed.answer(
        Query(latents, LEVEL, branches=("positive",), conditioning=conditioning)
    ).raw.unique().tolist() == [512]


def test_rescaled_guidance_has_the_conditionals_contrast():
    guided, positive = torch.randn(2, 3, 8, 8) * 5, torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(rescale(guided, positive, 1.0).std((1, 2, 3)), positive.std((1, 2, 3)))
    assert torch.equal(rescale(guided, positive, 0.0), guided)


def test_runs_share_one_batch_at_their_own_levels():
    network = Echo()
    other = Level(0.6, 0.8, 700.0)
    asked = [
        (denoiser(network), Query(torch.zeros(1, 1, 2, 2), LEVEL)),
        (denoiser(network, 1.0), Query(torch.zeros(1, 1, 2, 2), other)),
    ]
    first, second = predict_together(asked)
    assert network.batches == [3]
    assert first.raw.unique().tolist() == [504]
    assert second.raw.unique().tolist() == [702]
    assert second.level is other


def test_other_shapes_and_other_networks_have_batches_of_their_own():
    network, another = Echo(), Echo()
    asked = [
        (denoiser(network), Query(torch.zeros(1, 1, 2, 2), LEVEL)),
        (denoiser(network), Query(torch.zeros(1, 1, 4, 4), LEVEL)),
        (denoiser(another), Query(torch.zeros(1, 1, 2, 2), LEVEL)),
    ]
    assert [tuple(answer.raw.shape[-2:]) for answer in predict_together(asked)] == [(2, 2), (4, 4), (2, 2)]
    assert (network.batches, another.batches) == ([2, 2], [2])


def test_the_time_of_a_batch_is_shared_by_rows(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(devices, "time", SimpleNamespace(perf_counter=lambda: clock[0]))

    class Slow(Echo):
        def predict_raw(self, latents, timesteps, conditioning):
            clock[0] += 0.5 * len(latents)
            return super().predict_raw(latents, timesteps, conditioning)

    network = Slow()
    three, one = denoiser(network, rows=3), denoiser(network, guidance_scale=1.0)
    predict_together([(three, Query(torch.zeros(3, 1, 2, 2), LEVEL)), (one, Query(torch.zeros(1, 1, 2, 2), LEVEL))])
    assert network.batches == [7] and clock == [3.5]
    assert (three.seconds, one.seconds) == (pytest.approx(3.0), pytest.approx(0.5))


def test_a_large_batch_is_evaluated_in_parts_with_the_same_answer():
    whole, parts = Echo(), Echo(max_rows=3)
    latents = torch.randn(4, 1, 2, 2)
    answers = [
        Denoiser(network, Unguided(), {"positive": word(2, 4)}).predict(latents, LEVEL).raw
        for network in (whole, parts)
    ]
    assert torch.equal(*answers)
    assert (whole.batches, parts.batches) == ([4], [3, 1])


@pytest.mark.parametrize(("together", "batches"), [(1, [2, 2, 2]), (3, [3, 3]), (6, [6])])
def test_rows_of_large_pictures_are_evaluated_a_few_at_a_time_on_a_cpu(together, batches):
    network = Small(holds=100, rows_together=together)
    latents = torch.randn(6, 1, 256, 128)
    raw = Denoiser(network, Unguided(), {"positive": word(2, 6)}).predict(latents, LEVEL).raw
    assert network.batches == batches and raw.shape == latents.shape and network.max_rows == 0


class Small(Echo):
    """A network on a device that holds so many rows."""

    def __init__(self, holds, max_rows=0, rows_together=1):
        super().__init__(max_rows)
        self.holds, self.rows_together = holds, rows_together

    def predict_raw(self, latents, timesteps, conditioning):
        raw = super().predict_raw(latents, timesteps, conditioning)
        if len(latents) > self.holds:
            raise torch.OutOfMemoryError("out of memory")
        return raw


def eight_cells(network):
    latents = torch.randn(8, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    return [
        (denoiser(network), Query(one, Level(0.8, 0.6, float(index)))) for index, one in enumerate(latents.split(1))
    ]


def test_rows_that_the_memory_does_not_hold_are_halved_with_the_same_answers_and_this_is_remembered():
    small, asked = Small(holds=5), eight_cells(Echo())
    expected = predict_together(asked)
    again = eight_cells(small)
    answers = predict_together(again)
    assert small.batches == [16, 8, 4, 4, 4, 4]
    for one, other in zip(expected, answers, strict=True):
        assert torch.equal(one.raw, other.raw) and one.level == other.level
    assert [one.evaluations for one, _ in again] == [one.evaluations for one, _ in asked] == [2] * 8
    small.batches.clear()
    predict_together(again)
    assert small.batches == [4, 4, 4, 4]


def test_memory_that_runs_out_in_the_middle_costs_no_row_twice():
    small = Small(holds=6, max_rows=6)
    asked = eight_cells(small)
    small.holds = 6
    counted = iter([6, 2])
    original = small.predict_raw

    def shrinking(latents, timesteps, conditioning):
        small.holds = next(counted, 3)
        return original(latents, timesteps, conditioning)

    small.predict_raw = shrinking
    assert len(predict_together(asked)) == 8
    assert small.batches == [6, 6, 3, 3, 3, 1] and small.max_rows == 3


def test_one_row_that_is_too_many_is_the_error_it_was():
    with pytest.raises(torch.OutOfMemoryError):
        predict_together(eight_cells(small := Small(holds=0)))
    assert small.batches == [16, 8, 4, 2, 1]


def test_the_frames_of_a_clip_are_never_parted():
    small = Small(holds=11, rows_together=5)
    one = Denoiser(small, Cfg(CfgSettings(3.0)), {"negative": word(1, 10), "positive": word(2, 10)})
    one.predict(torch.zeros(10, 1, 2, 2), LEVEL)
    assert small.batches == [20, 10, 10]
    with pytest.raises(torch.OutOfMemoryError):
        one = Denoiser(small := Small(holds=4, rows_together=5), Unguided(), {"positive": word(2, 10)})
        one.predict(torch.zeros(10, 1, 2, 2), LEVEL)
    assert small.batches == [10, 5]


@pytest.mark.parametrize(
    ("together", "rows", "fewer"), [(1, 5, 2), (1, 1, 0), (2, 7, 2), (5, 10, 5), (5, 8, 5), (5, 5, 0)]
)
def test_half_of_the_rows_is_whole_groups_and_one_group_at_least(together, rows, fewer):
    assert halve_rows(SimpleNamespace(rows_together=together), rows) == fewer


def test_a_cancel_takes_effect_before_the_next_evaluation():
    network = Echo(max_rows=1)
    one = denoiser(network, cancelled=lambda: len(network.batches) >= 1)
    with pytest.raises(Cancelled):
        one.predict(torch.zeros(1, 1, 2, 2), LEVEL)
    assert network.batches == [1]


def test_evaluation_needs_no_gradient_but_allows_one():
    latents = torch.zeros(1, 1, 2, 2, requires_grad=True)
    one = Denoiser(Echo(), Unguided(), {"positive": word(2)})
    (one.predict(latents, LEVEL).denoised.sum()).backward()
    assert latents.grad.unique().tolist() == pytest.approx([1 / LEVEL.alpha])
    with torch.no_grad():
        outside = one.predict(latents, LEVEL).denoised
        raw = one.predict(latents, LEVEL).raw
    for ordinary in (outside, raw):  # no inference tensors, which could not be saved for a gradient
        (ordinary * torch.ones(1, requires_grad=True)).sum().backward()


def test_a_guidance_is_asked_for_its_branches_once_for_each_query():
    asked = []

    class Counted(Cfg):
        def plan(self, level):
            asked.append(level)
            return super().plan(level)

    Denoiser(Echo(), Counted(), {"negative": word(1), "positive": word(2)}).predict(torch.zeros(1, 1, 2, 2), LEVEL)
    assert asked == [LEVEL]
