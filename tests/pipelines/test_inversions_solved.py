"""Inversions that solve, optimize or lead: their orders, their neutral settings, and where they must end."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from pipelines.core.denoiser import Denoiser
from pipelines.core.errors import MethodFitError
from pipelines.core.loop import Run, denoise
from pipelines.core.noise import NoiseSource
from pipelines.core.prediction import Conditioning
from pipelines.core.types import Trajectory
from pipelines.guidance.cfg import Unguided
from pipelines.inversions import INVERSIONS
from pipelines.inversions.base import require_gradient
from pipelines.inversions.dual import draw_toward
from pipelines.inversions.null_text import OptimizedNull
from tests.pipelines.gaussian import SCHEDULES_OF, GaussianNetwork, exact, grid
from tests.pipelines.test_inversions import SOURCE_PROMPT, family, levels_of, picture, run

__all__ = ["family", "picture"]


def latents_of():
    return torch.linspace(-1, 2, 4, dtype=torch.float64).reshape(1, 1, 2, 2)


def on_gaussian(sampler, levels, latents, kind="diffusion"):
    schedule = SCHEDULES_OF[kind]
    network = GaussianNetwork(schedule, "flow" if kind == "flow" else "epsilon")
    denoiser = Denoiser(network, Unguided(), {"positive": Conditioning()})
    return list(denoise(Run(denoiser, sampler, levels, latents, NoiseSource([0]), schedule)))


def test_dpm_solver_inversion_converges_with_order_two_up_and_back():
    inversion, up_errors, errors = INVERSIONS["dpm_solver"].build(), [], []
    for count in (100, 200, 400):
        levels = grid(SCHEDULES_OF["diffusion"], count)[::-1]
        up = on_gaussian(inversion.noising(), levels, latents_of())
        up_errors.append((up[-1].latents - exact(latents_of(), levels[0], levels[-1])).abs().max().item())
        down = on_gaussian(inversion.denoising(Trajectory(latents_of(), tuple(up))), levels[::-1], up[-1].latents)
        expected = exact(up[-1].latents, levels[-1], levels[0])
        errors.append((down[-1].latents - expected).abs().max().item())
    for coarse, fine in [*itertools.pairwise(up_errors), *itertools.pairwise(errors)]:
        # The first of the steps up is of first order, which is felt longer.
        assert 1.7 < math.log2(coarse / fine) < 2.3


def flow_levels(count):
    schedule = SCHEDULES_OF["flow"]
    return [schedule.at(1000 * (1 - i / count)) for i in range(count + 1)]


@pytest.mark.parametrize("count", [3, 10])
def test_rf_inversion_ends_at_the_noise_and_at_the_picture_it_is_led_to(count):
    levels = flow_levels(count)
    led = INVERSIONS["rf"].build({"gamma": 1.0, "eta": 1.0, "until": 1.0})
    up = on_gaussian(led.noising(), levels[::-1], latents_of(), "flow")
    noise = NoiseSource([0])(latents_of())
    torch.testing.assert_close(up[-1].latents, noise, rtol=0, atol=1e-15)
    down = on_gaussian(led.denoising(Trajectory(latents_of(), tuple(up))), levels, 3 * noise, "flow")
    torch.testing.assert_close(down[-1].latents, latents_of(), rtol=0, atol=1e-15)


def test_rf_inversion_that_leads_nowhere_is_euler_reversed():
    levels, free = flow_levels(8), INVERSIONS["rf"].build({"gamma": 0.0, "eta": 0.0})
    ddim = INVERSIONS["ddim"].build()
    up, plain = (on_gaussian(one.noising(), levels[::-1], latents_of(), "flow") for one in (free, ddim))
    torch.testing.assert_close(up[-1].latents, plain[-1].latents, rtol=0, atol=1e-14)
    trajectory = Trajectory(latents_of(), tuple(up))
    down, other = (
        on_gaussian(one.denoising(trajectory), levels, up[-1].latents, "flow")[-1].latents for one in (free, ddim)
    )
    torch.testing.assert_close(down, other, rtol=0, atol=1e-14)


def test_null_text_without_iterations_is_ddim_and_leaves_the_network_alone(family, picture):
    levels, prompts, rows = levels_of(family, 8)[:3], [SOURCE_PROMPT, "a cat"], picture.repeat(2, 1, 1, 1)
    path = [0.8 * picture, 0.9 * picture, picture]
    before = [parameter.clone() for parameter in family.network.parameters()]
    idle, free = (
        run(family, sampler, levels, rows, prompts, 7.5)[-1].latents
        for sampler in (OptimizedNull(path, 0, 7.5), INVERSIONS["ddim"].build().denoising(Trajectory(picture, ())))
    )
    assert torch.equal(idle, free)
    led = run(family, OptimizedNull(path, 2, 7.5), levels, rows, prompts, 7.5)[-1].latents
    assert not torch.equal(led, free) and not led.requires_grad
    for parameter, old in zip(family.network.parameters(), before, strict=True):
        assert torch.equal(parameter, old) and parameter.grad is None


def test_the_null_embedding_that_is_kept_is_never_worse_than_the_first(family, picture):
    """One step: the more iterations, the closer to the path, and each tried embedding costs one evaluation."""
    levels = levels_of(family, 8)[:2]
    path = [0.9 * picture, picture]
    misses, spent = [], []
    for iterations in (0, 1, 4):
        steps = run(family, OptimizedNull(path, iterations, 7.5), levels, picture, [SOURCE_PROMPT], 7.5)
        misses.append((steps[-1].latents - path[0]).pow(2).mean().item())
        spent.append(steps[-1].evaluations)
    assert misses[2] < misses[1] < misses[0]
    assert spent == [2, 1 + 2 + 2, 1 + 5 + 2]


def test_dual_conditional_inversion_refines_the_fixed_point_and_idle_is_ddim(family, picture):
    levels = levels_of(family, 25)[::-1][:2]

    def up(**settings):
        inversion = INVERSIONS["dual"].build(settings)
        return run(family, inversion.noising(), levels, picture, [SOURCE_PROMPT], 1.0)

    def residual(steps):
        """How far the latents are from the step that their own noise makes."""
        inversion = INVERSIONS["fixed_point"].build({"iterations": 20})
        solved = run(family, inversion.noising(), levels, picture, [SOURCE_PROMPT], 1.0)
        return (solved[-1].latents - steps[-1].latents).abs().max().item()

    plain = run(family, INVERSIONS["ddim"].build().noising(), levels, picture, [SOURCE_PROMPT], 1.0)
    assert torch.equal(up(iterations=0)[-1].latents, plain[-1].latents)
    refined = up(iterations=12, pull=0.0, rate=0.005)
    assert residual(refined) < 0.6 * residual(plain)
    assert refined[-1].evaluations == 13 and not refined[-1].latents.requires_grad


def test_the_noise_is_drawn_by_the_pull_in_the_pictures_direction():
    generator = torch.Generator().manual_seed(0)
    noise, reference = torch.randn(2, 1, 2, 3, 3, generator=generator, dtype=torch.float64)
    drawn = draw_toward(noise, reference, 2.0)
    assert torch.linalg.vector_norm(drawn - noise).item() == pytest.approx(2, abs=1e-14)
    cosine = torch.nn.functional.cosine_similarity((drawn - noise).flatten(), (reference - noise).flatten(), dim=0)
    assert cosine.item() == pytest.approx(1, abs=1e-14) and torch.equal(draw_toward(noise, reference, 0.0), noise)


def test_a_network_without_gradients_is_refused():
    with pytest.raises(MethodFitError, match="follows a gradient"):
        require_gradient(torch.zeros(1), "Null-text inversion")
    require_gradient(torch.zeros(1, requires_grad=True), "Null-text inversion")
