"""Calibrated quantization: packing, searched ranges, error feedback and the allocation of bits."""

from __future__ import annotations

import itertools

import pytest
import torch

from pipelines.core.cancelling import Cancelled
from pipelines.core.errors import MethodFitError
from pipelines.quantizers.base import build_report, plan_layers, quantize_network, sqnr
from pipelines.quantizers.bit_allocation import allocate_bits, measure_output_noise
from pipelines.quantizers.bit_packing import count_packed_bytes, pack_bits, unpack_bits
from pipelines.quantizers.calibrated import Calibrated, CalibratedSettings
from pipelines.quantizers.calibration import Calibration, collect_moments, layer_rows, recorded_calls
from pipelines.quantizers.error_feedback import output_error, quantize_with_feedback
from pipelines.quantizers.fp8 import Fp8Codec
from pipelines.quantizers.grouped_codec import GroupedCodec
from pipelines.quantizers.int4 import Int4Codec
from pipelines.quantizers.int8 import Int8Codec
from pipelines.quantizers.nf4 import Nf4Codec
from pipelines.quantizers.packed import WeightOnly
from pipelines.quantizers.ranges import fit_group_size, search_ranges, split_groups
from tests.pipelines.network_state import assert_unchanged, state_of


class Small(torch.nn.Module):
    """A convolution, a depthwise one and a linear layer, on inputs whose channels are much alike."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.first = torch.nn.Conv2d(4, 12, 3, padding=1)
            self.depthwise = torch.nn.Conv2d(12, 12, 3, padding=1, groups=12)
            self.last = torch.nn.Linear(12, 6)

    def forward(self, inputs: torch.Tensor, timestep: float = 0.0) -> torch.Tensor:
        return self.last(self.depthwise(self.first(inputs).relu()).relu().movedim(1, -1))


def correlated(count: int, *shape: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 1, *shape[1:], generator=generator) + 0.1 * torch.randn(
        count, *shape, generator=generator
    )


@pytest.fixture(scope="module")
def small():
    return Small().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def calibration(small):
    with recorded_calls(small) as calls:
        for seed in range(8):
            small(correlated(2, 4, 8, 8, seed=seed), timestep=float(seed))
    return Calibration(tuple(calls))


@pytest.mark.parametrize("bits", range(1, 9))
def test_codes_of_any_bits_come_back_exactly_and_take_their_bits(bits):
    codes = torch.randint(0, 2**bits, (5, 37), generator=torch.Generator().manual_seed(bits))
    packed = pack_bits(codes, bits)
    assert packed.shape[1] == count_packed_bytes(37, bits) <= -(-37 * bits // 8) + 2
    assert torch.equal(unpack_bits(packed, 37, bits), codes.to(torch.uint8))
    assert count_packed_bytes(64, bits) == 8 * bits


def test_groups_divide_the_width_with_less_padding_than_a_weight_a_group():
    for columns, wanted in itertools.product(range(1, 300), (16, 32, 64, 128)):
        size = fit_group_size(columns, wanted)
        count = -(-columns // size)
        assert size <= wanted and size * count - columns < count <= -(-columns // wanted)
    assert fit_group_size(192, 128) == 96 and fit_group_size(9, 64) == 9


def test_no_layer_becomes_larger_and_one_that_would_is_left_alone():
    for inputs, outputs, kernel, groups in ((1, 4, 1, 1), (12, 12, 3, 12), (12, 12, 1, 12), (5, 3, 1, 1), (3, 8, 3, 1)):
        layer = torch.nn.Conv2d(inputs, outputs, kernel, groups=groups, bias=False)
        for codec in (
            Int8Codec(),
            Fp8Codec(),
            Int4Codec(64),
            Nf4Codec(32),
            GroupedCodec(4, fit_group_size(layer.weight[0].numel(), 64)),
        ):
            quantizer = WeightOnly(codec)
            parts = codec.pack(layer.weight.detach().flatten(1))
            size = sum(one.numel() * one.element_size() for one in parts.values())
            assert size == outputs * codec.count_row_bytes(layer.weight[0].numel())
            grows = size >= 4 * layer.weight.numel()
            assert (quantizer.refuses(layer) is not None) == grows
    assert "would not become smaller" in WeightOnly(Int4Codec()).refuses(torch.nn.Conv2d(12, 12, 1, groups=12))


@pytest.mark.parametrize("levels", [4, 16, 256])
def test_a_searched_range_is_never_worse_than_the_extremes_and_exact_on_its_own_grid(levels):
    rows = torch.randn(20, 96, generator=torch.Generator().manual_seed(0))
    rows[0, 5], rows[1] = 30.0, 0.0
    importance = torch.rand(3, 32, generator=torch.Generator().manual_seed(1)) + 0.01
    groups = split_groups(rows, 32)
    low, high = groups.amin(2, keepdim=True).clamp_max(0), groups.amax(2, keepdim=True).clamp_min(0)
    plain = low.half().float(), ((high - low) / (levels - 1)).half().float().clamp_min(1e-30)
    found = search_ranges(groups, levels, importance)

    def error(lowest, scales):
        codes = ((groups - lowest) / scales).round().clamp(0, levels - 1)
        return ((lowest + scales * codes - groups).square() * importance).sum(2)

    searched = ((found.decode(found.encode(groups, levels)) - groups).square() * importance).sum(2)
    assert bool((searched <= error(*plain) * (1 + 1e-5)).all())
    assert float(searched.sum()) < 0.95 * float(error(*plain).sum()) or levels == 256
    if levels == 256:
        return
    grid = (torch.arange(32) % levels)[None, None].float() * 0.25 - 1
    again = search_ranges(grid, levels)
    assert torch.allclose(again.decode(again.encode(grid, levels)), grid, atol=1e-3)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_searched_range_gives_up_one_end_alone_where_a_single_weight_needs_it(sign):
    grid = (torch.arange(255) % 16).float() * 0.125 - 1.25
    group = sign * torch.cat([grid, torch.tensor([1.25])])[None, None]
    found = search_ranges(group, 16)
    # All but the single weight lie on 16 levels: cutting it off costs its own distance to them, and nothing else.
    alone = (1.25 - float(grid.max())) ** 2
    assert float((found.decode(found.encode(group, 16)) - group).square().sum()) <= alone * 1.01


def test_rows_of_a_layer_times_its_weights_are_its_outputs():
    inputs = correlated(2, 4, 9, 7)
    for layer in (
        torch.nn.Conv2d(4, 6, 3, stride=2, padding=1, dilation=2),
        torch.nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"),
        torch.nn.Conv2d(4, 6, (3, 5), padding="same"),
    ):
        outputs = layer_rows(layer, inputs) @ layer.weight.flatten(1).T + layer.bias
        expected = layer(inputs).flatten(2).transpose(1, 2).flatten(0, 1)
        assert torch.allclose(outputs, expected, atol=1e-5)


@pytest.mark.parametrize("bits", [3, 4])
def test_error_feedback_changes_the_outputs_less_than_rounding_does(bits):
    """The claim is about correlated inputs; with white ones of equal power there is nothing to feed back."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(24, 64, generator=generator)
    mixed = torch.randn(4000, 8, generator=generator) @ torch.randn(8, 64, generator=generator)
    inputs = mixed + 0.1 * torch.randn(4000, 64, generator=generator)
    moments = inputs.T @ inputs / len(inputs)
    ranges, codes = quantize_with_feedback(rows, moments, 32, 2**bits)
    near = ranges.decode(ranges.encode(split_groups(rows, 32), 2**bits)).flatten(1)
    fed = output_error(ranges.decode(codes).flatten(1) - rows, moments).sum()
    rounded = output_error(near - rows, moments).sum()
    assert fed < 0.6 * rounded
    direct = ((ranges.decode(codes).flatten(1) - rows) @ inputs.T).square().mean(1).sum()
    assert torch.allclose(fed, direct, rtol=1e-3)
    ranges, codes = quantize_with_feedback(rows, torch.eye(64), 32, 2**bits)
    assert torch.equal(codes, ranges.encode(split_groups(rows, 32), 2**bits))


def test_the_allocation_is_within_a_step_of_the_best_of_all():
    """The steepest descent is the relaxed optimum until a step no longer fits: at most a step of the budget is lost."""
    generator = torch.Generator().manual_seed(2)
    for _ in range(20):
        noise = [[float(one) / 4**option for option in range(4)] for one in torch.rand(5, generator=generator)]
        costs = [
            [int(one) * (option + 2) for option in range(4)] for one in torch.randint(1, 9, (5,), generator=generator)
        ]
        cheapest = sum(row[0] for row in costs)
        budget = int(cheapest + 0.6 * sum(row[3] - row[0] for row in costs))
        chosen = allocate_bits(noise, costs, budget)
        spent = sum(row[option] for row, option in zip(costs, chosen, strict=True))
        total = sum(row[option] for row, option in zip(noise, chosen, strict=True))
        step = max(row[3] - row[0] for row in costs)
        best = min(
            sum(row[option] for row, option in zip(noise, options, strict=True))
            for options in itertools.product(range(4), repeat=5)
            if sum(row[option] for row, option in zip(costs, options, strict=True)) <= max(budget - step, cheapest)
        )
        assert spent <= budget and total <= best


def test_the_noise_of_a_layer_is_what_its_change_does_to_the_output(small, calibration):
    """Of the last layer, whose output is linear in its weights, the estimate's mean is exact; 256 signs leave 10 %."""
    change = 1e-2 * torch.randn(6, 12, generator=torch.Generator().manual_seed(3))
    calls = Calibration(calibration.calls[:1] * 256)
    found = measure_output_noise(small, {"last": change}, calls)["last"]
    inputs = small.depthwise(small.first(calls.calls[0].args[0]).relu()).relu().movedim(1, -1)
    assert found == pytest.approx(float((inputs @ change.T).square().sum()), rel=0.3)


def test_moments_are_those_of_the_inputs(small, calibration):
    found = collect_moments(small, ["first", "last"], calibration)
    rows = torch.cat([layer_rows(small.first, call.args[0]) for call in calibration.calls])
    assert torch.allclose(found["first"], rows.T @ rows / len(rows), atol=1e-4)
    assert not small.first._forward_pre_hooks


def test_better_than_round_to_nearest_in_the_same_bytes(small, calibration):
    state = state_of(small)
    quantizer = Calibrated(CalibratedSettings(bits=5.5))
    made = quantize_network(small, quantizer, "Calibrated", calibration=calibration)
    assert_unchanged(small, state)
    report = build_report(small, made, quantizer)
    weights = sum(layer.weights for layer in report.quantized_layers)
    biases = sum(4 * len(small.get_submodule(layer.name).bias) for layer in report.quantized_layers)
    assert (sum(layer.bytes for layer in report.quantized_layers) - biases) * 8 <= 5.5 * weights
    plain = quantize_network(small, WeightOnly(Int4Codec(64)), "int4")
    inputs = correlated(4, 4, 8, 8, seed=99)
    reference = small(inputs)
    assert sqnr(reference, made(inputs)) > sqnr(reference, plain(inputs))


def test_without_calibration_it_is_refused_and_a_cancel_stops_it(small, calibration):
    with pytest.raises(MethodFitError, match="Calibrated is calibrated on runs of the model, and there are none here"):
        quantize_network(small, Calibrated(), "Calibrated")
    state, asked = state_of(small), []

    def third() -> bool:
        asked.append(1)
        return len(asked) > 2

    with pytest.raises(Cancelled):
        quantize_network(small, Calibrated(), "Calibrated", third, calibration=calibration)
    assert_unchanged(small, state)
    assert plan_layers(small, Calibrated()).quantized_layers == ("first", "depthwise", "last")
