"""What is peculiar to each cache: formulas in float64, which evaluations run what, and where a cache is refused."""

from __future__ import annotations

import itertools
import math
from itertools import pairwise

import pytest
import tiny_models
import torch
from network_state import assert_unchanged, state_of

from pipelines.caches import CACHES, cache_quant
from pipelines.caches.cache_quant import CacheFit, CacheQuant, choose_starts, fit_channels
from pipelines.caches.cuts import find_cut
from pipelines.caches.decisions import relative_change
from pipelines.caches.encoder_propagation import key_steps
from pipelines.caches.mag_cache import magnitude_at
from pipelines.caches.merging import match_tokens
from pipelines.caches.networks import measured_work, work_of
from pipelines.caches.rows import join_rows, split_rows
from pipelines.caches.taylor import extrapolation_weights
from pipelines.caches.token_merging import TokenMerging
from pipelines.core.caching import BranchMemory, CachedRow
from pipelines.core.errors import MethodFitError, SettingsError
from pipelines.core.loop import denoise
from pipelines.core.schedule import Level
from pipelines.core.types import Choice, Request
from pipelines.families import family_of
from pipelines.guidance.perturbations import self_attentions
from pipelines.learning.cache_curves import fit_polynomial, measure_changes
from pipelines.learning.request import require_learnable
from pipelines.requests.passes import resolve_passes
from pipelines.requests.text_to_image import build_run, resolve


@pytest.fixture(scope="module")
def unet():
    return family_of(tiny_models.tiny_sd().components)


@pytest.fixture(scope="module")
def joint():
    found = family_of(tiny_models.tiny_sd3().components)
    found.max_sequence_length = 8
    return found


def run(family, cache: str, settings: dict, **changes):
    fields = {"prompt": "a red fox", "num_inference_steps": 8, "width": 32, "height": 32, "seed": 3}
    request = Request(**{**fields, "cache": Choice(cache, settings), **changes})
    return list(denoise(build_run(resolve(request, family), family)))


def whole_steps(steps) -> list[int]:
    return [step.index for step in steps if step.skipped < 1e-9]


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_an_extrapolation_of_order_n_is_exact_on_polynomials_of_degree_n(order):
    times, wanted = (700.0, 810.0, 925.0, 999.0)[: order + 1], 640.0
    weights = extrapolation_weights(times, wanted)
    assert sum(weights) == pytest.approx(1, abs=1e-12)
    for degree in range(order + 1):
        value = sum(weight * (time / 1000) ** degree for weight, time in zip(weights, times, strict=True))
        assert value == pytest.approx((wanted / 1000) ** degree, abs=1e-12)
    beyond = sum(weight * (time / 1000) ** (order + 1) for weight, time in zip(weights, times, strict=True))
    assert abs(beyond - (wanted / 1000) ** (order + 1)) > 1e-6


def test_rows_come_back_without_a_copy_where_they_are_the_batch_as_it_was():
    batch = (torch.randn(3, 2), None, torch.randn(3, 4, 1))
    rows = split_rows(batch, 3)
    assert join_rows(rows) is batch
    first, nothing, last = join_rows([rows[2], rows[0]])
    assert nothing is None
    assert torch.equal(first, batch[0][[2, 0]]) and torch.equal(last, batch[2][[2, 0]])
    assert join_rows(rows[:2])[0].shape == (2, 2)  # a part of the batch is not the batch


def test_a_change_is_that_of_each_row_alone():
    before = torch.tensor([[1.0, -1.0], [2.0, 2.0]], dtype=torch.float64)
    now = torch.tensor([[1.5, -1.0], [2.0, 2.0]], dtype=torch.float64)
    assert relative_change(now, before) == pytest.approx([0.25, 0.0])


def test_what_an_unfinished_evaluation_left_is_dropped():
    memory = BranchMemory(1)
    memory.begin(0, 4, Level(0.5, 0.5, 100.0))
    (row,) = memory.rows
    row.pending["kept"] = 1
    row.finish()
    clone = dict(row.state)
    memory.begin(1, 4, Level(0.6, 0.4, 50.0))
    row.pending["lost"] = 2
    memory.begin(2, 4, Level(0.7, 0.3, 25.0))
    row.finish()
    assert row.state == clone == {"kept": 1}
    assert row.place.evaluation == 2


def test_deepcache_runs_the_whole_network_at_every_nth_evaluation(unet):
    assert whole_steps(run(unet, "deepcache", {"interval": 3})) == [0, 3, 6]
    shallow, deep = (run(unet, "deepcache", {"interval": 3, "depth": depth})[-1] for depth in (0, 2))
    assert shallow.evaluations < deep.evaluations


def test_taylorseer_warms_up_and_then_runs_at_every_nth_evaluation(unet, joint):
    settings = {"interval": 3, "warmup": 2}
    assert whole_steps(run(unet, "taylorseer", settings)) == [0, 1, 4, 7]
    assert whole_steps(run(joint, "taylorseer", settings)) == [0, 1, 4, 7]
    reused, foreseen = (run(joint, "taylorseer", {**settings, "order": order})[-1].latents for order in (0, 1))
    assert not torch.equal(reused, foreseen)


def test_without_extrapolation_taylorseer_is_deepcache(unet):
    reused = run(unet, "taylorseer", {"interval": 2, "warmup": 1, "order": 0})[-1]
    cached = run(unet, "deepcache", {"interval": 2})[-1]
    assert torch.equal(reused.latents, cached.latents)
    assert reused.evaluations == cached.evaluations


def test_the_encoder_is_run_at_the_papers_key_steps():
    assert sorted(key_steps(50)) == [0, 1, 2, 3, 5, 10, 15, 25, 35]
    assert 0 in key_steps(1) and max(key_steps(20)) < 20


def test_a_propagated_encoder_is_left_out_between_key_steps(unet):
    steps = run(unet, "encoder_propagation", {}, num_inference_steps=10)
    assert whole_steps(steps) == sorted(key_steps(10))
    two_a_step = run(unet, "encoder_propagation", {}, num_inference_steps=10, sampler=Choice("heun"))
    assert whole_steps(two_a_step) == sorted(key_steps(10))


_ONE_BY_ONE = ("sag", "nag")


@pytest.mark.parametrize(
    "changes",
    [
        {"guidance": Choice("cfg", {"guidance_scale": 4.0})},
        {"sampler": Choice("heun")},
        {"sampler": Choice("dpmpp_2s")},  # asks between the steps, too
        {"sampler": Choice("ddpm")},
        {"guidance": Choice("interval", {"sigma_low": 0.5, "sigma_high": 4.0})},
        {"guidance": Choice("pag"), "batch_size": 2},
        {"guidance": Choice("residual")},
        *({"guidance": Choice(key)} for key in _ONE_BY_ONE),
        {"prompt": "a red [fox:cat:0.5]"},
        {"prompt": "a red fox AND a cat"},
    ],
    ids=str,
)
def test_decoders_of_a_span_in_one_batch_say_what_they_say_one_by_one(unet, changes):
    ran, calls = [], []
    predict = type(unet).predict_raw
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(type(unet), "predict_raw", lambda self, *inputs: calls.append(1) or predict(self, *inputs))
        for together in (1, 3, 16):
            calls.clear()
            settings = {"spacing": "uniform", "interval": 4, "together": together}
            ran.append((run(unet, "encoder_propagation", settings, **changes), len(calls)))
    (single, single_calls), *others = ran
    for batched, batched_calls in others:
        # attention that is watched or replaced for single queries is not looked ahead for
        assert batched_calls < single_calls or changes.get("guidance", Choice("")).key in _ONE_BY_ONE
        assert batched[-1].evaluations <= single[-1].evaluations + 1e-6
        for one, other in zip(single, batched, strict=True):
            # of eight steps in float32; a wrong time or prompt moves it by more than 1e-2
            assert torch.allclose(one.latents, other.latents, atol=2e-4 * float(one.latents.abs().max()))


def test_an_evaluation_that_looks_ahead_counts_what_it_ran(unet):
    steps = run(unet, "encoder_propagation", {"spacing": "uniform", "interval": 4})
    counts = [0.0, *(step.evaluations for step in steps)]
    ran = [later - earlier for earlier, later in pairwise(counts)]
    decoder = 1 - steps[1].skipped
    assert ran == pytest.approx([2, 6 * decoder, 0, 0, 2, 6 * decoder, 0, 0])
    assert [1 - step.skipped for step in steps] == pytest.approx([1, *[decoder] * 3] * 2)


def test_decoders_that_do_not_fit_the_memory_are_run_in_smaller_batches(unet):
    settings = {"spacing": "uniform", "interval": 4}
    whole = run(unet, "encoder_propagation", settings)[-1]
    predict = type(unet).predict_raw

    def scarce(self, latents, *rest):
        if len(latents) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return predict(self, latents, *rest)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(type(unet), "predict_raw", scarce)
        small = run(unet, "encoder_propagation", settings)[-1]
    assert torch.allclose(whole.latents, small.latents, atol=1e-4)
    assert small.evaluations == pytest.approx(whole.evaluations)


@pytest.mark.parametrize("parts", ["deep blocks", "residual layers", "attention layers"])
def test_each_choice_of_inherited_parts_leaves_its_own_share_out(unet, parts):
    steps = run(unet, "feature_inheritance", {"parts": parts, "interval": 2})
    assert whole_steps(steps) == [0, 2, 4, 6]
    assert 0.05 < steps[1].skipped < 0.95


@pytest.mark.parametrize("key", ["first_block", "teacache"])
def test_a_threshold_decides_how_often_the_blocks_are_run(joint, key):
    counts = [run(joint, key, {"threshold": threshold, "warmup": 1})[-1].evaluations for threshold in (0.0, 0.05, 1.0)]
    assert counts == sorted(counts, reverse=True) and counts[0] == 16 > counts[2]
    steps = run(joint, key, {"threshold": 1.0, "warmup": 3, "most": 1})
    assert whole_steps(steps)[:3] == [0, 1, 2]
    assert not any(first.skipped and second.skipped for first, second in pairwise(steps))


def test_blocks_rest_once_they_stand_still_and_no_longer_than_they_may(joint):
    settings = {"threshold": 1.0, "warmup": 3, "most": 1}
    steps = run(joint, "temporal_delta", settings, num_inference_steps=10)
    assert whole_steps(steps)[:3] == [0, 1, 2]
    assert not any(first.skipped > 0.9 and second.skipped > 0.9 for first, second in pairwise(steps))
    longer = run(joint, "temporal_delta", {**settings, "most": 4}, num_inference_steps=10)
    assert longer[-1].evaluations < steps[-1].evaluations
    stricter = run(joint, "temporal_delta", {**settings, "threshold": 0.05}, num_inference_steps=10)
    assert stricter[-1].evaluations >= steps[-1].evaluations


def test_attention_is_broadcast_within_its_times_only(unet, joint):
    for family in (unet, joint):
        steps = run(family, "pab", {"self_interval": 2, "cross_interval": 2, "low": 300, "high": 700})
        times = [step.level.timestep for step in steps if step.skipped > 1e-9]
        assert times and all(300 < time < 700 for time in times)


@pytest.mark.parametrize("guidance", ["cfg", "interval", "adaptive", "pag"])
def test_a_cache_and_every_kind_of_guidance_go_together(unet, guidance):
    settings = {"sigma_low": 0.5, "sigma_high": 4.0} if guidance == "interval" else {}
    chosen = Choice(guidance, {"guidance_scale": 3.0, **settings})
    step = run(unet, "deepcache", {"interval": 2}, guidance=chosen)[-1]
    plain = run(unet, "none", {}, guidance=chosen)[-1]
    assert step.evaluations < plain.evaluations and step.latents.isfinite().all()


def test_the_passes_of_a_run_remember_nothing_of_each_other(unet):
    request = Request(
        prompt="a red fox",
        num_inference_steps=6,
        width=32,
        height=32,
        cache=Choice("deepcache", {"interval": 3}),
        second_pass=Choice("latent", {"factor": 2.0, "strength": 0.5}),
    )
    steps = list(resolve_passes(request, unet).denoise(unet, lambda key: None))
    assert whole_steps(steps) == [0, 3, 6]  # the second pass begins with a whole evaluation
    assert steps[-1].latents.shape[-1] == 2 * steps[0].latents.shape[-1]


def test_a_network_without_layers_to_leave_out_is_refused(unet, joint):
    for family, key, settings, words in (
        (unet, "deepcache", {"depth": 12}, "skip connections"),
        (joint, "taylorseer", {"depth": 12}, "blocks"),
    ):
        with pytest.raises(MethodFitError, match=words):
            run(family, key, settings)
    for family, key in ((joint, "encoder_propagation"), (joint, "feature_inheritance"), (unet, "first_block")):
        with pytest.raises(MethodFitError):
            CACHES.build(Choice(key)).require_fit(family)


def test_what_needs_whole_evaluations_refuses_a_cache():
    with pytest.raises(MethodFitError, match="DeepCache leaves out"):
        require_learnable(Request(cache=Choice("deepcache")))
    require_learnable(Request())


@pytest.mark.parametrize(("grid", "ratio"), [((4, 6), 0.5), ((3, 5), 0.75), ((2, 2), 0.25), ((1, 4), 0.5)])
def test_tokens_are_merged_as_a_plain_loop_merges_them(grid, ratio):
    height, width = grid
    tokens = torch.randn(2, height * width, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    merging = match_tokens(tokens, grid, ratio)
    merged = merging.merge(tokens)
    spread = merging.spread(merged)
    for row in range(2):
        corners = [y * width + x for y in range(0, height, 2) for x in range(0, width, 2)]
        others = [place for place in range(height * width) if place not in corners]

        def cosine(one, two, row=row):
            return float(torch.nn.functional.cosine_similarity(tokens[row, one], tokens[row, two], dim=0))

        best = {one: max(corners, key=lambda corner, one=one: cosine(one, corner)) for one in others}
        taken = sorted(others, key=lambda one: -cosine(one, best[one]))[: int(ratio * height * width)]
        expected = tokens[row].clone()
        for corner in corners:
            group = [corner, *(one for one in taken if best[one] == corner)]
            expected[group] = tokens[row, group].mean(0)
        assert torch.allclose(spread[row], expected, atol=1e-12)
        assert merged.shape[1] == height * width - len(taken)
    same = torch.ones(1, height * width, 3, dtype=torch.float64)
    merging = match_tokens(same, grid, ratio)
    assert torch.equal(merging.spread(merging.merge(same)), same)


def test_merged_self_attention_counts_what_it_saves(unet):
    steps = run(unet, "token_merging", {"ratio": 0.5, "warmup": 2})
    assert whole_steps(steps) == [0, 1]
    more = run(unet, "token_merging", {"ratio": 0.75, "place": "all"})
    assert 0 < steps[2].skipped < more[2].skipped < 0.5
    (layer, *_) = self_attentions(unet.network, "all")
    row = CachedRow()
    with measured_work(unet.network, [row]):
        unet.predict_raw(
            torch.zeros(1, 4, 8, 8), torch.tensor([5.0]), unet.encode_prompts("a", "", 1, (32, 32))["positive"]
        )
    row.finish()
    left = 0.5  # of 16 tokens, 8; projections by tokens, the square by their square
    projections = 4 * 16 * 16 * layer.to_q.out_features / work_of([row]).total
    expected = projections * (1 - left) + (work_of([row]).share([layer]) - projections) * (1 - left**2)
    assert TokenMerging(0.5)._share_saved(layer, (4, 4), [row]) == pytest.approx(expected)


def test_magcache_adds_up_the_errors_of_the_lengths(joint):
    curve = (1.0, 0.5)  # falls evenly from time 1000 to 0
    assert magnitude_at(curve, 1000) == 1.0 and magnitude_at(curve, 0) == 0.5 and magnitude_at(curve, 400) == 0.7
    settings = {"curve": "1, 0.5", "threshold": 0.25, "retention": 0.0, "most": 3}
    steps = run(joint, "magcache", settings, num_inference_steps=12)
    times, wanted, error, rested, last = [step.level.timestep for step in steps], [], 0.0, 0, None
    for index, time in enumerate(times):
        if last is not None:
            error += abs(1 - magnitude_at(curve, time) / magnitude_at(curve, last))
        if last is None or error >= 0.25 or rested >= 3:
            wanted.append(index)
            error, rested, last = 0.0, 0, time
        else:
            rested += 1
    assert whole_steps(steps) == wanted and 1 < len(wanted) < 12
    flat = run(joint, "magcache", {**settings, "curve": "1, 1", "threshold": 0.01}, num_inference_steps=12)
    assert whole_steps(flat) == [0, 4, 8]  # no error at all: the most in a row
    kept = run(joint, "magcache", {**settings, "retention": 0.5}, num_inference_steps=12)
    assert whole_steps(kept)[:6] == [0, 1, 2, 3, 4, 5]
    assert magnitude_at((2.0,), 300) == 2.0
    for text in ("1, x", "1, 0", "1, -2", "1, nan"):
        with pytest.raises(SettingsError, match="numbers above 0"):
            CACHES.build(Choice("magcache", {"curve": text}))


def test_a_change_passes_through_the_written_polynomial(joint):
    plain, same = (run(joint, "teacache", {"threshold": 0.05, **one})[-1] for one in ({}, {"polynomial": "1, 0"}))
    assert torch.equal(plain.latents, same.latents)
    cache = CACHES.build(Choice("teacache", {"polynomial": "2, -1, 0.5"}))
    assert cache.count(0.3, 0.1) == pytest.approx(0.1 + 2 * 0.09 - 0.3 + 0.5)
    with pytest.raises(SettingsError, match="numbers with commas"):
        CACHES.build(Choice("teacache", {"polynomial": "2, many"}))


def test_teacaches_polynomial_is_fitted_to_what_input_and_output_change(joint):
    request = Request(prompt="a red fox", num_inference_steps=4, width=32, height=32, seed=3)
    before = state_of(joint.network)
    first, second = measure_changes(joint, [request])
    assert len(first) == len(second) == 2 * 3 and min(first + second) > 0  # two branches, from step to step
    assert_unchanged(joint.network, before)
    wanted = (2.0, -1.0, 0.5)
    values = [wanted[0] * one**2 + wanted[1] * one + wanted[2] for one in first]
    assert fit_polynomial(first, values, 2) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize(("total", "count"), [(6, 3), (7, 2), (9, 4), (5, 5)])
def test_cachequants_programme_is_as_good_as_every_other_schedule(total, count):
    values = torch.rand(total, total, generator=torch.Generator().manual_seed(total)).tolist()
    low, high = max(1, math.ceil(total / count / 2)), 2 * total // count

    def cost(starts):
        ends = [*starts[1:], total]
        return sum(sum(values[start][start + 1 : end]) for start, end in zip(starts, ends, strict=True))

    allowed = [
        (0, *rest)
        for rest in itertools.combinations(range(1, total), count - 1)
        if all(low <= end - start <= high for start, end in pairwise((0, *rest, total)))
    ]
    chosen = choose_starts(values, count)
    assert chosen in allowed and cost(chosen) == pytest.approx(min(map(cost, allowed)))


def test_a_channels_correction_is_recovered_and_an_even_channel_is_moved():
    before = torch.randn(5, 3, 4, 4, dtype=torch.float64)
    before[:, 2] = 0.5
    factor, offset = torch.tensor([2.0, -0.5, 1.0]).double(), torch.tensor([0.3, 1.0, 0.25]).double()
    found = fit_channels(before, factor.view(-1, 1, 1) * before + offset.view(-1, 1, 1))
    assert torch.allclose(found[0], factor) and torch.allclose(found[1], offset)


@pytest.mark.parametrize("correction", ["affine", "variance"])
def test_a_correction_by_one_is_none_and_another_models_fit_is_refused(unet, monkeypatch, correction):
    plain = run(unet, "cachequant", {"fit": "typed", "starts": "0, 3, 5"})
    channels = find_cut(unet.network, 0)._channels
    fit = CacheFit("tiny", (), (0, 3, 5), torch.ones(8, channels), torch.zeros(8, channels), torch.ones(8))
    monkeypatch.setattr(cache_quant, "read_fit", lambda name: fit)
    request = Request(prompt="a red fox", num_inference_steps=8, width=32, height=32, seed=3)
    made = build_run(resolve(request, unet), unet)
    made.denoiser.cache = CacheQuant(fit.starts, "one", correction)
    assert torch.equal(list(denoise(made))[-1].latents, plain[-1].latents)
    assert whole_steps(plain) == [0, 3, 5]
    with pytest.raises(MethodFitError, match="is of tiny, 0 steps"):
        run(unet, "cachequant", {"correction": correction})
    with pytest.raises(SettingsError, match="with commas"):
        CACHES["cachequant"].build({"starts": "0, x"})
