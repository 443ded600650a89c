"""Every line of every table runs on a device that holds no tensor of the CPU, in half precision, and on MPS without
float64; what it makes is what the CPU makes of the same weights.

The device is a stand-in (`tests/pipelines/accelerator.py`). By default each line runs once as `cuda` in bfloat16 and
once as `mps` in float16; the other dtypes and devices, and all families, are slow tests. Where two tables meet (edits
and inversions, samplers and families) each pair runs in one place, in turn, so that each line sees every place.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.core.loop import denoise
from pipelines.core.prediction import ShiftingGuidance
from pipelines.core.types import Choice, Request, Trajectory
from pipelines.edits import EDITS
from pipelines.families import family_of
from pipelines.families.stock import StockPipeline
from pipelines.guidance import GUIDANCE
from pipelines.initializations import INITIALIZATIONS
from pipelines.initializations.fitted import (
    DENOISING_GAIN,
    NOISE_LEVEL,
    STATISTICS,
    TRANSPORT,
    DenoisingGain,
    Statistics,
    Transport,
    save_denoising_gain,
    save_statistics,
    save_transport,
)
from pipelines.initializations.noise_classifier import NoiseClassifier, NoiseLevelNetwork, save_noise_classifier
from pipelines.inversions import INVERSIONS
from pipelines.learning.fitting import learn
from pipelines.learning.request import LEARNERS, LearnRequest, PictureSettings
from pipelines.quantizers import QUANTIZERS, CalibratedQuantizer, Machine, StorableQuantizer, integer_products
from pipelines.quantizers.base import build_report, quantize_network
from pipelines.quantizers.files import file_bytes
from pipelines.requests.calibration import record_calibration
from pipelines.requests.encoding import decode
from pipelines.requests.text_to_image import build_run, resolve
from pipelines.samplers import SAMPLERS
from pipelines.schedules import SCHEDULES
from pipelines.workflows.edit.canvas import canvas_of
from pipelines.workflows.edit.request import EditRequest, Picture
from pipelines.workflows.edit.runs import Editing
from pipelines.workflows.video import VIDEOS
from pipelines.workflows.video.base import ClipFrames, VideoJob
from tests.pipelines.accelerator import Accelerator
from tests.pipelines.lora_files import MAKERS, TARGETS, diffusers_lora
from tests.pipelines.tiny_videos import tiny_animatediff, tiny_wan

HALF = (torch.float16, torch.bfloat16)
REQUEST = Request(
    prompt="a red (fox:1.2)", negative_prompt="blurry", num_inference_steps=4, width=32, height=32, seed=3
)
TOLERANCE = 1e-3
"""Of the final latents or pixels, relative. The kernels are the CPU's, so all that is left is what is computed
elsewhere or in another dtype on purpose: float32 in the place of float64."""


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a test runs: the stand-in's kind and the networks' dtype."""

    kind: str
    dtype: torch.dtype

    def __str__(self) -> str:
        return f"{self.kind}-{str(self.dtype).removeprefix('torch.')}"


DEFAULT = [Place("cuda", torch.bfloat16), Place("mps", torch.float16)]
OTHERS = [Place("cuda", torch.float16), Place("mps", torch.bfloat16), Place("xpu", torch.bfloat16)]
PLACES = [*DEFAULT, *(pytest.param(place, marks=pytest.mark.slow) for place in OTHERS)]
on_places = pytest.mark.parametrize("place", PLACES, ids=str)


@functools.cache
def accelerator(kind: str) -> Accelerator:
    return Accelerator(kind)


def placed(components: dict[str, Any], device: Any, dtype: torch.dtype) -> dict[str, Any]:
    """The components, their networks on the device."""
    return {
        name: part.to(device, dtype) if isinstance(part, torch.nn.Module) else part for name, part in components.items()
    }


@functools.cache
def model(key: str, place: Place | None, dtype: torch.dtype) -> Any:
    """A tiny model of a family: on the stand-in, or with the same weights on the CPU where the place is None."""
    components = MAKERS[key]().components
    if place is None:
        return family_of(placed(components, "cpu", dtype))
    device = accelerator(place.kind)
    with device.on():
        return family_of(placed(components, device.device, dtype))


def on_both(key: str, place: Place, make: Callable[[Any], torch.Tensor | np.ndarray]) -> None:
    """What `make` makes of a family on the device is what it makes on the CPU."""
    there = on_device(key, place, make)
    here = make(model(key, None, place.dtype))
    assert_alike(there, torch.as_tensor(here).float())


def on_both_with_gradients(
    place: Place, make: Callable[[Any], torch.Tensor], tolerance: float = 2e-2, key: str = "sd"
) -> None:
    """The same of what differentiates, for which the stand-in has a mode of its own.

    Gradients of half precision are summed in another order there.
    """
    device = Accelerator(place.kind, gradients=True)
    with device.on():
        there = make(family_of(placed(MAKERS[key]().components, device.device, place.dtype))).cpu().float()
    here = make(model(key, None, place.dtype)).float()
    assert_alike(torch.as_tensor(there), here, tolerance)


def on_device(key: str, place: Place, make: Callable[[Any], Any]) -> torch.Tensor:
    device = accelerator(place.kind)
    family = model(key, place, place.dtype)
    with device.on():
        made = make(family)
        return torch.as_tensor(made.cpu() if isinstance(made, torch.Tensor) else made).float()


def assert_alike(there: torch.Tensor, here: torch.Tensor, tolerance: float = TOLERANCE) -> None:
    assert there.isfinite().all()
    assert (there - here).norm() <= tolerance * here.norm()


def final(family: Any, request: Request) -> torch.Tensor:
    """The latents that a request's run ends with."""
    *_, step = denoise(build_run(resolve(request, family), family))
    return step.latents


def fitting_families(table: Any, key: str) -> Iterator[str]:
    """The families that a method of a table fits, in the table's traits."""
    for name in MAKERS:
        if table[key].fit(model(name, None, torch.bfloat16).traits) is None:
            yield name


def request_for(family: str) -> Request:
    flow = family in ("sd3", "flux")
    sampler, schedule = ("flow_euler", "shift") if flow else ("dpmpp_2m", "uniform")
    return REQUEST.replace(sampler=Choice(sampler), schedule=Choice(schedule))


# Families: encoding, the loop, previews, decoding, encoding of pictures.


@on_places
@pytest.mark.parametrize("key", MAKERS)
def test_every_familys_picture_is_the_cpus(key, place):
    def picture(family: Any) -> np.ndarray:
        latents = final(family, request_for(key))
        assert family.preview(latents).device.type == "cpu"
        pixels = decode(family, latents)
        again = family.encode_images(torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2).float() / 255)
        assert again.isfinite().all() and again.device.type == family.device.type
        return pixels

    on_both(key, place, picture)


@on_places
@pytest.mark.parametrize("key", MAKERS)
def test_a_lora_acts_as_on_the_cpu_and_takes_no_memory_of_the_device(key, place):
    def latents(family: Any) -> torch.Tensor:
        tensors, _ = diffusers_lora(model(key, None, torch.float32), TARGETS[key])
        gc.collect()
        before = Accelerator.allocated()
        with family.loras([(tensors, 0.1)]):
            gc.collect()
            assert Accelerator.allocated() == before
            return final(family, request_for(key))

    on_both(key, place, latents)


# The tables.


def samplers() -> Iterator[Any]:
    for index, key in enumerate(SAMPLERS):
        for number, family in enumerate(fitting_families(SAMPLERS, key)):
            other = OTHERS[(index + number) % len(OTHERS)]
            for place in (*DEFAULT, other) if number == 0 else (other,):
                marks = pytest.mark.slow if place == other else ()
                yield pytest.param(key, family, place, marks=marks, id=f"{key}-{family}-{place}")


@pytest.mark.parametrize(("key", "family", "place"), list(samplers()))
def test_every_sampler_ends_where_the_cpu_ends(key, family, place):
    on_both(family, place, lambda one: final(one, request_for(family).replace(sampler=Choice(key))))


@on_places
@pytest.mark.parametrize("key", [key for key in SCHEDULES if key != "learned"])
def test_every_schedule_ends_where_the_cpu_ends(key, place):
    family = next(fitting_families(SCHEDULES, key))
    settings = {"values": "14, 5, 1, 0.1"} if key == "hand_typed" else {}
    on_both(family, place, lambda one: final(one, request_for(family).replace(schedule=Choice(key, settings))))


MOVING = [key for key, method in GUIDANCE.items() if isinstance(method.build(), ShiftingGuidance)]
"""Guidance that differentiates, for which the stand-in has a mode of its own."""


@on_places
@pytest.mark.parametrize("key", MOVING)
def test_a_guidance_that_differentiates_is_the_cpus(key, place):
    request = request_for("sd").replace(
        prompt="a red fox", guidance=Choice(key, {} if key == "minority" else {"step_size": 1.0})
    )
    on_both_with_gradients(place, lambda family: final(family, request))


GUIDANCE_SETTINGS: dict[str, dict[str, Any]] = {
    "cfg": {"guidance_scale": 4.0, "guidance_rescale": 0.7},
    "slg": {"first_block": 0, "last_block": 0},
    "linear": {"every": 1, "share": 1.0},  # its coefficients are one model's
    "blended": {"second": "a cat face", "rule": "alternating"},
    "judged": {"strength": 0.0},  # the detector is the CPU's
}


@on_places
@pytest.mark.parametrize("key", [key for key in GUIDANCE if key not in MOVING])
def test_every_guidance_is_the_cpus(key, place):
    family = next(fitting_families(GUIDANCE, key))
    guidance = Choice(key, GUIDANCE_SETTINGS.get(key, {}))
    on_both(family, place, lambda one: final(one, request_for(family).replace(guidance=guidance)))


@pytest.fixture(scope="session")
def fitted(tmp_path_factory):
    """What starts need of a model's data, of the tiny models' shape."""
    folder, shape = tmp_path_factory.mktemp("fitted"), (4, 8, 8)
    generator = torch.Generator().manual_seed(0)
    points = torch.randn((6, *shape), generator=generator)
    save_statistics(Statistics.of(points, rank=3), folder / STATISTICS)
    save_transport(Transport(points, torch.zeros(6)), folder / TRANSPORT)
    save_denoising_gain(DenoisingGain(torch.tensor([-12.0, 4.0]), torch.tensor([0.1, 1.0])), folder / DENOISING_GAIN)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_noise_classifier(NoiseClassifier(NoiseLevelNetwork(4, 40), 0.05, 10.0, shape), folder / NOISE_LEVEL)
    return folder


@on_places
@pytest.mark.parametrize("key", list(INITIALIZATIONS))
def test_every_initialization_begins_where_the_cpu_begins(key, place, fitted):
    def latents(family: Any) -> torch.Tensor:
        family.components["fitted_starts"] = fitted
        return final(family, request_for("sd").replace(start=Choice(key), num_inference_steps=6))

    on_both("sd", place, latents)


PIXELS = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
PLACED = {key: {"right": 0.25} for key in ("move", "dragon")} | {"ledits": {"concepts": "cat=6@0.5, -fox"}}
PLACED |= {"time": {"concept": "cat", "destination": "green cat"}}
EDITED = {
    key: {"replace": {}, "refine": {"blend": "fox, cat"}, "reweight": {"words": "cat=2"}, **PLACED}.get(key, {})
    for key in EDITS
}


RESTORING = {"flow_chef_restore", "resample"}
DIFFERENTIATED = {"dragon", "null_text", "dual", *RESTORING}
DIFFERENTIATED_PAIRS = [("dragon", "direct"), ("reprompt", "null_text"), ("reprompt", "dual")]
DIFFERENTIATED_PAIRS += [(key, "direct") for key in sorted(RESTORING)]
INVERTED = {key: Choice(key, {"iterations": 2}) for key in ("null_text", "dual")}


WITH_EVERY_INVERSION = ("reprompt", "replace")
"""Edits that look at the source's row and that don't; of the others one inversion, and one of twice the rows."""


def list_inversions(edit: str) -> list[str]:
    """The inversions that an edit is run with."""
    inverts = EDITS[edit].build(EDITED[edit]).inverts
    several = [key for key in INVERSIONS if key != "rf"] if edit in WITH_EVERY_INVERSION else ["direct", "edict"]
    goes_with = EDITS[edit].build(EDITED[edit]).inversions or several
    wanted = [one for one in several if one in goes_with] if inverts else ["direct"]
    fitting = [one for one in wanted if not {edit, one} & DIFFERENTIATED or (edit, one) in DIFFERENTIATED_PAIRS]
    return [*fitting, "rf"] if edit == "reprompt" else fitting


def edits() -> Iterator[Any]:
    inversions = list(INVERSIONS)
    for number, edit in enumerate(sorted(EDITS, key=lambda one: len(list_inversions(one)))):
        for inversion in list_inversions(edit):
            turn = number + inversions.index(inversion)
            is_only_one = len(list_inversions(edit)) == 1 or inversion in {"rf", *DIFFERENTIATED}
            shown = DEFAULT if is_only_one else [DEFAULT[turn % len(DEFAULT)]]
            for place in (*shown, OTHERS[turn % len(OTHERS)]):
                marks = pytest.mark.slow if place in OTHERS else ()
                yield pytest.param(edit, inversion, place, marks=marks, id=f"{edit}-{inversion}-{place}")


@pytest.mark.parametrize(("edit", "inversion", "place"), list(edits()))
def test_every_edit_with_every_inversion_is_the_cpus(edit, inversion, place):
    drawn = np.zeros((32, 32), bool)
    drawn[6:19, 9:21] = True
    base = REQUEST.replace(prompt="a red cat", guidance=Choice("cfg", {"guidance_scale": 2.0}))
    request = EditRequest(
        base,
        Picture(PIXELS),
        Picture(drawn),
        "a red fox",
        INVERTED.get(inversion, Choice(inversion)),
        Choice(edit, EDITED[edit]),
        reference=Picture(PIXELS[::-1] // 2) if EDITS[edit].build(EDITED[edit]).takes_reference else None,
    )

    def latents(family: Any) -> torch.Tensor:
        canvas = canvas_of(request, (32, 32))
        width, height = canvas.size
        sized = request.replace(base=base.replace(width=width, height=height))
        editing = Editing(sized, resolve(sized.base, family), family, canvas)
        trajectory = None
        if editing.edit.inverts:
            up = editing.inversion_run()
            trajectory = Trajectory(up.latents, tuple(denoise(up)))
        with editing.run(trajectory) as run:
            *_, step = denoise(run)
        return step.latents

    traits = model("sd", None, place.dtype).traits
    fits = EDITS[edit].fit(traits) is None and INVERSIONS[inversion].fit(traits) is None
    if {edit, inversion} & DIFFERENTIATED:
        # A descent carries the rounding of bfloat16 on from step to step.
        tolerance = 0.15 if place.dtype == torch.bfloat16 else 2e-2
        on_both_with_gradients(place, latents, tolerance, "sd" if fits else "sd3")
    else:
        on_both("sd" if fits else "sd3", place, latents)


def quantizers() -> list[Any]:
    """The quantizers of the table that need no package and no GPU, and those whose package is here."""
    several = {method.key for method in QUANTIZERS.group("simulated")} - {"simulated", "vidit_q", "svdquant"}
    # The other recipes are made of the same layers.
    return [key for key in QUANTIZERS if QUANTIZERS[key].fit(Machine("cpu")) is None and key not in several]


@on_places
@pytest.mark.parametrize("key", quantizers())
def test_every_quantizers_network_and_report_are_the_cpus(key, place, monkeypatch):
    # Products of integers, which CPUs alone have, round a bfloat16 network's layers otherwise.
    monkeypatch.setattr(integer_products, "_has_kernels", lambda: False)
    if reason := QUANTIZERS[key].fit(Machine(place.kind)):
        pytest.skip(reason)
    settings = {
        "calibrated": {"mixed": False},  # the stand-in device has no gradients, which weigh the layers
        "svdquant": {"feedback": place != DEFAULT[0]},  # column by column, so seconds: on the stricter device
    }
    quantizer = QUANTIZERS[key].build(settings.get(key, {}))

    device = accelerator(place.kind)

    def latents(family: Any) -> torch.Tensor:
        calibration = None
        if isinstance(quantizer, CalibratedQuantizer):
            calibration = record_calibration(family, prompts=["a fox"], steps=2)
        network = quantize_network(family.network, quantizer, calibration=calibration)
        report = build_report(family.network, network, quantizer)
        assert report.quantized_layers and all(np.isfinite(layer.sqnr) for layer in report.quantized_layers)
        if isinstance(quantizer, StorableQuantizer):
            seen = len(device.log)
            assert file_bytes(family.network, network, quantizer, Choice(key)) > report.bytes
            assert device.log[seen:] == [], "the size of a file is known without the weights"
        smaller = family_of({**family.components, family.network_name: network})
        return final(smaller, request_for("sd"))

    on_both("sd", place, latents)


# Clips.


@on_places
def test_a_walk_is_the_cpus(place):
    keys = (REQUEST, REQUEST.replace(prompt="a blue cat", seed=9, sampler=Choice("euler_a")))

    def frames(family: Any) -> np.ndarray:
        return clip("walk", VideoJob(keys, 4, 8), family)

    on_both("sd", place, frames)


def clip(method: str, job: VideoJob, one: Any) -> np.ndarray:
    events = list(VIDEOS[method].build({}).run(job, one, lambda: False))
    return np.concatenate([event.pictures for event in events if isinstance(event, ClipFrames)])


@on_places
@pytest.mark.parametrize(("method", "make"), [("animatediff", tiny_animatediff), ("pipeline", tiny_wan)])
def test_a_clip_is_the_cpus(method, make, place):
    def frames(device: Any) -> np.ndarray:
        pipe = make()
        for part in pipe.components.values():
            if isinstance(part, torch.nn.Module):
                part.to(device, place.dtype)
        request = REQUEST.replace(num_inference_steps=2)
        return clip(method, VideoJob((request,), 5, 8), StockPipeline(pipe))

    device = accelerator(place.kind)
    with device.on():
        there = frames(device.device)
    assert_alike(torch.from_numpy(there).float(), torch.from_numpy(frames("cpu")).float())


# Learners.


@on_places
@pytest.mark.parametrize("key", list(LEARNERS))
def test_every_learner_fits_on_the_device(key, place):
    settings = {
        "ld3": {"rounds": 2, "start": "uniform", "batch": 2, "noise_shift": 0.1},
        "auto_diffusion": {"population": 2, "mutations": 1, "crossovers": 1, "generations": 1, "parents": 2},
        "bespoke": {"rounds": 2, "tries": 0, "start": "uniform", "batch": 2},
        "q_sched": {"rounds": 1, "points": 3},
    }[key]
    base = REQUEST.replace(prompt="", negative_prompt="", guidance=Choice("cfg", {"guidance_scale": 2.0}))
    request = LearnRequest(base, Choice(key, settings), PictureSettings(2, 2, 10), ("a red fox", "a blue cat"))
    device = Accelerator(place.kind, gradients=True)
    with device.on():
        family = family_of(placed(MAKERS["sd"]().components, device.device, place.dtype))
        *_, last = learn(request, family)
    assert np.isfinite(last.learned.held_out["fitted"])
