"""What a flow-matching scheduler's configuration says is followed or refused: diffusers' scheduler is the judge."""

from __future__ import annotations

import numpy as np
import pytest
from diffusers import FlowMatchEulerDiscreteScheduler

from pipelines.core.errors import ModelError
from pipelines.families.noise_schedules import shifted_schedule
from pipelines.schedules import SCHEDULES

DYNAMIC = {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15}
TOKENS = 1000
MU = 0.5 + 0.65 * (TOKENS - 256) / (4096 - 256)


@pytest.mark.parametrize(
    "config",
    [
        {"shift": 3.0},
        {"shift": 3.0, "shift_terminal": 0.1},
        DYNAMIC,
        {**DYNAMIC, "time_shift_type": "linear"},
        {**DYNAMIC, "shift_terminal": 0.1, "time_shift_type": "linear"},
    ],
)
@pytest.mark.parametrize("steps", [2, 4, 9])
def test_shifted_times_are_diffusers(config, steps):
    scheduler = FlowMatchEulerDiscreteScheduler(**config)
    sigmas = np.linspace(1, 1 / steps, steps)
    scheduler.set_timesteps(sigmas=sigmas, mu=MU if config.get("use_dynamic_shifting") else None)
    levels = SCHEDULES["shift"].build().levels(shifted_schedule(scheduler, TOKENS, 1.15), steps)
    np.testing.assert_allclose([level.sigma for level in levels], scheduler.sigmas.numpy(), atol=1e-6)


@pytest.mark.parametrize(("key", "flag"), [("karras", "use_karras_sigmas"), ("exponential", "use_exponential_sigmas")])
@pytest.mark.parametrize("config", [{"shift": 1.0}, {"shift": 3.0}, DYNAMIC])
def test_schedules_between_two_levels_end_where_diffusers_do(key, flag, config):
    scheduler = FlowMatchEulerDiscreteScheduler(**config, **{flag: True})
    scheduler.set_timesteps(7, mu=MU if config.get("use_dynamic_shifting") else None)
    levels = SCHEDULES[key].build().levels(shifted_schedule(scheduler, TOKENS, 1.15), 7)
    np.testing.assert_allclose([level.sigma for level in levels], scheduler.sigmas.numpy(), atol=1e-5)


def test_what_is_not_followed_is_refused():
    with pytest.raises(ModelError, match="inverts its sigmas"):
        shifted_schedule(FlowMatchEulerDiscreteScheduler(invert_sigmas=True), TOKENS, 1.15)
