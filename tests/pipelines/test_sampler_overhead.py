"""A step's own arithmetic, counted in tensor operations: a clock on a busy machine would tell nothing."""

from __future__ import annotations

import itertools

import pytest
import torch
from gaussian import CosineSchedule
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipelines.benchmarks import sampler_overhead
from pipelines.benchmarks.sampler_overhead import DIFFUSION, FLOW, STEPS, free_run, one_evaluation, overheads
from pipelines.core.errors import SettingsError
from pipelines.core.loop import denoise
from pipelines.core.prediction import Conditioning, Query
from pipelines.core.registry import Method
from pipelines.core.sampler import State, interpolate
from pipelines.learning.cases import Cases
from pipelines.samplers import SAMPLERS

MOST_OPERATIONS, MOST_LATENTS = 80, 160
"""A step's, loop and guidance included: twice what the heaviest does. An operation takes some 5 microseconds, and 2 %
of an evaluation of the shipped model are 600. The second is of latents read and written, which a single large operation
counts in."""

PART = Cases({name: Conditioning() for name in ("negative", "positive")}, torch.randn(1, 4, 16, 16), (0,))
ANSWER = torch.randn(2, 4, 16, 16)


class Counting(TorchDispatchMode):
    """Counts operations on tensors, and the numbers that they read and write."""

    def __init__(self):
        super().__init__()
        self.operations = self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.operations += 1
        self.numbers += sum(one.numel() for one in tree_leaves((args, kwargs, out)) if isinstance(one, torch.Tensor))
        return out


def heaviest_step(method):
    """(operations, latents read and written) of the step with most of each."""
    counted = [(0, 0.0)]
    with Counting() as counting:
        for _ in denoise(free_run(method, PART, CosineSchedule(), ANSWER)):
            counted.append((counting.operations, counting.numbers / PART.noise.numel()))
    assert len(counted) == STEPS + 1
    pairs = itertools.pairwise(counted)
    return tuple(map(max, zip(*((after[0] - before[0], after[1] - before[1]) for before, after in pairs), strict=True)))


def test_all_samplers_with_one_evaluation_a_step_are_measured():
    keys = {method.key for method in one_evaluation()}
    assert {"flow_euler", "pndm", "dpmpp_2m", "ddim"} <= keys
    assert SAMPLERS.keys() - keys == {"dpmpp_2s", "dpmpp_sde", "heun", "flow_heun", "dpm2", "dpm2_a"}


@pytest.mark.parametrize("method", one_evaluation(), ids=lambda method: method.key)
def test_a_steps_own_arithmetic_is_light(method):
    operations, latents = heaviest_step(method)
    assert 0 < operations <= MOST_OPERATIONS
    assert 0 < latents <= MOST_LATENTS


class Heavy:
    """Euler with work that it does not need: many small operations, or one large."""

    def __init__(self, work):
        self.work = work

    def step(self, state, level, next_level, context):
        prediction = yield Query(state.latents, level)
        self.work(prediction.denoised)
        return State(interpolate(prediction, next_level), prediction.denoised)

    def nfe(self, num_steps):
        return num_steps


@pytest.mark.parametrize(
    ("work", "place"), [(lambda x: [x + 1 for _ in range(100)], 0), (lambda x: x.flatten()[:, None] * x.flatten(), 1)]
)
def test_absurd_work_is_noticed(work, place):
    counts = heaviest_step(Method("heavy", "Heavy", lambda settings: Heavy(work)))
    assert counts[place] > (MOST_OPERATIONS, MOST_LATENTS)[place]
    assert counts[1 - place] < 3 * (MOST_OPERATIONS, MOST_LATENTS)[1 - place]


def test_flow_samplers_run_on_a_flow_schedule_and_a_sampler_for_neither_is_no_gap(monkeypatch):
    run = free_run(SAMPLERS["flow_euler"], PART, CosineSchedule(), ANSWER)
    assert run.denoiser.network.prediction_type == "flow" and run.levels[0].alpha == 0
    assert free_run(SAMPLERS["euler"], PART, CosineSchedule(), ANSWER).denoiser.network.prediction_type == "epsilon"
    assert DIFFUSION.flow is False and FLOW.flow is True
    misfit = Method("misfit", "Misfit", lambda settings: Heavy(lambda x: x), fit=lambda traits: "it fits nothing")
    monkeypatch.setattr(sampler_overhead, "SAMPLERS", {"misfit": misfit})

    class Family:
        noise_schedule = CosineSchedule()

        def predict_raw(self, latents, timesteps, conditioning):
            return torch.zeros_like(latents)

    class Bench:
        cases, family = PART, Family()

    with pytest.raises(SettingsError, match=r"Misfit fits neither .* it fits nothing"):
        overheads(Bench())
