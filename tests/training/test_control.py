"""The control's training, what its measures measure, and that the shipped one steers; LoRAs of fewer ranks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, T2IAdapter
from PIL import Image

from pipelines.core.errors import TrainingError
from pipelines.emoji.objects import shipped_catalog
from pipelines.models.catalog import SHIPPED_128, Catalog
from pipelines.models.steering import explain_misfit
from pipelines.models.steering_entry import T2I_ADAPTER
from pipelines.training.control import ControlTask, join_adapter
from pipelines.training.control_measures import find_foreground, match_edges, match_shapes
from pipelines.training.control_pictures import ControlPool, draw_maps, find_outline, sample_placed
from pipelines.training.truncate import choose_ranks, truncate_lora

ASSETS = SHIPPED_128.parents[1]


@pytest.fixture(scope="module")
def pipeline():
    pipe = StableDiffusionPipeline.from_pretrained(SHIPPED_128, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


# The maps and the measures.


def square(left, top, side=40, size=128):
    drawn = torch.zeros(1, 1, size, size)
    drawn[..., top : top + side, left : left + side] = 1
    return drawn


def test_the_outline_of_a_square_is_its_rim():
    rim = square(30, 30) - square(31, 31, 38)
    assert torch.equal(find_outline(square(30, 30)), rim)


def test_maps_are_edges_outlines_silhouettes_or_nothing():
    shape = square(30, 30)
    edges = square(60, 60, 3)
    maps = draw_maps(edges.expand(400, -1, -1, -1), shape.expand(400, -1, -1, -1), np.random.default_rng(0))
    assert set(maps.unique().tolist()) == {0.0, 1.0}
    same = {name: (maps == one).flatten(1).all(1).float().mean() for name, one in (("edges", edges), ("shape", shape))}
    assert 0.1 < same["edges"] < 0.4 and 0.2 < same["shape"] < 0.4  # a gap that misses a shape changes nothing
    assert 0.02 < (maps.flatten(1).sum(1) == 0).float().mean() < 0.2


def test_edges_count_within_two_pixels_and_shapes_by_their_overlap():
    rim = find_outline(square(30, 30))
    assert match_edges(rim, rim) == 1 and match_edges(rim, torch.roll(rim, 2, -1)) == 1
    assert match_edges(rim, torch.roll(rim, 6, -1)) < 0.7 and match_edges(rim, torch.zeros_like(rim)) == 0
    assert match_shapes(square(30, 30), square(50, 30)) == pytest.approx(1 / 3)


def test_the_foreground_is_what_differs_from_a_shaded_background():
    rows = torch.linspace(0.3, 0.5, 128)[:, None].expand(3, 128, 128)
    shape = square(30, 30)[0]
    assert torch.equal(find_foreground((rows + 0.3 * shape)[None]), shape[None])


def test_placed_compositions_hold_nothing_back_and_are_drawn_again():
    catalog = shipped_catalog(None)
    widths = [
        one.scene.objects[0].size for one in (sample_placed(catalog, seed) for seed in range(200)) if one.count == 1
    ]
    assert min(widths) < 0.4 and max(widths) > 0.9
    assert sample_placed(catalog, 7) == sample_placed(catalog, 7)


# The training.


def test_a_step_trains_the_adapter_and_nothing_else(pipeline):
    pool = ControlPool(pipeline.vae, shipped_catalog(None), 128, 3, 0, 0)
    task = ControlTask(pipeline, pool)
    task.batch = 2
    before = {name: value.clone() for name, value in pipeline.unet.state_dict().items()}
    loss = task.loss(1)
    assert torch.equal(loss, task.loss(1))  # what is drawn comes from the seed and the step
    loss.backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in task.networks.parameters())
    assert all(weight.grad is None for weight in pipeline.unet.parameters())
    assert all(torch.equal(value, before[name]) for name, value in pipeline.unet.state_dict().items())


# What ships.


def test_the_shipped_control_is_offered_for_its_model_alone(tmp_path):
    catalog = Catalog(tmp_path)
    (entry,) = catalog.steering(T2I_ADAPTER)
    assert entry.key == "emoji-128-shapes"
    assert [key for key, model in catalog.items() if not explain_misfit(entry, model)] == ["emoji-128"]


def test_a_strawberry_takes_a_hearts_shape(pipeline):
    adapter = T2IAdapter.from_pretrained(ASSETS / "controls" / "emoji-128-shapes", dtype=torch.float32)
    picture = Image.open(ASSETS / "examples" / "controls" / "heart.png").convert("L")
    shape = torch.from_numpy(np.asarray(picture) > 127).float()[None, None]
    joined = join_adapter(pipeline, adapter)

    def overlap(strength):
        drawn = joined(
            "a strawberry on a blue background",
            picture,
            num_inference_steps=8,
            guidance_scale=4.0,
            adapter_conditioning_scale=strength,
            generator=torch.Generator().manual_seed(0),
            output_type="np",
        ).images
        return float(match_shapes(find_foreground(torch.from_numpy(drawn).permute(0, 3, 1, 2)), shape))

    assert overlap(0.0) < 0.6 and overlap(1.0) > 0.7


# LoRAs of fewer ranks.


def build_lora():
    generator = torch.Generator().manual_seed(0)
    return {
        "unet.a.lora_A.weight": torch.randn(4, 6, generator=generator),
        "unet.a.lora_B.weight": torch.randn(5, 4, generator=generator),
        "unet.b.lora_A.weight": 0.1 * torch.randn(4, 3, 3, 3, generator=generator),
        "unet.b.lora_B.weight": torch.randn(8, 4, 1, 1, generator=generator),
    }


def multiply(tensors, name):
    up, down = (tensors[f"unet.{name}.lora_{part}.weight"].double().flatten(1) for part in "BA")
    return up @ down


def test_with_all_numbers_a_lora_stays_what_it_is():
    lora = build_lora()
    same, share = truncate_lora(lora, 10_000)
    assert share == pytest.approx(1)
    for name in "ab":
        assert (multiply(same, name) - multiply(lora, name)).norm() < 2e-3 * multiply(lora, name).norm()  # float16


def test_what_is_left_out_are_the_smallest_singular_values():
    lora = build_lora()
    values = {name: torch.linalg.svdvals(multiply(lora, name))[:4] for name in "ab"}
    numbers = {"a": 11, "b": 35}
    ranks = choose_ranks(values, numbers, 100)
    assert sum(ranks[name] * numbers[name] for name in "ab") <= 100 and ranks["a"] > ranks["b"]
    small, share = truncate_lora(lora, 100)
    for name in "ab":
        assert small[f"unet.{name}.lora_A.weight"].shape[0] == ranks[name]
        lost = (multiply(lora, name) - multiply(small, name)).norm()
        assert lost == pytest.approx(float(values[name][ranks[name] :].norm()), rel=1e-2, abs=5e-3)
    kept = sum(float(values[name][: ranks[name]].square().sum()) for name in "ab")
    assert share == pytest.approx(kept / sum(float(one.square().sum()) for one in values.values()))


def test_a_budget_below_one_rank_a_layer_is_refused():
    with pytest.raises(TrainingError, match="One rank a layer takes 46 numbers"):
        truncate_lora(build_lora(), 45)
