"""Clips: a walk is text to image between its keys, AnimateDiff is Stable Diffusion with motion, the rest diffusers'."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from pipelines.core.denoiser import Cancelled, Denoiser
from pipelines.core.errors import MethodFitError, PromptError, SettingsError
from pipelines.core.loop import denoise
from pipelines.core.noise import NoiseSource, slerp
from pipelines.core.types import Choice, LoraChoice, Request
from pipelines.families import family_of
from pipelines.families.animatediff import AnimateDiff, ClipNoise
from pipelines.families.sd import StableDiffusion
from pipelines.families.stock import StockPipeline
from pipelines.families.stock_video import evenly
from pipelines.guidance.cfg import Cfg, CfgSettings
from pipelines.models.catalog import published, shipped
from pipelines.models.entry import CatalogEntry
from pipelines.models.video_models import VIDEO_MODELS, plan_clip, video_model
from pipelines.requests.text_to_image import build_run, decode, resolve
from pipelines.workflows.video import VIDEOS, fitting_videos
from pipelines.workflows.video.base import ClipFrames, ClipStep, VideoJob
from pipelines.workflows.video.walk import Walk, WalkNoise, WalkSettings, between, places
from tests.pipelines.network_state import assert_unchanged, broken_at, state_of
from tests.pipelines.tiny_models import tiny_flux, tiny_sd, tiny_sdxl
from tests.pipelines.tiny_videos import TINY_VIDEOS, tiny_animatediff, tiny_ltx, tiny_svd, tiny_wan

BASE = Request(
    model="tiny", prompt="a red fox", num_inference_steps=3, seed=3, width=32, height=32, sampler=Choice("ddim")
)
OTHER = {"prompt": "a blue cat", "seed": 9}


@pytest.fixture(scope="module")
def sd():
    return family_of(tiny_sd().components)


def walk(family, keys, frames=5, **settings):
    """The frames of a walk, (F, H, W, 3), and its steps."""
    method = Walk(WalkSettings(**{"easing": "linear", **settings}))
    job = VideoJob(tuple(keys), frames, 8)
    method.check(job)
    events = list(method.run(job, family, lambda: False))
    pictures = [event for event in events if isinstance(event, ClipFrames)]
    assert [event.first for event in pictures] == list(np.cumsum([0, *(len(one.pictures) for one in pictures[:-1])]))
    return np.concatenate([one.pictures for one in pictures]), [one for one in events if isinstance(one, ClipStep)]


def picture(request, family):
    request = resolve(request, family)
    *_, step = denoise(build_run(request, family))
    return decode(family, step.latents)[0]


# The walk.


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


def test_a_walk_that_goes_nowhere_stands_still(sd):
    frames, _ = walk(sd, [BASE, BASE], 6, frames_at_once=1)
    assert (frames == frames[0]).all()


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
            assert all(first < second for first, second in zip(along, along[1:], strict=False))


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
    with pytest.raises(SettingsError, match="is 2, fewer than the 3 keys"):
        walk(sd, [BASE] * 3, frames=2)
    with pytest.raises(PromptError, match="Shorten"):
        walk(sd, [BASE, BASE.replace(prompt="a red fox " * 20)])


# AnimateDiff.


def weights(pipe):
    parts = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    hooks = sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks)
        for name, part in parts.items()
        for module in part.modules()
        if "encoder" not in name
    )
    state = {f"{name}.{key}": value.clone() for name, part in parts.items() for key, value in part.state_dict().items()}
    return {**state, "hooks": torch.tensor(hooks)}


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
    with pytest.raises(SettingsError, match="is 33. This motion module knows 32"):
        list(VIDEOS["animatediff"].build().run(job, StockPipeline(tiny_animatediff()), lambda: False))


# Every method and tiny model alike.

CASES = {
    "walk": ("walk", 3, 32, False),
    "animatediff": ("animatediff", 4, 32, False),
    "svd": ("svd", 3, 64, True),
    "wan": ("pipeline", 5, 32, False),
    "ltx": ("pipeline", 9, 64, False),
    "ltx-picture": ("pipeline", 9, 64, True),
}
"""Name to method, frames, side, and whether it starts from a picture; at least one row for each line of the table."""


@pytest.fixture(scope="module")
def pipes():
    return {"walk": tiny_sd(), **{name: make() for name, make in TINY_VIDEOS.items()}}


def case(name, pipes):
    """A pipeline, what a method makes of it as the model, the method, and a clip to make."""
    key, frames, side, with_picture = CASES[name]
    pipe = pipes[name.partition("-")[0]]
    pixels = np.random.default_rng(0).integers(0, 256, (80, 96, 3), np.uint8) if with_picture else None
    base = BASE.replace(width=side, height=side, num_inference_steps=2)
    keys = (base, base.replace(**OTHER)) if key == "walk" else (base,)
    model = family_of(pipe.components) if key == "walk" else StockPipeline(pipe)
    settings = {"frames_at_once": 2} if key == "walk" else {}
    return pipe, model, VIDEOS[key].build(settings), VideoJob(keys, frames, 8, pixels)


def made(method, job, model):
    """The steps of a whole run, and its frames."""
    events = list(method.run(job, model, lambda: False))
    assert isinstance(events[-1], ClipFrames)
    frames = np.concatenate([event.pictures for event in events if isinstance(event, ClipFrames)])
    return [event for event in events if isinstance(event, ClipStep)], frames


def network_of(pipe):
    return getattr(pipe, "unet", None) or pipe.transformer


def test_every_method_of_the_table_has_a_case_and_fits_its_model(pipes):
    assert {key for key, *_ in CASES.values()} == set(VIDEOS)
    for name, (key, *_) in CASES.items():
        kind = {"family": "sd"} if key == "walk" else {"family": "stock", "kind": "video"}
        entry = CatalogEntry("tiny", "Tiny", **kind, pipeline=type(pipes[name.partition("-")[0]]).__name__)
        assert fitting_videos(entry)[0].key == key


@pytest.mark.parametrize("name", CASES)
def test_every_video_method_gives_steps_and_all_frames_and_the_same_again(name, pipes):
    _, model, method, job = case(name, pipes)
    steps, frames = made(method, job, model)
    assert [step.index for step in steps] == list(range(method.num_steps(job)))
    assert all(step.noisy.ndim == 4 and step.noisy.shape[-1] == 3 and len(step.noisy) <= 8 for step in steps)
    assert frames.dtype == np.uint8 and frames.shape == (job.frames, job.base.height, job.base.width, 3)
    assert np.array_equal(made(method, job, model)[1], frames)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("end", ["at once", "cancel", "error"])
def test_a_video_method_that_is_left_in_the_middle_leaves_the_model_as_it_was(name, end, pipes):
    pipe, model, method, job = case(name, pipes)
    network, seen = network_of(pipe), []
    with broken_at(network, 0) as calls:
        _, frames = made(method, job, model)
    before, parts = state_of(network), weights(pipe)
    with broken_at(network, len(calls) if end == "error" else 0):  # the last call: in the middle of the last step
        with pytest.raises(RuntimeError if end == "error" else Cancelled, match="broken" if end == "error" else None):
            for event in method.run(job, model, lambda: end == "at once" or (end == "cancel" and bool(seen))):
                seen.append(event)
    assert all(isinstance(event, ClipStep) for event in seen) or name == "walk"
    assert len(seen) >= (0 if end == "at once" else 1)
    assert_unchanged(network, before)
    assert weights(pipe).keys() == parts.keys() and all(
        torch.equal(now, parts[key]) for key, now in weights(pipe).items()
    )
    assert np.array_equal(made(method, job, model)[1], frames)


def test_the_first_frame_decides_the_clip(pipes):
    pipe, _, method, job = case("ltx-picture", pipes)
    clips = [
        list(method.run(dataclasses.replace(job, first_frame=pixels), StockPipeline(pipe), lambda: False))[-1].pictures
        for pixels in (None, np.zeros((64, 64, 3), np.uint8), np.full((64, 64, 3), 255, np.uint8))
    ]
    assert not np.array_equal(clips[0], clips[1]) and not np.array_equal(clips[1], clips[2])


def test_settings_reach_the_pipeline(pipes):
    pipe, _, _, job = case("svd", pipes)
    clips = [
        list(VIDEOS["svd"].build(settings).run(job, StockPipeline(pipe), lambda: False))[-1].pictures
        for settings in ({}, {"motion_bucket_id": 255})
    ]
    assert not np.array_equal(*clips)
    stock = StockPipeline(pipe)
    assert VIDEOS["svd"].build().arguments(job, stock)["max_guidance_scale"] > 1
    still = VIDEOS["svd"].build({"motion_bucket_id": 0, "noise_aug_strength": 0}).arguments(job, stock)
    assert (still["motion_bucket_id"], still["noise_aug_strength"], "prompt" in still) == (0, 0, False)
    with pytest.raises(MethodFitError, match="no negative prompt"):
        base = job.base.replace(negative_prompt="blurry")
        VIDEOS["svd"].build().arguments(dataclasses.replace(job, keys=(base,)), stock)


@pytest.mark.parametrize("key", [key for key in VIDEOS if key != "walk"])
def test_what_only_a_walk_reads_is_refused_elsewhere(key):
    method = VIDEOS[key].build()
    with pytest.raises(MethodFitError, match="LoRAs"):
        method.check(VideoJob((BASE.replace(loras=(LoraChoice("neon"),)),), 4, 8))
    with pytest.raises(MethodFitError, match="variation strength"):
        method.check(VideoJob((BASE.replace(variation_strength=0.5),), 4, 8))
    with pytest.raises(SettingsError, match="one prompt and one seed"):
        method.check(VideoJob((BASE, BASE), 4, 8))


# What a clip will be, said before the run.


def test_a_plan_is_what_the_pipeline_itself_makes(pipes):
    for name, wishes in {"wan": (6, 8, 16), "ltx": (2, 16)}.items():
        pipe = pipes[name]
        entry = CatalogEntry("tiny", "Tiny", "stock", kind="video", pipeline=type(pipe).__name__)
        for wish in wishes:
            plan = plan_clip(entry, wish, 40, 50)
            base = BASE.replace(width=plan.width, height=plan.height, num_inference_steps=1)
            *_, last = (
                fitting_videos(entry)[0]
                .build()
                .run(VideoJob((base,), plan.frames, 8), StockPipeline(pipe), lambda: False)
            )
            assert last.pictures.shape[:3] == (plan.frames, plan.height, plan.width)


@pytest.mark.parametrize(
    ("pipeline", "wish", "made"),
    [
        ("WanPipeline", 8, 9),
        ("WanPipeline", 16, 17),
        ("WanPipeline", 17, 17),
        ("WanPipeline", 19, 17),
        ("WanPipeline", 1, 1),
        ("LTXPipeline", 16, 17),
        ("LTXPipeline", 12, 9),
        ("LTXPipeline", 161, 161),
        ("AnimateDiffPipeline", 13, 13),
        ("StableVideoDiffusionPipeline", 14, 14),
        ("StableDiffusionPipeline", 7, 7),
    ],
)
def test_frames_snap_to_the_nearest_count(pipeline, wish, made):
    entry = CatalogEntry("x", "X", "stock", kind="video" if pipeline in VIDEO_MODELS else "image", pipeline=pipeline)
    plan = plan_clip(entry, wish)
    assert plan.frames == made and bool(plan.notes) == (made != wish)
    assert all(f"{wish} becomes {made}" in note for note in plan.notes)


def test_wans_own_rounding_agrees_with_ours():
    entry = CatalogEntry("x", "X", "stock", kind="video", pipeline="WanPipeline")
    assert [plan_clip(entry, wish).frames for wish in range(2, 100)] == [wish // 4 * 4 + 1 for wish in range(2, 100)]


def test_sizes_snap_to_the_models_grid():
    entry = CatalogEntry("x", "X", "stock", kind="video", pipeline="LTXPipeline")
    plan = plan_clip(entry, 9, 700, 500)
    assert (plan.width, plan.height) == (704, 512) and "multiples of 32" in plan.notes[0]
    assert plan_clip(entry, 9, 5, 704).width == 32
    with pytest.raises(SettingsError, match="is 40"):
        plan_clip(CatalogEntry("x", "X", "stock", kind="video", pipeline="AnimateDiffPipeline"), 40)


@pytest.mark.parametrize(
    "entry", [entry for entry in published() if entry.kind == "video"], ids=lambda entry: entry.key
)
def test_every_video_model_of_the_catalog_is_known_and_has_a_method(entry):
    assert entry.pipeline in VIDEO_MODELS and fitting_videos(entry)
    model = video_model(entry)
    plan = plan_clip(entry, entry.num_frames)
    assert plan.frames == entry.num_frames and not plan.notes
    assert model.frames == entry.num_frames or entry.num_frames


def test_every_known_pipeline_is_in_diffusers_with_the_arguments_it_is_given():
    import inspect

    import diffusers

    for name, model in VIDEO_MODELS.items():
        for cls in filter(None, (name, model.from_picture)):
            accepted = inspect.signature(getattr(diffusers, cls).__call__).parameters
            assert {"num_frames", "width", "height", "generator", "output_type", "callback_on_step_end"} <= set(
                accepted
            ), cls
            assert ("image" in accepted) == (model.first_frame == "needs" or cls == model.from_picture), cls
            assert ("prompt" in accepted) == model.prompt, cls


def test_each_model_gets_the_methods_that_fit_it():
    assert [method.key for method in VIDEOS.fitting(shipped())] == ["walk"]
    still = CatalogEntry("pixart", "PixArt", "stock", pipeline="PixArtSigmaPipeline")
    with pytest.raises(MethodFitError, match="PixArt cannot make clips here"):
        fitting_videos(still)


def test_a_strip_shows_the_first_and_the_last():
    assert evenly(3) == [0, 1, 2] and evenly(8) == list(range(8))
    assert evenly(81)[0] == 0 and evenly(81)[-1] == 80 and len(evenly(81)) == 8
    assert {tiny_ltx, tiny_svd, tiny_wan} <= set(TINY_VIDEOS.values())
