"""Pruning a UNet: exact about what goes, loadable by stock diffusers, honest about what it costs."""

from __future__ import annotations

import copy
import json

import pytest
import tiny_models
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from network_state import assert_unchanged, state_of

from pipelines.core.errors import TrainingError
from pipelines.training.prune import PruneTask, draw_latents, main, score_units
from pipelines.training.pruning import (
    Unit,
    choose_units,
    count_parameters,
    list_units,
    remove_units,
    score_change,
)
from pipelines.training.trainer import Settings, Trainer

PROMPTS = ["a fox", "a cat", "a dog"]


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    own = tiny_models.tiny_sd()
    own.unet.eval()
    return own


def two_layers(**changes) -> UNet2DConditionModel:
    torch.manual_seed(1)
    config = dict(tiny_models.tiny_sd().unet.config) | {"layers_per_block": 2, **changes}
    return UNet2DConditionModel.from_config(config).eval()


@torch.no_grad()
def answer(network):
    generator = torch.Generator().manual_seed(2)
    side, width = network.config.sample_size, network.config.cross_attention_dim
    latents = torch.randn(1, network.config.in_channels, side, side, generator=generator)
    return network(latents, 300, torch.randn(1, 5, width, generator=generator), return_dict=False)[0]


def identity(module, inputs, output):
    """What a module's place gives without it."""
    return (inputs[0],) if isinstance(output, tuple) else inputs[0]


def test_without_nothing_it_is_a_copy_and_the_whole_one_stays(pipeline):
    before = state_of(pipeline.unet)
    assert torch.equal(answer(remove_units(pipeline.unet, [])), answer(pipeline.unet))
    for unit in list_units(pipeline.unet.config):
        assert count_parameters(remove_units(pipeline.unet, [unit])) < count_parameters(pipeline.unet), str(unit)
    assert_unchanged(pipeline.unet, before)


def test_without_an_attention_it_says_what_it_says_with_that_attention_bypassed(pipeline):
    units = [unit for unit in list_units(pipeline.unet.config) if unit.kind == "attention"]
    assert units
    for unit in units:
        block = getattr(pipeline.unet, unit.block)[unit.index]
        handles = [one.register_forward_hook(identity) for one in block.attentions]
        bypassed = answer(pipeline.unet)
        for handle in handles:
            handle.remove()
        assert torch.equal(answer(remove_units(pipeline.unet, [unit])), bypassed), str(unit)


def test_without_the_middle_block_it_says_what_it_says_with_it_bypassed(pipeline):
    handle = pipeline.unet.mid_block.register_forward_hook(identity)
    bypassed = answer(pipeline.unet)
    handle.remove()
    both = [Unit("middle attention"), Unit("middle")]
    assert torch.equal(answer(remove_units(pipeline.unet, both)), bypassed)
    middle = pipeline.unet.mid_block
    handles = [one.register_forward_hook(identity) for one in (*middle.attentions, *middle.resnets[1:])]
    bypassed = answer(pipeline.unet)
    for handle in handles:
        handle.remove()
    assert torch.equal(answer(remove_units(pipeline.unet, both[:1])), bypassed)


def test_a_layer_goes_from_the_way_down_and_up_and_every_unit_at_once_still_runs():
    network = two_layers()
    units = list_units(network.config)
    layers = [unit for unit in units if unit.kind == "layer"]
    assert [unit.index for unit in layers] == list(range(len(network.config.block_out_channels)))
    for unit in layers:
        smaller = remove_units(network, [unit])
        up = len(layers) - 1 - unit.index
        kept = smaller.up_blocks[up].resnets
        assert (len(smaller.down_blocks[unit.index].resnets), len(kept)) == (1, 2)
        assert torch.equal(kept[1].conv1.weight, network.up_blocks[up].resnets[2].conv1.weight)
        assert answer(smaller).isfinite().all()
    least = remove_units(network, units)
    assert least.mid_block is None and answer(least).isfinite().all()
    with pytest.raises(TrainingError, match="other kinds"):
        list_units({**network.config, "down_block_types": ["KDownBlock2D"]})


def test_a_part_that_does_nothing_scores_nothing_and_goes_first(pipeline):
    network = remove_units(pipeline.unet, [])
    idle = next(unit for unit in list_units(network.config) if unit.kind == "attention")
    for one in getattr(network, idle.block)[idle.index].attentions:
        torch.nn.init.zeros_(one.proj_out.weight)
        torch.nn.init.zeros_(one.proj_out.bias)
    parts = dict(pipeline.components) | {"unet": network}
    own = StableDiffusionPipeline(**parts, requires_safety_checker=False)
    scores = score_units(own, PROMPTS, 2, 0)
    assert scores[idle] == 0 and min(score for unit, score in scores.items() if unit != idle) > 0

    def count_left(units):
        return count_parameters(remove_units(network, units))

    whole = count_parameters(network)
    assert choose_units(scores, count_left, whole) == []
    assert choose_units(scores, count_left, whole - 1) == [idle]
    chosen = choose_units(scores, count_left, 0.6 * whole)
    assert count_left(chosen) <= 0.6 * whole < count_left(chosen[:-1])
    with pytest.raises(TrainingError, match="larger budget"):
        choose_units(scores, count_left, 10)


def test_the_score_is_the_change_of_the_mean_and_of_the_spread():
    whole = torch.randn(5, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    assert score_change(whole, whole.flip(0)) == pytest.approx(0, abs=1e-12)
    shifted = whole + torch.full((2, 3, 3), 2.0)
    assert score_change(whole, shifted) == pytest.approx(2 * 18**0.5)
    spread = 3 * (whole - whole.mean(0)) + whole.mean(0)
    assert score_change(whole, spread) == pytest.approx(2 * float(whole.std(0).norm()))


def test_fine_tuning_begins_at_no_error_for_a_copy_learns_for_a_pruned_one_and_goes_on_bit_for_bit(pipeline, tmp_path):
    pool = draw_latents(pipeline, pipeline.unet, PROMPTS, 2, 0)
    assert PruneTask(pipeline, remove_units(pipeline.unet, []), pool, PROMPTS).loss(0).item() < 1e-10

    def build():
        task = PruneTask(pipeline, remove_units(pipeline.unet, [Unit("middle")]), pool, PROMPTS, steps=8)
        task.batch = 4
        return task

    task = build()
    before = sum(task.loss(100 + step).item() for step in range(3))
    Trainer(task, tmp_path / "whole", Settings(8)).run()
    assert sum(task.loss(100 + step).item() for step in range(3)) < before
    assert all(not one.requires_grad for one in pipeline.unet.parameters())
    Trainer(build(), tmp_path / "parts", Settings(3)).run()
    resumed = build()
    Trainer(resumed, tmp_path / "parts", Settings(8)).run()
    for one, other in zip(task.student.parameters(), resumed.student.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_command_writes_a_folder_that_stock_diffusers_loads(pipeline, tmp_path, capsys):
    pipeline.save_pretrained(tmp_path / "model")
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a fox\n\na cat\n", "utf-8")
    flags = ["--start", str(tmp_path / "model"), "--run-dir", str(tmp_path / "run"), "--prompts", str(prompts)]
    small = ["--steps", "2", "--scored", "2", "--pool", "2", "--threads", "1"]
    main([*flags, *small, "--budget", "0.8"])
    assert "dB to the whole" in capsys.readouterr().out
    export = tmp_path / "run" / "export"
    loaded = StableDiffusionPipeline.from_pretrained(export)
    assert count_parameters(loaded.unet) <= 0.8 * count_parameters(pipeline.unet)
    assert json.loads((export / "pruning.json").read_text())["removed"]
    with pytest.raises(TrainingError, match="another --run-dir"):
        main([*flags, *small, "--budget", "0.5"])
    with torch.no_grad():
        loaded.unet = copy.deepcopy(pipeline.unet)
        loaded.unet.conv_out.bias += 1
    loaded.save_pretrained(tmp_path / "changed")
    with pytest.raises(TrainingError, match="another model"):
        main([*flags, *small, "--budget", "0.8", "--start", str(tmp_path / "changed")])
    gone = ["--start", str(tmp_path / "gone")]
    for wrong, words in (
        (["--budget", "1.5"], "share"),
        (["--scored", "1"], "at least 2"),
        (gone, "no diffusers folder"),
    ):
        with pytest.raises(TrainingError, match=words):
            main([*flags, *wrong])
    with pytest.raises(TrainingError, match="--prompts"):
        main(["--start", str(tmp_path / "model"), "--run-dir", str(tmp_path / "other")])
