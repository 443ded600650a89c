"""Recipes of simulated quantization: each one's peculiar scales and choices against its mathematics."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from pipelines.core.errors import MethodFitError
from pipelines.quantizers.base import quantize_network
from pipelines.quantizers.calibration import Calibration, NetworkCall
from pipelines.quantizers.recipes import RECIPES
from pipelines.quantizers.recipes.eda_dm import choose_typical, collect_features
from pipelines.quantizers.recipes.floating_point import choose_format, list_formats
from pipelines.quantizers.recipes.free import Simulated, SimulatedSettings
from pipelines.quantizers.recipes.mixdq import MixDq
from pipelines.quantizers.recipes.ptq4dm import draw_by_time
from pipelines.quantizers.recipes.quest import Quest, QuestSettings, choose_worst
from pipelines.quantizers.recipes.six_bit import (
    SixBit,
    SixBitSettings,
    choose_volatile,
    find_blocks,
    measure_differences,
)
from pipelines.quantizers.recipes.sqnr import Sqnr, SqnrSettings, keep_noisiest
from pipelines.quantizers.recipes.tfmq import Tfmq, TfmqSettings
from pipelines.quantizers.recipes.vidit_q import ViditQ, ViditQSettings
from pipelines.quantizers.simulated.activation_quantizer import ActivationQuantizer
from pipelines.quantizers.simulated.activations import ActivationSpec
from pipelines.quantizers.simulated.clock import Clock
from pipelines.quantizers.simulated.formats import parse_format
from pipelines.quantizers.simulated.integer_programme import choose_options
from pipelines.quantizers.simulated.layers import SimulatedLayer
from pipelines.quantizers.simulated.sensitivity import measure_input_noise
from tests.pipelines.network_state import assert_unchanged, state_of
from tests.pipelines.simulated_networks import call_network, model, normal

__all__ = ["model"]


def layers_of(network: torch.nn.Module) -> dict[str, SimulatedLayer]:
    return {name: layer for name, layer in network.named_modules() if isinstance(layer, SimulatedLayer)}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda one: one.key)
def test_every_recipe_says_that_it_is_simulated(recipe):
    assert "(simulated)" in recipe.label and "saves neither time nor memory" in recipe.help
    assert recipe.build().is_simulated


QUICK: dict[str, dict[str, object]] = {
    **{key: {"iterations": 2} for key in ("q_diffusion", "tfmq", "fp4dit", "eda_dm", "quest")},
    "lrq_dit": {"search": False},
    "ptq4dm": {"calls": 3},
}
"""Settings under which what is learned or searched takes no time."""


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda one: one.key)
def test_every_recipe_keeps_the_picture_leaves_the_network_and_comes_back_from_its_tensors(recipe, model):
    network, calibration = model
    quantizer, state = recipe.build(QUICK.get(recipe.key, {})), state_of(network)
    if recipe.key == "tfmq" and not hasattr(network, "up_blocks"):
        pytest.skip("it is refused: see the test of its layers")
    made = quantize_network(network, quantizer, recipe.label, calibration=calibration)
    assert_unchanged(network, state)
    with torch.no_grad():
        full, found = call_network(network, 300.0), call_network(made, 300.0)
        assert 0 < (found - full).square().sum() < 0.9 * full.square().sum()
        for name, layer in layers_of(made).items():
            again = quantizer.restore(network.get_submodule(name), quantizer.tensors(layer))
            parent, _, attribute = name.rpartition(".")
            setattr(made.get_submodule(parent), attribute, again)
        quantizer.finish(made)
        assert torch.equal(call_network(made, 300.0), found)


def test_times_are_drawn_about_normally_and_clamped():
    calls = tuple(NetworkCall((), {}, float(time)) for time in range(0, 1000, 10) for _ in range(2))
    drawn = draw_by_time(Calibration(calls), 4000, 0.4, 0.1, torch.Generator().manual_seed(0))
    times = torch.tensor([call.time for call in drawn.calls]) / 990
    assert abs(float(times.mean()) - 0.4) < 0.01 and abs(float(times.std()) - 0.1) < 0.01
    clamped = draw_by_time(Calibration(calls), 100, 0.0, 1.0, torch.Generator().manual_seed(0))
    assert sum(call.time == 0 for call in clamped.calls) > 30
    assert len({id(call) for call in drawn.calls if call.time == 400}) == 2


def test_the_layers_of_the_time_are_learned_apart_or_exact(model):
    network, calibration = model
    if not hasattr(network, "up_blocks"):
        with pytest.raises(MethodFitError, match="TFMQ-DM does not fit this model: it has no residual blocks"):
            quantize_network(network, Tfmq(), "TFMQ-DM", calibration=calibration)
        return
    settings = TfmqSettings(time_layers="cache", intervals=2)
    made = layers_of(quantize_network(network, Tfmq(settings), "TFMQ-DM", calibration=calibration))
    for name, layer in made.items():
        full = network.get_submodule(name)
        assert torch.equal(layer.weight, full.weight) == name.endswith("time_emb_proj")
        if layer.spec.tabled:
            inputs = normal(2, full.in_features)
            assert torch.equal(layer(inputs), full(inputs))
            assert layer.nominal_bits == 16 * 50 * len(full.weight)
        else:
            assert layer.halves[0].low.shape == (2, 1)


def test_ranges_by_interval_follow_what_the_layers_saw(model):
    """The range of a layer's interval is that of its inputs in the interval's calls, read off the network itself."""
    network, calibration = model
    if not hasattr(network, "up_blocks"):
        return
    from pipelines.quantizers.recipes.free import Simulated, SimulatedSettings

    settings = SimulatedSettings(weights="full", activation_ranges="interval", intervals=3)
    made = layers_of(quantize_network(network, Simulated(settings), "Free", calibration=calibration))
    name = next(name for name in made if name.endswith("resnets.0.conv1"))
    seen: list[torch.Tensor] = []
    listener = network.get_submodule(name).register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        for time in (100.0, 500.0, 900.0):
            call_network(network, time)
    listener.remove()
    half = made[name].halves[0]
    for row, inputs in enumerate(seen):
        assert torch.allclose(half.low[row], inputs.min()) and torch.allclose(half.high[row], inputs.max())
    assert half.edges.tolist() == [300.0, 700.0]


def test_blocks_that_change_much_keep_eight_bits(model):
    network, calibration = model
    blocks, times = find_blocks(network), [call.time for call in calibration.calls]
    state, differences = state_of(network), measure_differences(network, blocks, calibration)
    assert_unchanged(network, state)
    assert differences.shape == (len(blocks), 3) and (differences > 0).all()
    edges = torch.tensor([300.0, 700.0])
    chosen = choose_volatile(differences, times, edges, 0.5)
    # Calls are at 900, 500 and 100, intervals ascend.
    kept, others = differences.flip(1)[chosen], differences.flip(1)[~chosen]
    assert chosen.sum() == round(chosen.numel() / 2) and kept.min() >= others.max()
    sixes = quantize_network(network, SixBit(SixBitSettings(weights="full")), "6Bit", calibration=calibration)
    name = next(one for one in layers_of(sixes) if one.startswith(f"{blocks[0]}."))
    spec = layers_of(sixes)[name].spec.activations
    values = normal(3, 5, 32)
    half = ActivationQuantizer(dataclasses.replace(spec, edges=(300.0,), forms=("fp4_e2m1", "int8")), -1)
    half.clock = Clock()
    half.clock.times = torch.tensor([100.0, 500.0, 100.0])
    fours, eights = (
        ActivationQuantizer(ActivationSpec(form, scope, group_size=16), -1)(values)
        for form, scope in (("fp4_e2m1", "group"), ("int8", "token"))
    )
    assert torch.equal(half(values), torch.stack([fours[0], eights[1], fours[2]]))


@pytest.mark.parametrize(("share", "blocks"), [(1.0, ("int8", "token")), (0.0, ("fp4_e2m1", "group"))])
def test_all_eight_or_all_four_bits_are_what_the_free_choice_has(model, share, blocks):
    network, calibration = model
    chosen = quantize_network(network, SixBit(SixBitSettings(share, "full")), "6Bit", calibration=calibration)
    settings = SimulatedSettings(weights="full", activations=blocks[0], activation_ranges=blocks[1], group_size=16)
    free = quantize_network(network, Simulated(settings), "Free", calibration=calibration)
    names = find_blocks(network)
    for name, layer in layers_of(free).items():
        if not any(name.startswith(f"{one}.") for one in names):
            layer.halves[0] = ActivationQuantizer(ActivationSpec("int8", "token"), layer.channels)
    with torch.no_grad():
        assert torch.equal(call_network(chosen, 500.0), call_network(free, 500.0))


def test_the_searched_format_is_the_one_of_the_least_error():
    assert list_formats(4) == ["fp4_e1m2", "fp4_e2m1", "fp4_e3m0"]
    assert choose_format(torch.linspace(-1, 1, 999), 8) == "fp8_e1m6"
    heavy = normal(4000).pow(7)
    assert parse_format(choose_format(heavy, 8)).exponent > 2


def test_the_integer_programme_finds_the_best_of_all_and_what_a_solver_finds():
    generator = torch.Generator().manual_seed(0)
    for trial in range(20):
        count = 6 if trial < 15 else 60
        noise = (torch.rand(count, 3, generator=generator) / torch.tensor([1.0, 4.0, 16.0])).tolist()
        sizes = torch.randint(1, 40, (count,), generator=generator).tolist()
        costs = [[size * bits for bits in (2, 4, 8)] for size in sizes]
        budget = int(4.3 * sum(sizes))
        options = choose_options(noise, costs, budget)
        found = sum(row[option] for row, option in zip(noise, options, strict=True))
        assert sum(row[option] for row, option in zip(costs, options, strict=True)) <= budget
        assert found == pytest.approx(
            best_by_force(noise, costs, budget) if count == 6 else solve(noise, costs, budget)
        )
    with pytest.raises(MethodFitError, match=r"takes 4 of a budget of 3"):
        choose_options([[1.0], [1.0]], [[2], [2]], 3)


def best_by_force(noise, costs, budget) -> float:
    return min(
        sum(row[option] for row, option in zip(noise, options, strict=True))
        for options in itertools.product(range(3), repeat=len(noise))
        if sum(row[option] for row, option in zip(costs, options, strict=True)) <= budget
    )


def solve(noise, costs, budget) -> float:
    from scipy.optimize import Bounds, LinearConstraint, milp

    count = len(noise)
    one_each = np.kron(np.eye(count), np.ones(3))
    constraints = [LinearConstraint(one_each, 1, 1), LinearConstraint(np.ravel(costs)[None], 0, budget)]
    options = {"mip_rel_gap": 0}
    return milp(np.ravel(noise), constraints=constraints, integrality=1, bounds=Bounds(0, 1), options=options).fun


def test_the_noise_of_a_layers_inputs_is_what_rounding_them_does_to_the_output():
    """Of the last layer, whose output is linear in its inputs, the mean over signs is exact; 400 signs leave 10 %."""
    network = torch.nn.Sequential(torch.nn.Linear(8, 12), torch.nn.ReLU(), torch.nn.Linear(12, 6)).requires_grad_(False)
    inputs, spec = normal(3, 8), ActivationSpec("int3", "token")
    calls = Calibration((NetworkCall((inputs,), {}, 0.0),) * 400)
    found = measure_input_noise(network, ["0", "2"], [ActivationSpec(), spec], calls)
    middle = network[:2](inputs)
    rounded = ActivationQuantizer(spec, -1)(middle)
    expected = float((network[2](rounded) - network[2](middle)).square().sum())
    assert found["2"][0] == 0 and found["2"][1] == pytest.approx(expected, rel=0.3)
    assert found["0"][1] > 0 and not network[0]._forward_pre_hooks


def test_mixed_precision_of_vidit_q_keeps_its_average(model):
    network, calibration = model
    settings = ViditQSettings(weight_bits=4, mixed=True)
    made = layers_of(quantize_network(network, ViditQ(settings), "ViDiT-Q", calibration=calibration))
    sizes = {name: layer.weight.numel() for name, layer in made.items()}
    bits = {name: int(layer.spec.weights.removeprefix("int")) for name, layer in made.items()}
    assert 3.5 < sum(bits[name] * size for name, size in sizes.items()) / sum(sizes.values()) <= 4
    assert len(set(bits.values())) > 1 and all(layer.rotation is not None for layer in made.values())


def test_mixdq_keeps_its_average_and_the_first_token(model):
    network, calibration = model
    made = layers_of(quantize_network(network, MixDq(), "MixDQ", calibration=calibration))
    sizes = {name: layer.weight.numel() for name, layer in made.items()}
    bits = {name: int(layer.spec.weights.removeprefix("int")) for name, layer in made.items()}
    assert 3.5 < sum(bits[name] * size for name, size in sizes.items()) / sum(sizes.values()) <= 4
    assert len(set(bits.values())) > 1
    kept = [layer for layer in made.values() if layer.first is not None]
    assert bool(kept) == hasattr(network, "up_blocks")
    for layer in kept:
        inputs = normal(2, 5, layer.weight.shape[1])
        full = torch.nn.functional.linear(inputs, layer.first, layer.bias)
        assert torch.allclose(layer(inputs)[:, 0], full[:, 0], atol=1e-6)
        assert not torch.allclose(layer(inputs)[:, 1:], full[:, 1:], atol=1e-3)


def test_chosen_calls_are_dense_first_and_then_unlike_those_chosen():
    cluster = torch.nn.functional.normalize(
        torch.tensor([[1.0, 0.01 * place] for place in range(5)] + [[0.0, 1.0]]), dim=1
    )
    assert choose_typical(cluster, 1, 1.0) == [4] and choose_typical(cluster, 2, 1.0) == [4, 5]
    assert 5 not in choose_typical(cluster, 4, 0.0)


def test_features_are_one_row_a_call_and_their_own_likeness_is_one(model):
    network, calibration = model
    features = collect_features(network, calibration)
    assert len(features) == 3 and torch.allclose(features.square().sum(1), torch.ones(3))


def test_only_the_chosen_layers_are_learned(model):
    network, calibration = model
    if hasattr(network, "up_blocks"):
        pytest.skip("a transformer shows it in less time")
    rounded = {}
    for share in (0.0, 1.0):
        settings = QuestSettings(share=share, iterations=10, intervals=2)
        rounded[share] = layers_of(quantize_network(network, Quest(settings), "QuEST", calibration=calibration))
    changed = {name for name, layer in rounded[0.0].items() if not torch.equal(layer.weight, rounded[1.0][name].weight)}
    assert changed
    for layer in (rounded[1.0][name] for name in changed):
        assert len(layer.weight[0].unique()) <= 2**4
    assert choose_worst({"a": 1.0, "b": 3.0, "c": 2.0}, 2 / 3) == {"b", "c"}


def test_the_worst_block_gets_more_bits_and_the_calibration_is_the_noisiest_step(model):
    network, calibration = model
    assert [call.time for call in keep_noisiest(calibration).calls] == [900.0]
    settings = SqnrSettings(blocks=0.5, smoothed=0.3)
    made = layers_of(quantize_network(network, Sqnr(settings), "SQNR", calibration=calibration))
    high = {name for name, layer in made.items() if layer.spec.weights == "int8"}
    assert 0 < len(high) < len(made)
    assert sum(layer.factors is not None for layer in made.values()) == round(0.3 * len(made))
