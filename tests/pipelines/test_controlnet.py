"""ControlNets steer our runs as they steer diffusers' pipelines at the same seed, on tiny random models."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import safetensors.torch
import tiny_models
import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    FluxControlNetModel,
    FluxControlNetPipeline,
    SD3ControlNetModel,
    StableDiffusion3ControlNetPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionXLControlNetPipeline,
)
from model_folders import loader_of
from PIL import Image
from test_families_parity import NEGATIVE, PROMPT, SCALE, SEEDS, TOKENS, error, stock_levels, stock_scale

from pipelines.controls import CONTROLS
from pipelines.controls.edges import find_edges
from pipelines.controls.window import StepWindow
from pipelines.core.denoiser import Denoiser
from pipelines.core.errors import MethodFitError, ModelError, ModelFileError, SettingsError
from pipelines.core.loop import Run, denoise
from pipelines.core.noise import NoiseSource
from pipelines.core.types import Choice, Request
from pipelines.families import family_of
from pipelines.families.control_lora import ControlLora
from pipelines.families.flux import pack
from pipelines.guidance import GUIDANCE
from pipelines.guidance.cfg import Unguided
from pipelines.models.extras import Extras
from pipelines.models.load_request import LoadRequest
from pipelines.models.steering import explain_misfit
from pipelines.models.steering_entry import CONTROLNET
from pipelines.requests.limits import Limits, check_request
from pipelines.requests.text_to_image import build_run, resolve
from pipelines.samplers import SAMPLERS

STEPS, SIZE = 4, 32
PICTURE = np.random.default_rng(2).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
CLOSE = 4e-5
"""Of the largest value: large random weights of two networks raise float32's rounding, up to 2e-5 here."""

WINDOW = {"begin": 0.25, "end": 0.75}


def randomize(module, scale=0.15):
    """Weights of zero layers too, which an untrained ControlNet begins with."""
    generator = torch.Generator().manual_seed(9)
    for parameter in module.parameters():
        parameter.data += scale * torch.randn(parameter.shape, generator=generator)
    return module.eval().requires_grad_(False)


def sharpen_posterior(pipe):
    """A VAE whose posterior has no width: diffusers draws a sample of it, we take its mean."""
    channels = pipe.vae.config.latent_channels
    last = pipe.vae.quant_conv or pipe.vae.encoder.conv_out
    last.weight.data[channels:] = 0
    last.bias.data[channels:] = -60
    return pipe


def tiny_control(unet):
    return randomize(ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 8, 8)))


def sd():
    pipe = tiny_models.tiny_sd()
    options = {"safety_checker": None, "controlnet": tiny_control(pipe.unet)}
    return StableDiffusionControlNetPipeline(**{**pipe.components, **options}, requires_safety_checker=False)


def sdxl():
    pipe = tiny_models.tiny_sdxl()
    return StableDiffusionXLControlNetPipeline(
        **{name: part for name, part in pipe.components.items() if name not in ("image_encoder", "feature_extractor")},
        controlnet=tiny_control(pipe.unet),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )


def sd3(force_zeros=True):
    pipe = sharpen_posterior(tiny_models.tiny_sd3())
    config = dict(pipe.transformer.config)
    names = ("sample_size", "patch_size", "in_channels", "attention_head_dim", "num_attention_heads", "out_channels")
    names += ("joint_attention_dim", "caption_projection_dim", "pooled_projection_dim", "pos_embed_max_size")
    control = SD3ControlNetModel(
        **{name: config[name] for name in names}, num_layers=1, force_zeros_for_pooled_projection=force_zeros
    )
    return StableDiffusion3ControlNetPipeline(
        **{name: part for name, part in pipe.components.items() if name not in ("image_encoder", "feature_extractor")},
        controlnet=randomize(control),
    )


def sd3_pooled():
    return sd3(force_zeros=False)


def flux():
    pipe = sharpen_posterior(tiny_models.tiny_flux())
    config = dict(pipe.transformer.config)
    names = ("patch_size", "in_channels", "attention_head_dim", "num_attention_heads", "joint_attention_dim")
    names += ("pooled_projection_dim", "guidance_embeds", "axes_dims_rope")
    control = FluxControlNetModel(**{name: config[name] for name in names}, num_layers=1, num_single_layers=1)
    return FluxControlNetPipeline(
        **{name: part for name, part in pipe.components.items() if name not in ("image_encoder", "feature_extractor")},
        controlnet=randomize(control),
    )


CASES = {
    "sd": (sd, "ddim", 0.8, {}),
    "sdxl": (sdxl, "euler", 0.8, {}),
    "sd3": (sd3, "flow_euler", 0.8, {"max_sequence_length": TOKENS}),
    "sd3 with pooled text": (sd3_pooled, "flow_euler", 0.8, {"max_sequence_length": TOKENS}),
    "flux": (flux, "flow_euler", 0.8, {"max_sequence_length": TOKENS}),
}


def make_stock(case, **window):
    build, _, strength, options = CASES[case]
    pipe = build()
    pipe.set_progress_bar_config(disable=True)
    name = "control_image" if case.startswith(("sd3", "flux")) else "image"
    picture = {name: Image.fromarray(PICTURE)}
    guidance = {} if case == "flux" else {"negative_prompt": NEGATIVE}
    shape = (len(SEEDS), *family_of(pipe.components).latent_shape(SIZE, SIZE))
    noise = NoiseSource(SEEDS)(torch.empty(shape))
    latents = pipe(
        PROMPT,
        **picture,
        **guidance,
        **options,
        height=SIZE,
        width=SIZE,
        num_inference_steps=STEPS,
        guidance_scale=SCALE,
        controlnet_conditioning_scale=strength,
        control_guidance_start=window.get("begin", 0.0),
        control_guidance_end=window.get("end", 1.0),
        num_images_per_prompt=len(SEEDS),
        latents=pack(noise) if case == "flux" else noise,
        output_type="latent",
    ).images
    if case == "flux":
        latents = pipe._unpack_latents(latents, SIZE, SIZE, pipe.vae_scale_factor)
    return pipe, latents


def make_ours(pipe, case, strength=None, **window):
    _, sampler, given, options = CASES[case]
    family = family_of(pipe.components)
    if options:
        family.max_sequence_length = TOKENS
    settings = {"model": "x", "picture": "x", "strength": given if strength is None else strength, **window}
    addition = CONTROLS.build(Choice("controlnet", settings)).build(family, PICTURE, (SIZE, SIZE), [1.0] * len(SEEDS))
    schedule = family.noise_schedule_for(SIZE, SIZE)
    levels = stock_levels(pipe.scheduler, schedule, case.startswith(("sd3", "flux")))
    noise = NoiseSource(SEEDS)
    latents = noise(torch.empty(len(SEEDS), *family.latent_shape(SIZE, SIZE)))
    latents = latents * stock_scale(pipe.scheduler, levels[0])
    conditionings = family.encode_prompts(PROMPT, NEGATIVE, len(SEEDS), (SIZE, SIZE))
    guidance = GUIDANCE["cfg"].build({"guidance_scale": SCALE})
    if family.traits.guidance == "embedded":
        conditionings, guidance = family.embed_guidance(conditionings, SCALE), Unguided()
    additions = [addition] if addition else []
    denoiser = Denoiser(family, guidance, conditionings, additions=additions)
    run = Run(denoiser, SAMPLERS[sampler].build({}), levels, latents, noise, schedule)
    return list(denoise(run))[-1].latents


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("window", [{}, WINDOW], ids=["whole", "window"])
def test_a_run_is_the_stock_pipelines(case, window):
    pipe, theirs = make_stock(case, **window)
    ours = make_ours(pipe, case, **window)
    assert error(ours, theirs) < CLOSE
    plain = make_ours(pipe, case, strength=0.0)
    assert error(plain, theirs) > 1e-2  # the ControlNet does something
    if window:
        assert error(make_ours(pipe, case), theirs) > 1e-3


def test_strength_0_is_no_control_bit_for_bit():
    pipe = sd()
    pipe.scheduler.set_timesteps(STEPS)
    controlled = make_ours(pipe, "sd", strength=0.0)
    del pipe.components["controlnet"]
    assert torch.equal(controlled, make_ours(pipe, "sd", strength=0.0))


def test_a_window_counts_whole_steps():
    window = StepWindow(0.25, 0.75)
    assert [window.holds(step, 8) for step in range(8)] == [False, False, True, True, True, True, False, False]
    assert not StepWindow(0.3, 0.35).holds(1, 4)


# Edges.


def test_edges_of_a_square_are_its_outline_one_pixel_wide():
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[8:24, 8:24] = 255
    edges = find_edges(picture, 0.1, 0.2)[..., 0] > 0
    rows, columns = np.nonzero(edges)
    assert rows.min() in (7, 8) and rows.max() in (23, 24) and columns.min() in (7, 8) and columns.max() in (23, 24)
    assert not edges[11:21, 11:21].any() and not edges[:6].any()
    assert edges[11:21].sum(axis=1).tolist() == [2] * 10  # each row crosses two lines


def test_weak_edges_are_kept_only_where_they_hang_on_strong_ones():
    ramp = np.zeros((40, 40, 3), np.uint8)
    ramp[:, 10:] = 40  # a weak edge alone
    assert not find_edges(ramp, 0.05, 0.3).any()
    ramp[:, 10:] = np.linspace(255, 40, 40).astype(np.uint8)[:, None, None]  # strong at its upper end
    edges = find_edges(ramp, 0.05, 0.3)[..., 0] > 0
    assert edges[:, 8:12].any(axis=1).all() and not edges[:, 14:].any()
    assert not find_edges(np.full((20, 20, 3), 77, np.uint8), 0.01, 0.02).any()


def test_edges_turn_with_the_picture():
    picture = np.random.default_rng(0).integers(0, 256, (24, 30, 3), dtype=np.uint8)
    turned = find_edges(np.rot90(picture, 2).copy(), 0.1, 0.3)
    # A tie between two neighbors falls to the one ahead, so a line may lie one pixel aside.
    assert (turned != np.rot90(find_edges(picture, 0.1, 0.3), 2)).mean() < 0.02


# Out of the models folder.


@pytest.fixture
def folder(models):
    pipe = tiny_models.tiny_sd(seed=1)
    control = tiny_control(pipe.unet)
    control.save_pretrained(models / "controlnet" / "Edges")
    safetensors.torch.save_file(control.state_dict(), models / "controlnet" / "lines.safetensors")
    return models


REQUEST = Request(
    model="one", prompt=PROMPT, num_inference_steps=2, width=SIZE, height=SIZE, sampler=Choice("ddim"), seed=3
)


def run(loader, key="", strength=1.0):
    request = REQUEST
    if key:
        request = request.replace(control=Choice("controlnet", {"model": key, "picture": "p", "strength": strength}))
    with loader.model("one", request=LoadRequest(Extras(controlnet=key))) as family:
        family.pictures = {"p": PICTURE}
        return list(denoise(build_run(resolve(request, family), family)))[-1].latents


def test_a_folder_and_a_file_steer_alike_and_leave_the_model_as_it_was(folder):
    loader = loader_of(folder)
    plain = run(loader)
    steered = run(loader, "edges")
    assert not torch.allclose(steered, plain, atol=1e-2)
    assert torch.equal(run(loader, "lines"), steered)
    assert torch.equal(run(loader, "edges", strength=0.0), plain)
    assert torch.equal(run(loader), plain)


def test_they_are_listed_and_refused_for_other_models(folder):
    loader = loader_of(folder)
    assert [entry.key for entry in loader.catalog.steering(CONTROLNET)] == ["edges", "lines"]
    wrong = loader.model("xl", request=LoadRequest(Extras(controlnet="edges")))
    with pytest.raises(SettingsError, match="made for another kind of model"), wrong:
        pass
    entries = [entry for entry in loader.catalog.values() if "ControlNet" in entry.problem]
    assert all(entry.is_addition for entry in entries) and {entry.label for entry in entries} == {"Edges", "lines"}
    problems = [entry.problem for entry in entries]
    assert len(problems) == 2 and all("choose it under ControlNet" in problem for problem in problems)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"picture": "p"}, "No ControlNet is chosen"),
        ({"model": "m"}, "has no picture"),
        ({"model": "m", "picture": "p", "begin": 0.5, "end": 0.5}, "begins at 0.5 and ends at 0.5"),
    ],
)
def test_what_is_missing_is_said(settings, words):
    with pytest.raises(SettingsError, match=words):
        check_request(REQUEST.replace(control=Choice("controlnet", settings)), Limits())


def test_a_cache_beside_a_controlnet_is_refused():
    control = Choice("controlnet", {"model": "m", "picture": "p"})
    with pytest.raises(MethodFitError, match="Set Cache to No cache"):
        check_request(REQUEST.replace(control=control, cache=Choice("deepcache")), Limits())


def test_one_whose_hint_is_larger_than_the_latents_is_refused(folder):
    """diffusers' `from_unet` makes a network that shrinks by eight, whatever the model's VAE does."""
    loader = loader_of(folder)
    entry = next(iter(loader.catalog.steering(CONTROLNET)))
    model = loader.catalog["one"]
    assert entry.factor == 4 and not explain_misfit(entry, model)
    assert "shrinks its picture by 8, and the VAE of" in explain_misfit(dataclasses.replace(entry, factor=8), model)


# Control-LoRAs.


def authors_name(name, layers):
    """A ControlNet's tensor in its authors' names, of a UNet with so many layers a block."""
    fixed = {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "conv_in": "input_blocks.0.0",
        "controlnet_cond_embedding.conv_in": "input_hint_block.0",
        "controlnet_cond_embedding.conv_out": "input_hint_block.14",
        "controlnet_mid_block": "middle_block_out.0",
    }
    head, _, kind = name.rpartition(".")
    if head in fixed:
        return f"{fixed[head]}.{kind}"
    parts = name.split(".")
    if parts[0] == "controlnet_down_blocks":
        return f"zero_convs.{parts[1]}.0.{kind}"
    if parts[0] == "controlnet_cond_embedding":
        return f"input_hint_block.{2 * int(parts[2]) + 2}.{kind}"
    if parts[0] == "mid_block":
        start = f"middle_block.{2 * int(parts[2]) if parts[1] == 'resnets' else 2 * int(parts[2]) + 1}"
        rest = parts[3:]
    else:
        block = 1 + int(parts[1]) * (layers + 1)
        if parts[2] == "downsamplers":
            return f"input_blocks.{block + layers}.0.op.{kind}"
        start = f"input_blocks.{block + int(parts[3])}.{0 if parts[2] == 'resnets' else 1}"
        rest = parts[4:]
    renamed = {
        **{"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3"},
        **{"time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"},
    }
    attends = "attentions" in parts
    return ".".join([start, *(part if attends else renamed.get(part, part) for part in rest)])


def shrinking_eightfold():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        kinds = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
        return AutoencoderKL(block_out_channels=(8,) * 4, norm_num_groups=4, latent_channels=4, **kinds).eval()


def control_lora_of(unet, rank=2):
    """A ControlNet that differs from its UNet by products of this rank, and its Control-LoRA in its authors' names."""
    generator = torch.Generator().manual_seed(4)
    control = ControlNetModel.from_unet(unet).eval().requires_grad_(False)
    layers, stored = unet.config.layers_per_block, {"lora_controlnet": torch.zeros(0)}
    for name, parameter in control.named_parameters():
        named = authors_name(name, layers)
        if name.startswith("controlnet_"):
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
            stored[named] = parameter.clone()
        elif name.endswith("time_embedding.linear_1.bias"):
            parameter += 0.1
            stored[named] = parameter.clone()  # a file may hold any tensor whole
        elif parameter.ndim >= 2:
            up = 0.2 * torch.randn(len(parameter), rank, *[1] * (parameter.ndim - 2), generator=generator)
            down = 0.2 * torch.randn(rank, *parameter.shape[1:], generator=generator)
            parameter += (up.flatten(1) @ down.flatten(1)).reshape(parameter.shape)
            stored |= {f"{named.removesuffix('weight')}up": up, f"{named.removesuffix('weight')}down": down}
    return control, stored


def test_a_control_lora_is_the_unets_own_weights_changed(tmp_path):
    pipe = tiny_models.tiny_sd(seed=1)
    pipe.vae = shrinking_eightfold()  # as what reads their maps does
    pipe.save_pretrained(tmp_path / "one")
    control, stored = control_lora_of(pipe.unet)
    control.save_pretrained(tmp_path / "controlnet" / "whole")
    safetensors.torch.save_file(stored, tmp_path / "controlnet" / "changes.safetensors")
    loader = loader_of(tmp_path)
    steered = run(loader, "changes")
    assert not torch.allclose(steered, run(loader), atol=1e-2)
    assert torch.allclose(steered, run(loader, "whole"), atol=1e-5)
    # What it is counted with before it is there holds what is made of it.
    plan = loader._extend(loader._plans.find("one"), Extras(controlnet="changes"))
    assert plan.estimates[plan.keys["controlnet"]] > 0.9 * sum(4 * one.numel() for one in control.parameters())
    extra = {f"input_blocks.1.0.in_layers.7.{name}": torch.zeros(2, 2) for name in ("up", "down")}
    safetensors.torch.save_file({**stored, **extra}, tmp_path / "controlnet" / "extra.safetensors")
    with pytest.raises(ModelFileError, match=r"in_layers\.7.* is missing, too many"):
        run(loader, "extra")


def test_a_control_lora_of_a_packed_unet_is_refused():
    pipe = tiny_models.tiny_sd(seed=1)
    control = control_lora_of(pipe.unet)[0]
    pipe.unet.conv_in.weight = torch.nn.Parameter(torch.zeros(4, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(ModelError, match="in full precision"):
        ControlLora(control, frozenset(), {}).complete(pipe.unet)
