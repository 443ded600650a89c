"""Time-Shift: which time it chooses, what it moves over each solver, and what it tells."""

from __future__ import annotations

import itertools

import pytest
import torch

from pipelines.core.loop import denoise
from pipelines.core.noise import NoiseSource
from pipelines.core.sampler import Past, PastNoise, State, StepContext, interpolate
from pipelines.samplers import SAMPLERS
from pipelines.samplers.dpmpp import exponential_step, two_step_data
from pipelines.samplers.pndm import combined_noise, transfer
from pipelines.samplers.time_shift import ShiftCount, shift_count, shifted_times
from tests.pipelines.gaussian import CosineSchedule, grid, last_of, one_step, run_of
from tests.pipelines.wrapped_samplers import result


def test_the_chosen_time_is_that_of_the_variance():
    schedule = CosineSchedule()
    latents = torch.randn(2, 1, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    latents = latents / latents.flatten(1).std(dim=1).reshape(2, 1, 1, 1)
    for wanted in (505.0, 493.0, 500.0):
        assert (shifted_times(latents * schedule.at(wanted).sigma, schedule.at(500.0), 30, schedule) == wanted).all()
    assert (shifted_times(latents * schedule.at(700.0).sigma, schedule.at(500.0), 30, schedule) == 515).all()
    assert (shifted_times(latents, schedule.at(995.0), 30, schedule) <= 999).all()


def test_at_unit_variance_the_criterion_always_takes_the_windows_noisy_end():
    """The trap: var(x) is one at every time, which no time below the last has of noise alone."""
    schedule = CosineSchedule()
    latents = torch.randn(1, 1, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    latents = latents / latents.std()
    for time in (400.0, 600.0, 800.0):
        assert shifted_times(latents, schedule.at(time), 30, schedule) == time + 15


def test_shifted_steps_are_counted():
    schedule, levels = CosineSchedule(), grid(CosineSchedule(), 10, high=950, low=50)
    told = []
    latents = torch.randn(1, 1, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    run = run_of(SAMPLERS["time_shift"].build({"cutoff": 400}), levels, schedule, latents)
    state = State(latents)
    for index, (level, next_level) in enumerate(itertools.pairwise(levels)):
        state = one_step(run, state, level, next_level, StepContext(index, 10, NoiseSource([0]), schedule))
        told.append(shift_count(state))
    assert told[0] == ShiftCount(0, 0)
    assert told[-1].considered == sum(level.timestep > 400 for level in levels[2:])
    assert 0 < told[-1].shifted <= told[-1].considered
    assert shift_count(State(latents)) == ShiftCount()


def test_over_ddim_the_steps_end_moves_and_the_network_is_told_the_scheduled_time():
    """The authors' pnm_solver (method euler), step by step: t from the schedule, t_next by the variance of x."""
    schedule, levels = CosineSchedule(), [CosineSchedule().at(time) for time in (900.0, 700.0, 600.0, 400.0)]
    run = run_of(SAMPLERS["time_shift"].build(), levels, schedule)
    latents = interpolate(run.denoiser.predict(run.latents, levels[0]), levels[1])
    for level, next_level in itertools.pairwise(levels[1:]):
        time = shifted_times(latents, next_level, 30, schedule).item()
        assert time != next_level.timestep
        latents = interpolate(run.denoiser.predict(latents, level), schedule.at(time))
    torch.testing.assert_close(last_of(run).latents, latents, rtol=0, atol=1e-13)


def test_over_2m_level_and_told_time_move_together():
    """The authors' dpm_solver: evaluations and strides are at shifted times, by the variance of eps."""
    schedule, levels = CosineSchedule(), [CosineSchedule().at(time) for time in (900.0, 700.0, 600.0, 400.0)]
    run = run_of(SAMPLERS["time_shift"].build({"base": "dpmpp_2m"}), levels, schedule)
    latents, level, history = run.latents, levels[0], ()
    for index, scheduled in enumerate(levels[1:]):
        prediction = run.denoiser.predict(latents, level)
        moved = shifted_times(prediction.noise, scheduled, 30, schedule).item() if index else scheduled.timestep
        assert bool(index) == (moved != scheduled.timestep)
        end = schedule.at(moved)
        data = two_step_data(prediction.denoised, level, end, history)
        latents, history, level = exponential_step(latents, level, end, data), (Past(level, prediction.denoised),), end
    torch.testing.assert_close(last_of(run).latents, latents, rtol=0, atol=1e-13)


def test_over_pndm_the_combined_noise_goes_to_the_moved_end():
    schedule, levels = CosineSchedule(), [CosineSchedule().at(time) for time in (900.0, 700.0, 500.0)]
    run = run_of(SAMPLERS["time_shift"].build({"base": "pndm"}), levels, schedule)
    plain = run_of(SAMPLERS["pndm"].build(), levels[:2], schedule)
    first = run.denoiser.predict(run.latents, levels[0]).noise
    latents = last_of(plain).latents
    second = run.denoiser.predict(latents, levels[1]).noise
    end = schedule.at(shifted_times(latents, levels[2], 30, schedule).item())
    # The weights are those of the step that is taken, which the moved end makes longer or shorter.
    noise = combined_noise((PastNoise(levels[1], second), PastNoise(levels[0], first)), end)
    expected = transfer(latents, levels[1], end, noise)
    assert end != levels[2]
    torch.testing.assert_close(last_of(run).latents, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("base", ["ddim", "pndm", "dpmpp_2m"])
@pytest.mark.parametrize("form", ["sample", "v_prediction"])
def test_every_form_of_network_is_shifted_alike(base, form):
    latents = torch.linspace(-2, 2, 18, dtype=torch.float64).reshape(2, 1, 3, 3) * torch.tensor([1.0, 0.5]).reshape(
        2, 1, 1, 1
    )
    one, other = (result("time_shift", {"base": base}, latents=latents, form=name) for name in ("epsilon", form))
    assert one.note == other.note and " 0 times" not in one.note
    torch.testing.assert_close(other.latents, one.latents, rtol=0, atol=1e-11)


def test_the_run_tells_how_often_a_time_was_shifted():
    levels = grid(CosineSchedule(), 10, high=950, low=50)
    latents = torch.randn(1, 1, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    run = run_of(SAMPLERS["time_shift"].build({"cutoff": 400}), levels, CosineSchedule(), latents)
    told = [step.note for step in denoise(run)]
    considered = sum(level.timestep > 400 for level in levels[2:])
    assert told[0] == "Time-Shift moved the end of a step 0 times of the 0 it could."
    assert told[-1].endswith(f"of the {considered} it could.") and " 0 times" not in told[-1]
    assert result("ddim", {}).note == ""


def test_every_row_has_a_time_of_its_own_so_that_the_batch_changes_no_picture():
    schedule, levels = CosineSchedule(), grid(CosineSchedule(), 8, high=950, low=350)
    spread = torch.tensor([0.5, 1.0, 1.4], dtype=torch.float64).reshape(3, 1, 1, 1)
    latents = spread * torch.randn(3, 1, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    sampler = SAMPLERS["time_shift"].build()
    together = last_of(run_of(sampler, levels, schedule, latents, (0, 1, 2))).latents
    alone = [last_of(run_of(sampler, levels, schedule, row[None], (seed,))).latents for seed, row in enumerate(latents)]
    assert len(set(shifted_times(latents, levels[3], 30, schedule).tolist())) > 1
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-14)
