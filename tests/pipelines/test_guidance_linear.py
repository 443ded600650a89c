"""LinearAG: coefficients that are recovered, evaluations that are saved, and models that are refused."""

from __future__ import annotations

import dataclasses

import pytest
import tiny_models
import torch

from pipelines.core.errors import MethodFitError
from pipelines.core.loop import denoise
from pipelines.core.types import Choice, Request
from pipelines.families import family_of
from pipelines.guidance import linear
from pipelines.guidance.linear import FITS, Linear, LinearFit, read_fit, solve
from pipelines.learning.linear_guidance import fit_linear, record
from pipelines.models.catalog import shipped_128
from pipelines.requests.text_to_image import build_run, resolve
from pipelines.samplers import SAMPLERS

STEPS = 6


@pytest.fixture(scope="module")
def family():
    return family_of(tiny_models.tiny_sd().components)


def request_of(key: str = "linear", seed: int = 3, **changes) -> Request:
    fields = {"prompt": "a red fox", "num_inference_steps": STEPS, "width": 32, "height": 32, "seed": seed}
    return Request(**{**fields, "guidance": Choice(key, {"guidance_scale": 3.0}), **changes})


def run(family, request: Request):
    return list(denoise(build_run(resolve(request, family), family)))


@pytest.fixture
def fitted(family, monkeypatch):
    """A fit to the tiny model, in the place of the shipped one."""
    requests = [request_of("cfg", seed) for seed in range(4)]
    coefficients = fit_linear(*record(family, requests))
    times = tuple(float(level.timestep) for level in resolve(requests[0], family).levels[:-1])
    fit = LinearFit(Request.model, times, tuple(tuple(row) for row in coefficients))
    monkeypatch.setattr(linear, "read_fit", lambda name: fit)
    return fit


def test_coefficients_of_a_linear_law_are_recovered():
    drawn = torch.Generator().manual_seed(1)
    positives = [torch.randn(2, 4, 5, 5, generator=drawn, dtype=torch.float64) for _ in range(4)]
    law = [[0.3], [0.5, -0.2, 0.7], [0.1, 0.2, 0.4, -0.3, 0.6], [0.2, 0.1, -0.4, 0.9, 0.3, -0.1, 0.2]]
    negatives: list[torch.Tensor] = []
    for index, row in enumerate(law):
        terms = [*positives[: index + 1], *negatives]
        # the first is the law and something of its own, or all would be sums of the conditional ones
        own = torch.randn(2, 4, 5, 5, generator=drawn, dtype=torch.float64) if index < 1 else 0
        negatives.append(sum(factor * term for factor, term in zip(row, terms, strict=True)) + own)
    assert solve(positives, negatives, 1) == pytest.approx(law[1], abs=1e-6)
    fresh = [torch.randn(2, 4, 5, 5, generator=drawn, dtype=torch.float64) for _ in range(8)]
    total = sum(factor * term for factor, term in zip(law[3], [*fresh[:4], *fresh[4:7]], strict=True))
    assert solve(fresh[:4], [*fresh[4:7], total], 3) == pytest.approx(law[3], abs=1e-6)


def test_a_run_takes_25_evaluations_of_20_steps(family, monkeypatch):
    request = request_of("linear", num_inference_steps=20)
    times = tuple(
        float(level.timestep) for level in resolve(request_of("cfg", num_inference_steps=20), family).levels[:-1]
    )
    rows = tuple((0.0,) * index + (1.0,) + (0.0,) * index for index in range(20))  # U_i is C_i
    monkeypatch.setattr(linear, "read_fit", lambda name: LinearFit(Request.model, times, rows))
    assert run(family, request)[-1].evaluations == 25
    never = request.replace(guidance=Choice("linear", {"guidance_scale": 3.0, "share": 0.0}))
    assert run(family, never)[-1].evaluations == 21  # the first step asks always


def test_estimates_stand_for_what_is_not_asked(family, fitted):
    steps = run(family, request_of())
    assert [step.evaluations for step in steps] == [2, 3, 5, 6, 7, 8]
    guided = run(family, request_of("cfg"))[-1].latents
    alone = run(family, request_of("cfg", guidance=Choice("cfg", {"guidance_scale": 1.0})))[-1].latents
    assert not torch.equal(steps[-1].latents, guided)
    # It was fitted to this very network: nearer to guidance than to none.
    assert (steps[-1].latents - guided).norm() < 0.5 * (alone - guided).norm()
    again = run(family, request_of())[-1].latents
    assert torch.equal(again, steps[-1].latents)
    batch = run(family, request_of(seed=2, batch_size=2))[-1].latents
    assert torch.allclose(batch[1:], again, atol=1e-3)


def test_another_model_and_other_steps_are_refused(family, fitted):
    with pytest.raises(MethodFitError, match=f"{STEPS} steps of its own schedule"):
        resolve(request_of(num_inference_steps=STEPS + 1), family)
    with pytest.raises(MethodFitError, match="were fitted to"):
        resolve(request_of(model="another"), family)
    resolve(request_of(num_inference_steps=5, guidance=Choice("linear", {"every": 1, "share": 1.0})), family)


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_every_sampler_runs_with_it(family, fitted, sampler):
    if SAMPLERS[sampler].fit(family.traits):
        pytest.skip("the sampler does not fit this model")
    request = request_of(sampler=Choice(sampler))
    try:
        step = run(family, request)[-1]
    except MethodFitError:
        assert SAMPLERS[sampler].schedule  # its own schedule has other levels
        return
    plain = run(family, request.replace(guidance=Choice("cfg", {"guidance_scale": 3.0})))[-1]
    assert step.latents.isfinite().all() and step.evaluations <= plain.evaluations


@pytest.mark.parametrize("name", FITS)
def test_a_shipped_fit_is_of_a_shipped_model(name):
    fit = read_fit(name)
    assert fit.model == shipped_128().key
    assert [len(row) for row in fit.coefficients] == [2 * index + 1 for index in range(len(fit.timesteps))]
    assert list(fit.timesteps) == sorted(fit.timesteps, reverse=True)
    assert dataclasses.replace(fit) == fit and not Linear().is_neutral
