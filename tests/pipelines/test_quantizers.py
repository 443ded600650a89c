"""Quantizers: exact packing, errors within their bounds, true bytes, and a network that comes back as it was."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from safetensors.torch import save_file

from pipelines.core.denoiser import Cancelled
from pipelines.core.errors import MethodFitError, ModelError, ModelFileError, SettingsError, UnknownMethodError
from pipelines.core.types import Choice
from pipelines.quantizers import QUANTIZERS, Machine, StorableQuantizer, build_quantizer, require_runs
from pipelines.quantizers import machine as machines
from pipelines.quantizers.base import SKIPPED, plan_layers, quantized, report_of, sqnr
from pipelines.quantizers.files import file_bytes, load_network, save_network
from pipelines.quantizers.fp8 import Fp8Codec
from pipelines.quantizers.int4 import Int4Codec
from pipelines.quantizers.int8 import Int8Codec
from pipelines.quantizers.nf4 import LEVELS, Nf4Codec
from pipelines.quantizers.packed import pack_nibbles, scale_above, unpack_nibbles
from pipelines.quantizers.stored import stored_bytes
from tests.pipelines.network_state import assert_unchanged, state_of

CPU = Machine("cpu")
OWN = ("int8", "fp8", "int4", "nf4", "dynamic", "layerwise")
LINEAR_ONLY = ("dynamic", "torchao_int8", "gguf_q8_0", "gguf_q4_0", "bnb_int8", "bnb_nf4")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:optimum"),
]


def able(key: str) -> Choice:
    """The choice, if its package is here."""
    if reason := QUANTIZERS[key].fit(CPU):
        pytest.skip(reason)
    return Choice(key)


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


def weights(rows: int = 12, columns: int = 150) -> torch.Tensor:
    """Normal weights with outliers, a row of zeros, a constant row, a positive row and a tiny one."""
    made = torch.randn(rows, columns, generator=torch.Generator().manual_seed(1))
    made[0, 3], made[1], made[2], made[3], made[4] = 40.0, 0.0, 0.37, made[3].abs() + 1, made[4] * 1e-6
    return made


def test_nibbles_come_back_exactly():
    codes = torch.arange(256, dtype=torch.uint8).reshape(4, 64) % 16
    packed = pack_nibbles(codes)
    assert packed.shape == (4, 32) and packed.dtype == torch.uint8
    assert torch.equal(unpack_nibbles(packed), codes)
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(pack_nibbles(unpack_nibbles(every)), every)


def test_a_rounded_scale_is_the_nearest_half_at_or_above():
    values = torch.tensor([0.0, 1.0, 1.0001, -1.0001, 3e-9, -3e-9, 0.1, -0.1, 65000.0])
    rounded = scale_above(values).float()
    assert bool((rounded.abs() >= values.abs()).all())
    assert torch.equal(rounded[:2], values[:2]) and float(rounded[2]) == 1 + 2**-10 and float(rounded[4]) == 2**-24
    assert bool((rounded.sign() == values.sign()).all())


@pytest.mark.parametrize("columns", [64, 150, 576, 3])
@pytest.mark.parametrize(
    "codec",
    [Int8Codec(), Fp8Codec(), Int4Codec(), Int4Codec(16), Nf4Codec(), Nf4Codec(128)],
    ids=lambda one: f"{type(one).__name__}{vars(one)}",
)
def test_the_error_of_every_weight_is_within_the_theory(codec, columns):
    rows = weights(columns=max(columns, 4))[:, :columns]
    parts = codec.pack(rows)
    error = (codec.unpack(parts, columns).double() - rows.double()).abs()
    size = getattr(codec, "group_size", getattr(codec, "block_size", columns))
    scales = parts["scales"].double().repeat_interleave(size, 1)[:, :columns]
    rounding = 2e-7 * (rows.double().abs() + scales)  # float32's own
    if isinstance(codec, Fp8Codec):
        bound = torch.maximum(rows.double().abs() / 16, scales / 1024)
    elif isinstance(codec, Nf4Codec):
        bound = scales * max(b - a for a, b in zip(LEVELS, LEVELS[1:], strict=False)) / 2
    else:
        bound = scales / 2
        rounding = rounding + 16 * 2e-7 * scales
    assert bool((error <= bound + rounding).all()), float((error - bound).max())
    assert float(error[1].max()) == 0, "zeros stay zeros"


def test_the_bound_is_reached_so_it_is_not_too_wide():
    rows = torch.linspace(-1, 1, 4001)[None]
    for codec in (Int8Codec(), Int4Codec(4002)):
        parts = codec.pack(rows)
        error = (codec.unpack(parts, 4001) - rows).abs().max()
        assert 0.98 < float(error / (parts["scales"].float().max() / 2)) <= 1.001


def test_nf4_levels_are_the_paper_s():
    """Equation 4 of QLoRA: quantiles of the normal distribution, eight below and nine above zero, scaled to one."""
    normal = torch.distributions.Normal(0.0, 1.0)
    offset = (1 - 1 / 30 + 1 - 1 / 32) / 2
    above = normal.icdf(torch.linspace(offset, 0.5, 9, dtype=torch.float64)[:-1])
    below = -normal.icdf(torch.linspace(offset, 0.5, 8, dtype=torch.float64)[:-1])
    levels = torch.cat([below, torch.zeros(1, dtype=torch.float64), above.flip(0)]) / above.max()
    assert torch.allclose(levels, torch.tensor(LEVELS, dtype=torch.float64), atol=2e-3)


@pytest.mark.parametrize(
    ("key", "settings", "bits"),
    [
        ("int8", {}, 8 + 32 / 576),
        ("fp8", {}, 8 + 32 / 576),
        ("int4", {}, 4 + 32 / 64),
        ("int4", {"group_size": 16}, 4 + 32 / 16),
        ("nf4", {}, 4 + 16 / 64),
    ],
)
def test_stored_bytes_are_what_arithmetic_says(key, settings, bits):
    layer = torch.nn.Conv2d(64, 10, 3).requires_grad_(False)
    made = build_quantizer(Choice(key, settings), CPU).quantize(layer)
    assert stored_bytes(made) == 10 * 576 * bits / 8 + 4 * 10
    assert stored_bytes(layer) == 4 * (10 * 576 + 10)


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


@pytest.mark.parametrize("key", QUANTIZERS)
def test_every_method_quantizes_a_copy_and_reports_it(key, wide):
    choice = able(key)
    quantizer, state, full = build_quantizer(choice, CPU), state_of(wide), called(wide)
    made = quantized(wide, quantizer, key)
    assert_unchanged(wide, state)
    assert torch.equal(called(wide), full)
    report = report_of(wide, made, quantizer)
    assert report.touched and report.bytes < report.full_bytes == stored_bytes(wide)
    assert {layer.kind for layer in report.touched} == ({"linear"} if key in LINEAR_ONLY else {"linear", "convolution"})
    for layer in report.touched:
        assert (15 if "4" in key else 25) < layer.sqnr < math.inf, layer
        assert layer.bytes < 4 * layer.weights
    assert (10 if "4" in key else 20) < sqnr(full, called(made)) < 80
    kept = {name for name, tensor in made.named_parameters() if tensor.dtype == torch.float32}
    for name in ("conv_in.weight", "conv_out.weight", "time_embedding.linear_1.weight"):
        assert name in kept and torch.equal(made.get_parameter(name), wide.get_parameter(name))
    assert not {tensor.data_ptr() for tensor in made.parameters()} & {tensor.data_ptr() for tensor in wide.parameters()}
    assert {one.name for one in report.skipped} >= {"conv_in", "conv_out", "time_embedding.linear_1"}


def test_one_skip_list_for_all_methods(wide):
    plans = {key: plan_layers(wide, method.build()) for key, method in QUANTIZERS.items()}
    for plan in plans.values():
        assert {one.name for one in plan.skipped if one.name.split(".")[0] in SKIPPED} == {
            "conv_in",
            "conv_out",
            "time_embedding.linear_1",
            "time_embedding.linear_2",
        }
        assert not any(name.split(".")[0] in SKIPPED for name in plan.touched)
    every = {name for name, layer in wide.named_modules() if isinstance(layer, (torch.nn.Linear, torch.nn.Conv2d))}
    assert {*plans["int8"].touched, *(one.name for one in plans["int8"].skipped)} == every
    assert {one.reason for one in plans["dynamic"].skipped} > {"a conv2d layer, which this method does not change"}


@pytest.mark.parametrize("key", QUANTIZERS)
def test_the_network_is_unchanged_after_a_cancel_and_after_an_error(key, wide):
    quantizer, state, asked = build_quantizer(able(key), CPU), state_of(wide), []

    def third() -> bool:
        asked.append(1)
        return len(asked) > 3

    with pytest.raises(Cancelled):
        quantized(wide, quantizer, key, third)
    assert len(asked) == 4
    assert_unchanged(wide, state)
    change, changed = quantizer.quantize, []

    def breaks(layer):
        changed.append(layer)
        return change(layer) if len(changed) < 3 else 1 / 0

    quantizer.quantize = breaks
    with pytest.raises(ModelError, match="could not quantize the layer .* \\(division by zero\\)"):
        quantized(wide, quantizer, "This")
    assert len(changed) == 3
    assert_unchanged(wide, state)


@pytest.mark.parametrize("key", QUANTIZERS)
def test_touching_no_layer_is_an_error_and_says_why(key):
    able(key)
    only = torch.nn.ModuleDict({"conv_in": torch.nn.Conv2d(4, 4, 3), "time_embedding": torch.nn.Linear(4, 4)})
    with pytest.raises(MethodFitError, match=f"{key} touches no layer of this model .*input layer, time embedding"):
        quantized(only, build_quantizer(Choice(key), CPU), key)
    with pytest.raises(MethodFitError, match="no linear and no convolution layers"):
        quantized(torch.nn.Sequential(torch.nn.ReLU()), build_quantizer(Choice(key), CPU), key)


@pytest.mark.parametrize("key", QUANTIZERS)
def test_a_stored_network_comes_back_bit_for_bit(key, wide, tmp_path):
    choice = able(key)
    quantizer, path = build_quantizer(choice, CPU), tmp_path / "network.safetensors"
    if not isinstance(quantizer, StorableQuantizer):
        pytest.skip("its layers are no plain tensors: such a model is quantized again when it is loaded")
    made = quantized(wide, quantizer)
    save_network(wide, made, quantizer, choice, path)
    assert path.stat().st_size == file_bytes(wide, made, quantizer, choice)
    again = load_network(path, type(wide), wide.config, quantizer, choice, torch.float32, "cpu")
    assert torch.equal(called(again), called(made)) and stored_bytes(again) == stored_bytes(made)
    assert [type(layer) for layer in again.modules()] == [type(layer) for layer in made.modules()]


@pytest.mark.parametrize("damage", ["other method", "other model", "no quantized file", "pickle", "cut short"])
def test_a_file_that_is_something_else_is_refused(damage, wide, tmp_path):
    choice, path = Choice("int8"), tmp_path / "network.safetensors"
    quantizer = build_quantizer(choice, CPU)
    save_network(wide, quantized(wide, quantizer), quantizer, choice, path)
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
    with pytest.raises(ModelFileError, match="network.safetensors"):
        load_network(path, type(wide), config, quantizer, choice, torch.float32, "cpu")


def test_in_place_gives_the_same_network(wide):
    quantizer = build_quantizer(Choice("int8"), CPU)
    alone = copy.deepcopy(wide)
    made = quantized(alone, quantizer, in_place=True)
    assert made is alone and torch.equal(called(made), called(quantized(wide, quantizer)))


def test_quantizing_twice_is_an_error(wide):
    quantizer = build_quantizer(Choice("int8"), CPU)
    with pytest.raises(MethodFitError, match="touches no layer"):
        quantized(quantized(wide, quantizer), quantizer)


def test_a_missing_package_names_the_command(monkeypatch):
    monkeypatch.setattr(machines, "_installed", lambda package: False)
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
