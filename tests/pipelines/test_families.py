"""What every family gives the studio: batches that do not mix, sizes, pictures and previews."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderTiny, DDIMScheduler, EDMEulerScheduler, StableDiffusionPipeline
from tiny_models import tiny_flux, tiny_sd, tiny_sd3, tiny_sdxl

from pipelines.core.denoiser import Denoiser, predict_together
from pipelines.core.errors import ModelError, ModelFileError, SettingsError
from pipelines.core.loop import Run, denoise, denoise_together
from pipelines.core.noise import NoiseSource
from pipelines.core.prediction import Conditioning, Query
from pipelines.core.schedule import CLEAN
from pipelines.families import FAMILIES, family_of
from pipelines.families.flux import image_ids, pack, unpack
from pipelines.families.preview import fit_factors, linear_preview, parse_factors, read_factors, sample_images
from pipelines.guidance import GUIDANCE
from pipelines.samplers import SAMPLERS

MAKERS = {"sd": tiny_sd, "sdxl": tiny_sdxl, "sd3": tiny_sd3, "flux": tiny_flux}
SHIPPED = Path(__file__).resolve().parents[2] / "assets" / "models" / "emoji"


@pytest.fixture(params=MAKERS)
def family(request):
    one = family_of(MAKERS[request.param]().components)
    one.max_sequence_length = 8
    return one


def run_of(family, seeds, prompt="a red fox", steps=3):
    noise, (width, height) = NoiseSource(seeds), (32, 32)
    schedule = family.noise_schedule_for(width, height)
    levels = [schedule.at(time) for time in torch.linspace(990, 200, steps).tolist()] + [CLEAN]
    given = family.encode_prompts(prompt, "blurry", len(seeds), (width, height))
    sampler = SAMPLERS["flow_euler" if family.traits.flow else "dpmpp_2m"].build({})
    guidance = GUIDANCE["cfg"].build({"guidance_scale": 4.0})
    latents = noise(torch.empty(len(seeds), *family.latent_shape(width, height)))
    return Run(Denoiser(family, guidance, given), sampler, levels, latents, noise, schedule)


def last(run):
    return list(denoise(run))[-1].latents


def test_the_components_say_which_family_they_are():
    assert {key: family_of(make().components).key for key, make in MAKERS.items()} == {key: key for key in FAMILIES}


def test_rows_at_different_times_equal_separate_evaluations(family):
    given = family.encode_prompts("a red fox", "blurry", 1, (32, 32))
    both = Conditioning.cat([given["positive"], given["negative"]])
    latents = torch.randn(2, *family.latent_shape(32, 32), generator=torch.Generator().manual_seed(0))
    times = torch.tensor([30.0, 870.0])
    together = family.predict_raw(latents, times, both)
    apart = [family.predict_raw(latents[i : i + 1], times[i : i + 1], both.rows(i, i + 1)) for i in range(2)]
    torch.testing.assert_close(together, torch.cat(apart), atol=1e-5, rtol=1e-5)
    swapped = family.predict_raw(latents, times.flip(0), both)
    assert (swapped - together).abs().max() > 1e-3


def test_the_batch_size_does_not_change_an_image(family):
    torch.testing.assert_close(last(run_of(family, [5, 6]))[1:], last(run_of(family, [6])), atol=1e-4, rtol=1e-4)


def test_runs_that_share_a_batch_equal_runs_alone(family):
    alone = [last(run_of(family, [1])), last(run_of(family, [2], prompt="blue sky", steps=4))]
    shared = {}
    for index, step in denoise_together([run_of(family, [1]), run_of(family, [2], prompt="blue sky", steps=4)]):
        shared[index] = step.latents
    for index, expected in enumerate(alone):
        torch.testing.assert_close(shared[index], expected, atol=1e-4, rtol=1e-4)


def test_a_limit_of_rows_changes_no_prediction(family):
    def ask():
        run = run_of(family, [1, 2])
        return predict_together([(run.denoiser, Query(run.latents, run.levels[0]))])[0].raw

    whole = ask()
    family.max_rows = 1
    torch.testing.assert_close(ask(), whole, atol=1e-4, rtol=1e-4)


def test_a_run_leaves_the_network_in_its_own_state(family):
    before = {name: value.clone() for name, value in family.network.state_dict().items()}
    last(run_of(family, [1]))
    assert all(torch.equal(before[name], value) for name, value in family.network.state_dict().items())


def test_pictures_go_to_latents_and_back(family):
    images = sample_images(2, 32)
    latents = family.encode_images(images)
    assert latents.shape == (2, *family.latent_shape(32, 32)) and latents.dtype == torch.float32
    decoded = family.decode(latents)
    assert decoded.shape == images.shape and decoded.dtype == torch.float32
    assert decoded.min() >= 0 and decoded.max() <= 1
    assert torch.equal(family.decode(latents[1:]), decoded[1:])
    assert torch.equal(family.encode_images(images[1:]), latents[1:])


def test_decoding_is_the_stock_pipelines():
    for make in MAKERS.values():
        pipe = make()
        family = family_of(pipe.components)
        latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        config = pipe.vae.config
        theirs = pipe.vae.decode(latents / config.scaling_factor + (config.shift_factor or 0), return_dict=False)[0]
        theirs = pipe.image_processor.postprocess(theirs, output_type="pt")
        torch.testing.assert_close(family.decode(latents), theirs, atol=1e-5, rtol=1e-5)


def test_a_half_precision_vae_that_overflows_decodes_in_float32():
    pipe = tiny_sd()
    expected = family_of(pipe.components).decode(torch.ones(1, 4, 8, 8))
    pipe.vae.half()
    before = {name: value.clone() for name, value in pipe.vae.state_dict().items()}
    decoded = family_of(pipe.components).decode(torch.ones(1, 4, 8, 8))
    torch.testing.assert_close(decoded, expected, atol=5e-3, rtol=0)
    after = pipe.vae.state_dict()
    assert all(after[name].dtype == torch.float16 and torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize(("width", "height"), [(31, 32), (32, 0), (-8, 32), (32, 33)])
def test_a_size_the_model_cannot_make_is_refused(family, width, height):
    with pytest.raises(SettingsError, match="multiples of 8"):
        family.require_size(width, height)
    family.require_size(32, 48)


def test_sd3_refuses_a_side_beyond_its_positions():
    with pytest.raises(SettingsError, match="at most 64"):
        family_of(tiny_sd3().components).require_size(128, 32)


def test_packing_is_the_stock_pipelines_and_turns_back():
    pipe, latents = tiny_flux(), torch.arange(2 * 4 * 6 * 8).reshape(2, 4, 6, 8).float()
    assert torch.equal(pack(latents), pipe._pack_latents(latents, 2, 4, 6, 8))
    assert torch.equal(unpack(pack(latents), 6, 8), latents)
    assert torch.equal(
        image_ids(6, 8, torch.device("cpu")), pipe._prepare_latent_image_ids(1, 3, 4, "cpu", torch.float32)
    )


def test_a_network_in_half_precision_takes_and_gives_float32():
    for make in MAKERS.values():
        pipe = make()
        whole = family_of(pipe.components)
        whole.max_sequence_length = 8
        given = whole.encode_prompts("a fox", "", 1, (32, 32))["positive"]
        arguments = (torch.ones(1, 4, 8, 8), torch.tensor([500.0]), given)
        expected = whole.predict_raw(*arguments)
        whole.network.to(torch.bfloat16)
        raw = family_of(pipe.components).predict_raw(*arguments)
        assert raw.dtype == torch.float32
        assert (raw - expected).abs().max() < 0.1 * expected.abs().max()


def test_linear_factors_recover_a_linear_map_exactly():
    latents = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    factors, bias = torch.full((4, 3), 0.05), torch.tensor([0.4, 0.5, 0.6])
    small = torch.einsum("bchw,cd->bdhw", latents, factors) + bias[:, None, None]
    images = small.repeat_interleave(4, dim=-1).repeat_interleave(4, dim=-2)
    fitted = fit_factors(latents, images)
    torch.testing.assert_close(fitted.factors, factors, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(fitted.bias, bias, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(linear_preview(latents, fitted), small.clamp(0, 1), atol=1e-6, rtol=1e-5)


def test_previews_are_small_and_follow_the_latents(family):
    shape = (2, *family.latent_shape(32, 32))
    first, second = family.preview(torch.zeros(shape)), family.preview(torch.ones(shape))
    assert first.shape == (2, 3, 8, 8) and first.dtype == torch.float32
    assert first.min() >= 0 and first.max() <= 1 and not torch.equal(first, second)
    encoded = []
    family.encode_images = encoded.append
    family.preview(torch.zeros(shape))
    assert not encoded, "the factors are fitted once"


def test_given_factors_are_used(tmp_path):
    plain = {"factors": [[0.1, 0.0, 0.0]] * 4, "bias": [0.5, 0.25, 0.0]}
    (tmp_path / "preview.json").write_text(json.dumps(plain))
    family = family_of({**tiny_sd().components, "preview": read_factors(tmp_path)})
    preview = family.preview(torch.ones(1, 4, 8, 8))
    torch.testing.assert_close(preview[0, :, 0, 0], torch.tensor([0.9, 0.25, 0.0]))
    assert read_factors(tmp_path / "elsewhere") is None


@pytest.mark.parametrize(
    "plain",
    [
        {},
        {"factors": [[1.0]], "bias": [0, 0, 0]},
        {"factors": "x", "bias": 1},
        {"factors": [[float("nan")] * 3] * 4, "bias": [0, 0, 0]},
    ],
)
def test_factors_that_cannot_be_used_are_refused(plain):
    with pytest.raises(ModelFileError, match=r"preview.json"):
        parse_factors(plain, 4)


def test_a_broken_preview_file_is_refused(tmp_path):
    for content in ("{", "[1]"):
        (tmp_path / "preview.json").write_text(content)
        with pytest.raises(ModelFileError, match=r"preview.json"):
            read_factors(tmp_path)


def test_a_tiny_decoder_makes_the_previews_where_there_is_one():
    tiny = AutoencoderTiny(
        encoder_block_out_channels=(4, 4),
        decoder_block_out_channels=(4, 4),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    )
    preview = family_of({**tiny_sd().components, "tiny_vae": tiny}).preview(torch.zeros(1, 4, 8, 8))
    assert preview.shape == (1, 3, 16, 16) and preview.min() >= 0 and preview.max() <= 1


def test_an_inpainting_network_is_refused():
    pipe = tiny_sd()
    pipe.unet.register_to_config(in_channels=9)
    with pytest.raises(ModelError, match="not a text-to-image model"):
        family_of(pipe.components)


def test_components_of_no_family_and_incomplete_ones_are_refused():
    with pytest.raises(ModelError, match="AutoencoderKL"):
        family_of({"transformer": tiny_sd().vae})
    with pytest.raises(ModelError, match="has no vae"):
        family_of({**tiny_sd().components, "vae": None})
    with pytest.raises(ModelError, match="EDMEulerScheduler"):
        family_of({**tiny_sd().components, "scheduler": EDMEulerScheduler()})


def test_a_terminal_level_without_signal_stays_finite():
    scheduler = DDIMScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction")
    family = family_of({**tiny_sd().components, "scheduler": scheduler})
    level = family.noise_schedule.at(999)
    assert level.alpha == pytest.approx(2**-12) and all(map(torch.isfinite, torch.tensor(dataclasses.astuple(level))))
    assert family.prediction_type == family.traits.prediction_type == "v_prediction"


@pytest.mark.skipif(not (SHIPPED / "model_index.json").is_file(), reason="the shipped model is not here yet")
def test_the_shipped_model_is_an_sd_family_and_its_pictures_survive_the_vae():
    pipe = StableDiffusionPipeline.from_pretrained(SHIPPED, dtype=torch.float32)
    family = family_of({**pipe.components, "preview": read_factors(SHIPPED)})
    assert (family.key, family.default_size, family.size_multiple) == ("sd", (64, 64), 8)
    images = sample_images(2, 64)
    latents = family.encode_images(images)
    assert latents.shape == (2, 4, 16, 16)
    assert (family.decode(latents) - images).square().mean().sqrt() < 0.1
    small = torch.nn.functional.interpolate(images, size=(16, 16), mode="area")
    assert (family.preview(latents) - small).square().mean().sqrt() < 0.15
