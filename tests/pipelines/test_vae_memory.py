"""A picture is never lost: a decoding that runs out of memory works in tiles, and NaN is never stored as black."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny

from pipelines.core.devices import read_free_memory
from pipelines.core.errors import ModelError
from pipelines.core.loop import denoise
from pipelines.families import family_of
from pipelines.families.vae_memory import applied_tiling, estimate_vae_memory
from pipelines.requests.step_pictures import with_pictures
from pipelines.requests.text_to_image import build_run, resolve
from tests.pipelines.accelerator import Accelerator
from tests.pipelines.test_on_accelerator import placed, request_for
from tests.pipelines.tiny_models import tiny_sd


@pytest.fixture(params=["cpu", "cuda"])
def place(request):
    """The CPU, or the stand-in for a GPU, which is there as long as the test runs."""
    if request.param == "cpu":
        yield "cpu"
        return
    device = Accelerator("cuda")
    with device.on():
        yield device.device


@pytest.fixture
def family(place):
    return family_of(placed(tiny_sd().components, place, torch.float32))


@pytest.fixture
def tiny_family():
    """With an AutoencoderTiny of three levels in the place of its VAE."""
    pipe = tiny_sd()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        levels = {"encoder_block_out_channels": (8,) * 3, "decoder_block_out_channels": (8,) * 3}
        vae = AutoencoderTiny(num_encoder_blocks=(1,) * 3, num_decoder_blocks=(1,) * 3, **levels).eval()
    return family_of({**pipe.components, "vae": vae.requires_grad_(False)})


def latents(side: int) -> torch.Tensor:
    return torch.randn((1, 4, side, side), generator=torch.Generator().manual_seed(0))


def limit(vae: torch.nn.Module, name: str, most: int) -> list[int]:
    """Let a part of the VAE run out of memory beyond so many places, and list those it was asked for."""
    part, asked = getattr(vae, name), []

    def check(module, inputs):
        asked.append(inputs[0].shape[-1] * inputs[0].shape[-2])
        if asked[-1] > most:
            raise RuntimeError("MPS backend out of memory")

    part.register_forward_pre_hook(check)
    return asked


def test_a_decoding_that_runs_out_of_memory_decodes_in_tiles_and_says_so(family):
    whole = family.decode(latents(64))
    assert family.notes == []
    asked = limit(family.vae, "decoder", 32 * 32)
    tiled = family.decode(latents(64))
    assert max(asked[1:]) <= 32 * 32 and tiled.shape == whole.shape
    assert "tiles of 128 pixels" in family.notes[0]
    # In the middle of a tile, away from blended edges, only the statistics of group norm differ.
    assert (tiled - whole).abs().mean() < 0.05
    assert not family.vae.use_tiling


@pytest.mark.parametrize("decodes", [True, False])
def test_the_memory_that_a_vae_takes_is_estimated_as_the_stand_in_counts_it(decodes):
    """Counted at two sizes, so that what does not grow with the picture cancels."""
    device, peaks = Accelerator("cuda"), []
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    made = AutoencoderKL(block_out_channels=(8, 16), layers_per_block=2, norm_num_groups=4, **kinds).eval()
    with device.on():
        vae = placed({"vae": made}, device.device, torch.float32)["vae"]
        for side in (64, 128):
            given = latents(side // 2) if decodes else torch.rand((1, 3, side, side))
            call = vae.decode if decodes else vae.encode
            with device.measuring() as meter, torch.no_grad():
                given = given.to(device.device)
                before = meter.bytes
                call(given)
                peaks.append(meter.peak - before)
        each = estimate_vae_memory(vae, decodes)
    assert (peaks[1] - peaks[0]) / (128**2 - 64**2) == pytest.approx(each, rel=0.03)


def test_what_free_memory_would_not_hold_is_in_tiles_from_the_start_and_says_so(family, monkeypatch):
    whole = family.decode(latents(64))
    pictures = torch.rand((1, 3, 256, 256), generator=torch.Generator().manual_seed(0))
    asked, encoded = limit(family.vae, "decoder", 64 * 64), limit(family.vae, "encoder", 256 * 256)
    each = estimate_vae_memory(family.vae, decodes=True)
    for free, side in ((each * 256**2, 64), (each * 256**2 - 1, 32), (1, 32)):
        monkeypatch.setattr("pipelines.families.vae_memory.read_free_memory", lambda device, free=free: free)
        asked.clear(), encoded.clear()
        found = family.decode(latents(64))
        assert max(asked) == side**2 and found.shape == whole.shape
        assert [f"tiles of {4 * side} pixels" in note for note in family.notes] == [True] * (side < 64)
        family.encode_images(pictures)
    assert max(encoded) == 128 * 128
    monkeypatch.setattr("pipelines.families.vae_memory.read_free_memory", lambda device: None)
    assert torch.equal(family.decode(latents(64)), whole)


def test_a_tiny_autoencoder_decodes_in_tiles_whatever_its_factor(tiny_family):
    whole = tiny_family.decode(latents(64))
    asked = limit(tiny_family.vae, "decoder", 32 * 32)
    tiled = tiny_family.decode(latents(64))
    assert max(asked[1:]) <= 32 * 32 and tiled.shape == whole.shape == (1, 3, 256, 256)
    assert (tiled - whole).abs().mean() < 0.01  # no group norm: they differ at the blended edges alone
    assert tiny_family.vae.spatial_scale_factor == 8  # as diffusers has it


def test_an_encoding_that_runs_out_of_memory_encodes_in_tiles(family):
    pictures = torch.rand((1, 3, 256, 256), generator=torch.Generator().manual_seed(0))
    whole = family.encode_images(pictures)
    asked = limit(family.vae, "encoder", 128 * 128)
    tiled = family.encode_images(pictures)
    assert max(asked[1:]) <= 128 * 128 and tiled.shape == whole.shape
    assert (tiled - whole).abs().mean() < 0.3 * whole.abs().mean()


def test_what_not_even_the_smallest_tiles_hold_raises(family):
    limit(family.vae, "decoder", 4)
    with pytest.raises(RuntimeError, match="out of memory"):
        family.decode(latents(64))
    assert not family.vae.use_tiling


def test_an_error_within_tiles_leaves_the_vae_as_it_was(family):
    before = dict(vars(family.vae))
    with pytest.raises(ValueError), applied_tiling(family.vae, 8, 4):
        raise ValueError
    assert vars(family.vae) == before


def test_latents_that_are_not_finite_are_never_a_picture(family):
    broken = latents(8)
    broken[0, 0, 0, 0] = torch.inf
    with pytest.raises(ModelError, match="NaN"):
        family.decode(broken)


def test_a_vae_that_overflows_in_half_precision_decodes_in_float32_and_says_so(place):
    pipe = tiny_sd()
    pipe.vae.register_to_config(force_upcast=False)
    weight = pipe.vae.decoder.conv_in.weight
    weight.data *= 3e4 / float(weight.abs().max())
    half = family_of(placed(pipe.components, place, torch.float16))
    picture = half.decode(latents(8) * 100)
    assert picture.isfinite().all() and "float32" in half.notes[0]
    assert half.vae.dtype == torch.float16


@pytest.mark.parametrize(("dtype", "remedy"), [(torch.float16, "--dtype bf16"), (torch.float32, "guidance scale")])
def test_a_run_whose_latents_are_not_finite_stops_at_that_step_with_the_remedy(family, dtype, remedy):
    count = [0]

    def overflowing(latents, timesteps, conditioning):
        count[0] += 1
        return torch.full_like(latents, 0.1 if count[0] < 2 else torch.inf)

    family.predict_raw, family.network_dtype = overflowing, dtype
    run = build_run(resolve(request_for("sd").replace(num_inference_steps=6), family), family)
    shown = []
    with pytest.raises(ModelError, match=remedy):
        for _, step, _ in with_pictures(((0, step) for step in denoise(run)), [family]):
            shown.append(step.index)
    # A device tells of a step while the next one runs.
    assert shown == [0] and run.denoiser.evaluations <= 2 * (2 + (family.device.type != "cpu"))


def test_memory_that_pytorch_keeps_on_an_apple_gpu_counts_as_free(monkeypatch):
    memory = {"recommended_max_memory": 10, "driver_allocated_memory": 9, "current_allocated_memory": 2}
    for name, value in memory.items():
        monkeypatch.setattr(torch.mps, name, lambda value=value: value * 10**9)
    assert read_free_memory(torch.device("mps")) == 8 * 10**9
