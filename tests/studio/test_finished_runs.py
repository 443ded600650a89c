"""Equal requests are answered from what was finished before, bit for bit, and only for whoever asked for it."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest

from pipelines.core.byte_cache import ByteCache
from pipelines.models.catalog import SHIPPED
from pipelines.requests.limits import Limits
from studio.backend import Studio, StudioSettings
from studio.infotext import read
from studio.tasks.finished_runs import FROM_CACHE
from tests.studio.waiting import ended

REQUEST = {"prompt": "a fox on a blue background", "num_inference_steps": 3, "seed": 11, "sampler": "euler_a"}


def build_studio(folder, budget=64 * 2**20):
    return Studio(
        StudioSettings(folder / "outputs", folder / "models", device="cpu", limits=Limits(max_cached_bytes=budget))
    )


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    studio = build_studio(tmp_path_factory.mktemp("finished"))
    yield studio
    studio.close()


@pytest.fixture
def network_calls(monkeypatch):
    """Counts what the networks of the shipped model are asked."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel

    calls = {}
    for name, owner, method in (
        ("unet", UNet2DConditionModel, "forward"),
        ("decoder", AutoencoderKL, "decode"),
        ("text", CLIPTextModel, "forward"),
    ):
        plain = getattr(owner, method)

        def counted(*arguments, _plain=plain, _name=name, **options):
            calls[_name] = calls.get(_name, 0) + 1
            return _plain(*arguments, **options)

        monkeypatch.setattr(owner, method, counted)
    return calls


def run(studio, owner="ann", **changes):
    job = studio.submit("text_to_image", {**REQUEST, **changes}, owner)
    view = ended(job)
    assert view.status.value == "done", view.message
    return view.cells[0]


def test_an_equal_request_costs_no_evaluation_and_gives_the_same_bits(studio, network_calls):
    first = run(studio)
    assert network_calls["unet"] > 0
    network_calls.clear()
    second = run(studio)
    assert network_calls == {}
    np.testing.assert_array_equal(first.images, second.images)
    assert first.results != second.results  # a result of its own
    assert FROM_CACHE not in first.figures
    assert (second.figures["evaluations"], second.figures[FROM_CACHE]) == (0, True)
    assert [row.evaluations for row in second.rows] == [0, 0, 0]
    assert [row.sigma for row in second.rows] == [row.sigma for row in first.rows]
    assert "From the cache" in second.note
    assert read(studio.store.get(second.results[0]).path).values == read(studio.store.get(first.results[0]).path).values


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 12},
        {"num_inference_steps": 4},
        {"made_like": "comfyui"},
        {"guidance": {"key": "cfg", "guidance_scale": 2}},
    ],
)
def test_what_decides_the_picture_is_computed_anew_but_texts_are_encoded_once(studio, network_calls, changes):
    run(studio)
    network_calls.clear()
    changed = run(studio, **changes)
    assert network_calls["unet"] > 0
    assert FROM_CACHE not in changed.figures
    if "seed" in changes:
        assert "text" not in network_calls


def test_another_owner_finds_nothing_of_the_first(studio, network_calls):
    first = run(studio)
    network_calls.clear()
    second = run(studio, owner="ben")
    assert network_calls["unet"] > 0 and network_calls["text"] > 0
    assert FROM_CACHE not in second.figures
    np.testing.assert_array_equal(first.images, second.images)


def test_a_changed_lora_is_another_model(studio, network_calls):
    folder = studio.catalog.folder / "loras"
    folder.mkdir(parents=True, exist_ok=True)
    source = next((SHIPPED.parents[1] / "loras" / "emoji-ink").glob("*.safetensors"), None)
    source = source or next((SHIPPED.parents[1] / "loras").glob("**/emoji-ink*.safetensors"))
    shutil.copy(source, folder / "mine.safetensors")
    studio.catalog.rescan()
    loras = [{"name": "mine", "weight": 1.0}]
    plain, first, again = run(studio), run(studio, loras=loras), run(studio, loras=loras)
    assert FROM_CACHE in again.figures and FROM_CACHE not in first.figures
    assert not np.array_equal(plain.images, first.images)
    os.utime(folder / "mine.safetensors", ns=(1, 1))
    network_calls.clear()
    assert FROM_CACHE not in run(studio, loras=loras).figures
    assert network_calls["unet"] > 0


def test_pictures_that_left_the_budget_cost_their_decoding_alone(tmp_path, network_calls):
    studio = build_studio(tmp_path)
    try:
        first = run(studio)
        finished = studio.caches.get("text_to_image", dict)
        pictures = [key for key in finished._values._values if key[1] == "pictures"]
        del finished._values._values[pictures[0]]
        network_calls.clear()
        second = run(studio)
        assert network_calls == {"decoder": 1}
        np.testing.assert_array_equal(first.images, second.images)
    finally:
        studio.close()


def test_a_budget_of_nothing_keeps_nothing(tmp_path):
    studio = build_studio(tmp_path, budget=0)
    try:
        first, second = run(studio), run(studio)
        assert FROM_CACHE not in second.figures
        assert second.figures["evaluations"] == first.figures["evaluations"] > 0
    finally:
        studio.close()


def test_a_byte_cache_drops_what_was_not_used_for_longest_and_stays_in_its_budget():
    cache = ByteCache[str](10)
    for name, size in (("a", 4), ("b", 4)):
        cache.put(name, name.upper(), size)
    assert cache.get("a") == "A"
    cache.put("c", "C", 5)
    assert (cache.get("a"), cache.get("b"), cache.get("c"), cache.bytes) == ("A", None, "C", 9)
    cache.put("a", "AA", 1)
    assert (cache.get("a"), cache.bytes, len(cache)) == ("AA", 6, 2)
    cache.put("d", "D", 11)
    assert (cache.get("d"), len(cache)) == (None, 2)


@pytest.mark.parametrize("task", ["compare", "convergence"])
def test_a_reference_of_one_owner_is_not_reused_for_another(studio, task):
    base = {**REQUEST, "num_inference_steps": 2}
    values = {
        "compare": {"base": base, "cells": [{"sampler": "ddim"}, {"sampler": "euler"}], "reference_steps": 4},
        "convergence": {"base": base, "samplers": ["ddim"], "evaluations": [4], "reference_steps": 20},
    }[task]
    notes = []
    for owner in ("ann", "ben", "ann"):
        view = ended(studio.submit(task, values, owner))
        assert view.status.value == "done", view.message
        notes.append(view.cells[-1].note)
    assert ["Reused" in note for note in notes] == [False, False, True]


TWO_PASSES = {"second_pass": {"key": "latent", "factor": 1.5, "strength": 0.7}, "seed": 21}


def test_a_changed_second_pass_costs_only_itself(studio, network_calls):
    first = run(studio, **TWO_PASSES)
    assert first.figures["evaluations"] == 2 * (3 + 2)
    changed = {**TWO_PASSES, "second_pass": {"key": "latent", "factor": 2.0, "strength": 0.7}}
    second = run(studio, **changed)
    assert second.figures["evaluations"] == 2 * 2 and FROM_CACHE not in second.figures
    assert "first pass is from the cache" in second.note and "(6 network evaluations)" in second.note
    assert [row.evaluations for row in second.rows] == [0, 0, 0, 2, 4]
    assert second.num_steps == 5 and second.images.shape[1:3] == (128, 128)
    alone = run(studio, owner="ben", **changed)  # nothing of the first is his
    assert alone.figures["evaluations"] == 2 * (3 + 2)
    np.testing.assert_array_equal(second.images, alone.images)


def test_a_second_pass_goes_on_from_a_finished_picture_and_a_picture_is_there_behind_one(studio, network_calls):
    plain = run(studio, seed=22)
    passed = run(studio, **{**TWO_PASSES, "seed": 22})
    assert passed.figures["evaluations"] == 2 * 2
    np.testing.assert_array_equal(passed.images, run(studio, owner="ben", **{**TWO_PASSES, "seed": 22}).images)
    again = run(studio, owner="ben", seed=22)
    assert again.figures[FROM_CACHE] is True
    np.testing.assert_array_equal(plain.images, again.images)


def test_a_second_pass_that_was_stopped_leaves_its_first(studio, network_calls):
    job = studio.submit("text_to_image", {**REQUEST, **TWO_PASSES, "seed": 23, "num_inference_steps": 16}, "ann")
    while len(job.view().cells[:1] and job.view().cells[0].rows) < 18:
        assert not job.view().status.final
        job.wait(timeout=0.05)
    job.cancel()
    assert ended(job).status.value == "cancelled"
    finished = run(studio, **{**TWO_PASSES, "seed": 23, "num_inference_steps": 16})
    assert finished.figures["evaluations"] == 2 * 11
