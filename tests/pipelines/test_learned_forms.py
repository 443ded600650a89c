"""Every learner on every form of prediction, and what its search moves and how far."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipelines.core.noise import NoiseSource
from pipelines.core.prediction import Conditioning
from pipelines.core.schedule import CLEAN, FlowSchedule
from pipelines.guidance.cfg import Unguided
from pipelines.learning import ld3
from pipelines.learning.auto_diffusion import AutoDiffusionSettings, cross, evolve, mutate, search
from pipelines.learning.bespoke import fit_bespoke
from pipelines.learning.bespoke_settings import BespokeSettings
from pipelines.learning.cases import Cases
from pipelines.learning.ld3 import Ld3Settings, fit_ld3
from pipelines.learning.problem import Pictures, Problem
from pipelines.samplers import SAMPLERS
from tests.pipelines.gaussian import MEAN, VARIANCE, CosineSchedule, exact

COSINE, FLOW = CosineSchedule(), FlowSchedule()
FORMS = {"epsilon": COSINE, "v_prediction": COSINE, "flow": FLOW}


class Smooth:
    """The perfect denoiser of the Gaussian in any form, differentiable in the time too."""

    max_rows = 0

    def __init__(self, prediction_type):
        self.prediction_type = prediction_type

    def predict_raw(self, latents, timesteps, conditioning):
        times = timesteps[:, None, None, None]
        angle = COSINE._low + COSINE._span * times
        a, s = (1 - times / 1000, times / 1000) if self.prediction_type == "flow" else (angle.cos(), angle.sin())
        apart = (latents - a * MEAN) / (a**2 * VARIANCE + s**2)
        denoised, noise = MEAN + VARIANCE * a * apart, s * apart
        return {"epsilon": noise, "v_prediction": a * noise - s * denoised, "flow": noise - denoised}[
            self.prediction_type
        ]


def problem(form, steps=6, count=8):
    """DPM-Solver++(2M) on the Gaussian, whose exact ends are a formula."""
    schedule = FORMS[form]

    def pictures(seeds):
        noise = NoiseSource(seeds)(torch.empty(len(seeds), 1, 4, 4, dtype=torch.float64))
        levels = [*(schedule.at(time) for time in np.linspace(1000, 1, 60)), CLEAN]
        path = torch.stack([exact(noise, levels[0], level) for level in levels])
        return Pictures(Cases({"positive": Conditioning()}, noise, tuple(seeds)), path[-1], path, tuple(levels))

    return Problem(
        Smooth(form),
        schedule,
        Unguided(),
        SAMPLERS["dpmpp_2m"].build(),
        steps,
        pictures(range(count)),
        pictures(range(count, 2 * count)),
    )


@pytest.mark.parametrize("form", FORMS)
def test_ld3_beats_uniform(form):
    rounds = list(fit_ld3(problem(form), Ld3Settings(rounds=20, learning_rate=0.03, start="uniform")))
    assert rounds[-1].best.held_out < 0.85 * rounds[-1].uniform


@pytest.mark.parametrize("form", FORMS)
def test_the_evolution_beats_uniform(form):
    settings = AutoDiffusionSettings(population=12, mutations=8, crossovers=4, generations=3)
    last = list(evolve(problem(form), settings))[-1]
    assert last.best_error < 0.9 * last.uniform


@pytest.mark.parametrize(("form", "lowest"), [("epsilon", 0), ("v_prediction", 0), ("flow", 1)])
def test_the_evolution_never_visits_a_time_without_noise(form, lowest, monkeypatch):
    """A flow model's time 0 is its clean end. An error that falls with the times leads the search there."""
    visited = []

    def error(self, levels, pictures, sampler=None):
        visited.append(levels[-2])
        return sum(level.timestep for level in levels)

    monkeypatch.setattr(Problem, "error", error)
    list(evolve(problem(form), AutoDiffusionSettings(generations=6)))
    assert min(level.timestep for level in visited) == lowest
    assert all(level.sigma > 0 for level in visited)


@pytest.mark.parametrize("form", FORMS)
def test_a_bespoke_solver_beats_uniform(form):
    last = list(fit_bespoke(problem(form), BespokeSettings(tries=2, rounds=2)))[-1]
    assert last.best.held_out < 0.5 * last.uniform


@pytest.mark.parametrize("lowest", [0, 1])
def test_the_lowest_time_is_reached_and_never_passed(lowest):
    rng = np.random.default_rng(0)
    seen = {mutate((9, 6, 3), 9, 1.0, rng, lowest)[-1] for _ in range(300)}
    assert min(seen) == lowest
    tried = set()
    list(search(lambda one: tried.add(one) or sum(one), (9, 6, 3), AutoDiffusionSettings(generations=2), lowest=lowest))
    assert min(one[-1] for one in tried) == lowest


def test_the_search_crosses_its_best():
    """One mutation a round: all else that a round tries anew is made of two parents."""
    settings = AutoDiffusionSettings(population=40, mutations=1, crossovers=30, generations=1)
    rounds = list(
        search(
            lambda one: sum(abs(a - b) for a, b in zip(one, range(900, 0, -100), strict=False)),
            tuple(range(999, 99, -100)),
            settings,
        )
    )
    assert len(rounds[1].errors) > 10


def test_a_child_has_steps_of_both_parents():
    rng, one, other = np.random.default_rng(0), (999, 700, 400, 100), (999, 800, 500, 20)
    children = [set(cross(one, other, rng)[1:]) for _ in range(50)]
    assert all(child <= {*one, *other} for child in children)
    assert sum(bool(child & set(one)) and bool(child & set(other)) for child in children) > 25


# What LD3 moves, and how far.


@pytest.mark.parametrize("side", [1.0, -1.0])
def test_an_offset_is_at_most_half_a_step(side):
    student = ld3._Student(problem("epsilon"), torch.linspace(0, 1, 6, dtype=torch.float64), Ld3Settings())
    student.bends.data.fill_(side * 40)
    times, told = np.split(student.values().detach().numpy(), 2)
    halves = 0.5 * -np.diff([*times, 0.0])
    np.testing.assert_allclose(told, np.minimum(times + side * halves, 1000), rtol=1e-12)


@pytest.mark.parametrize("share", [0.02, 0.1])
def test_the_noise_moves_and_stays_in_its_ball(share, monkeypatch):
    students = []

    class Kept(ld3._Student):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            students.append(self)

    monkeypatch.setattr(ld3, "_Student", Kept)
    # At this rate one step of the optimizer leads far out of the ball.
    list(fit_ld3(problem("epsilon"), Ld3Settings(rounds=3, learning_rate=0.5, start="uniform", noise_shift=share)))
    student = students[0]
    sizes = student.problem.fitted.cases.noise.flatten(1).norm(dim=1)
    torch.testing.assert_close(student.moves.detach().flatten(1).norm(dim=1), share * sizes, rtol=1e-6, atol=0)


def test_the_teachers_end_is_nearer_from_the_moved_noise():
    one = problem("epsilon")
    student = ld3._Student(one, torch.zeros(6, dtype=torch.float64), Ld3Settings(noise_shift=0.1))
    loss = student.loss(torch.arange(8))
    (slope,) = torch.autograd.grad(loss, [student.moves])
    student.moves.data -= 0.05 * slope / slope.norm()
    assert student.loss(torch.arange(8)) < loss


def test_a_small_move_is_left_as_it_is():
    student = ld3._Student(problem("epsilon"), torch.zeros(6, dtype=torch.float64), Ld3Settings(noise_shift=0.1))
    student.moves.data.fill_(1e-3)
    student.project()
    assert torch.equal(student.moves.detach(), torch.full_like(student.moves, 1e-3))
