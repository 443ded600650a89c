"""Made like ComfyUI and A1111: numbers that those programs' code gave, with a small network in the model's place."""

from __future__ import annotations

import functools
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torchsde
from diffusers import DDIMScheduler

from pipelines.compatibility import COMPATIBILITIES
from pipelines.compatibility.brownian import BrownianPath
from pipelines.compatibility.noise import (
    CPU,
    CUDA,
    GENERATORS,
    BatchNoise,
    CpuGenerator,
    PathNoise,
    PathSigmas,
    PictureNoise,
    Rows,
)
from pipelines.compatibility.philox import PhiloxGenerator, philox4x32_10
from pipelines.compatibility.sigma_table import SigmaTable
from pipelines.core.denoiser import Denoiser
from pipelines.core.errors import SettingsError
from pipelines.core.loop import Run, denoise
from pipelines.core.noise import NoiseSource
from pipelines.core.prediction import Conditioning, Prediction
from pipelines.core.schedule import CLEAN, DiscreteSchedule, FlowSchedule
from pipelines.core.types import Choice, Request, Traits
from pipelines.families import family_of
from pipelines.families.noise_schedules import discrete_schedule
from pipelines.guidance import GUIDANCE
from pipelines.guidance.cfg import Unguided
from pipelines.requests.costs import evaluations
from pipelines.requests.text_to_image import build_run, resolve
from pipelines.samplers import SAMPLERS
from pipelines.schedules import SCHEDULES
from tests.pipelines.tiny_models import tiny_sd, tiny_sd3

RECORDED = json.loads((Path(__file__).parent / "recorded_peers.json").read_text("utf-8"))
PLACES = RECORDED["places"]
CONFIG = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
SCHEDULE = DiscreteSchedule(torch.cumprod(1 - BETAS, dim=0))
ZERO_SNR = DDIMScheduler(**CONFIG, rescale_betas_zero_snr=True)

COMFYUI_SAMPLERS = {
    "euler": Choice("euler"),
    "euler_ancestral": Choice("euler_a"),
    "heun": Choice("heun"),
    "dpm_2": Choice("dpm2"),
    "dpm_2_ancestral": Choice("dpm2_a"),
    "lms": Choice("lms"),
    "dpmpp_2m": Choice("dpmpp_2m"),
    "dpmpp_sde": Choice("dpmpp_sde"),
    "dpmpp_2m_sde": Choice("dpmpp_2m_sde"),
    "dpmpp_3m_sde": Choice("dpmpp_3m_sde"),
    "ddim": Choice("ddim"),
    "ddpm": Choice("ddpm"),
    "lcm": Choice("lcm"),
    "ipndm": Choice("ipndm", {"distances": "equal"}),
    "ipndm_v": Choice("ipndm"),
    "deis": Choice("deis", {"order": 3}),
    "uni_pc": Choice("unipc", {"order": 3, "variant": "bh1"}),
    "uni_pc_bh2": Choice("unipc", {"order": 3, "variant": "bh2"}),
    "sa_solver": Choice("sa_solver"),
}
COMFYUI_SCHEDULES = {
    "simple": Choice("uniform", {"spacing": "simple"}),
    "sgm_uniform": Choice("uniform", {"spacing": "sgm"}),
    "normal": Choice("uniform", {"spacing": "linspace unrounded"}),
    "ddim_uniform": Choice("uniform", {"spacing": "ddim_uniform"}),
    "karras": Choice("karras"),
    "exponential": Choice("exponential"),
    "beta": Choice("beta", {"quantiles_of": "whole time steps"}),
    "kl_optimal": Choice("kl_optimal"),
    "linear_quadratic": Choice("linear_quadratic"),
}
A1111_SAMPLERS = {
    "Euler": "euler",
    "Euler a": "euler_a",
    "Heun": "heun",
    "LMS": "lms",
    "DPM2": "dpm2",
    "DPM2 a": "dpm2_a",
    "DPM++ 2M": "dpmpp_2m",
    "DPM++ SDE": "dpmpp_sde",
    "DPM++ 2M SDE": "dpmpp_2m_sde",
    "DPM++ 3M SDE": "dpmpp_3m_sde",
}
A1111_SCHEDULES = {
    "Uniform": Choice("uniform", {"spacing": "linspace unrounded"}),
    "Karras": Choice("karras"),
    "Exponential": Choice("exponential"),
    "SGM Uniform": Choice("uniform", {"spacing": "sgm"}),
}
ROUNDING = 3e-4
"""Relative; DPM++ SDE's middle sigma is rounded to float32 elsewhere, which moves its place on the Brownian path by
1e-6 and its noise by 1e-4. All others agree to 1e-5."""


class Network:
    """Stands for a model: eps = 0.6 x + 0.4 tanh(x, moved by a pixel, + cos(t / 150))."""

    max_rows = 0
    rows_together = 1

    def __init__(self, prediction_type="epsilon"):
        self.prediction_type = prediction_type

    def predict_raw(self, latents, timesteps, conditioning):
        return 0.6 * latents + 0.4 * torch.tanh(
            latents.roll(1, -1) + torch.cos(timesteps.float() / 150)[:, None, None, None]
        )


def ran(request: Request, schedule=SCHEDULE, config=CONFIG, prediction_type="epsilon") -> torch.Tensor:
    """The final latents of a request on the small network."""
    program = COMPATIBILITIES.build(request.made_like)
    noise_schedule = program.noise_schedule(schedule, config)
    levels = program.levels(request, SCHEDULES.build(request.schedule), noise_schedule)
    initial, source = program.noise(request, (4, 8, 8), levels)
    sampler = program.sampler(request, SAMPLERS.build(request.sampler), noise_schedule)
    latents = initial * program.initial_scale(levels, noise_schedule)
    denoiser = Denoiser(Network(prediction_type), Unguided(), {"positive": Conditioning()})
    *_, last = denoise(Run(denoiser, sampler, levels, latents, source, noise_schedule))
    return last.latents


def require_recorded(latents: torch.Tensor, recorded: list[float], rel: float = ROUNDING) -> None:
    *values, norm = recorded
    flat = latents.flatten()
    scale = norm / len(flat) ** 0.5
    assert (flat[PLACES] - torch.tensor(values)).abs().max().item() < 10 * rel * scale
    assert flat.norm().item() == pytest.approx(norm, rel=rel)


def like_comfyui(name: str) -> Request:
    """The request of a recorded run: a sampler, a scheduler and a number of steps, as ComfyUI names them."""
    sampler, schedule, steps = name.split()
    return Request(
        sampler=COMFYUI_SAMPLERS[sampler],
        schedule=COMFYUI_SCHEDULES[schedule],
        num_inference_steps=int(steps),
        seed=7 + 2**33,
        made_like=Choice("comfyui", {"batch_index": 1, "batch_total": 3, "step_noise": CPU}),
    )


@pytest.mark.parametrize("name", RECORDED["comfyui"])
def test_a_picture_of_comfyuis_comes_out_the_same(name):
    require_recorded(ran(like_comfyui(name)), RECORDED["comfyui"][name])


@pytest.mark.parametrize("name", RECORDED["comfyui_zero_terminal_snr"])
def test_a_picture_of_comfyuis_from_a_model_of_zero_terminal_snr_comes_out_the_same(name):
    """Its largest sigma is 4518.8, so that float32 leaves a thousandth of some runs to rounding."""
    latents = ran(like_comfyui(name), discrete_schedule(ZERO_SNR), ZERO_SNR.config, "v_prediction")
    require_recorded(latents, RECORDED["comfyui_zero_terminal_snr"][name], rel=1e-3)


@pytest.mark.parametrize("name", RECORDED["a1111_cpu"])
def test_a_picture_of_a1111s_comes_out_the_same(name):
    sampler, schedule, steps = name.split(", ")
    request = Request(
        sampler=Choice(A1111_SAMPLERS[sampler]),
        schedule=A1111_SCHEDULES[schedule],
        num_inference_steps=int(steps),
        seed=5,
        batch_size=2,
        made_like=Choice("a1111_cpu"),
    )
    require_recorded(ran(request)[1], RECORDED["a1111_cpu"][name])


@pytest.mark.parametrize("program", ["comfyui", "a1111_cpu", "a1111_gpu", "invokeai"])
@pytest.mark.parametrize("sampler", ["euler_a", "dpmpp_2m_sde", "dpm2"])
def test_a_picture_of_a_batch_is_made_alone_again(program, sampler):
    request = Request(sampler=Choice(sampler), num_inference_steps=4, seed=3, batch_size=3, made_like=Choice(program))
    together = ran(request)
    for index in range(3):
        alone = COMPATIBILITIES.build(request.made_like).one_of_batch(request, index)
        assert alone.batch_size == 1
        torch.testing.assert_close(ran(alone), together[index : index + 1], rtol=0, atol=2e-6)


@pytest.mark.parametrize("program", list(COMPATIBILITIES))
@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 3.0])
def test_a_guidance_scale_below_one_mixes_both_predictions_as_the_program_does(program, scale):
    rule, request = COMPATIBILITIES[program].build(), Request(guidance=Choice("cfg", {"guidance_scale": scale}))
    request = request.replace(made_like=Choice(program), num_inference_steps=2, sampler=Choice("euler"))
    guidance = rule.guidance(GUIDANCE.build(request.guidance))
    x, level = torch.randn(1, 4, 8, 8, dtype=torch.float64), SCHEDULE.at(400.0)
    c, u = torch.randn(2, 1, 4, 8, 8, dtype=torch.float64).unbind(0)
    says = {"positive": Prediction(c, x, level, "epsilon"), "negative": Prediction(u, x, level, "epsilon")}
    branches = guidance.plan(level)
    answer = guidance.combine({name: says[name] for name in branches}).raw
    # ComfyUI, A1111 and InvokeAI: u + scale (c - u), whatever the scale; diffusers: c up to 1
    expected = u + (max(scale, 1.0) if program == "here" else scale) * (c - u)
    torch.testing.assert_close(answer, expected, rtol=0, atol=1e-12)
    assert evaluations(request, None) == 2 * len(branches)
    others = [
        key for key, one in GUIDANCE.items() if key != "cfg" and not one.fit(Traits("sd", "epsilon", "unet", "cfg"))
    ]
    assert all(rule.guidance(one) is one for one in map(GUIDANCE.build, map(Choice, others[:3])))


def test_programs_differ_where_their_rules_do():
    base = Request(sampler=Choice("euler_a"), schedule=Choice("karras"), num_inference_steps=4, seed=3)
    made = {key: ran(base.replace(made_like=Choice(key))) for key in COMPATIBILITIES}
    newer = ran(base.replace(made_like=Choice("comfyui", {"step_noise": "CPU, from 0.7"})))
    older = ran(base.replace(made_like=Choice("comfyui", {"step_noise": "CPU"})))
    results = [*made.values(), newer, older]
    for index, one in enumerate(results):
        assert all((one - other).abs().max() > 1e-2 for other in results[index + 1 :])


def test_ensd_moves_the_noise_of_ancestral_samplers_only():
    for sampler, same in (("euler_a", False), ("euler", True), ("dpmpp_2m_sde", True)):
        base = Request(sampler=Choice(sampler), num_inference_steps=3, seed=3)
        plain, moved = (ran(base.replace(made_like=Choice("a1111_cpu", {"ensd": ensd}))) for ensd in (0, 31337))
        assert torch.equal(plain, moved) == same


def test_comfyui_counts_its_schedulers_real_steps():
    program, request = COMPATIBILITIES["comfyui"].build(), Request(schedule=COMFYUI_SCHEDULES["ddim_uniform"])
    levels = program.levels(
        request.replace(num_inference_steps=30),
        SCHEDULES.build(request.schedule),
        program.noise_schedule(SCHEDULE, CONFIG),
    )
    assert [level.timestep for level in levels[:-1]] == list(range(991, 0, -33))


@pytest.mark.parametrize("sampler", ["pndm", "ipndm", "deis", "lms"])
def test_levels_that_share_a_whole_time_run(sampler):
    """Of 40 levels of linear_quadratic several have one nearest time step, which a polynomial cannot tell apart."""
    request = Request(sampler=Choice(sampler), schedule=COMFYUI_SCHEDULES["linear_quadratic"], num_inference_steps=40)
    program = COMPATIBILITIES["comfyui"].build()
    levels = program.levels(request, SCHEDULES.build(request.schedule), program.noise_schedule(SCHEDULE, CONFIG))
    assert len({level.timestep for level in levels}) < len(levels)
    latents = ran(request.replace(made_like=Choice("comfyui")))
    assert latents.isfinite().all() and 1 < latents.norm() < 1000


def test_comfyui_refuses_a_picture_beyond_its_batch():
    program = COMPATIBILITIES["comfyui"].build({"batch_index": 2, "batch_total": 3})
    with pytest.raises(SettingsError, match="Picture 3 is asked of a batch of 3"):
        program.noise(Request(batch_size=2), (4, 8, 8), [SCHEDULE.at(900), SCHEDULE.at(0)])


@pytest.mark.parametrize(("sampler", "steps"), [("ddim", 8), ("pndm", 8), ("ddim", 30)])
def test_a1111s_ddim_and_plms_end_at_the_first_of_their_times(sampler, steps):
    """Its loop goes from each of `range(0, 1000, 1000 // N)` + 1 to the one below it."""
    times = [time + 1 for time in range(0, 1000, 1000 // steps)][::-1]
    request = Request(sampler=Choice(sampler), num_inference_steps=steps, made_like=Choice("a1111_cpu"))
    program = COMPATIBILITIES.build(request.made_like)
    noise_schedule = program.noise_schedule(SCHEDULE, CONFIG)
    levels = program.levels(request, SCHEDULES.build(request.schedule), noise_schedule)
    assert [level.timestep for level in levels] == times
    assert program.initial_scale(levels, noise_schedule) == 1
    alphas = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0)
    latents = program.noise(request, (4, 8, 8), levels)[0].double()
    past: list[torch.Tensor] = []
    for time, below in itertools.pairwise(times):

        def moved(eps, time=time, below=below, latents=latents):
            data = (latents - (1 - alphas[time]) ** 0.5 * eps) / alphas[time] ** 0.5
            return alphas[below] ** 0.5 * data + (1 - alphas[below]) ** 0.5 * eps

        def eps_of(x, at):
            return Network().predict_raw(x, torch.tensor([float(at)]), None)

        eps = eps_of(latents, time)
        known = [eps, *past]
        if sampler == "pndm" and not past:
            eps = (eps + eps_of(moved(eps), below)) / 2
        elif sampler == "pndm":
            weights = {2: (3, -1), 3: (23, -16, 5), 4: (55, -59, 37, -9)}[min(len(known), 4)]
            eps = sum(w * e for w, e in zip(weights, known, strict=False)) / sum(weights)
        past = known[:3] if sampler == "pndm" else []
        latents = moved(eps)
    torch.testing.assert_close(ran(request).double(), latents, rtol=0, atol=2e-5)


# Philox.


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_gives_the_published_test_vectors(counter, key, expected):
    """Random123 1.14, `kat_vectors`, philox4x32 10."""
    words = philox4x32_10(torch.tensor(counter, dtype=torch.int64).reshape(4, 1), key).flatten().tolist()
    assert " ".join(f"{word:08x}" for word in words) == expected


def test_philox_draws_what_cuda_draws():
    """torch.randn(3, 4, device="cuda") after torch.manual_seed(0), as CUDA gives it since PyTorch 1.0."""
    expected = [
        *(-0.92466259, -0.42534415, -2.6438457, 0.14518388, -0.12086647, -0.57972564),
        *(-0.62285122, -0.32838709, -1.07454231, -0.36314407, -1.67105067, 2.26550497),
    ]
    generator = PhiloxGenerator(0)
    first, second = generator.randn((3, 4)), generator.randn((3, 4))
    torch.testing.assert_close(first.flatten(), torch.tensor(expected), rtol=0, atol=1e-6)
    assert not torch.equal(first, second)
    many = PhiloxGenerator(2**40 + 3).randn((200_000,)).double()
    assert many.mean().abs() < 0.01 and (many.std() - 1).abs() < 0.01


# The Brownian path.


@pytest.mark.filterwarnings("ignore:Should have t")
@pytest.mark.parametrize(("start", "end", "entropy"), [(0.0291675, 14.614647, 5), (0.03, 1.0, 123456789012)])
def test_the_path_is_torchsdes_tree(start, end, entropy):
    shape, times = (1, 4, 8, 8), np.sort(np.random.default_rng(1).uniform(start, end, 8))
    times = [float(np.float32(time)) for time in (start, *times, end)]
    tree = torchsde.BrownianTree(torch.tensor(times[0]), torch.zeros(shape), torch.tensor(times[-1]), entropy=entropy)
    path = BrownianPath(times[0], times[-1], entropy, lambda seed: CpuGenerator(seed).randn(shape))
    spans = [*itertools.pairwise(times), (times[2], times[7])]
    for low, high in spans:
        assert torch.equal(path(low, high), tree(torch.tensor(low), torch.tensor(high)))
    twin = BrownianPath(times[0], times[-1], entropy, lambda seed: CpuGenerator(seed).randn(shape))
    assert torch.equal(twin(*spans[3]), path(*spans[3]))
    assert torch.equal(path(times[4], times[4]), torch.zeros(shape))


def diffusion_levels():
    table = SigmaTable(
        ((1 - torch.from_numpy(SCHEDULE.alphas_cumprod)) / torch.from_numpy(SCHEDULE.alphas_cumprod)) ** 0.5
    )
    levels = [table.at(time) for time in (900.0, 700.0, 500.0)]
    return levels, [level.sigma_ve for level in levels]


def flow_levels():
    """From pure noise on, where sigma / alpha has no bound: the path is walked in the flow's own sigma."""
    levels = [FlowSchedule().at(time) for time in (1000.0, 700.0, 300.0)]
    return levels, [level.sigma for level in levels]


@pytest.mark.parametrize("make", [diffusion_levels, flow_levels])
def test_a_paths_noise_is_standard_normal_and_its_spans_depend_on_each_other(make):
    (high, middle, low), sigmas = make()
    source = PathNoise(NoiseSource([0]), [3, 4], None, PathSigmas([high, middle, low, CLEAN]), CPU)
    assert source.sigmas.ends == (sigmas[2], sigmas[0])
    like = torch.empty(2, 4, 64, 64)
    whole, first, second = (source.between(like, *span) for span in ((high, low), (high, middle), (middle, low)))
    width = {"whole": sigmas[0] - sigmas[2], "first": sigmas[0] - sigmas[1]}
    rest = width["whole"] - width["first"]
    joined = (width["first"] ** 0.5 * first + rest**0.5 * second) / width["whole"] ** 0.5
    torch.testing.assert_close(whole, joined, rtol=0, atol=1e-4)
    for noise in (whole, first, second):
        assert noise.mean().abs() < 0.03 and (noise.std() - 1).abs() < 0.03
    assert torch.equal(source.clone().between(like, high, low), whole)


@functools.cache
def family_like(kind):
    pipe = tiny_sd3() if kind == "flow" else tiny_sd(prediction_type="v_prediction")
    if kind == "zero_snr":
        pipe.scheduler = DDIMScheduler.from_config(
            pipe.scheduler.config, rescale_betas_zero_snr=True, timestep_spacing="trailing"
        )
    return family_of(pipe.components)


@pytest.mark.parametrize("kind", ["flow", "zero_snr"])
@pytest.mark.parametrize("sampler", ["dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde"])
@pytest.mark.parametrize("program", ["comfyui", "a1111_cpu", "a1111_gpu"])
def test_a_run_from_pure_noise_has_a_path(kind, sampler, program):
    family, size = family_like(kind), {"width": 32, "height": 32}
    request = Request(prompt="a fox", num_inference_steps=4, sampler=Choice(sampler), made_like=Choice(program), **size)
    *_, step = denoise(build_run(resolve(request, family), family))
    assert step.latents.isfinite().all() and 0.01 < step.latents.std() < 100


@pytest.mark.parametrize("device", [CPU, CUDA])
def test_a_cloned_source_of_a_program_draws_the_same(device):

    make = GENERATORS[device]
    for source, rows in (
        (BatchNoise(make(3), Rows(1, 2, 4)), 2),
        (PictureNoise([make(3), make(4)]), 2),
    ):
        like = torch.empty(rows, 4, 5, 7)
        source(like)
        twin = source.clone()
        assert torch.equal(twin(like), source(like))
