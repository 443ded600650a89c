"""T2I-Adapters steer our runs as they steer diffusers' pipelines at the same seed, on tiny random models."""

from __future__ import annotations

import json

import numpy as np
import pytest
import safetensors.torch
import tiny_models
import torch
from diffusers import (
    MultiAdapter,
    StableDiffusionAdapterPipeline,
    StableDiffusionXLAdapterPipeline,
    T2IAdapter,
    UNet2DConditionModel,
)
from model_folders import loader_of
from network_state import assert_unchanged, state_of
from PIL import Image
from test_controlnet import randomize, tiny_control
from test_families_parity import NEGATIVE, PROMPT, SCALE, SEEDS, error, stock_levels, stock_scale

from pipelines.controls import CONTROLS, T2I_ADAPTERS
from pipelines.core.denoiser import Denoiser
from pipelines.core.errors import MethodFitError, SettingsError
from pipelines.core.loop import Run, denoise
from pipelines.core.noise import NoiseSource
from pipelines.core.prediction import Conditioning
from pipelines.core.types import Choice, Request
from pipelines.families import family_of
from pipelines.guidance import GUIDANCE
from pipelines.models.extras import Extras
from pipelines.models.files import PartFiles
from pipelines.models.load_request import LoadRequest
from pipelines.models.steering import explain_misfit
from pipelines.models.steering_entry import T2I_ADAPTER
from pipelines.models.steering_loading import load_steering_file
from pipelines.requests.limits import Limits, check_request
from pipelines.requests.text_to_image import build_run, resolve
from pipelines.samplers import SAMPLERS
from pipelines.weights.gguf_files import read_weights_header
from pipelines.weights.kinds import file_kind
from pipelines.weights.t2i_adapter_levels import STANDARD_LEVELS, list_adapter_levels, list_unet_levels
from pipelines.weights.t2i_adapter_names import read_adapter_config

STEPS, SIZE = 4, 32
RANDOM = np.random.default_rng(2)
PICTURE, OTHER = (RANDOM.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8) for _ in range(2))
CLOSE = 1e-5
"""Of the largest value."""

CHANNELS = (8, 16, 16)
ATTENTION, PLAIN = "CrossAttnDownBlock2D", "DownBlock2D"
BLOCKS = {"sd": (ATTENTION, ATTENTION, PLAIN), "sdxl": (PLAIN, ATTENTION, ATTENTION)}
"""As the published UNets': SDXL's first block has no attention, and is added to after it has halved its sides."""

FORMS = {
    "full": {"channels": [8, 16, 16], "downscale_factor": 4, "num_res_blocks": 1},
    "light": {"channels": [8, 16], "downscale_factor": 4, "num_res_blocks": 2, "adapter_type": "light_adapter"},
    "xl": {
        "channels": [8, 16, 16, 16],
        "downscale_factor": 8,
        "num_res_blocks": 2,
        "adapter_type": "full_adapter_xl",
    },
}


def build_adapter(form, seed=0, **config):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return randomize(T2IAdapter(**{**FORMS[form], **config}), 0.05)


def build_pipeline(family, adapters, folder=None):
    pipe = tiny_models.tiny_sd() if family == "sd" else tiny_models.tiny_sdxl()
    kinds = BLOCKS[family]
    changes = {"down_block_types": kinds, "block_out_channels": CHANNELS}
    changes["up_block_types"] = tuple(kind.replace("Down", "Up") for kind in reversed(kinds))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        unet = UNet2DConditionModel.from_config({**pipe.unet.config, **changes}).eval().requires_grad_(False)
    if folder is not None:
        pipe.unet = unet
        pipe.save_pretrained(folder)
    pipe.scheduler.set_timesteps(STEPS)
    parts = {name: part for name, part in pipe.components.items() if name not in ("image_encoder", "feature_extractor")}
    parts |= {"unet": unet, "adapter": adapters}
    if family == "sd":
        parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        return StableDiffusionAdapterPipeline(**parts)
    return StableDiffusionXLAdapterPipeline(**parts)


def make_stock(family, adapters, pictures, strengths, **options):
    pipe = build_pipeline(family, adapters)
    pipe.set_progress_bar_config(disable=True)
    shape = (len(SEEDS), *family_of(pipe.components).latent_shape(SIZE, SIZE))
    latents = pipe(
        PROMPT,
        image=pictures[0] if len(pictures) == 1 else pictures,
        negative_prompt=NEGATIVE,
        height=SIZE,
        width=SIZE,
        num_inference_steps=STEPS,
        guidance_scale=SCALE,
        adapter_conditioning_scale=strengths[0] if len(strengths) == 1 else strengths,
        num_images_per_prompt=len(SEEDS),
        latents=NoiseSource(SEEDS)(torch.empty(shape)),
        output_type="latent",
        **options,
    ).images
    return pipe, latents


def make_ours(pipe, adapters, pictures, controls=(), **settings):
    parts = dict(zip(("t2i_adapter", "t2i_adapter_2"), adapters, strict=False))
    family = family_of({**{name: part for name, part in pipe.components.items() if name != "adapter"}, **parts})
    sampler = "euler" if "XL" in type(pipe).__name__ else "ddim"
    choice = Choice("t2i_adapter", {"model": "x", "picture": "x", **settings})
    shares = [1.0] * len(SEEDS)
    addition = T2I_ADAPTERS.build(choice).build(family, pictures, (SIZE, SIZE), shares) if adapters else None
    schedule = family.noise_schedule_for(SIZE, SIZE)
    levels = stock_levels(pipe.scheduler, schedule, False)
    noise = NoiseSource(SEEDS)
    latents = noise(torch.empty(len(SEEDS), *family.latent_shape(SIZE, SIZE)))
    latents = latents * stock_scale(pipe.scheduler, levels[0])
    conditionings = family.encode_prompts(PROMPT, NEGATIVE, len(SEEDS), (SIZE, SIZE))
    additions = [*([addition] if addition else []), *controls]
    denoiser = Denoiser(family, GUIDANCE["cfg"].build({"guidance_scale": SCALE}), conditionings, additions=additions)
    return list(denoise(Run(denoiser, SAMPLERS[sampler].build({}), levels, latents, noise, schedule)))[-1].latents


def gray(pixels):
    return Image.fromarray(pixels).convert("L")


@pytest.mark.parametrize(
    ("family", "form", "channels"), [("sd", "full", 3), ("sd", "full", 1), ("sd", "light", 3), ("sdxl", "xl", 3)]
)
def test_a_run_is_the_stock_pipelines(family, form, channels):
    adapter = build_adapter(form, in_channels=channels)
    picture = Image.fromarray(PICTURE) if channels == 3 else gray(PICTURE)
    pipe, theirs = make_stock(family, adapter, [picture], [0.8])
    before = state_of(pipe.unet)
    assert error(make_ours(pipe, [adapter], [PICTURE], strength=0.8), theirs) < CLOSE
    assert error(make_ours(pipe, [], []), theirs) > 1e-2  # the adapter does something
    assert_unchanged(pipe.unet, before)


def test_it_ends_where_diffusers_ends_it():
    adapter = build_adapter("xl")
    pipe, theirs = make_stock("sdxl", adapter, [Image.fromarray(PICTURE)], [1.0], adapter_conditioning_factor=0.5)
    assert error(make_ours(pipe, [adapter], [PICTURE], end=0.5), theirs) < CLOSE
    assert error(make_ours(pipe, [adapter], [PICTURE]), theirs) > 1e-3


@pytest.mark.parametrize(("family", "form"), [("sd", "full"), ("sdxl", "xl")])
def test_two_at_once_are_the_stock_pipelines(family, form):
    adapters = [build_adapter(form, seed) for seed in (0, 1)]
    both, pictures = MultiAdapter(adapters), [Image.fromarray(PICTURE), Image.fromarray(OTHER)]
    pipe, theirs = make_stock(family, both, pictures, [0.8, 0.5])
    settings = {"strength": 0.8, "second": "y", "second_picture": "y", "second_strength": 0.5}
    assert error(make_ours(pipe, adapters, [PICTURE, OTHER], **settings), theirs) < CLOSE
    assert error(make_ours(pipe, adapters, [OTHER, PICTURE], **settings), theirs) > 1e-3


def test_one_beside_a_controlnet_gives_the_network_both():
    """diffusers has no pipeline of both: what its UNet is given is compared."""
    adapter = build_adapter("full")
    pipe = build_pipeline("sd", adapter)
    control = tiny_control(pipe.unet)
    parts = {**pipe.components, "controlnet": control, "t2i_adapter": adapter}
    family = family_of({name: part for name, part in parts.items() if name != "adapter"})
    tensors = dict(family.encode_prompts(PROMPT, "", 1, (SIZE, SIZE))["positive"].tensors)
    given = {"model": "x", "picture": "x", "strength": 0.7}
    steered = CONTROLS.build(Choice("controlnet", given)).build(family, OTHER, (SIZE, SIZE), [1.0])
    adapted = T2I_ADAPTERS.build(Choice("t2i_adapter", given)).build(family, [PICTURE], (SIZE, SIZE), [1.0])
    tensors |= {**steered.at("positive", 0, 1), **adapted.at("positive", 0, 1)}
    latents, time = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([300.0])
    ours = family.predict_raw(latents, time, Conditioning(tensors))
    maps = [torch.from_numpy(one / np.float32(255)).permute(2, 0, 1)[None] for one in (OTHER, PICTURE)]
    embeds = tensors["prompt_embeds"]
    down, middle = control(latents, time, embeds, maps[0], conditioning_scale=0.7, return_dict=False)
    theirs = pipe.unet(
        latents,
        time,
        embeds,
        down_block_additional_residuals=down,
        mid_block_additional_residual=middle,
        down_intrablock_additional_residuals=[0.7 * one for one in adapter(maps[1])],
        return_dict=False,
    )[0]
    assert error(ours, theirs) < CLOSE


def test_what_it_says_is_computed_once_for_a_run_and_steps_cost_the_same():
    adapter = build_adapter("full")
    pipe = build_pipeline("sd", adapter)
    calls = []
    adapter.register_forward_hook(lambda *_: calls.append(1))
    make_ours(pipe, [adapter], [PICTURE])
    assert len(calls) == 1


def test_strength_0_is_no_adapter_bit_for_bit():
    pipe = build_pipeline("sd", None)
    adapters = [build_adapter("full"), build_adapter("full", 1)]
    neutral = {"strength": 0.0, "second": "y", "second_picture": "y", "second_strength": 0.0}
    plain = make_ours(pipe, [], [])
    assert torch.equal(plain, make_ours(pipe, adapters[:1], [PICTURE], strength=0.0))
    assert torch.equal(plain, make_ours(pipe, adapters, [PICTURE, OTHER], **neutral))
    second_alone = make_ours(pipe, adapters, [PICTURE, OTHER], **{**neutral, "second_strength": 0.8})
    assert torch.equal(second_alone, make_ours(pipe, adapters[1:], [OTHER], strength=0.8))


# What fits.


@pytest.mark.parametrize(("family", "form"), [("sd", "full"), ("sd", "light"), ("sdxl", "xl")])
def test_the_published_forms_fit_their_published_networks(family, form):
    published = {"full": {"channels": [320, 640, 1280, 1280], "downscale_factor": 8}, "light": {}, "xl": {}}
    published["light"] = {"channels": [320, 640, 1280], "downscale_factor": 8}
    published["xl"] = {"channels": [320, 640, 1280, 1280], "downscale_factor": 16}
    levels = list_adapter_levels({"adapter_type": "full_adapter", **FORMS[form], **published[form]})
    assert STANDARD_LEVELS[family][: len(levels)] == levels
    kinds = {"sd": (ATTENTION,) * 3 + (PLAIN,), "sdxl": (PLAIN, ATTENTION, ATTENTION)}[family]
    widths = {"sd": (320, 640, 1280, 1280), "sdxl": (320, 640, 1280)}[family]
    unet = {"block_out_channels": widths, "down_block_types": kinds}
    assert list_unet_levels(unet, 8) == STANDARD_LEVELS[family]


@pytest.mark.parametrize(("family", "form"), [("sd", "full"), ("sd", "light"), ("sdxl", "xl")])
def test_levels_are_the_shapes_that_the_adapter_and_the_network_have(family, form):
    adapter = build_adapter(form)
    shapes = [(one.shape[1], SIZE // one.shape[2]) for one in adapter(torch.zeros(1, 3, SIZE, SIZE))]
    levels = list_adapter_levels(adapter.config)
    assert tuple(shapes) == levels
    model = family_of(build_pipeline(family, adapter).components)
    assert model.adapter_levels[: len(levels)] == levels


def authors_names(adapter):
    """An adapter's tensors in its authors' names: a flat list of residual blocks, or a nested one of light blocks."""
    light, each = adapter.config.adapter_type == "light_adapter", adapter.config.num_res_blocks
    renamed = {}
    for name, tensor in adapter.state_dict().items():
        parts = name.removeprefix("adapter.").split(".")
        if parts[0] == "body" and parts[2] == "resnets":
            number = int(parts[1]) * each + int(parts[3])
            place = f"{parts[1]}.body.{parts[3]}" if light else str(number)
            renamed[f"body.{place}.{parts[4]}.{parts[5]}"] = tensor
        elif parts[0] == "body" and not light:
            renamed[f"body.{int(parts[1]) * each}.{parts[2]}.{parts[3]}"] = tensor
        else:
            renamed[".".join(parts)] = tensor
    return renamed


@pytest.fixture
def folder(tmp_path):
    build_pipeline("sd", None, tmp_path / "one")
    tiny_models.tiny_sdxl(tmp_path / "xl")
    for form in ("full", "light"):
        # a file tells neither 4 pixels to a latent nor other than four blocks, as the published ones have
        build_adapter(form).save_pretrained(tmp_path / "t2i_adapters" / form.capitalize())
    return tmp_path


REQUEST = Request(
    model="one", prompt=PROMPT, num_inference_steps=2, width=SIZE, height=SIZE, sampler=Choice("ddim"), seed=3
)


def run(loader, *keys, strength=1.0):
    settings = {"model": keys[0], "picture": "p", "strength": strength} if keys else {}
    if len(keys) > 1:
        settings |= {"second": keys[1], "second_picture": "p", "second_strength": strength}
    request = REQUEST.replace(t2i_adapter=Choice("t2i_adapter", settings)) if keys else REQUEST
    with loader.model("one", request=LoadRequest(Extras(t2i_adapters=keys))) as family:
        family.pictures = {"p": PICTURE}
        return list(denoise(build_run(resolve(request, family), family)))[-1].latents


def test_folders_steer_and_leave_the_model_as_it_was(folder):
    loader = loader_of(folder)
    plain, full, light, both = run(loader), run(loader, "full"), run(loader, "light"), run(loader, "full", "light")
    for one, other in ((plain, full), (plain, light), (full, both), (light, both)):
        assert not torch.allclose(one, other, atol=1e-3)
    assert torch.equal(run(loader, "full", strength=0.0), plain)
    assert torch.equal(run(loader), plain)


def test_they_are_listed_and_refused_for_other_models(folder):
    loader = loader_of(folder)
    entries = loader.catalog.steering(T2I_ADAPTER)
    assert [entry.key for entry in entries][:2] == ["full", "light"]
    assert [explain_misfit(entry, loader.catalog["one"]) for entry in entries[:2]] == ["", ""]
    wrong = loader.model("xl", request=LoadRequest(Extras(t2i_adapters=("full",))))
    with pytest.raises(SettingsError, match="T2I-Adapter Full is made for another kind of model than xl"), wrong:
        pass
    problems = [entry.problem for entry in loader.catalog.values() if "T2I-Adapter" in entry.problem]
    assert len(problems) == 2 and all("choose it under T2I-Adapter" in problem for problem in problems)


def test_one_of_another_form_is_listed_with_the_reason(tmp_path):
    folder = tmp_path / "odd"
    T2IAdapter(in_channels=1, channels=[8, 16], num_res_blocks=1, downscale_factor=8).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"adapter_type": "dense_adapter"}))
    entries = {entry.key: entry for entry in loader_of(tmp_path).catalog.steering(T2I_ADAPTER)}
    assert entries["odd"].problem == "odd is a T2I-Adapter of a form that is not read here."
    assert entries["emoji-128-shapes"].problem == ""


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("names", ["authors", "diffusers"])
def test_a_file_in_either_names_is_the_folder(form, names, tmp_path):
    config = {"full": {"channels": [8, 16, 16, 16], "downscale_factor": 8, "num_res_blocks": 2}}.get(form, {})
    config |= {"light": {"channels": [8, 16, 16], "downscale_factor": 8}, "xl": {"downscale_factor": 16}}.get(form, {})
    adapter = build_adapter(form, **config)
    state = authors_names(adapter) if names == "authors" else adapter.state_dict()
    path = tmp_path / "lines.safetensors"
    safetensors.torch.save_file(state, path)
    tensors = read_weights_header(path).tensors
    assert read_adapter_config(tensors).items() <= dict(adapter.config).items()
    assert file_kind(tensors).what == T2I_ADAPTER
    part = PartFiles(T2I_ADAPTER, "diffusers", "T2IAdapter", tmp_path, (path,), single=True)
    loaded = load_steering_file(part, torch.float32, lambda: False)
    picture = torch.rand(1, 3, 64, 64)
    for ours, theirs in zip(loaded(picture), adapter(picture), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"picture": "p"}, "No T2I-Adapter is chosen"),
        ({"model": "m"}, "has no picture"),
        ({"model": "m", "picture": "p", "second": "n"}, "second T2I-Adapter has no picture"),
        ({"model": "m", "picture": "p", "begin": 0.5, "end": 0.5}, "begins at 0.5 and ends at 0.5"),
    ],
)
def test_what_is_missing_is_said(settings, words):
    with pytest.raises(SettingsError, match=words):
        check_request(REQUEST.replace(t2i_adapter=Choice("t2i_adapter", settings)), Limits())


def test_a_cache_beside_an_adapter_is_refused():
    chosen = Choice("t2i_adapter", {"model": "m", "picture": "p"})
    with pytest.raises(MethodFitError, match="T2I-Adapter adds to layers that a cache leaves out"):
        check_request(REQUEST.replace(t2i_adapter=chosen, cache=Choice("deepcache")), Limits())


def test_another_network_and_another_size_are_refused():
    chosen = T2I_ADAPTERS.build(Choice("t2i_adapter", {"model": "m", "picture": "p"}))
    family = family_of({**build_pipeline("sd", None).components, "t2i_adapter": build_adapter("xl")})
    with pytest.raises(SettingsError, match="another kind of model"):
        chosen.build(family, [PICTURE], (SIZE, SIZE), [1.0])
    family = family_of({**build_pipeline("sdxl", None).components, "t2i_adapter": build_adapter("xl")})
    with pytest.raises(SettingsError, match="multiples of 8, and the run has 32 × 36"):
        chosen.build(family, [PICTURE], (32, 36), [1.0])
