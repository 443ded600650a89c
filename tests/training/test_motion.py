"""Clips that move, the motion modules' recipe, and the judge of motion."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTokenizer

from pipelines.core.errors import TrainingError
from pipelines.emoji.clips import FRAMES, MOTIONS, REVERSED, describe_clip, describe_clip_plainly, sample_clip
from pipelines.emoji.composition_captions import describe
from pipelines.emoji.compositions import sample_composition
from pipelines.emoji.objects import shipped_catalog
from pipelines.emoji.scenes import is_held_out
from pipelines.metrics.detector import Detection, View
from pipelines.models.catalog import SHIPPED_128, SHIPPED_MOTION
from pipelines.training import motion
from pipelines.training.motion_measures import flicker, is_kept, moves_as_said
from pipelines.training.motion_networks import WORDS, WordRows, at_places, build_adapter, join, load_adapter, write_rows

CATALOG = shipped_catalog(None)


def watch(clip, label=None):
    """What a faultless judge would see."""
    return [View((Detection(label or clip.label, x, y, size, 0.9),), clip.background, 1.0) for x, y, size in clip.path]


@pytest.mark.parametrize("anywhere", [False, True])
@pytest.mark.parametrize("motion", REVERSED)
def test_a_clip_moves_as_its_words_say_and_backward_as_theirs(motion, anywhere):
    for seed in range(20):
        clip = sample_clip(CATALOG, seed, motion=motion, anywhere=anywhere)
        assert clip == sample_clip(CATALOG, seed, motion=motion, anywhere=anywhere) and len(clip.scenes) == FRAMES
        assert not is_held_out(clip.label, clip.background)
        assert [word for word in REVERSED if moves_as_said(watch(clip), word)] == [motion]
        assert moves_as_said(watch(clip.backward()), REVERSED[motion]) and clip.backward().backward() == clip
        for x, y, size in clip.path:
            assert size / 2 - 1e-9 <= x <= 1 - size / 2 + 1e-9 and size / 2 - 1e-9 <= y <= 1 - size / 2 + 1e-9


def test_captions_of_clips():
    clip = sample_clip(CATALOG, 3, "held-out", "moving left")
    assert is_held_out(clip.label, clip.background)
    assert describe_clip_plainly(clip).endswith(f"{clip.label} moving left on a {clip.background} background")
    assert describe_clip(clip, CATALOG, np.random.default_rng(0), 1.0) == ""
    with pytest.raises(TrainingError, match="Unknown motion 'dancing'"):
        sample_clip(CATALOG, 0, motion="dancing")


def test_the_judge_wants_a_way_and_an_object():
    clip = sample_clip(CATALOG, 1, motion="moving right")
    views = watch(clip)
    assert is_kept(views, clip.label) and not is_kept(views, "another")
    assert is_kept([*views[:14], View((), "red", 1.0), View((), "red", 1.0)], clip.label)
    assert not is_kept([View((), "red", 1.0)] * 3 + views[3:], clip.label)
    assert not moves_as_said([View((), "red", 1.0)] * 5 + views[5:], "moving right")
    assert not moves_as_said(views[:1] * FRAMES, "moving right")
    shuffled = [views[number] for number in np.random.default_rng(0).permutation(FRAMES)]
    assert not any(moves_as_said(shuffled, motion) for motion in MOTIONS if motion != "bouncing")


def test_flicker_is_the_mean_change_where_no_object_is():
    view = View((Detection("fox", 0.5, 0.5, 0.5, 1.0),), "red", 1.0)
    clip = torch.zeros(3, 3, 20, 20)
    clip[1] = 0.1
    assert flicker(clip, [view] * 3) == pytest.approx(25.5, rel=1e-5)
    clip[1, :, 4:16, 4:16] = 1.0  # within 0.6 of the object's width around it
    assert flicker(clip, [view] * 3) == pytest.approx(25.5, rel=1e-5)


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(8, 16, 16),
        layers_per_block=1,
        attention_head_dim=4,
        cross_attention_dim=16,
        norm_num_groups=4,
    )
    return unet.eval().requires_grad_(False)


def test_fresh_modules_change_nothing_and_ask_for_gradients(tiny):
    adapter = build_adapter(tiny, FRAMES)
    joined = join(tiny, adapter)
    noisy, texts = torch.randn(2, 4, 5, 8, 8), torch.randn(2, 3, 16).repeat_interleave(5, 0)
    times = torch.tensor([400, 20])
    clip = joined(noisy, times, texts, return_dict=False)[0]
    tiny.set_attn_processor(AttnProcessor())
    frames = tiny(noisy.transpose(1, 2).flatten(0, 1), times.repeat_interleave(5), texts, return_dict=False)[0]
    assert (clip.transpose(1, 2).flatten(0, 1) - frames).abs().max() < 1e-5
    clip.square().mean().backward()
    asking = {name for name, weight in adapter.named_parameters() if weight.requires_grad}
    assert asking == {name for name, weight in adapter.named_parameters() if weight.grad is not None}
    assert not any(weight.requires_grad for name, weight in joined.named_parameters() if "motion_modules" not in name)


def test_frames_are_taken_for_those_at_their_places(tiny):
    adapter = build_adapter(tiny, FRAMES)
    module = adapter.mid_block.motion_modules[0]
    torch.nn.init.normal_(module.proj_out.weight)
    clip = torch.randn(1, 16, 1, 1).expand(FRAMES, -1, 4, 4)  # one picture: only the places in time tell frames apart
    places = torch.tensor([2, 7, 15])
    first = module(clip[:3], num_frames=3)
    with at_places(adapter, torch.arange(3)):
        assert torch.equal(module(clip[:3], num_frames=3), first)
    with pytest.raises(RuntimeError), at_places(adapter, places):
        assert not torch.allclose(module(clip[:3], num_frames=3), first)
        raise RuntimeError
    assert torch.equal(module(clip[:3], num_frames=3), first)


def test_learned_words_leave_every_caption_of_a_picture_as_it_was(tmp_path):
    tokenizer = CLIPTokenizer.from_pretrained(SHIPPED_128 / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(SHIPPED_128 / "text_encoder", dtype=torch.float32)
    words, rng = WordRows(encoder, tokenizer), np.random.default_rng(0)
    captions = [describe(sample_composition(CATALOG, seed, "all"), CATALOG, rng) for seed in range(2_000)]
    assert not set(words.numbers) & {token for row in tokenizer(captions).input_ids for token in row}
    assert all(set(tokenizer(word).input_ids) & set(words.numbers) for word in WORDS)
    moving = ["a fox moving left", "a fox growing"]
    before = words([*captions[:4], *moving])
    with torch.no_grad():
        words.rows.add_(1.0)
    after = words([*captions[:4], *moving])
    assert torch.equal(before[:4], after[:4]) and not torch.allclose(before[4:], after[4:])
    write_rows(words, encoder.half(), tmp_path)
    written, shipped = (load_file(folder / "model.safetensors") for folder in (tmp_path, SHIPPED_128 / "text_encoder"))
    changed = {name for name in shipped if not torch.equal(shipped[name], written[name])}
    assert len(changed) == 1
    table, original = written[changed.pop()], load_file(SHIPPED_128 / "text_encoder" / "model.safetensors")
    rows = (table != original["embeddings.token_embedding.weight"]).any(dim=1).nonzero()[:, 0].tolist()
    assert rows == words.numbers


def test_a_clip_and_itself_backward_share_a_draw(tmp_path, monkeypatch):
    monkeypatch.setattr(motion, "FIRST", 12)
    clips = [sample_clip(CATALOG, number) for number in range(12)]
    frames = {str(n): torch.randn(FRAMES if clip.motion else 1, 2, 3, 3).half() for n, clip in enumerate(clips)}
    save_file(frames, tmp_path / "latents.safetensors")
    pool = motion.ClipPool(None, CATALOG, 128, 0, tmp_path / "latents.safetensors")
    latents, shown, draws = pool.batch(0, 10, np.random.default_rng(1))
    assert latents.shape == (10, FRAMES, 2, 3, 3) and draws == sorted(draws) and draws[0] == 0
    for first, second in zip(range(9), range(1, 10), strict=True):
        pair = draws[first] == draws[second]
        assert pair == (shown[first].backward() == shown[second] and shown[first].motion != shown[second].motion)
        assert not pair or torch.equal(latents[first], latents[second].flip(0))
    assert len(set(draws)) < 8


def test_less_signal_keeps_the_deviation_and_the_way_back():
    latents, noise = torch.randn((2, 400_000), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    alpha = torch.tensor(0.3, dtype=torch.float64)
    sigma = (1 - alpha**2).sqrt()
    for share in (1.0, 0.4, 0.0):
        noisy, velocity = motion.mix(latents, noise, alpha, sigma, torch.tensor(share, dtype=torch.float64))
        assert torch.allclose(alpha * noisy - sigma * velocity, latents, atol=1e-12)
        assert noisy.std() == pytest.approx(1, abs=0.02)
        assert (noisy * latents).mean() == pytest.approx(0.3 * share, abs=0.02)
    assert torch.equal(noisy, noise)
    _, velocity = motion.mix(latents, noise, alpha, sigma, torch.ones((), dtype=torch.float64))
    assert torch.allclose(velocity, alpha * noise - sigma * latents, atol=1e-12)


def test_a_given_first_frame_is_seen_without_noise_and_no_word_is_learned(tmp_path, monkeypatch):
    clips = [sample_clip(CATALOG, number, anywhere=True) for number in range(16)]
    monkeypatch.setattr(motion, "FIRST", 16)
    frames = {str(n): torch.randn(FRAMES if clip.motion else 1, 8, 4, 4).half() for n, clip in enumerate(clips)}
    save_file(frames, tmp_path / "latents.safetensors")
    pipeline = StableDiffusionPipeline.from_pretrained(SHIPPED_128, dtype=torch.float32)
    adapter = load_adapter(SHIPPED_MOTION / "motion_adapter")
    before = {name: weight.clone() for name, weight in adapter.state_dict().items()}
    pool = motion.ClipPool(None, CATALOG, 128, 0, tmp_path / "latents.safetensors", anywhere=1.0)
    task, seen = motion.MotionTask(pipeline, pool, 0, 10, 1e-3, adapter, first_frame=1.0), []
    handle = task.unet.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().clone()))
    drawn = pool.batch(0, motion.CLIPS[motion.SOME], np.random.default_rng([0, 0]))[0]
    task.loss(0).backward()
    handle.remove()
    assert torch.equal(seen[0][:, :, 0], drawn[:, 0])
    task.optimizer.step()
    assert any(not torch.equal(before[name], weight) for name, weight in adapter.state_dict().items())
    assert not any(weight.requires_grad for weight in task.words.parameters())


def test_a_share_of_the_clips_begins_anywhere():
    for share, least, most in ((0.0, 0, 0), (0.5, 30, 70), (1.0, 100, 100)):
        pool = motion.ClipPool(None, CATALOG, 128, 3, anywhere=share)
        seeds = [3 * 10**9 + number for number in range(100)]
        anywhere = [pool._sample(n) == sample_clip(CATALOG, seed, anywhere=True) for n, seed in enumerate(seeds)]
        assert least <= sum(anywhere) <= most
