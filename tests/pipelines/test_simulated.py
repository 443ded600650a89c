"""Simulated layers: exact formats, exact neutral settings, and parts that do what their formulas say."""

from __future__ import annotations

import copy
import dataclasses
import itertools

import pytest
import torch
from torch.nn import functional

from pipelines.core.errors import MethodFitError, SettingsError
from pipelines.quantizers.base import quantize_network
from pipelines.quantizers.calibration import Calibration, recorded_calls
from pipelines.quantizers.nf4 import LEVELS
from pipelines.quantizers.recipes.free import Simulated, SimulatedSettings
from pipelines.quantizers.simulated.activation_quantizer import ActivationQuantizer
from pipelines.quantizers.simulated.activations import ActivationSpec, round_to_range
from pipelines.quantizers.simulated.clock import Clock
from pipelines.quantizers.simulated.fitting import compute_factors, fit_layer, fit_rows
from pipelines.quantizers.simulated.formats import WEIGHT_FORMATS, fit_neighbors, parse_format
from pipelines.quantizers.simulated.layer_spec import LayerSpec
from pipelines.quantizers.simulated.layers import build_layer
from pipelines.quantizers.simulated.observing import group_channels, list_edges
from pipelines.quantizers.simulated.reconstruction import find_blocks
from pipelines.quantizers.simulated.rotations import build_hadamard, build_outlier_rotation
from pipelines.quantizers.simulated.rounded_scores import RoundedScores
from pipelines.quantizers.simulated.rounding import Annealing, round_adaptively
from pipelines.quantizers.simulated.scores import ScoreSpec, round_scores
from pipelines.quantizers.simulated.splits import list_splits
from pipelines.quantizers.simulated.statistics import LayerInputs
from tests.pipelines.network_state import assert_unchanged, state_of
from tests.pipelines.simulated_networks import call_network, model, normal

__all__ = ["model"]


@pytest.mark.parametrize("name", [name for name in WEIGHT_FORMATS if name != "full"])
def test_neighbors_enclose_each_weight_and_hold_few_different_numbers(name):
    form = parse_format(name)
    groups = normal(3, 2, 64)
    for search in (False, True):
        found = fit_neighbors(groups, form, search)
        inside = (found.down <= groups + 1e-6) & (groups <= found.up + 1e-6)
        assert bool((inside | (found.down == found.up)).all())
        nearest = found.nearest(groups)
        assert bool(((nearest - groups).abs() <= (found.down - groups).abs() + 1e-7).all())
        assert max(len(row.unique()) for row in nearest.flatten(0, 1)) <= 2**form.bits
        # What lies on the grid stays there.
        if form.kind not in ("binary", "twin_log"):
            again = fit_neighbors(nearest, form, False).nearest(nearest)
            assert torch.allclose(again, nearest, atol=1e-5) or search
    plain, searched = (
        (fit_neighbors(groups, form, search).nearest(groups) - groups).square().sum() for search in (False, True)
    )
    assert searched <= plain * 1.001


@pytest.mark.parametrize(("name", "dtype"), [("fp8_e4m3", torch.float8_e4m3fn), ("fp8_e5m2", torch.float8_e5m2)])
def test_the_eight_bit_grids_are_pytorchs_types(name, dtype):
    grid = parse_format(name).grid
    values = torch.cat([normal(4000) * 2.0**power for power in range(-20, 8)]).clamp(-grid.largest, grid.largest)
    assert torch.equal(grid.round(values), values.to(dtype).float())


def test_the_small_grids_are_those_of_the_microscaling_formats():
    values = torch.linspace(-8, 8, 20001)
    assert parse_format("fp4_e2m1").grid.round(values).abs().unique().tolist() == [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    assert parse_format("fp6_e2m3").grid.largest == 7.5 and parse_format("fp6_e3m2").grid.largest == 28
    table = fit_neighbors(torch.tensor([[[*LEVELS]]]), parse_format("nf4"), False)
    assert torch.allclose(table.down, torch.tensor([[[*LEVELS]]])) and torch.equal(table.down, table.up)
    with pytest.raises(SettingsError, match="no number format 'fp4_e9m9'"):
        parse_format("fp4_e9m9")


def test_binary_bases_of_two_bits_find_two_bases_and_twin_log_is_finer_near_zero():
    signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=2)))
    groups = (signs @ torch.tensor([0.7, 0.2])).repeat(8)[None, None]
    assert torch.allclose(fit_neighbors(groups, parse_format("binary2"), True).nearest(groups), groups, atol=1e-5)
    weights = normal(1, 1, 4096)
    gaps = fit_neighbors(weights, parse_format("twin_log4"), False).nearest(weights).unique().diff()
    assert gaps.argmin() in range(5, 10) and gaps.max() > 4 * gaps.min()


def test_affine_rounding_is_the_formula_and_holds_zero():
    values = torch.tensor([-1.0, -0.26, 0.0, 0.4, 2.0])
    scale = 3 / 15
    expected = ((values / scale).round() + 5).clamp(0, 15).sub(5) * scale
    assert torch.allclose(round_to_range(values, parse_format("int4"), values.min(), values.max()), expected)
    assert round_to_range(torch.zeros(3), parse_format("int4"), torch.tensor(1.0), torch.tensor(2.0)).eq(0).all()


@pytest.mark.parametrize("size", [1, 3, 8, 12, 96])
def test_rotations_are_orthogonal_and_spread_an_outlier(size):
    hadamard = build_hadamard(size)
    assert torch.allclose(hadamard @ hadamard.T, torch.eye(size, dtype=torch.float64), atol=1e-12)
    peaks = torch.ones(size)
    peaks[size // 2] = 100
    rotation = build_outlier_rotation(peaks)
    assert torch.allclose(rotation @ rotation.T, torch.eye(size, dtype=torch.float64), atol=1e-12)
    if size > 2:
        outlier = torch.eye(size, dtype=torch.float64)[size // 2] * 100
        assert (outlier @ rotation).abs().max() < 100 * 2 / size**0.5
        assert (outlier @ hadamard).abs().max() < 100 * 2 / size**0.5


LAYERS = [
    torch.nn.Linear(24, 10),
    torch.nn.Conv2d(24, 10, 3, stride=2, padding=1),
    torch.nn.Conv2d(24, 6, 3, padding=2, dilation=2, padding_mode="circular"),
]


def inputs_of(layer: torch.nn.Module) -> torch.Tensor:
    outliers = torch.ones(24)
    outliers[5] = 30
    if isinstance(layer, torch.nn.Conv2d):
        return normal(2, 24, 9, 9) * outliers[:, None, None]
    return normal(2, 7, 24) * outliers


@pytest.mark.parametrize("layer", LAYERS, ids=lambda one: one.extra_repr())
def test_another_basis_and_a_branch_change_nothing_where_nothing_is_rounded(layer):
    """Smoothing, rotation and branch are exact rewritings: only the rounding of float32 stays."""
    layer = copy.deepcopy(layer).requires_grad_(False)
    inputs = inputs_of(layer)
    peaks = inputs.abs().movedim(1 if inputs.dim() == 4 else -1, -1).flatten(0, -2).amax(0)
    given = LayerInputs(torch.zeros(1, layer.weight[0].numel()), peaks)
    for rotation in ("none", "hadamard", "outlier"):
        spec = LayerSpec(weights="full", smoothing=0.5, rotation=rotation)
        made = build_layer(layer, spec, fit_layer(layer, spec, given))
        assert torch.allclose(made(inputs), layer(inputs), atol=1e-4)
        assert torch.allclose(made.effective_weight, layer.weight, atol=1e-5)
        full_rank = dataclasses.replace(spec, weights="int2", rank=10)
        exact = build_layer(layer, full_rank, fit_layer(layer, full_rank, given))
        assert torch.allclose(exact(inputs), layer(inputs), atol=1e-3)
    factors = compute_factors(peaks, layer.weight, 0.5)
    balanced = layer.weight * factors.reshape(1, -1, *[1] * (layer.weight.dim() - 2))
    weights = balanced.movedim(1, -1).flatten(0, -2).abs().amax(0)
    assert torch.allclose(peaks / factors, weights, rtol=1e-4)


@pytest.mark.parametrize("layer", LAYERS, ids=lambda one: one.extra_repr())
def test_a_layer_computes_with_its_rounded_weights_on_its_rounded_inputs(layer):
    layer = copy.deepcopy(layer).requires_grad_(False)
    spec = LayerSpec(weights="int4", activations=ActivationSpec("int4", "token"))
    made = build_layer(layer, spec, fit_layer(layer, spec, None))
    inputs = inputs_of(layer)
    channels = 1 if inputs.dim() == 4 else -1
    low, high = inputs.amin(channels, keepdim=True), inputs.amax(channels, keepdim=True)
    rounded = round_to_range(inputs, parse_format("int4"), low, high)
    expected = copy.deepcopy(layer)
    expected.weight.data = fit_rows(layer.weight.flatten(1), spec)[0].reshape(layer.weight.shape)
    assert torch.allclose(made(inputs), expected(rounded), atol=1e-5)
    again = type(made).restore(layer, made.state_dict())
    assert torch.equal(again(inputs), made(inputs)) and again.spec == spec


def test_a_branch_counts_with_the_rank_that_it_has():
    for layer, rank in ((torch.nn.Linear(32, 16), 16), (torch.nn.Conv2d(32, 32, 3, groups=32), 0)):
        bits = [fit_layer(layer, LayerSpec("int4", rank=asked), None).nominal_bits for asked in (0, 128)]
        assert bits[1] - bits[0] == 16 * rank * (len(layer.weight) + layer.weight[0].numel())


def test_adaptive_rounding_is_never_worse_than_nearest_and_better_on_correlated_inputs():
    rows, inputs = normal(16, 48), normal(300, 6, seed=1) @ normal(6, 48, seed=2) + 0.1 * normal(300, 48, seed=3)
    for form, iterations in (("int3", 1), ("int3", 200), ("fp4_e2m1", 200), ("twin_log4", 100), ("nf4", 100)):
        near = fit_neighbors(rows[:, None], parse_format(form), True)
        near = dataclasses.replace(near, down=near.down.flatten(1), up=near.up.flatten(1))
        found = round_adaptively(rows, near, inputs, Annealing(iterations))
        assert bool(((found == near.down) | (found == near.up)).all())
        error, nearest = (((one - rows) @ inputs.T).square().sum() for one in (found, near.nearest(rows)))
        assert error <= nearest * (1 if iterations == 1 else 0.8)


def test_ranges_by_interval_are_those_of_the_rows_times():
    assert list_edges([1.0, 2.0, 2.0, 8.0, 9.0], 2).tolist() == [5.0]
    quantizer = ActivationQuantizer(ActivationSpec("int8", "interval", 2), -1)
    quantizer.low, quantizer.high = torch.tensor([[-1.0], [-10.0]]), torch.tensor([[1.0], [10.0]])
    quantizer.edges, quantizer.clock = torch.tensor([5.0]), Clock()
    inputs = 8 * normal(4, 3, 16)
    quantizer.clock.times = torch.tensor([1.0, 9.0])
    rounded = quantizer(inputs)
    assert rounded[:2].abs().max() <= 1.01 and rounded[2:].abs().max() > 5
    quantizer.clock.times = torch.tensor([1.0])
    assert torch.equal(quantizer(inputs)[:2], rounded[:2])
    assert group_channels(torch.zeros(4), torch.tensor([1.0, 1.1, 60.0, 64.0]), 2).tolist() == [0, 0, 1, 1]


def test_attention_step_by_step_is_pytorchs_and_log2_keeps_powers_of_two():
    query, key, value = (normal(2, 3, 5, 8, seed=seed) for seed in range(3))
    mask = torch.zeros(5, 5)
    mask[:, -1] = float("-inf")
    for options in ({}, {"attn_mask": mask}, {"attn_mask": mask == 0}, {"is_causal": True}, {"scale": 0.3}):
        expected = functional.scaled_dot_product_attention(query, key, value, **options)
        with RoundedScores(ScoreSpec()):
            found = functional.scaled_dot_product_attention(query, key, value, **options)
        assert torch.allclose(found, expected, atol=1e-6)
    scores = torch.tensor([[0.5, 0.25, 0.125, 0.125], [0.4, 0.3, 0.2, 0.1]])
    rounded = round_scores(scores, ScoreSpec("log2", 2))
    assert rounded[0].tolist() == [0.5, 0.25, 0.125, 0.125]
    assert set(rounded.flatten().tolist()) <= {0.5, 0.25, 0.125, 0.0625}
    assert torch.equal(round_scores(torch.tensor([[0.25, 0.75]]), ScoreSpec("even", 2)), torch.tensor([[1 / 3, 2 / 3]]))


def test_neutral_settings_change_nothing_bit_for_bit(model):
    network, calibration = model
    settings = SimulatedSettings(
        weights="full",
        activations="full",
        smoothing=2.0,
        rotation="auto",
        rank=8,
        split=True,
        first_token=True,
        rounding="blocks",
    )
    made = quantize_network(network, Simulated(settings), "Free", calibration=calibration)
    with torch.no_grad():
        assert torch.equal(call_network(made, 300.0), call_network(network, 300.0))


@pytest.mark.parametrize(
    "values",
    [
        {"activation_ranges": "interval", "intervals": 2, "split": True, "search": True},
        {"weights": "fp4_e2m1", "activations": "fp8_e4m3", "activation_ranges": "token", "rotation": "auto"},
        {"weights": "int4", "weight_ranges": "group", "activation_ranges": "group", "smoothing": 2.0, "rank": 4},
        {"weights": "twin_log4", "scores": "log2", "first_token": True, "rounding": "adaround", "iterations": 5},
        {"weights": "int4", "rounding": "blocks", "iterations": 5, "scores": "even"},
        {"weights": "int4", "weight_ranges": "group", "rounding": "feedback", "activation_ranges": "dynamic"},
    ],
    ids=lambda values: "-".join(map(str, values.values())),
)
def test_every_part_works_on_both_kinds_of_network_and_leaves_them_alone(values, model):
    network, calibration = model
    state = state_of(network)
    quantizer = Simulated(SimulatedSettings(**values))
    made = quantize_network(network, quantizer, "Free", calibration=calibration)
    assert_unchanged(network, state)
    with torch.no_grad():
        full, found = call_network(network, 300.0), call_network(made, 300.0)
        assert torch.equal(call_network(made, 300.0), found)
    assert 0 < (found - full).square().sum() < 0.6 * full.square().sum()


def test_splits_and_blocks_of_the_networks(model):
    network, _ = model
    names = [name for name, layer in network.named_modules() if isinstance(layer, (torch.nn.Linear, torch.nn.Conv2d))]
    blocks = find_blocks(network, names)
    assert sorted(name for members in blocks.values() for name in members) == sorted(names)
    assert max(map(len, blocks.values())) > 3
    splits = list_splits(network)
    assert bool(splits) == hasattr(network, "up_blocks")
    for name, size in splits.items():
        # What follows the main path is the skip connection, whose width some residual block on the way down gave.
        widths = {block.conv2.out_channels for part in network.down_blocks for block in part.resnets}
        assert network.get_submodule(name).in_channels - size in widths | {network.conv_in.out_channels}


def test_a_simulation_without_attention_or_calibration_is_refused():
    plain = torch.nn.Sequential(torch.nn.Linear(8, 8))
    call = torch.zeros(1, 8)
    with recorded_calls(plain) as calls:
        plain(call)
    with pytest.raises(MethodFitError, match="no attention whose scores could be rounded"):
        quantize_network(
            plain, Simulated(SimulatedSettings(scores="log2")), "Free", calibration=Calibration(tuple(calls))
        )
    with pytest.raises(MethodFitError, match="Free is calibrated on runs of the model"):
        quantize_network(plain, Simulated(), "Free")
