"""IP-Adapters say in our runs what they say in diffusers' pipelines at the same seed, on tiny random models."""

from __future__ import annotations

import json

import numpy as np
import pytest
import safetensors.torch
import tiny_models
import torch
from model_folders import loader_of
from network_state import assert_unchanged, state_of
from PIL import Image
from test_families_parity import NEGATIVE, PROMPT, SCALE, SEEDS, error, stock_levels, stock_scale
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from pipelines.controls import IMAGE_PROMPTS
from pipelines.controls.image_prompt import normalize_picture
from pipelines.core.denoiser import Denoiser
from pipelines.core.errors import ModelMissingError, SettingsError
from pipelines.core.loop import Run, denoise
from pipelines.core.noise import NoiseSource
from pipelines.core.types import Choice, Request
from pipelines.families import family_of
from pipelines.families.image_prompt import list_text_attentions
from pipelines.guidance import GUIDANCE
from pipelines.models.extras import Extras
from pipelines.models.files import PartFiles
from pipelines.models.load_request import LoadRequest
from pipelines.models.steering_entry import ADAPTER
from pipelines.models.steering_loading import load_steering_file
from pipelines.requests.text_to_image import build_run, resolve
from pipelines.samplers import SAMPLERS

SIDE, STEPS, SIZE = 16, 4, 32
PICTURE = np.random.default_rng(4).integers(0, 256, (40, 56, 3), dtype=np.uint8)
CLOSE = 2e-5
"""Of the largest value: what the picture says goes through the last layer apart from what the text says."""


def image_encoder():
    torch.manual_seed(6)
    config = CLIPVisionConfig(
        hidden_size=64, intermediate_size=64, projection_dim=24, num_hidden_layers=3, num_attention_heads=2,
        image_size=SIDE, patch_size=8,
    )  # fmt: skip
    return CLIPVisionModelWithProjection(config).eval().requires_grad_(False)


def adapter_state(unet, plus=False):
    """Weights in the form of the published files."""
    generator = torch.Generator().manual_seed(8)

    def draw(*shape):
        return 0.5 * torch.randn(*shape, generator=generator)

    width = unet.config.cross_attention_dim
    if plus:
        from diffusers.models.embeddings import IPAdapterPlusImageProjection

        torch.manual_seed(8)
        projection = {"latents": draw(1, 3, 64), "proj_in.weight": draw(64, 64), "proj_in.bias": draw(64)}
        projection |= {"proj_out.weight": draw(width, 64), "proj_out.bias": draw(width)}
        projection |= {"norm_out.weight": torch.ones(width), "norm_out.bias": torch.zeros(width)}
        built = IPAdapterPlusImageProjection(embed_dims=64, output_dims=width, hidden_dims=64, heads=1, num_queries=3)
        for layer in range(len(built.layers)):
            start = f"layers.{layer}"
            projection |= {
                f"{start}.0.{norm}.{kind}": fill(64)
                for norm in ("norm1", "norm2")
                for kind, fill in (("weight", torch.ones), ("bias", torch.zeros))
            }
            projection |= {f"{start}.0.to_q.weight": draw(64, 64), f"{start}.0.to_kv.weight": draw(128, 64)}
            projection |= {f"{start}.0.to_out.weight": draw(64, 64)}
            projection |= {f"{start}.1.0.weight": torch.ones(64), f"{start}.1.0.bias": torch.zeros(64)}
            projection |= {f"{start}.1.1.weight": draw(256, 64), f"{start}.1.3.weight": draw(64, 256)}
    else:
        projection = {"proj.weight": draw(4 * width, 24), "proj.bias": draw(4 * width)}
        projection |= {"norm.weight": torch.ones(width), "norm.bias": torch.zeros(width)}
    state = {f"image_proj.{name}": tensor for name, tensor in projection.items()}
    for number, attention in enumerate(list_text_attentions(unet)):
        for name in ("to_k_ip", "to_v_ip"):
            state[f"ip_adapter.{2 * number + 1}.{name}.weight"] = draw(*attention.to_k.weight.shape)
    return state


def stock(pipe, state, strength, folder):
    parts = {
        kind: {name.removeprefix(f"{kind}."): one for name, one in state.items() if name.startswith(kind)}
        for kind in ("image_proj", "ip_adapter")
    }
    pipe.register_modules(image_encoder=image_encoder())
    pipe.load_ip_adapter(parts, subfolder="", weight_name="", image_encoder_folder=None)
    pipe.set_ip_adapter_scale(strength)
    noise = NoiseSource(SEEDS)(torch.empty(len(SEEDS), 4, SIZE // 4, SIZE // 4))
    return pipe(
        PROMPT, negative_prompt=NEGATIVE, ip_adapter_image=Image.fromarray(PICTURE), height=SIZE, width=SIZE,
        num_inference_steps=STEPS, guidance_scale=SCALE, num_images_per_prompt=len(SEEDS), latents=noise,
        output_type="latent",
    ).images  # fmt: skip


def ours(pipe, state, strength, tmp_path, **window):
    file = tmp_path / "adapter.safetensors"
    safetensors.torch.save_file(state, file)
    part = PartFiles(ADAPTER, "diffusers", "ModelMixin", tmp_path, (file,), single=True)
    adapter = load_steering_file(part, torch.float32, lambda: False)
    family = family_of({**pipe.components, "ip_adapter": adapter, "image_encoder": image_encoder()})
    settings = {"model": "x", "picture": "x", "strength": strength, **window}
    addition = IMAGE_PROMPTS.build(Choice("ip_adapter", settings)).build(family, PICTURE, [1.0] * len(SEEDS))
    schedule = family.noise_schedule_for(SIZE, SIZE)
    levels = stock_levels(pipe.scheduler, schedule, False)
    noise = NoiseSource(SEEDS)
    latents = noise(torch.empty(len(SEEDS), *family.latent_shape(SIZE, SIZE)))
    conditionings = family.encode_prompts(PROMPT, NEGATIVE, len(SEEDS), (SIZE, SIZE))
    guidance = GUIDANCE["cfg"].build({"guidance_scale": SCALE})
    denoiser = Denoiser(family, guidance, conditionings, additions=[addition] if addition else [])
    sampler = SAMPLERS["ddim" if family.key == "sd" else "euler"].build({})
    latents = latents * stock_scale(pipe.scheduler, levels[0])
    run = Run(denoiser, sampler, levels, latents, noise, schedule)
    return list(denoise(run))[-1].latents


@pytest.mark.parametrize("build", [tiny_models.tiny_sd, tiny_models.tiny_sdxl])
@pytest.mark.parametrize("plus", [False, True], ids=["plain", "plus"])
def test_a_run_is_the_stock_pipelines(build, plus, tmp_path):
    pipe = build()
    state = adapter_state(pipe.unet, plus)
    pipe.scheduler.set_timesteps(STEPS)
    before = state_of(pipe.unet)
    steered = ours(pipe, state, 0.7, tmp_path)
    plain = ours(pipe, state, 0.0, tmp_path)
    late = ours(pipe, state, 0.7, tmp_path, begin=0.5)
    assert_unchanged(pipe.unet, before)
    theirs = stock(pipe, state, 0.7, tmp_path)
    assert error(steered, theirs) < CLOSE
    assert error(plain, theirs) > 1e-2
    assert min(error(late, steered), error(late, plain)) > 1e-3


def test_a_picture_is_brought_to_the_encoder_as_clip_does():
    from transformers import CLIPImageProcessor

    processor = CLIPImageProcessor(size=SIDE, crop_size=SIDE)
    theirs = processor(Image.fromarray(PICTURE), return_tensors="pt").pixel_values
    torch.testing.assert_close(normalize_picture(PICTURE, SIDE), theirs, atol=1e-5, rtol=0)


@pytest.fixture
def folder(models):
    unet = tiny_models.tiny_sd(seed=1).unet
    (models / "ipadapter").mkdir()
    safetensors.torch.save_file(adapter_state(unet), models / "ipadapter" / "look.safetensors")
    image_encoder().save_pretrained(models / "clip_vision" / "image_encoder")
    return models


def run(loader, key="", strength=0.6):
    request = Request(model="one", prompt=PROMPT, num_inference_steps=2, width=SIZE, height=SIZE, seed=3)
    if key:
        choice = Choice("ip_adapter", {"model": key, "picture": "p", "strength": strength})
        request = request.replace(image_prompt=choice)
    with loader.model("one", request=LoadRequest(Extras(adapter=key))) as family:
        family.pictures = {"p": PICTURE}
        return list(denoise(build_run(resolve(request, family), family)))[-1].latents


def test_out_of_the_models_folder_it_steers_and_leaves_the_model_as_it_was(folder):
    loader = loader_of(folder)
    plain, steered = run(loader), run(loader, "look")
    assert not torch.allclose(plain, steered, atol=1e-2)
    assert torch.equal(run(loader, "look", strength=0.0), plain)
    assert torch.equal(run(loader), plain)


def test_without_its_image_encoder_and_for_other_models_it_is_refused(folder):
    config = folder / "clip_vision" / "image_encoder" / "config.json"
    loader = loader_of(folder)
    wrong = loader.model("xl", request=LoadRequest(Extras(adapter="look")))
    with pytest.raises(SettingsError, match="made for another kind of model"), wrong:
        pass
    config.write_text(json.dumps({**json.loads(config.read_text()), "projection_dim": 99}))
    missing = loader.model("one", request=LoadRequest(Extras(adapter="look")))
    with pytest.raises(ModelMissingError, match="image encoder of projection dim 24"), missing:
        pass
