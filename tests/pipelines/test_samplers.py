"""Samplers against the exact solution on a Gaussian, in float64."""

from __future__ import annotations

import math

import pytest
import torch

from pipelines.core.denoiser import Denoiser
from pipelines.core.loop import Run, denoise, denoise_together
from pipelines.core.noise import NoiseSource
from pipelines.core.prediction import Conditioning
from pipelines.core.schedule import CLEAN, FlowSchedule, Level
from pipelines.core.types import Traits
from pipelines.guidance.cfg import Unguided
from pipelines.samplers import SAMPLERS
from tests.pipelines.gaussian import (
    MEAN,
    SCHEDULES_OF,
    VARIANCE,
    CosineSchedule,
    GaussianNetwork,
    exact,
    grid,
    last_of,
    orders,
    run_of,
)

TRAITS = {"diffusion": Traits("sd", "epsilon", "unet"), "flow": Traits("sd3", "flow", "transformer")}
FITTING = [(kind, key) for kind, traits in TRAITS.items() for key in (m.key for m in SAMPLERS.fitting(traits))]
DISTILLED = {"lcm", "scm", "tcd"}
"""Their jumps to the mean of the posterior lose variance unless the weights are distilled."""

STOCHASTIC = DISTILLED | {"euler_a", "ddpm", "dpm2_a", "dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde", "sa_solver"}
BIASED = {"epsilon_scaling", "time_shift", "dualfast"}
"""These change the estimates on purpose, so they do not converge to the network's own solution."""

ORDERS = {
    "dpmpp_1": 1,
    "ddim": 1,
    "euler": 1,
    "flow_euler": 1,
    "dpmpp_2m": 2,
    "dpmpp_2s": 2,
    "heun": 2,
    "flow_heun": 2,
    "dpm2": 2,
    "dpmpp_3m": 3,
    "pndm": 2,
    "deis": 2,
    "lml": 2,
}
ORDERS_OF_SETTINGS = {"unipc": "below", "lms": "test_samplers_multistep", "ipndm": "test_samplers_multistep"}


@pytest.mark.parametrize(("kind", "key"), [pair for pair in FITTING if pair[1] in ORDERS])
def test_convergence_order(kind, key):
    measured = orders(SAMPLERS[key].build, SCHEDULES_OF[kind])
    print(f"order of {key}, {kind}: {ORDERS[key]}, measured {measured[-1]:.2f}")
    for order in measured:
        assert order == pytest.approx(ORDERS[key], abs=0.2)


@pytest.mark.parametrize("kind", ["diffusion", "flow"])
@pytest.mark.parametrize(("order", "corrector"), [(1, False), (2, False), (3, False), (1, True), (2, True), (3, True)])
def test_unipc_order(kind, order, corrector):
    settings = {"order": order, "corrector": corrector, "lower_order_final": False}
    measured = orders(lambda: SAMPLERS["unipc"].build(settings), SCHEDULES_OF[kind], (80, 160, 320))
    assert measured[-1] == pytest.approx(order + corrector, abs=0.2)


def test_every_deterministic_sampler_has_an_order_test():
    sets = [set(ORDERS), set(ORDERS_OF_SETTINGS), STOCHASTIC, BIASED]
    assert set.union(*sets) == set(SAMPLERS)
    assert sum(map(len, sets)) == len(SAMPLERS)


@pytest.mark.parametrize(("kind", "key"), FITTING)
def test_from_pure_noise_to_clean_is_finite_and_right(kind, key):
    noise_schedule = SCHEDULES_OF[kind]
    levels = grid(noise_schedule, 60, high=1000, low=5, clean=True)
    latents = torch.randn(64, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    last = last_of(run_of(SAMPLERS[key].build(), levels, noise_schedule, latents, range(64)))
    assert last.latents.isfinite().all()
    if key == "time_shift":
        # Every step leaves more noise than the network is told of, and what is left at the end adds to the data's.
        assert VARIANCE < last.latents.var().item() < 1
        return
    assert last.latents.mean().item() == pytest.approx(MEAN, abs=0.05)
    if key not in DISTILLED:
        assert last.latents.std().item() == pytest.approx(math.sqrt(VARIANCE), rel=0.06)


@pytest.mark.parametrize(("kind", "key"), FITTING)
def test_evaluations_are_what_the_sampler_says(kind, key):
    sampler = SAMPLERS[key].build()
    levels = grid(SCHEDULES_OF[kind], 6, clean=True)
    run = run_of(sampler, levels, SCHEDULES_OF[kind])
    assert last_of(run).evaluations == sampler.nfe(7)


@pytest.mark.parametrize(("kind", "key"), FITTING)
@pytest.mark.parametrize("num_steps", [1, 2, 6])
def test_evaluations_are_what_the_sampler_says_where_a_run_ends_at_the_first_level(kind, key, num_steps):
    sampler = SAMPLERS[key].build()
    levels = grid(SCHEDULES_OF[kind], num_steps)
    assert last_of(run_of(sampler, levels, SCHEDULES_OF[kind])).evaluations == sampler.nfe(num_steps, ends_clean=False)


@pytest.mark.parametrize(("kind", "key"), FITTING)
@pytest.mark.parametrize("num_steps", [1, 2, 5])
def test_from_no_signal_at_all_every_step_is_finite(kind, key, num_steps):
    start = Level(0.0, 1.0, 1000.0)
    levels = [start, *(SCHEDULES_OF[kind].at(900.0 - 150 * i) for i in range(num_steps - 1)), CLEAN]
    form = "v_prediction" if kind == "diffusion" else "flow"
    noise_schedule = PureNoiseSchedule() if kind == "diffusion" else SCHEDULES_OF[kind]
    run = run_of(SAMPLERS[key].build(), levels, noise_schedule, prediction_type=form)
    for step in denoise(run):
        assert step.latents.isfinite().all()
        assert step.denoised.isfinite().all()
    assert step.evaluations <= run.sampler.nfe(num_steps)


class PureNoiseSchedule(CosineSchedule):
    """The cosine schedule with zero signal at its last time, as zero-terminal-SNR models have it."""

    def at(self, timestep):
        return Level(0.0, 1.0, 1000.0) if timestep == 1000 else super().at(timestep)


@pytest.mark.parametrize(("kind", "key"), FITTING)
def test_prediction_type_does_not_matter(kind, key):
    levels = grid(SCHEDULES_OF[kind], 12, clean=True)
    # A v network's formulas are those of a variance-preserving model; eps means the same at any alpha and sigma.
    types = ["sample", "epsilon", "v_prediction"] if kind == "diffusion" else ["sample", "epsilon", "flow"]
    runs = [run_of(SAMPLERS[key].build(), levels, SCHEDULES_OF[kind], prediction_type=one) for one in types]
    results = [last_of(run).latents for run in runs]
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=0, atol=1e-11)


IN_LAMBDA = {
    "ddim": {},
    "ddpm": {},
    "dpmpp_1": {},
    "dpmpp_2m": {},
    "dpmpp_2s": {},
    "dpmpp_3m": {},
    "dpmpp_sde": {},
    "dpmpp_2m_sde": {},
    "dpmpp_3m_sde": {},
    "unipc": {"order": 3},
    "deis": {"order": 3},
    "lms": {},
    "dpm2": {},
    "dpm2_a": {},
    "euler_a": {},
    "sa_solver": {"tau": 0.0},
    "lml": {"base": "unipc"},
    "dualfast": {},
}
"""Solvers that know a level by its sigma / alpha alone, not by time: to them a flow is a diffusion in other units."""


@pytest.mark.parametrize("key", IN_LAMBDA)
def test_a_flow_run_is_the_diffusion_run_at_equal_lambda(key):
    """x / alpha is the same on both, from first latents that are, with the same fresh noise."""
    flow, diffusion = SCHEDULES_OF["flow"], SCHEDULES_OF["diffusion"]
    levels = grid(flow, 12, clean=True)
    same = [*(diffusion.at_sigma_ve(level.sigma_ve) for level in levels[:-1]), CLEAN]
    latents = torch.linspace(-2, 2, 9, dtype=torch.float64).reshape(1, 1, 3, 3)
    scaled = latents * (same[0].alpha / levels[0].alpha)
    one = run_of(SAMPLERS[key].build(IN_LAMBDA[key]), levels, flow, latents, prediction_type="flow")
    other = run_of(SAMPLERS[key].build(IN_LAMBDA[key]), same, diffusion, scaled, prediction_type="epsilon")
    for mine, theirs in zip(denoise(one), denoise(other), strict=True):
        scale = mine.next_level.alpha / theirs.next_level.alpha
        torch.testing.assert_close(mine.latents, theirs.latents * scale, rtol=0, atol=1e-10)


def test_solvers_that_know_a_time_are_not_in_other_units():
    fitting = {method.key for method in SAMPLERS.fitting(TRAITS["flow"])} & {
        one.key for one in SAMPLERS.fitting(TRAITS["diffusion"])
    }
    assert fitting - set(IN_LAMBDA) == {"pndm", "ipndm", "scm"}


@pytest.mark.parametrize("kind", ["diffusion", "flow"])
@pytest.mark.parametrize("variant", ["bh1", "bh2"])
def test_unipc_leaves_pure_noise_with_either_function(kind, variant):
    """From there h is infinite, and the paper's B(h) = h with it: the corrector of that step takes e^-h - 1."""
    schedule = PureNoiseSchedule() if kind == "diffusion" else SCHEDULES_OF[kind]
    levels = [Level(0.0, 1.0, 1000.0), *grid(schedule, 60, high=990, low=5, clean=True)]
    form = "v_prediction" if kind == "diffusion" else "flow"
    run = run_of(SAMPLERS["unipc"].build({"variant": variant}), levels, schedule, prediction_type=form)
    wanted = exact(run.latents, levels[0], CLEAN)
    torch.testing.assert_close(last_of(run).latents, wanted, rtol=0, atol=0.03)


@pytest.mark.parametrize("key", ["euler_a", "ddim"])
def test_ancestral_step_keeps_the_marginal(key):
    noise_schedule, count = CosineSchedule(), 50  # 400 steps: the ancestral step's own bias is of first order
    latents = torch.randn(count, 1, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    levels = grid(noise_schedule, 400, high=1000, low=300)
    last = last_of(run_of(SAMPLERS[key].build({"eta": 1.0}), levels, noise_schedule, latents, range(count)))
    end = levels[-1]
    assert last.latents.var().item() == pytest.approx(end.alpha**2 * VARIANCE + end.sigma**2, rel=0.02)


def test_ddim_with_full_noise_is_euler_a():
    levels = grid(CosineSchedule(), 10, clean=True)
    ours = [
        last_of(run_of(SAMPLERS[key].build(settings), levels, CosineSchedule(), seeds=(7,))).latents
        for key, settings in (("ddim", {"eta": 1.0}), ("euler_a", {}))
    ]
    assert torch.equal(*ours)


def test_deterministic_samplers_draw_no_noise():
    class Forbidden(NoiseSource):
        def __call__(self, like):
            raise AssertionError("noise was drawn")

    still = {
        "dpm2_a": {"eta": 0},
        "euler_a": {"eta": 0},
        "dpmpp_sde": {"eta": 0},
        "dpmpp_2m_sde": {"eta": 0},
        "dpmpp_3m_sde": {"eta": 0},
        "sa_solver": {"tau": 0},
        "tcd": {"gamma": 0},
    }
    for kind, key in FITTING:
        if key not in STOCHASTIC or key in still:
            levels = grid(SCHEDULES_OF[kind], 5, clean=True)
            run = run_of(SAMPLERS[key].build(still.get(key)), levels, SCHEDULES_OF[kind])
            last_of(Run(run.denoiser, run.sampler, run.levels, run.latents, Forbidden([0]), run.noise_schedule))


def test_batch_size_does_not_change_a_sample():
    levels = grid(CosineSchedule(), 8, clean=True)
    latents = torch.randn(3, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    together = last_of(run_of(SAMPLERS["euler_a"].build(), levels, CosineSchedule(), latents, (1, 2, 3))).latents
    for i in range(3):
        run = run_of(SAMPLERS["euler_a"].build(), levels, CosineSchedule(), latents[i : i + 1], (i + 1,))
        assert torch.equal(together[i : i + 1], last_of(run).latents)


def test_together_equals_alone_and_shares_batches():
    noise_schedule = FlowSchedule()
    network = GaussianNetwork(noise_schedule, "flow")
    keys = ["flow_euler", "flow_heun", "dpmpp_2m", "dpmpp_2s", "unipc"]
    latents = torch.linspace(-2, 2, 4, dtype=torch.float64).reshape(1, 1, 2, 2)
    levels = grid(noise_schedule, 6, high=1000, clean=True)

    def run(key):
        denoiser = Denoiser(network, Unguided(), {"positive": Conditioning()})
        return Run(denoiser, SAMPLERS[key].build(), levels, latents, NoiseSource([0]), noise_schedule)

    finals = {}
    for index, step in denoise_together([run(key) for key in keys]):
        finals[keys[index]] = step.latents
    assert max(network.batches) == len(keys)
    assert len(network.batches) == SAMPLERS["flow_heun"].build().nfe(7)
    for key in keys:
        assert torch.equal(finals[key], last_of(run(key)).latents)


def test_one_step_to_clean_is_the_estimate():
    levels = [CosineSchedule().at(900.0), CLEAN]
    for kind, key in FITTING:
        if kind == "diffusion" and key not in ("lcm", "epsilon_scaling"):
            run = run_of(SAMPLERS[key].build(), levels, CosineSchedule())
            step = last_of(run)
            torch.testing.assert_close(step.latents, step.denoised, rtol=0, atol=1e-12)


def test_wrong_weights_would_fail_the_order_test():
    class Slightly(type(SAMPLERS["heun"].build())):
        @staticmethod
        def trapezoid(latents, level, next_level, first, second):
            span = next_level.sigma_ve - level.sigma_ve
            return next_level.alpha * (latents / level.alpha + span * (0.48 * first.noise + 0.52 * second.noise))

    assert orders(Slightly, CosineSchedule())[-1] < 1.6


def test_exact_solution_is_a_fixed_point_of_no_step():
    level = CosineSchedule().at(500.0)
    latents = torch.ones(1, 1, 2, 2, dtype=torch.float64)
    assert torch.equal(exact(latents, level, level), latents)
