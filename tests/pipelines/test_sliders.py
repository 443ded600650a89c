"""Directions for sliders: orthonormal, exact where nothing is moved, odd to first order, and leaving nothing behind."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import tiny_models
import torch
from network_state import assert_unchanged, state_of

from pipelines.controls.direction_files import read_directions, write_directions
from pipelines.controls.sliders import Sliders, SlidersSettings
from pipelines.core.errors import MethodFitError, ModelFileError, SettingsError, StepwiseError, UnknownMethodError
from pipelines.core.loop import denoise
from pipelines.core.types import Choice, Request
from pipelines.families import family_of
from pipelines.families.directions import Directions, fit_directions, recorded_middle
from pipelines.inspection.base import InspectContext
from pipelines.inspection.directions import DirectionSearch, DirectionSearchSettings
from pipelines.requests.text_to_image import build_run, resolve

SIZE = (32, 32)


def sample(runs=9, steps=3):
    return torch.randn(runs, steps, 2, 3, 4, generator=torch.Generator().manual_seed(5))


def fit(samples, count=6, space="middle"):
    return fit_directions(samples, range(samples.shape[1]), space, "m", SIZE, count)


@pytest.fixture(scope="module")
def family():
    return family_of(tiny_models.tiny_sd().components)


def request_of(**changes):
    values = {"model": "m", "prompt": "a fox", "width": 32, "height": 32, "num_inference_steps": 3, "seed": 4}
    return Request(**{**values, **changes})


@pytest.fixture(scope="module", params=["middle", "latents"])
def fitted(family, request, tmp_path_factory):
    """The family knowing a file of directions of its own runs, and what was found."""
    folder = tmp_path_factory.mktemp(request.param) / "sliders"
    context = InspectContext(family, resolve(request_of(), family))
    search = DirectionSearch(DirectionSearchSettings(request.param, runs=8, directions=4))
    before = state_of(family.network)
    finding = search.inspect(context)
    assert_unchanged(family.network, before)
    write_directions(finding.directions, folder, "own")
    family.directions_folder, family.directions = folder, {}
    return family, finding, context


def run(family, **amounts):
    family.directions = {}
    sliders = Choice("directions", {"file": "own", "begin": 0.4, **amounts}) if amounts else Choice("none")
    *_, step = denoise(build_run(resolve(request_of(sliders=sliders), family), family))
    return step.latents


def test_directions_are_orthonormal_and_their_deviations_are_those_of_the_runs():
    samples = sample()
    found = fit(samples)
    flat = found.vectors.flatten(1).double()
    torch.testing.assert_close(flat @ flat.T, torch.eye(6, dtype=torch.float64), rtol=0, atol=1e-6)
    along = (samples.flatten(1).double() - samples.flatten(1).double().mean(0)) @ flat.T
    torch.testing.assert_close(along.std(dim=0), found.deviations.double(), rtol=1e-6, atol=0)
    assert (found.deviations.diff() <= 0).all()
    assert float(fit(samples, 8).shares.sum()) == pytest.approx(1, abs=1e-6)


def test_runs_that_differ_along_one_line_give_that_line_and_equal_runs_give_none():
    line = torch.randn(3, 2, 3, 4)
    found = fit(torch.arange(5.0)[:, None, None, None, None] * line)
    assert len(found.vectors) == 1
    torch.testing.assert_close(found.vectors[0].abs(), (line / line.norm()).abs(), rtol=1e-4, atol=1e-6)
    with pytest.raises(MethodFitError, match="all the same"):
        fit(torch.ones(4, 1, 2, 2, 2))


def test_each_row_is_moved_at_the_nearest_time_and_a_negative_amount_takes_it_back():
    found = fit(sample())
    amounts, times = torch.tensor([[2.0, 0, 0, 0, 0, 0], [0, 0, -1.0, 0, 0, 0]]), torch.tensor([1.9, -7.0])
    shift = found.find_shift(amounts, times)
    torch.testing.assert_close(shift[0], 2 * found.deviations[0] * found.vectors[0, 2])
    torch.testing.assert_close(shift[1], -found.deviations[2] * found.vectors[2, 0])
    assert torch.equal(found.find_shift(-amounts, times), -shift)


def test_a_slider_at_zero_is_the_plain_run_and_both_ways_are_opposite_to_first_order(fitted):
    family, _, _ = fitted
    before, plain = state_of(family.network), run(family)
    assert torch.equal(run(family, first=0.0), plain)

    def turn(far):
        ahead, back = run(family, first=far) - plain, run(family, first=-far) - plain
        assert ahead.abs().max() > 0
        return float((ahead + back).norm() / (ahead - back).norm())

    # What is not odd is of second order: a tenth of the way leaves about a tenth of the ratio.
    assert turn(0.1) < 0.35 * turn(1.0) + 1e-3
    assert_unchanged(family.network, before)


def test_the_finding_shows_and_counts_what_was_drawn(fitted):
    family, finding, context = fitted
    assert finding.pictures.shape == (7, 32, 32, 3) and len(finding.curve) == 4
    per_run = 3 * 2 + (3 if finding.directions.space == "middle" else 0)
    assert context.evaluations == 8 * per_run + 7 * 6
    assert family.directions is not None and not family.network.mid_block._forward_hooks


def test_an_error_in_the_middle_of_an_evaluation_leaves_no_hook(family):
    def fail(module, inputs):
        raise RuntimeError("on purpose")

    handle = family.network.mid_block.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="on purpose"), recorded_middle(family.network):
        run(family)
    handle.remove()
    assert not family.network.mid_block._forward_hooks


@pytest.mark.parametrize(
    ("changes", "model", "size", "words"),
    [
        ({}, "other", (0, 0), "of the model 'm'"),
        ({}, "m", (48, 0), "32 × 32 pixels"),
        ({"sixth": 1.0}, "m", (0, 0), "the sixth is moved"),
    ],
)
def test_directions_of_another_model_or_size_are_refused(changes, model, size, words):
    sliders = Sliders(SlidersSettings("own", **changes))
    with pytest.raises(SettingsError, match=words):
        sliders.require_fit(fit(sample(), 4), model, size)
    with pytest.raises(MethodFitError, match="search"):
        sliders.require_fit(fit(sample(), 6, "latents"), "m", (0, 0), searched=True)


@pytest.mark.parametrize("harm", ["cut", "text", "shape", "nan", "metadata"])
def test_a_broken_file_is_told_and_a_name_is_taken_once(tmp_path, harm):
    found = fit(sample())
    path = write_directions(found, tmp_path, "own")
    again = read_directions(tmp_path, "own")
    assert all(torch.equal(getattr(again, name), getattr(found, name)) for name in ("times", "vectors", "shares"))
    with pytest.raises(SettingsError, match="already"):
        write_directions(found, tmp_path, "own")
    with pytest.raises(SettingsError, match="small letters"):
        write_directions(found, tmp_path, "../up")
    with pytest.raises(UnknownMethodError, match="gone"):
        read_directions(tmp_path, "gone")
    data = path.read_bytes()
    if harm == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif harm == "text":
        path.write_bytes(b"{}" * 40)
    else:
        path.unlink()
        broken = {
            "shape": dataclasses.replace(found, deviations=found.deviations[:2]),
            "nan": dataclasses.replace(found, vectors=found.vectors * float("nan")),
            "metadata": dataclasses.replace(found, space="elsewhere"),
        }[harm]
        write_directions(broken, tmp_path, "own")
    with pytest.raises(ModelFileError, match="broken"):
        read_directions(tmp_path, "own")


@pytest.mark.parametrize("name", ["", "A", "a b", "../a", "a" * 49, "-a"])
def test_the_search_refuses_names_that_are_no_file_names(name):
    search = DirectionSearch(DirectionSearchSettings(name=name))
    if name:
        with pytest.raises(StepwiseError, match="small letters"):
            search.check()
    else:
        search.check()


def test_directions_move_with_their_device():
    found = fit(sample())
    assert isinstance(found.to(torch.device("cpu")), Directions)


def test_every_prompt_has_its_turn_and_needs_a_run(monkeypatch):
    search, seen = DirectionSearch(DirectionSearchSettings(runs=4, prompts="b; c")), []
    search.check()

    def record(self, context, prompt, first, rows):
        seen.append((prompt, first, rows))
        return torch.zeros(rows, 1)

    def fit(samples, *_):
        raise LookupError(tuple(samples.shape))

    monkeypatch.setattr(DirectionSearch, "_record", record)
    monkeypatch.setattr("pipelines.inspection.directions.fit_directions", fit)
    request = SimpleNamespace(prompt="a", width=8, height=8, model="m")
    with pytest.raises(LookupError, match="4, 1"):
        search.inspect(SimpleNamespace(resolved=SimpleNamespace(request=request, levels=[])))
    assert seen == [("a", 0, 1), ("b", 1, 1), ("c", 2, 1), ("a", 3, 1)]
    with pytest.raises(SettingsError, match="5 prompts take turns in 4 runs"):
        DirectionSearch(DirectionSearchSettings(runs=4, prompts="b;c;d;e")).check()
