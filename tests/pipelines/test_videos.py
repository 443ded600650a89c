"""Clips: a walk is text to image between its keys, AnimateDiff is Stable Diffusion with motion, the rest diffusers'."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from pipelines.core.denoiser import Denoiser
from pipelines.core.errors import SettingsError
from pipelines.core.loop import denoise
from pipelines.core.noise import NoiseSource, slerp
from pipelines.core.types import Choice
from pipelines.families import family_of
from pipelines.families.animatediff import AnimateDiff, ClipNoise
from pipelines.families.sd import StableDiffusion
from pipelines.families.stock import StockPipeline
from pipelines.families.stock_video import evenly
from pipelines.guidance.cfg import Cfg, CfgSettings
from pipelines.requests.encoding import decode
from pipelines.requests.text_to_image import build_run, resolve
from pipelines.workflows.video import VIDEOS
from pipelines.workflows.video.base import VideoJob
from pipelines.workflows.video.walk import WalkNoise, between, places
from tests.pipelines.tiny_models import tiny_flux, tiny_sd, tiny_sdxl
from tests.pipelines.tiny_videos import TINY_VIDEOS, tiny_animatediff, tiny_ltx, tiny_svd, tiny_wan
from tests.pipelines.video_requests import BASE, OTHER, walk, weights


@pytest.fixture(scope="module")
def sd():
    return family_of(tiny_sd().components)


def picture(request, family):
    request = resolve(request, family)
    *_, step = denoise(build_run(request, family))
    return decode(family, step.latents)[0]


@pytest.mark.parametrize(
    ("family", "sampler"),
    [(tiny_sd, "dpmpp_2m"), (tiny_sd, "euler_a"), (tiny_sdxl, "ddim"), (tiny_flux, "flow_euler")],
    ids=lambda one: getattr(one, "__name__", one),
)
def test_a_walk_passes_through_text_to_images_own_pictures(family, sampler):
    made = family_of(family().components)
    base = BASE.replace(sampler=Choice(sampler), variation_strength=0.2)
    keys = [base, base.replace(**OTHER), base.replace(prompt="dark sea", seed=1)]
    frames, _ = walk(made, keys, frames=5, frames_at_once=1)
    for place, key in zip((0, 2, 4), keys, strict=True):
        assert np.array_equal(frames[place], picture(key, made)), place
    assert not np.array_equal(frames[1], frames[0]) and not np.array_equal(frames[1], frames[2])


def test_how_many_frames_share_a_batch_changes_no_frame(sd):
    keys = [BASE.replace(sampler=Choice("euler_a")), BASE.replace(**OTHER)]
    one, _ = walk(sd, keys, 7, frames_at_once=1)
    for count in (3, 32):
        many, steps = walk(sd, keys, 7, frames_at_once=count)
        assert np.abs(many.astype(int) - one).max() <= 1
        assert [step.index for step in steps] == list(range(-(-7 // count) * 3)) and steps[-1].num_steps == len(steps)


def test_between_two_equal_keys_a_walk_stands_still(sd):
    frames, _ = walk(sd, [BASE, BASE, BASE.replace(**OTHER)], 7, frames_at_once=1)
    assert (frames[:4] == frames[0]).all() and (frames[4:] != frames[0]).any(axis=(1, 2, 3)).all()


def test_a_loop_comes_back_without_showing_its_beginning_twice(sd):
    keys = [BASE, BASE.replace(**OTHER)]
    frames, _ = walk(sd, keys, 6, loop=True)
    assert np.abs(frames[1].astype(int) - frames[5]).max() <= 1 and not np.array_equal(frames[0], frames[5])


@pytest.mark.parametrize("easing", ["linear", "smooth"])
@pytest.mark.parametrize("loop", [False, True])
def test_every_key_is_met_by_exactly_one_frame_and_the_way_never_turns(easing, loop):
    for keys in range(2, 7):
        for frames in range(keys, 40):
            way = places(frames, keys, loop, easing)
            assert len(way) == frames
            met = [place.start for place in way if place.share == 0]
            assert sorted(met) == list(range(keys))
            assert way[0].share == 0 and way[0].start == 0
            along = [place.start + place.share for place in way]
            assert all(first < second for first, second in itertools.pairwise(along))


def test_smooth_is_slow_at_the_keys_and_linear_is_not():
    linear, smooth = ([place.share for place in places(11, 2, easing=easing)][:10] for easing in ("linear", "smooth"))
    assert np.allclose(np.diff(linear), 0.1)
    assert np.diff(smooth)[0] < 0.05 and np.diff(smooth)[4] > 0.14


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_turning_keeps_the_norm_of_noise_and_of_every_words_vector(share):
    generator = torch.Generator().manual_seed(0)
    start, end = (torch.randn(2, 7, 16, generator=generator, dtype=torch.float64) for _ in range(2))
    start, end = (one / one.norm(dim=-1, keepdim=True) for one in (start, end))
    turned = between(start, end, share)
    assert torch.allclose(turned.norm(dim=-1), torch.ones(2, 7, dtype=torch.float64), atol=1e-12)
    angle = torch.arccos((start * end).sum(-1))
    assert torch.allclose(torch.arccos((start * turned).sum(-1).clamp(-1, 1)), share * angle, atol=1e-7)
    assert torch.equal(between(start, start, share), start)


def test_later_noise_is_each_keys_own_at_the_keys_and_normal_between_them():
    like = torch.empty(3, 4, 64, 64)
    noise = WalkNoise([(NoiseSource([1]), NoiseSource([2])) for _ in range(3)], [0.0, 0.5, 1.0])
    twin = noise.clone()
    drawn = noise(like)
    first, second = NoiseSource([1])(like[:1]), NoiseSource([2])(like[:1])
    assert torch.equal(drawn[:1], first) and torch.equal(drawn[2:], second)
    assert torch.equal(drawn[1:2], slerp(first, second, 0.5)) and abs(drawn[1].std() - 1) < 0.02
    assert torch.equal(twin(like), drawn) and not torch.equal(noise(like), drawn)


def test_a_walk_says_what_it_cannot_do(sd):
    with pytest.raises(SettingsError, match="at least two"):
        walk(sd, [BASE])
    with pytest.raises(SettingsError, match="is 2, fewer than the 3 keyframes"):
        walk(sd, [BASE] * 3, frames=2)
    with pytest.raises(SettingsError, match="every frame would be the same picture"):
        walk(sd, [BASE, BASE])


def test_a_walk_leads_from_a_short_prompt_to_one_of_several_chunks(sd):
    long = BASE.replace(prompt="a red fox " * 20)
    frames, alone = walk(sd, [BASE, long])[0], walk(sd, [long.replace(seed=9), long])[0]
    assert len(frames) == 5 and abs(frames[-1] - alone[-1]).max() < 1e-4  # the long one needs no filling
    assert abs(frames[0] - alone[-1]).max() > 1e-3


def test_without_motion_it_is_stable_diffusion_frame_by_frame():
    plain, pipe = tiny_sd(), tiny_animatediff()
    for name, part in pipe.unet.named_parameters():
        if "motion_modules" in name and "proj_out" in name:
            part.zero_()
    still = AnimateDiff(pipe.components, frames=4)
    sd = StableDiffusion({**plain.components, "unet": plain.unet})
    names = {name for name, _ in plain.unet.named_parameters()}
    plain.unet.load_state_dict({name: value for name, value in pipe.unet.state_dict().items() if name in names})
    latents = torch.randn(8, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    texts = sd.encode_prompts("a red fox", "", 8, (32, 32))["positive"]
    times = torch.tensor([500.0] * 4 + [20.0] * 4)
    apart, together = sd.predict_raw(latents, times, texts), still.predict_raw(latents, times, texts)
    assert torch.allclose(apart, together, atol=2e-6)
    moving = AnimateDiff(tiny_animatediff().components, frames=4)
    assert not torch.allclose(moving.predict_raw(latents, times, texts), together, atol=1e-3)


def test_where_memory_runs_out_its_two_clips_are_parted_and_their_frames_are_not(monkeypatch):
    family = AnimateDiff(tiny_animatediff().components, frames=3)
    texts = family.encode_prompts("a red fox", "blurry", 3, (32, 32))
    latents = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    level = family.noise_schedule.at(500)
    whole = Denoiser(family, Cfg(CfgSettings(3.0)), texts).predict(latents, level).raw
    evaluate, rows = family.predict_raw, []

    def out_of_memory():
        raise torch.OutOfMemoryError

    def small(latents, timesteps, conditioning):
        rows.append(len(latents))
        if len(latents) > 4:
            out_of_memory()
        return evaluate(latents, timesteps, conditioning)

    monkeypatch.setattr(family, "predict_raw", small)
    parted = Denoiser(family, Cfg(CfgSettings(3.0)), texts).predict(latents, level).raw
    assert rows == [6, 3, 3] and torch.allclose(whole, parted, atol=1e-5)
    monkeypatch.setattr(family, "predict_raw", lambda *given: small(*given) if len(given[0]) < 3 else out_of_memory())
    with pytest.raises(torch.OutOfMemoryError):
        Denoiser(family, Cfg(CfgSettings(3.0)), texts).predict(latents, level)


def test_its_clip_is_the_stock_pipelines():
    pipe = tiny_animatediff()
    expected = pipe(
        "a red fox",
        negative_prompt="blurry",
        num_frames=4,
        height=32,
        width=32,
        num_inference_steps=5,
        guidance_scale=4.0,
        generator=torch.Generator().manual_seed(7),
        output_type="latent",
    ).frames
    family = AnimateDiff(pipe.components, frames=4)
    job = VideoJob(
        (
            BASE.replace(
                prompt="a red fox",
                negative_prompt="blurry",
                num_inference_steps=5,
                seed=7,
                schedule=Choice("uniform", {"spacing": "leading"}),
                guidance=Choice("cfg", {"guidance_scale": 4.0}),
            ),
        ),
        4,
        8,
    )
    method, latents = VIDEOS["animatediff"].build({"betas": "model"}), []
    before = weights(pipe)
    for event in method.run(job, StockPipeline(pipe), lambda: False):
        latents.append(event)
    assert len(latents) == 6 and latents[-1].pictures.shape == (4, 32, 32, 3)
    assert np.abs(latents[-1].pictures.astype(int) - decode(family, expected[0].transpose(0, 1))).max() <= 1
    after = weights(pipe)
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(("predicts", "betas"), [("epsilon", "linear"), ("v_prediction", "model")])
def test_the_noise_schedule_is_chosen_by_what_the_model_predicts(predicts, betas):
    made = []
    for choice in ("auto", betas):
        pipe = tiny_animatediff()
        pipe.scheduler.register_to_config(prediction_type=predicts)
        job = VideoJob((BASE.replace(num_inference_steps=1),), 2, 8)
        *_, last = VIDEOS["animatediff"].build({"betas": choice}).run(job, StockPipeline(pipe), lambda: False)
        made.append(last.pictures)
    assert np.array_equal(*made)


def preview_factors(pipe):
    return {"factors": [[0.1] * 3] * pipe.vae.config.latent_channels, "bias": [0.5] * 3}


def animate(pipe, sampler="ddim", way="auto", facts=None, **job):
    base, method = BASE.replace(sampler=Choice(sampler), num_inference_steps=4), VIDEOS["animatediff"]
    model = StockPipeline(pipe, facts)
    *_, last = method.build({"first_frame": way}).run(VideoJob((base,), 4, 8, **job), model, lambda: False)
    return last.pictures


@pytest.mark.parametrize("way", ["noisy", "clean"])
@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m", "euler_a", "heun"])
def test_a_first_frame_is_kept_and_the_others_see_it(sampler, way):
    pipe = tiny_animatediff()
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 256, (32, 32, 3), np.uint8), np.full((32, 32, 3), 255, np.uint8)
    free, held, else_held = (animate(pipe, sampler, way, first_frame=picture) for picture in (None, one, other))
    family = AnimateDiff(pipe.components, frames=4)
    latents = family.encode_images(torch.from_numpy(one).permute(2, 0, 1)[None] / 255)
    assert np.array_equal(held[0], decode(family, latents)[0])  # bit for bit what the autoencoder makes of it
    assert (held[1:] != free[1:]).any() and (held[1:] != else_held[1:]).any()


def test_without_motion_no_frame_sees_the_first():
    pipe = tiny_animatediff()
    for name, part in pipe.unet.named_parameters():
        if "motion_modules" in name and "proj_out" in name:
            part.zero_()
    held = animate(pipe, "euler_a", first_frame=np.full((32, 32, 3), 200, np.uint8))
    assert np.array_equal(held[1:], animate(pipe, "euler_a")[1:])


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "heun"])
def test_a_clean_first_frame_is_clean_at_every_evaluation(sampler):
    pipe, seen = tiny_animatediff(), []
    handle = pipe.unet.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    held = animate(pipe, sampler, "clean", first_frame=np.full((32, 32, 3), 200, np.uint8))
    handle.remove()
    latents = AnimateDiff(pipe.components, frames=4).encode_images(torch.full((1, 3, 32, 32), 200 / 255))[0]
    assert len(seen) >= 4 and all(torch.allclose(clip[:, :, 0], latents.expand(len(clip), -1, -1, -1)) for clip in seen)
    assert not any(torch.allclose(clip[:, :, 1], latents) for clip in seen)
    facts = {"first_frame": "clean", **preview_factors(pipe)}
    assert np.array_equal(animate(pipe, sampler, facts=facts, first_frame=np.full((32, 32, 3), 200, np.uint8)), held)
    assert not np.array_equal(animate(pipe, sampler, first_frame=np.full((32, 32, 3), 200, np.uint8)), held)


def test_of_a_first_frame_of_other_proportions_the_middle_is_taken():
    pipe, wide = tiny_animatediff(), np.zeros((64, 128, 3), np.uint8)
    wide[:, 20:108] = 255  # Lanczos sees a little beyond the middle
    middle = np.full((32, 32, 3), 255, np.uint8)
    assert np.array_equal(animate(pipe, first_frame=wide), animate(pipe, first_frame=middle))


def test_the_published_motion_modules_have_linear_betas():
    family = AnimateDiff(tiny_animatediff().components, frames=2)
    from pipelines.families.animatediff import linear_schedule

    betas = torch.linspace(0.00085, 0.012, 1000, dtype=torch.float64)
    schedule = linear_schedule(family.components["scheduler"])
    assert np.allclose(schedule.alphas_cumprod, torch.cumprod(1 - betas, 0).numpy(), rtol=1e-4)
    assert schedule.alphas_cumprod[500] < 0.8 * family.noise_schedule.alphas_cumprod[500]


def test_clip_noise_is_drawn_as_one_tensor():
    like = torch.empty(3, 4, 8, 8)
    drawn = ClipNoise(5)(like)
    own = torch.randn((1, 4, 3, 8, 8), generator=torch.Generator().manual_seed(5))
    assert torch.equal(drawn, own[0].transpose(0, 1))


def test_more_frames_than_places_in_time_are_refused():
    job = VideoJob((BASE,), 33, 8)
    with pytest.raises(SettingsError, match=r"is 33. This motion module knows 32"):
        list(VIDEOS["animatediff"].build().run(job, StockPipeline(tiny_animatediff()), lambda: False))


def test_a_strip_shows_the_first_and_the_last():
    assert evenly(3) == [0, 1, 2] and evenly(8) == list(range(8))
    assert evenly(81)[0] == 0 and evenly(81)[-1] == 80 and len(evenly(81)) == 8
    assert {tiny_ltx, tiny_svd, tiny_wan} <= set(TINY_VIDEOS.values())
