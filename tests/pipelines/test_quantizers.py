"""Quantizers: exact packing, errors within their bounds, true bytes, and a network that comes back as it was."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from pipelines.core.cancelling import Cancelled
from pipelines.core.errors import MethodFitError, ModelError, ModelFileError, SettingsError, UnknownMethodError
from pipelines.core.types import Choice
from pipelines.models import cpu_convolutions
from pipelines.models.cpu_convolutions import use_products_on_small_grids
from pipelines.quantizers import QUANTIZERS, Machine, StorableQuantizer, build_quantizer, require_runs
from pipelines.quantizers import machine as machines
from pipelines.quantizers.base import SKIPPED, build_report, plan_layers, quantize_network, sqnr
from pipelines.quantizers.calibration import Calibration, recorded_calls
from pipelines.quantizers.codec import unpack_nibbles
from pipelines.quantizers.files import file_bytes, load_network, save_network
from pipelines.quantizers.machine import this_machine
from pipelines.quantizers.nf4 import LEVELS, Nf4Codec
from pipelines.quantizers.stored import stored_bytes
from tests.pipelines.network_state import assert_unchanged, state_of

CPU = Machine("cpu")


SIMULATED = tuple(method.key for method in QUANTIZERS.group("simulated"))
OWN = ("int8", "fp8", "int4", "nf4", "calibrated", "dynamic", "onednn_w8a8", "compiled_w8a8", "layerwise", *SIMULATED)
CALIBRATED = ("calibrated", "compiled_w8a8", *SIMULATED)
KEYS = [key for key in QUANTIZERS if key not in SIMULATED or key in ("simulated", "vidit_q", "svdquant")]
"""Methods that are run on this network; the other recipes are made of the same layers and run in `test_recipes`."""

QUICK: dict[str, dict[str, object]] = {"compiled_w8a8": {"compile": False}}
"""Settings under which nothing is compiled, which takes a minute."""

LINEAR_ONLY = ("dynamic", "torchao_int8", "gguf_q8_0", "gguf_q4_0", "bnb_int8", "bnb_nf4")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:optimum"),
]


def able(key: str) -> Choice:
    """The choice, if its package is here."""
    if reason := QUANTIZERS[key].fit(CPU):
        pytest.skip(reason)
    return Choice(key, QUICK.get(key, {}))


@pytest.fixture(scope="module")
def wide():
    """A small UNet whose layers are wide enough for every library."""
    from diffusers import UNet2DConditionModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return (
            UNet2DConditionModel(
                sample_size=8,
                in_channels=4,
                out_channels=4,
                layers_per_block=1,
                block_out_channels=(64, 128),
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
                attention_head_dim=16,
                norm_num_groups=4,
                cross_attention_dim=64,
            )
            .eval()
            .requires_grad_(False)
        )


def called(network) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    latents, text = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 5, 64, generator=generator)
    with torch.no_grad():
        return network(latents, torch.tensor([500, 20]), encoder_hidden_states=text, return_dict=False)[0]


@pytest.fixture(scope="module")
def quantized(wide):
    """Quantizes the network, each choice once; calibrated methods learn from one call."""
    with recorded_calls(wide) as calls:
        called(wide)
    calibration, networks = Calibration(tuple(calls)), {}

    def quantize(choice: Choice) -> torch.nn.Module:
        if choice.key not in networks:
            quantizer = build_quantizer(choice, CPU)
            networks[choice.key] = quantize_network(wide, quantizer, choice.key, calibration=calibration)
        return networks[choice.key]

    return quantize


@pytest.mark.parametrize(
    "layer",
    [
        torch.nn.Linear(24, 10),
        torch.nn.Linear(24, 10, bias=False),
        torch.nn.Conv2d(8, 6, 3, stride=2, padding=1),
        torch.nn.Conv2d(8, 6, 3, padding=2, dilation=2, groups=2, padding_mode="circular"),
    ],
    ids=lambda one: one.extra_repr(),
)
@pytest.mark.parametrize("key", ["int8", "fp8", "int4", "nf4"])
def test_a_packed_layer_computes_as_the_layer_with_its_weights(key, layer):
    quantizer = build_quantizer(Choice(key), CPU)
    layer = copy.deepcopy(layer).requires_grad_(False)
    made, before = quantizer.quantize(layer), layer.weight.clone()
    inputs = torch.randn(2, 8, 9, 9) if isinstance(layer, torch.nn.Conv2d) else torch.randn(3, 5, 24)
    kept = made(inputs)
    assert torch.equal(layer.weight, before)
    layer.weight.data = quantizer.weight(made)
    assert torch.allclose(kept, layer(inputs), atol=1e-6) and not torch.equal(before, layer.weight)
    assert made(inputs.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("key", KEYS)
def test_every_method_quantizes_a_copy_and_reports_it(key, wide, quantized):
    choice = able(key)
    quantizer, state, full = build_quantizer(choice, CPU), state_of(wide), called(wide)
    made = quantized(choice)
    assert_unchanged(wide, state)
    assert torch.equal(called(wide), full)
    report = build_report(wide, made, quantizer)
    assert report.quantized_layers and report.full_bytes == stored_bytes(wide)
    assert (report.nominal_bytes or report.bytes) < report.full_bytes
    assert (report.nominal_bytes is not None) == quantizer.is_simulated == ("(simulated)" in QUANTIZERS[key].label)
    assert {layer.kind for layer in report.quantized_layers} == (
        {"linear"} if key in LINEAR_ONLY else {"linear", "convolution"}
    )
    for layer in report.quantized_layers:
        low = 5 if key in CALIBRATED else 15 if "4" in key else 25
        assert low < layer.sqnr < math.inf, layer
        assert layer.bytes < 4 * layer.weights or quantizer.is_simulated
    assert (8 if key in SIMULATED else 10 if "4" in key else 20) < sqnr(full, called(made)) < 80
    assert not quantizer.is_simulated or all(
        "no claim" in repr(made.get_submodule(one.name)) for one in report.quantized_layers
    )
    kept = {name for name, tensor in made.named_parameters() if tensor.dtype == torch.float32}
    for name in ("conv_in.weight", "conv_out.weight", "time_embedding.linear_1.weight"):
        assert name in kept and torch.equal(made.get_parameter(name), wide.get_parameter(name))
    assert not {tensor.data_ptr() for tensor in made.parameters()} & {tensor.data_ptr() for tensor in wide.parameters()}
    assert {one.name for one in report.skipped} >= {"conv_in", "conv_out", "time_embedding.linear_1"}


@pytest.mark.parametrize("key", KEYS)
def test_every_method_runs_as_the_loop_runs_it(key, quantized):
    """The loop evaluates in inference mode, in which quanto's own layers of four bits fail."""
    made = quantized(able(key))
    expected = called(made)
    generator = torch.Generator().manual_seed(3)
    with torch.inference_mode():
        latents, text = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 5, 64, generator=generator)
        found = made(latents, torch.tensor([500, 20]), encoder_hidden_states=text, return_dict=False)[0]
    assert torch.allclose(found, expected, atol=1e-5)


def test_one_skip_list_for_all_methods(wide):
    plans = {key: plan_layers(wide, method.build()) for key, method in QUANTIZERS.items()}
    for plan in plans.values():
        assert {one.name for one in plan.skipped if one.name.split(".")[0] in SKIPPED} == {
            "conv_in",
            "conv_out",
            "time_embedding.linear_1",
            "time_embedding.linear_2",
        }
        assert not any(name.split(".")[0] in SKIPPED for name in plan.quantized_layers)
    every = {name for name, layer in wide.named_modules() if isinstance(layer, (torch.nn.Linear, torch.nn.Conv2d))}
    assert {*plans["int8"].quantized_layers, *(one.name for one in plans["int8"].skipped)} == every
    assert {one.reason for one in plans["dynamic"].skipped} > {"a conv2d layer, which this method does not change"}


@pytest.mark.parametrize("key", [key for key in QUANTIZERS if key not in CALIBRATED])
def test_a_network_whose_convolutions_are_products_on_small_grids_is_quantized_as_any(
    key, wide, quantized, monkeypatch
):
    """A CPU loads Stable Diffusion's largest convolutions so; half of its weights stayed in full precision."""
    choice = able(key)
    quantizer, loaded = build_quantizer(choice, CPU), copy.deepcopy(wide)
    monkeypatch.setattr(cpu_convolutions, "LEAST_WEIGHTS", 1000)
    assert use_products_on_small_grids(loaded) > 5
    assert plan_layers(loaded, quantizer) == plan_layers(wide, quantizer)
    made = quantize_network(loaded, quantizer, key)
    # bitsandbytes leaves convolutions alone, and the rounding of their products moves what its own kernels round.
    assert torch.allclose(called(made), called(quantized(choice)), atol=1e-3 if key.startswith("bnb") else 1e-4)
    assert any(isinstance(layer, cpu_convolutions.SmallGridConv2d) for layer in loaded.modules())


@pytest.mark.parametrize("key", [key for key in QUANTIZERS if key not in CALIBRATED])
def test_the_network_is_unchanged_after_a_cancel_and_after_an_error(key, wide):
    quantizer, state, asked = build_quantizer(able(key), CPU), state_of(wide), []

    def third() -> bool:
        asked.append(1)
        return len(asked) > 3

    with pytest.raises(Cancelled):
        quantize_network(wide, quantizer, key, third)
    assert len(asked) == 4
    assert_unchanged(wide, state)
    change, changed = quantizer.quantize, []

    def breaks(layer):
        changed.append(layer)
        return change(layer) if len(changed) < 3 else 1 / 0

    quantizer.quantize = breaks
    with pytest.raises(ModelError, match=r"could not quantize the layer .* \(division by zero\)"):
        quantize_network(wide, quantizer, "This")
    assert len(changed) == 3
    assert_unchanged(wide, state)


@pytest.mark.parametrize("key", QUANTIZERS)
def test_touching_no_layer_is_an_error_and_says_why(key):
    able(key)
    only = torch.nn.ModuleDict({"conv_in": torch.nn.Conv2d(4, 4, 3), "time_embedding": torch.nn.Linear(4, 4)})
    with pytest.raises(MethodFitError, match=f"{key} touches no layer of this model .*input layer, time embedding"):
        quantize_network(only, build_quantizer(Choice(key), CPU), key)
    with pytest.raises(MethodFitError, match="no linear and no convolution layers"):
        quantize_network(torch.nn.Sequential(torch.nn.ReLU()), build_quantizer(Choice(key), CPU), key)


@pytest.mark.parametrize("key", KEYS)
def test_a_stored_network_comes_back_bit_for_bit(key, wide, quantized, tmp_path):
    choice = able(key)
    quantizer, path = build_quantizer(choice, CPU), tmp_path / "network.safetensors"
    if not isinstance(quantizer, StorableQuantizer):
        pytest.skip("its layers are no plain tensors: such a model is quantized again when it is loaded")
    made = quantized(choice)
    save_network(wide, made, quantizer, choice, path)
    assert path.stat().st_size == file_bytes(wide, made, quantizer, choice)
    with safe_open(path, "pt") as file:
        assert ("no claim of speed or memory" in file.metadata()["quantisation"]) == quantizer.is_simulated
    again = load_network(path, type(wide), wide.config, quantizer, choice, torch.float32, "cpu")
    assert torch.equal(called(again), called(made)) and stored_bytes(again) == stored_bytes(made)
    assert [type(layer) for layer in again.modules()] == [type(layer) for layer in made.modules()]


@pytest.mark.parametrize("damage", ["other method", "other model", "no quantized file", "pickle", "cut short"])
def test_a_file_that_is_something_else_is_refused(damage, wide, tmp_path):
    choice, path = Choice("int8"), tmp_path / "network.safetensors"
    quantizer = build_quantizer(choice, CPU)
    save_network(wide, quantize_network(wide, quantizer), quantizer, choice, path)
    config = dict(wide.config)
    if damage == "other method":
        choice = Choice("fp8")
    elif damage == "other model":
        config["block_out_channels"] = (64, 192)
    elif damage == "no quantized file":
        save_file({"a": torch.zeros(2)}, path)
    elif damage == "pickle":
        torch.save({"a": torch.zeros(2)}, path)
    else:
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelFileError, match=r"network.safetensors"):
        load_network(path, type(wide), config, quantizer, choice, torch.float32, "cpu")


def test_in_place_gives_the_same_network(wide):
    quantizer = build_quantizer(Choice("int8"), CPU)
    alone = copy.deepcopy(wide)
    made = quantize_network(alone, quantizer, in_place=True)
    assert made is alone and torch.equal(called(made), called(quantize_network(wide, quantizer)))


def test_quantizing_twice_is_an_error(wide):
    quantizer = build_quantizer(Choice("int8"), CPU)
    with pytest.raises(MethodFitError, match="touches no layer"):
        quantize_network(quantize_network(wide, quantizer), quantizer)


def test_a_missing_package_names_the_command(monkeypatch):
    monkeypatch.setattr(machines, "_is_installed", lambda package: False)
    missing = {
        key: method.fit(CPU) for key, method in QUANTIZERS.items() if key not in OWN and "GPU" not in method.fit(CPU)
    }
    assert len(missing) == 10
    for key, reason in missing.items():
        name = {"bnb": "bitsandbytes"}.get(key.split("_")[0], key.split("_")[0])
        assert f"pip install -r requirements-{name}.txt" in reason
        with pytest.raises(MethodFitError, match=f"requirements-{name}.txt"):
            build_quantizer(Choice(key), CPU)


def test_what_a_machine_cannot_run_says_why():
    assert QUANTIZERS["torchao_int4"].fit(CPU) == "it needs an NVIDIA GPU"
    assert "compute capability 8.9; this one has 8.0" in QUANTIZERS["torchao_fp8"].fit(Machine("cuda", (8, 0)))
    assert "CPUs only" in QUANTIZERS["dynamic"].fit(Machine("cuda", (9, 0)))
    with pytest.raises(MethodFitError, match="torchao int4 cannot run here: it needs an NVIDIA GPU"):
        require_runs(Choice("torchao_int4"), CPU)


def test_wrong_choices_are_refused():
    with pytest.raises(UnknownMethodError, match="Unknown quantizer 'int3'"):
        build_quantizer(Choice("int3"), CPU)
    with pytest.raises(SettingsError, match="Choose one of: 16, 32, 64, 128"):
        build_quantizer(Choice("int4", {"group_size": 7}), CPU)


def test_sqnr_of_known_noise():
    reference = torch.ones(100)
    assert sqnr(reference, reference * 1.1) == pytest.approx(20, abs=1e-5)
    assert sqnr(reference, reference) == math.inf


def test_amds_gpus_are_not_taken_for_nvidias_and_the_index_counts(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: asked.append(device) or (7, 5))
    assert this_machine("cuda:1") == Machine("cuda", (7, 5)) and asked == [torch.device("cuda:1")]
    monkeypatch.setattr(torch.version, "hip", "6.4")
    machine = this_machine("cuda:0")
    assert machine.device == "rocm"
    assert "NVIDIA" in QUANTIZERS["torchao_fp8"].fit(machine)


def test_nf4_makes_its_table_once_and_gives_the_same_weights():
    codec = Nf4Codec(16)
    rows = torch.randn((3, 40), generator=torch.Generator().manual_seed(0))
    parts = codec.pack(rows)
    levels = torch.tensor(LEVELS)[unpack_nibbles(parts["codes"]).int()].unflatten(1, (3, -1))
    expected = (levels * parts["scales"].float()[..., None]).flatten(1)[:, :40]
    assert torch.equal(codec.unpack(parts, 40), expected)
    place = (torch.device("cpu"), torch.float32)
    table = codec._pairs_on(*place)
    assert torch.equal(codec.unpack(parts, 40), expected) and codec._pairs_on(*place) is table


@pytest.mark.parametrize("key", ["int8", "layerwise"])
def test_a_copy_made_while_a_run_holds_the_network_is_not_stopped_by_that_run(key):
    from pipelines.core.interruption import LEAST_ELEMENTS, interruptible

    network = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 64)).eval()
    large, is_stopped = torch.zeros(LEAST_ELEMENTS // 64, 64), []
    with interruptible([network, network[0]], lambda: bool(is_stopped)):
        quantized = quantize_network(network, build_quantizer(Choice(key), CPU), key)
        is_stopped.append(True)
        with pytest.raises(Cancelled):
            network(large)
        assert quantized(large).shape == large.shape
    assert network(large).shape == large.shape
    for module in quantized.modules():
        assert not any("interruptible" in hook.__qualname__ for hook in module._forward_pre_hooks.values())
        assert not any("interruptible" in hook.__qualname__ for hook in module._forward_hooks.values())
