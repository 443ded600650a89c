"""The methods around a solver: epsilon scaling, time shift, DualFast and LML."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch

from pipelines.core.errors import MethodFitError
from pipelines.core.sampler import Past
from pipelines.core.schedule import Level
from pipelines.core.types import Traits
from pipelines.samplers import SAMPLERS
from pipelines.samplers.dpmpp import two_step_data
from pipelines.samplers.lml import damped_direction
from pipelines.samplers.wrapping import SOLVERS
from tests.pipelines.gaussian import SCHEDULES_OF, CosineSchedule, grid, last_of, run_of
from tests.pipelines.wrapped_samplers import result

WRAPPERS = ["epsilon_scaling", "time_shift", "dualfast", "lml"]
NEUTRAL = {
    "epsilon_scaling": [{"scale": 1.0, "slope": 0.0}],
    "dualfast": [{"strength": 0.0}],
    "lml": [{"kappa": 0.0}],
    "time_shift": [{"cutoff": 1000}, {"window": 0}],
}
ACTIVE = {"epsilon_scaling": {"scale": 1.01}, "dualfast": {"strength": 0.3}, "lml": {"kappa": 0.5}, "time_shift": {}}


def bases(key: str) -> tuple[str, ...]:
    field = next(field for field in dataclasses.fields(SAMPLERS[key].settings) if field.name == "base")
    return field.metadata["choices"]


CASES = [(key, base) for key in WRAPPERS for base in bases(key)]


@pytest.mark.parametrize(("key", "base"), CASES)
def test_neutral_settings_are_the_base_sampler_bit_for_bit(key, base):
    expected = result(base, {})
    for neutral in NEUTRAL[key]:
        mine = result(key, {"base": base, **neutral})
        assert torch.equal(mine.latents, expected.latents)
        assert mine.evaluations == expected.evaluations


@pytest.mark.parametrize(("key", "base"), CASES)
def test_active_settings_change_the_result_at_no_evaluation(key, base):
    mine, plain = result(key, {"base": base, **ACTIVE[key]}), result(base, {})
    assert mine.latents.isfinite().all()
    assert not torch.equal(mine.latents, plain.latents)
    assert mine.evaluations == plain.evaluations == SAMPLERS[key].build({"base": base}).nfe(10)


def test_the_solvers_that_can_be_wrapped_are_those_of_the_table():
    diffusion = {method.key for method in SAMPLERS.fitting(Traits("sd", "epsilon", "unet"))}
    assert set(SOLVERS) == diffusion - set(WRAPPERS) == set(bases("epsilon_scaling"))
    stochastic = {method.key for method in SAMPLERS.group("stochastic")}
    assert set(bases("lml")) == set(SOLVERS) - stochastic - {"lcm", "tcd", "scm"}
    for key, make in SOLVERS.items():
        assert type(make()) is type(SAMPLERS[key].build())


FLOW = Traits("sd3", "flow", "transformer")


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("epsilon_scaling", "measured on the noise estimates of diffusion models"),
        ("time_shift", "a flow model's time is continuous"),
        ("euler", "choose that"),
        ("heun", "infinite where a flow model starts: choose Flow Heun"),
    ],
)
def test_what_cannot_serve_a_flow_model_says_why(key, words):
    with pytest.raises(MethodFitError, match=f"does not fit this model: .*{words}"):
        SAMPLERS[key].require_fit(FLOW)


def test_what_a_flow_model_is_refused_as_euler_is_flow_euler():
    levels, runs = grid(SCHEDULES_OF["flow"], 9, high=1000, clean=True), []
    for key in ("euler", "flow_euler"):
        runs.append(
            last_of(run_of(SAMPLERS[key].build(), levels, SCHEDULES_OF["flow"], prediction_type="flow")).latents
        )
    assert torch.equal(*runs)


@pytest.mark.parametrize(("key", "base"), [("euler_a", "ddim"), ("lml", "dpmpp_2m"), ("dualfast", "dpmpp_2m")])
def test_what_is_offered_on_flow_is_its_base_there_with_neutral_settings(key, base):
    SAMPLERS[key].require_fit(FLOW)
    neutral = {"euler_a": {"eta": 0.0}, "lml": {"kappa": 0.0}, "dualfast": {"strength": 0.0}}[key]
    levels = grid(SCHEDULES_OF["flow"], 9, high=1000, clean=True)
    one, other = (
        last_of(run_of(SAMPLERS[name].build(settings), levels, SCHEDULES_OF["flow"], prediction_type="flow")).latents
        for name, settings in ((key, neutral), (base, {}))
    )
    assert torch.equal(one, other)


@pytest.mark.parametrize("base", bases("lml"))
def test_lml_on_a_flow_model_is_finite_around_every_solver(base):
    levels = grid(SCHEDULES_OF["flow"], 9, high=1000, clean=True)
    run = run_of(
        SAMPLERS["lml"].build({"base": base, "kappa": 0.5}), levels, SCHEDULES_OF["flow"], prediction_type="flow"
    )
    assert last_of(run).latents.isfinite().all()


@pytest.mark.parametrize(
    ("settings", "scale"),
    [
        ({"scale": 1.01}, 1.01),
        ({"scale": 1.0, "slope": 0.02}, 1.0 + 0.02 * 0.6),
    ],
)
def test_epsilon_is_divided_by_the_scale(settings, scale):
    level, next_level = CosineSchedule().at(600.0), CosineSchedule().at(450.0)
    run = run_of(SAMPLERS["epsilon_scaling"].build(settings), [level, next_level], CosineSchedule())
    noise = run.denoiser.predict(run.latents, level).noise / scale
    expected = next_level.alpha * (run.latents - level.sigma * noise) / level.alpha + next_level.sigma * noise
    torch.testing.assert_close(last_of(run).latents, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("form", ["sample", "v_prediction"])
def test_scaling_means_the_same_for_every_form_of_prediction(form):
    settings = {"base": "dpmpp_2m", "scale": 1.01, "slope": 0.01}
    one, other = (result("epsilon_scaling", settings, form=name).latents for name in ("epsilon", form))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


@pytest.mark.parametrize("lookback", [1, 2])
@pytest.mark.parametrize("kind", ["diffusion", "flow"])
def test_each_estimate_is_moved_away_from_the_earlier_one(lookback, kind):
    schedule = SCHEDULES_OF[kind]
    levels = [schedule.at(time) for time in (900.0, 700.0, 500.0, 300.0)]
    settings = {"base": "ddim", "strength": 0.25, "lookback": lookback}
    run = run_of(SAMPLERS["dualfast"].build(settings), levels, schedule)
    latents, past = run.latents, []
    for level, next_level in itertools.pairwise(levels):
        past.append(run.denoiser.predict(latents, level).noise)
        earlier = past[max(0, len(past) - 1 - lookback)]
        noise = past[-1] + 0.25 * (past[-1] - earlier)
        latents = next_level.alpha * (latents - level.sigma * noise) / level.alpha + next_level.sigma * noise
    torch.testing.assert_close(last_of(run).latents, latents, rtol=0, atol=1e-12)


def test_over_ddim_lml_turns_the_direction_term_and_leaves_x0():
    """As the authors' DDIM scheduler: x' = alpha' * x0_hat(eps) + sigma' * LML(eps), the previous eps unchanged."""
    levels = [CosineSchedule().at(time) for time in (900.0, 700.0, 500.0, 300.0)]
    run = run_of(SAMPLERS["lml"].build({"base": "ddim", "kappa": 0.5, "damping": 2.0}), levels, CosineSchedule())
    latents, previous = run.latents, None
    for level, next_level in itertools.pairwise(levels):
        prediction = run.denoiser.predict(latents, level)
        noise = prediction.noise
        turned = noise if previous is None else damped_direction(noise, previous, 0.5, 2.0)
        latents, previous = next_level.alpha * prediction.denoised + next_level.sigma * turned, noise
    torch.testing.assert_close(last_of(run).latents, latents, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("base", "order"), [("dpmpp_1", 1), ("dpmpp_2m", 2)])
def test_over_a_multistep_solver_lml_turns_the_whole_increment(base, order):
    """As the authors' DPM-Solver++ scheduler, midpoint: the previous increment stands for the previous estimate."""
    levels = [CosineSchedule().at(time) for time in (900.0, 700.0, 500.0, 300.0)]
    run = run_of(SAMPLERS["lml"].build({"base": base, "kappa": 0.5, "damping": 2.0}), levels, CosineSchedule())
    latents, previous, history = run.latents, None, ()
    for level, next_level in itertools.pairwise(levels):
        denoised = run.denoiser.predict(latents, level).denoised
        data = two_step_data(denoised, level, next_level, history) if order == 2 else denoised
        increment = -next_level.alpha * math.expm1(level.lam - next_level.lam) * data
        turned = increment if previous is None else damped_direction(increment, previous, 0.5, 2.0)
        latents = next_level.sigma / level.sigma * latents + turned
        previous, history = increment, (Past(level, denoised),)
    torch.testing.assert_close(last_of(run).latents, latents, rtol=0, atol=1e-12)


def test_over_eulers_step_on_a_flow_model_lml_turns_the_velocity():
    levels = [SCHEDULES_OF["flow"].at(time) for time in (1000.0, 700.0, 500.0, 300.0)]
    sampler = SAMPLERS["lml"].build({"base": "ddim", "kappa": 0.5, "damping": 2.0})
    run = run_of(sampler, levels, SCHEDULES_OF["flow"], prediction_type="flow")
    latents, previous = run.latents, None
    for level, next_level in itertools.pairwise(levels):
        velocity = run.denoiser.predict(latents, level).raw
        turned = velocity if previous is None else damped_direction(velocity, previous, 0.5, 2.0)
        latents, previous = latents + (next_level.sigma - level.sigma) * turned, velocity
    torch.testing.assert_close(last_of(run).latents, latents, rtol=0, atol=1e-12)


def batch(seed: int) -> torch.Tensor:
    return torch.randn(2, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_the_direction_is_that_of_the_damped_inverse():
    noise, previous = batch(1), batch(2)
    mine = damped_direction(noise, previous, 0.3, 5.0).flatten(1)
    for i in range(2):
        e = (0.3 * previous[i] + 0.7 * noise[i]).flatten()
        solved = torch.linalg.solve(5.0 * torch.eye(256, dtype=torch.float64) + torch.outer(e, e), noise[i].flatten())
        solved = solved * noise[i].norm() / solved.norm()
        torch.testing.assert_close(mine[i], solved, rtol=0, atol=1e-10)


def test_kappa_zero_and_large_damping_are_the_identity():
    noise, previous = batch(1), batch(2)
    torch.testing.assert_close(damped_direction(noise, previous, 0.0, 1e-3), noise, rtol=0, atol=1e-7)
    torch.testing.assert_close(damped_direction(noise, previous, 0.5, 1e6), noise, rtol=0, atol=1e-2)


def test_kappa_one_half_turns_the_estimate_nearly_square():
    noise = batch(1)
    previous = noise + 0.1 * batch(2)
    turned = damped_direction(noise, previous, 0.5, 1e-3)
    cosine = torch.nn.functional.cosine_similarity(noise.flatten(1), turned.flatten(1))
    assert (cosine.abs() < 0.1).all()
    torch.testing.assert_close(turned.flatten(1).norm(dim=1), noise.flatten(1).norm(dim=1))


def test_a_wrapped_solver_leaves_an_evaluation_without_signal_alone():
    levels = [Level(0.0, 1.0, 1000.0), *grid(CosineSchedule(), 4, clean=True)]

    class PureNoise(CosineSchedule):
        def at(self, timestep):
            return Level(0.0, 1.0, 1000.0) if timestep == 1000 else super().at(timestep)

    for key in WRAPPERS:
        run = run_of(SAMPLERS[key].build(ACTIVE[key]), levels, PureNoise(), prediction_type="v_prediction")
        assert last_of(run).latents.isfinite().all()
