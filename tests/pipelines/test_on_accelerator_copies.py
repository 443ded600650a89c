"""What crosses between host and device in a step: at most one small readback, and the host stands still at most once.

The device is a stand-in (`tests/pipelines/accelerator.py`), which logs every copy and every wait.
"""

from __future__ import annotations

import math
import time
from typing import Any

import pytest
import torch
from diffusers import EDMEulerScheduler

from pipelines.benchmarks.quantization_peak import device_peak_bytes
from pipelines.core.errors import MethodFitError
from pipelines.core.loop import denoise, denoise_together
from pipelines.core.types import Choice
from pipelines.families import family_of
from pipelines.guidance import GUIDANCE
from pipelines.requests.step_pictures import with_pictures
from pipelines.requests.text_to_image import build_run, resolve
from pipelines.samplers import SAMPLERS
from tests.pipelines.accelerator import Accelerator
from tests.pipelines.test_on_accelerator import (
    GUIDANCE_SETTINGS,
    MAKERS,
    MOVING,
    Place,
    accelerator,
    final,
    fitting_families,
    model,
    request_for,
)
from tests.pipelines.tiny_models import tiny_sd

PLACE = Place("cuda", torch.bfloat16)
ASKS_THE_HOST = {"time_shift": 1}
"""Samplers that choose the next network time by what the latents are: so many further waits a step."""
KEEP = 2**20


def crossings(family: Any, requests: list[Any], device: Accelerator) -> list[list[Any]]:
    """What crosses in each step of runs that advance together, from the third on, when all is prepared."""
    runs = [build_run(resolve(request, family), family) for request in requests]
    steps, found = with_pictures(denoise_together(runs), [family] * len(runs), KEEP), []
    for _ in range(2 * len(runs)):
        next(steps)
    seen = len(device.log)
    for _, step, pictures in steps:
        assert step.seconds > 0 and pictures.latents is not None
        found.append(device.log[seen:])
        seen = len(device.log)
    return found[: -len(runs)]


@pytest.mark.parametrize("key", list(SAMPLERS))
def test_a_step_waits_at_most_once_and_reads_back_once(key):
    name = next(fitting_families(SAMPLERS, key))
    device, family = accelerator(PLACE.kind), model(name, PLACE, PLACE.dtype)
    with device.on():
        request = request_for(name).replace(sampler=Choice(key), num_inference_steps=6)
        for step in crossings(family, [request], device):
            waits = [one.place for one in step if one.blocks and one.kind == "wait"]
            copies = [one.place for one in step if one.blocks and one.kind != "wait"]
            further = ASKS_THE_HOST.get(key, 0)
            assert len(copies) <= further, copies
            assert len(waits) <= 1, waits
            assert sum(one.kind == "download" for one in step) <= 1 + further


GUIDED = [key for key in GUIDANCE if key not in MOVING]


@pytest.mark.parametrize("key", GUIDED)
def test_a_step_with_any_guidance_waits_at_most_once_and_reads_back_once(key):
    name = next(fitting_families(GUIDANCE, key))
    device, family = accelerator(PLACE.kind), model(name, PLACE, PLACE.dtype)
    with device.on():
        guidance = Choice(key, GUIDANCE_SETTINGS.get(key, {}))
        request = request_for(name).replace(guidance=guidance, num_inference_steps=6)
        for step in crossings(family, [request], device):
            waits = [one.place for one in step if one.blocks]
            assert len(waits) <= 1, waits
            assert sum(one.kind == "download" for one in step) <= 1


@pytest.mark.parametrize("name", MAKERS)
def test_no_family_makes_the_host_wait_within_a_step(name):
    device, family = accelerator(PLACE.kind), model(name, PLACE, PLACE.dtype)
    with device.on():
        request = request_for(name).replace(num_inference_steps=6)
        run = build_run(resolve(request, family), family)
        steps = denoise(run)
        next(steps), next(steps)
        seen = len(device.log)
        list(steps)
        assert [one for one in device.log[seen:] if one.kind != "upload" or one.blocks] == []


def test_a_round_of_eight_cells_reads_back_once_a_cell_and_never_waits_for_what_was_just_launched():
    device, family = accelerator(PLACE.kind), model("sd", PLACE, PLACE.dtype)
    with device.on():
        requests = [request_for("sd").replace(seed=seed, num_inference_steps=6) for seed in range(8)]
        for step in crossings(family, requests, device):
            assert sum(one.kind == "download" for one in step) <= 1
            assert sum(one.kind == "wait" for one in step) <= 1
            assert not [one for one in step if one.blocks and one.kind != "wait"]


def test_what_is_read_back_is_small_and_what_the_device_painted():
    device, family = accelerator(PLACE.kind), model("sd", PLACE, PLACE.dtype)
    request = request_for("sd").replace(batch_size=2)
    with device.on():
        run = build_run(resolve(request, family), family)
        shown = [pictures for _, _, pictures in with_pictures(((0, s) for s in denoise(run)), [family], KEEP)]
        bytes_read = {one.bytes for one in device.log[-20:] if one.kind == "download" and "devices" in one.place}
    plain = model("sd", None, PLACE.dtype)
    run = build_run(resolve(request, plain), plain)
    wanted = [pictures for _, _, pictures in with_pictures(((0, s) for s in denoise(run)), [plain], KEEP)]
    assert len(shown) == len(wanted) == 4
    for one, other in zip(shown, wanted, strict=True):
        assert abs(one.noisy.astype(int) - other.noisy).max() <= 1
        assert abs(one.latents - other.latents).max() < 0.01
    # Two pictures of 8 x 8 in three bytes and both latents in float16, of two rows; a byte tells whether all is finite.
    assert bytes_read == {2 * 2 * 8 * 8 * (3 + 4 * 2) + 1}


def test_the_network_of_edm_times_is_told_them_without_a_wait():
    device = Accelerator("cuda")
    pipe = tiny_sd(prediction_type="v_prediction")
    scheduler = EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0, sigma_data=1.0, prediction_type="v_prediction")
    family = family_of({**pipe.components, "scheduler": scheduler})
    times = torch.tensor([0.0, 0.5, 500.0, 998.7, 999.0])
    wanted = [math.log(family.noise_schedule.at(float(time)).sigma_ve) / 4 for time in times]
    assert torch.allclose(family._convert_times(times), torch.tensor(wanted), rtol=0, atol=1e-6)
    with device.on():
        there = times.to("cuda")
        seen = len(device.log)
        family._convert_times(there)
        assert device.log[seen:] == []


def test_a_device_without_a_wait_shows_garbage_so_the_readback_must_wait():
    device = Accelerator("cuda")
    with device.on():
        copy = torch.ones(3, device="cuda").to("cpu", non_blocking=True)
        assert copy.isnan().all()
        device.wait()
        assert copy.tolist() == [1, 1, 1]


def test_seconds_are_the_devices_and_not_those_of_launching(monkeypatch):
    device, family = accelerator(PLACE.kind), model("sd", PLACE, PLACE.dtype)
    predict_raw = type(family).predict_raw

    def slow(self, latents, timesteps, conditioning):
        device.behind += 0.5 * len(latents)
        return predict_raw(self, latents, timesteps, conditioning)

    monkeypatch.setattr(type(family), "predict_raw", slow)
    with device.on():
        runs = [build_run(resolve(request_for("sd").replace(seed=seed), family), family) for seed in range(2)]
        began = time.perf_counter()
        *_, (_, _, last) = ((index, step.index, step) for index, step in denoise_together(runs))
        # Two branches of two runs in four steps: the run's share is half of eight seconds, whatever the host took.
        assert runs[0].denoiser.seconds == pytest.approx(4.0, abs=time.perf_counter() - began)
        assert runs[0].denoiser.seconds >= 4.0
        assert last.seconds >= 4.0


@pytest.mark.parametrize(
    "words", ["MPS backend out of memory (MPS allocated: 1 GB)", "DefaultCPUAllocator: can't allocate memory"]
)
def test_what_memory_held_is_remembered_by_the_size_of_a_row_and_told_the_next_job(words):
    family = family_of(tiny_sd().components)
    predict_raw, batches = family.predict_raw, []

    def small(latents, timesteps, conditioning):
        batches.append(len(latents))
        if latents.numel() > 4 * 4 * 8 * 8:
            raise RuntimeError(words)
        return predict_raw(latents, timesteps, conditioning)

    family.predict_raw = small
    request = request_for("sd").replace(batch_size=4, num_inference_steps=1)
    final(family, request)
    assert batches == [8, 4, 4]
    successor = family_of(family.components)
    successor.rows_by_size, successor.predict_raw = family.rows_by_size, small
    batches.clear()
    final(successor, request)
    assert batches == [4, 4]
    batches.clear()
    final(successor, request.replace(width=64))
    assert batches == [2, 2, 2, 2], "twice the numbers in a row, half the rows"


def test_the_peak_of_a_model_on_a_device_is_its_parts_and_what_a_step_adds(monkeypatch):
    family = model("sd", PLACE, PLACE.dtype)
    used = [1000]
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: used[0])
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: max(used))
    parts = [family.components[name] for name in ("unet", "vae", "text_encoder")]
    whole = sum(tensor.numel() * tensor.element_size() for part in parts for tensor in part.state_dict().values())
    assert device_peak_bytes(family, lambda: used.append(1700)) == pytest.approx(whole + 700, rel=0.01)
    with pytest.raises(MethodFitError, match="mps"):
        device_peak_bytes(model("sd", Place("mps", torch.float16), torch.float16), lambda: None)


def test_another_error_is_no_lack_of_memory():
    family = family_of(tiny_sd().components)

    def broken(*_):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    family.predict_raw = broken
    with pytest.raises(RuntimeError, match="mat1"):
        final(family, request_for("sd"))


def test_a_run_that_breaks_still_shows_the_steps_before():
    device, family = accelerator(PLACE.kind), model("sd", PLACE, PLACE.dtype)
    with device.on():
        run = build_run(resolve(request_for("sd"), family), family)

        def breaking():
            for step in denoise(run):
                if step.index == 2:
                    raise RuntimeError("broken")
                yield 0, step

        seen = []
        with pytest.raises(RuntimeError, match="broken"):
            for _, step, _ in with_pictures(breaking(), [family]):
                seen.append(step.index)
        assert seen == [0, 1]
