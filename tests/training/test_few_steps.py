"""The few-step LoRA's training: its jumps, its targets, and that what it writes is what it trained."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file
from test_composition_training import RECIPE, catalog, denoiser
from test_composition_training import tokenizer as tokenizer

from pipelines.core.errors import TrainingError
from pipelines.emoji.compositions import sample_composition
from pipelines.training.caption_reader import PLACES, CaptionReader
from pipelines.training.composition_denoiser import CompositionPool
from pipelines.training.denoiser_networks import noise_schedule
from pipelines.training.few_steps import (
    GUIDANCE,
    HOPS,
    FewStepTask,
    few_step_scheduler,
    jump,
    segment_end,
    velocity_of_jump,
)
from pipelines.training.low_rank import add_low_rank, load_changes, save_lora
from pipelines.training.trainer import Settings, Trainer
from pipelines.weights.lora import applied_loras


@pytest.fixture(scope="module")
def pipeline(tokenizer, tmp_path_factory) -> StableDiffusionPipeline:
    folder = tmp_path_factory.mktemp("model")
    denoiser(tokenizer).export(folder)
    return StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)


def few_steps(pipeline: StableDiffusionPipeline, segments: int) -> FewStepTask:
    torch.manual_seed(0)
    parts = dict(pipeline.components) | {"unet": copy.deepcopy(pipeline.unet)}
    own = StableDiffusionPipeline(**parts, requires_safety_checker=False)
    task = FewStepTask(RECIPE, own, CompositionPool(own.vae, catalog(), 32, 24, 16, 1, 0), segments, steps=10)
    task.batch = 8
    return task


def levels(*alphas: float) -> tuple[torch.Tensor, torch.Tensor]:
    squares = torch.tensor(alphas, dtype=torch.float64).view(-1, 1, 1, 1)
    return squares.sqrt(), (1 - squares).sqrt()


def test_segments_end_where_the_next_one_begins():
    hops = torch.arange(1, HOPS + 1)
    for segments in (1, 2, 4, 8):
        ends = segment_end(hops, segments)
        assert sorted(set(ends.tolist())) == [index * HOPS // segments for index in range(segments)]
        assert (ends < hops).all() and (hops - ends).max() == HOPS // segments
    assert segment_end(torch.tensor([HOPS]), HOPS).item() == HOPS - 1


def test_a_jump_is_the_exact_ddim_step_and_its_velocity_comes_back():
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 3, 4, 5, 5, generator=generator, dtype=torch.float64)
    start, end = levels(0.005, 0.3, 0.9), levels(0.04, 0.5, 1.0)
    latents, velocity = start[0] * clean + start[1] * noise, start[0] * noise - start[1] * clean
    arrival = jump(latents, velocity, start, end)
    torch.testing.assert_close(arrival, end[0] * clean + end[1] * noise)
    torch.testing.assert_close(velocity_of_jump(latents, arrival, start, end), velocity)


def test_jumps_are_the_scheduler_s_steps():
    scheduler = few_step_scheduler(4, dict(noise_schedule("v_prediction").config))
    scheduler.set_timesteps(4)
    assert scheduler.timesteps.tolist() == [999, 749, 499, 249]
    latents, velocity = torch.randn(2, 1, 4, 3, 3, generator=torch.Generator().manual_seed(0)).double()
    alphas = scheduler.alphas_cumprod.double()
    stepped = scheduler.step(velocity, 499, latents).prev_sample
    expected = jump(latents, velocity, levels(float(alphas[499])), levels(float(alphas[249])))
    torch.testing.assert_close(stepped, expected, atol=1e-6, rtol=1e-5)


def test_a_student_that_agrees_with_an_exact_teacher_has_no_loss(pipeline, monkeypatch):
    """A network whose velocity is that of one straight line sends every hop and every jump to the same end."""
    task = few_steps(pipeline, 4)
    latents, _, _ = task.pool.batch(0, task.batch, np.random.default_rng([0, 0]), 0.0)

    def straight(noisy, timesteps, embeds, return_dict):
        hops = [task.timesteps.tolist().index(step) for step in timesteps.tolist()]
        alpha, sigma = task._level(torch.tensor(hops))
        clean = torch.cat([latents] * (len(noisy) // len(latents)))
        return ((alpha * (noisy - alpha * clean) / sigma.clamp(min=1e-6)) - sigma * clean,)

    monkeypatch.setattr(task, "teacher", straight)
    monkeypatch.setattr(task, "student", straight)
    assert task.loss(0) < 1e-5


def test_one_hop_is_the_guided_teachers(pipeline, monkeypatch):
    """Where every hop is a segment of its own, the target is the teacher's guided velocity and nothing else."""
    task = few_steps(pipeline, HOPS)

    def answer(noisy, timesteps, embeds, return_dict):
        rows = len(noisy) // 2
        return (torch.cat([torch.full_like(noisy[:rows], 3.0), torch.full_like(noisy[rows:], 1.0)]),)

    def refuse_empty(ids):
        captions = ids[:-1]
        assert not (captions == ids[-1]).all(1).any(), "the last row alone is the empty caption"
        return (torch.zeros(len(ids), ids.shape[1], RECIPE.denoiser.text_width),)

    monkeypatch.setattr(task, "teacher", answer)
    monkeypatch.setattr(task.pipeline, "text_encoder", refuse_empty)
    monkeypatch.setattr(task, "student", lambda noisy, *_, return_dict: (torch.zeros_like(noisy),))
    noisy, hop = torch.randn(3, 4, 16, 16), torch.tensor([1, 20, HOPS])
    _, target = task._target(noisy, hop, segment_end(hop, HOPS), ["a fox", "an owl", "a star"])
    # the hop is undone again in float32, where neighboring levels are close
    torch.testing.assert_close(target, torch.full_like(noisy, 1 + GUIDANCE * (3 - 1)), atol=2e-3, rtol=0)


def test_training_changes_the_student_alone_and_the_file_says_how(pipeline, tmp_path):
    task = few_steps(pipeline, 4)
    before = {name: value.clone() for name, value in task.teacher.state_dict().items()}
    Trainer(task, tmp_path, Settings(steps=3, sheet_every=10, save_every=10, ema=0.0)).run()
    assert all(torch.equal(value, before[name]) for name, value in task.teacher.state_dict().items())
    file = tmp_path / "export" / "few_steps.safetensors"
    assert all(value.dtype == torch.float16 for value in load_file(file).values())
    latents = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    embeds = torch.randn(2, 32, RECIPE.denoiser.text_width, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        trained = task.student(latents, torch.tensor([10, 700]), embeds).sample
        plain = task.teacher(latents, torch.tensor([10, 700]), embeds).sample
        networks = {"unet": task.teacher, "text_encoder": task.pipeline.text_encoder}
        with applied_loras(networks, [(file, 1.0)], "stable-diffusion"):
            loaded = task.teacher(latents, torch.tensor([10, 700]), embeds).sample
    torch.testing.assert_close(loaded, trained, atol=2e-3, rtol=2e-2)
    assert (trained - plain).abs().max() > 10 * (loaded - trained).abs().max()


def test_segments_that_do_not_divide_the_hops_are_refused(pipeline):
    with pytest.raises(TrainingError, match="3 segments"):
        few_steps(pipeline, 3)


def test_low_rank_changes_begin_at_zero_and_are_all_that_is_trained():
    network = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.Conv2d(4, 8, 3))
    weight = network[0].weight.detach().clone()
    changes = add_low_rank(network, 2)
    assert torch.equal(network[0].weight, weight)
    trained = [name for name, value in network.named_parameters() if value.requires_grad]
    assert len(trained) == 4 and all("parametrizations" in name for name in trained)
    changes["0"].up.data.normal_()
    change = network[0].weight - weight
    assert torch.linalg.matrix_rank(change) == 2


def test_the_reader_is_told_what_stands_where():
    reader = CaptionReader(16, catalog().labels)
    for seed in range(40):
        composition = sample_composition(catalog(), seed)
        (row,), (nothing,) = (reader.targets([composition], [caption]) for caption in ("a caption", ""))
        assert (nothing == -100).all()
        objects, places = row.unbind(-1)
        assert catalog().labels[objects[0]] == composition.labels[0]
        names = [PLACES[number] for number in places]
        if composition.kind == "left of":
            assert names == ["left", "right"] and catalog().labels[objects[1]] == composition.labels[1]
        elif composition.kind in ("single", "count"):
            assert names[1] == "absent" and objects[1] == -100


def test_reading_what_is_written_costs_nothing_and_guessing_costs_the_logarithm():
    reader = CaptionReader(16, catalog().labels)
    composition = sample_composition(catalog(), 0, kind="left of")
    targets = reader.targets([composition], ["a caption"])
    for head in (reader.object, reader.place):
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.zeros_(head.bias)
    embeds = torch.zeros(1, 32, 16)
    guess = torch.tensor(float(len(catalog().labels) * len(PLACES))).log()
    torch.testing.assert_close(reader.loss(embeds, targets), guess)
    embeds[0, -1, 0], embeds[0, -2, 1] = 100.0, 100.0
    with torch.no_grad():
        for head, numbers in ((reader.object, targets[0, :, 0]), (reader.place, targets[0, :, 1])):
            head.weight[numbers[0], 0], head.weight[numbers[1], 1] = 1.0, 1.0
    assert reader.loss(embeds, targets) < 1e-6
    assert reader.loss(embeds, torch.full_like(targets, -100)) == 0


def test_a_run_goes_on_from_a_file_at_its_rank_or_the_nearest_of_a_lower(tmp_path):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 6, 3), torch.nn.Linear(5, 7))
    changes = add_low_rank(network, 4)
    with torch.no_grad():
        for change in changes.values():
            change.up.normal_()
    save_lora(changes, network, tmp_path / "one.safetensors", "emoji-128", torch.float32)
    whole = {name: (change.up @ change.down).detach() for name, change in changes.items()}
    for rank in (6, 4, 2):
        again = add_low_rank(torch.nn.Sequential(torch.nn.Conv2d(3, 6, 3), torch.nn.Linear(5, 7)), rank)
        load_changes(again, tmp_path / "one.safetensors")
        for name, matrix in whole.items():
            error = torch.linalg.matrix_norm(again[name].up @ again[name].down - matrix).item()
            beyond = torch.linalg.svdvals(matrix)[rank:].square().sum().sqrt()
            assert error == pytest.approx(float(beyond), abs=1e-5)
