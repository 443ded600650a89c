"""Codecs of our quantizers: packing, error bounds and bytes."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch

from pipelines.core.types import Choice
from pipelines.quantizers import QUANTIZERS, build_quantizer, integer_products
from pipelines.quantizers.codec import pack_nibbles, scale_above, unpack_nibbles
from pipelines.quantizers.fp8 import Fp8Codec
from pipelines.quantizers.int4 import Int4Codec
from pipelines.quantizers.int8 import Int8Codec
from pipelines.quantizers.machine import Machine
from pipelines.quantizers.nf4 import LEVELS, Nf4Codec
from pipelines.quantizers.ranges import fit_group_size
from pipelines.quantizers.row_parts import even_out
from pipelines.quantizers.stored import stored_bytes
from pipelines.quantizers.widening import widen

CPU = Machine("cpu")


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
    wanted = getattr(codec, "group_size", getattr(codec, "block_size", None))
    size = columns if wanted is None else fit_group_size(columns, wanted)
    scales = parts["scales"].double().repeat_interleave(size, 1)[:, :columns]
    rounding = 2e-7 * (rows.double().abs() + scales)  # float32's own
    if isinstance(codec, Fp8Codec):
        bound = torch.maximum(rows.double().abs() / 16, scales / 1024)
    elif isinstance(codec, Nf4Codec):
        bound = scales * max(b - a for a, b in itertools.pairwise(LEVELS)) / 2
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("key", ["int8", "fp8", "int4", "nf4"])
def test_a_layer_computes_with_its_weights_whether_whole_or_a_part_of_its_rows_at_a_time(key, dtype, monkeypatch):
    """Six rows at a time are no divisor of twenty; convolutions of few pixels are products with patches. What is left
    is the rounding of weights and outputs to the dtype."""
    generator = torch.Generator().manual_seed(0)
    bound = {torch.float32: 1e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}[dtype]
    for make, shape in (
        (lambda: torch.nn.Linear(100, 20), (2, 3, 100)),
        (lambda: torch.nn.Conv2d(10, 20, 3, padding=1, bias=False), (2, 10, 5, 4)),
        (lambda: torch.nn.Conv2d(10, 20, 3, padding=1), (2, 10, 12, 11)),
        (lambda: torch.nn.Conv2d(10, 20, (3, 2), (2, 1), (2, 1), (1, 2)), (3, 10, 5, 6)),
        (lambda: torch.nn.Conv2d(10, 20, 3, padding="same"), (1, 10, 4, 4)),
        (lambda: torch.nn.Conv2d(10, 20, 3, padding=1, padding_mode="reflect"), (2, 10, 4, 4)),
        (lambda: torch.nn.Conv2d(70, 20, 1), (2, 70, 4, 4)),
        (lambda: torch.nn.Conv2d(10, 20, 3, padding=1, groups=2, padding_mode="circular"), (2, 10, 5, 4)),
    ):
        layer = make().requires_grad_(False)
        packed = QUANTIZERS[key].build({}).quantize(layer)
        inputs = torch.randn(shape, generator=generator)
        layer.weight.copy_(packed.weight)
        expected = layer(inputs)
        for most in (8 * 2**20, 6 * layer.weight[0].numel() * dtype.itemsize):
            monkeypatch.setattr("pipelines.quantizers.row_parts._AT_ONCE", most)
            found = packed(inputs.to(dtype))
            assert found.dtype == dtype and found.shape == expected.shape
            monkeypatch.setattr("pipelines.quantizers.packed_layers._FEW_POSITIONS", 0)
            convolved = packed(inputs.to(dtype))
            monkeypatch.undo()
            assert (found.float() - convolved.float()).norm() <= bound * expected.norm()
            assert (found.float() - expected).norm() <= bound * expected.norm()


@pytest.fixture
def products_of_integers(monkeypatch):
    """Let every layer multiply integers, on machines without kernels for them too; they are exact on all."""
    monkeypatch.setattr(integer_products, "_has_kernels", lambda: True)
    monkeypatch.setattr(integer_products, "_WEIGHTS_PER_NUMBER", 1e-9)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (torch.nn.Linear(100, 20), (2, 3, 100)),
        (torch.nn.Linear(100, 20, bias=False), (4, 100)),
        (torch.nn.Conv2d(10, 20, 3, padding=1), (2, 10, 5, 4)),
        (torch.nn.Conv2d(10, 20, (3, 2), (2, 1), (2, 1), (1, 2), bias=False), (3, 10, 5, 6)),
        (torch.nn.Conv2d(10, 20, 3, padding=1, padding_mode="reflect"), (2, 10, 4, 4)),
    ],
    ids=str,
)
def test_products_of_integers_are_the_layer_to_the_rounding_of_its_outputs(layer, shape, products_of_integers):
    """Inputs are rounded by at most max|x| / 65278 (sixteen bits), outputs once, by 2^-8 of themselves."""
    layer = layer.requires_grad_(False)
    packed = QUANTIZERS["int8"].build({}).quantize(layer)
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(0)).bfloat16()
    inputs[0] *= 30  # the scales of the others stay their own
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(packed), "_compute", None)  # it takes no other way
        found = packed(inputs)
    exact = copy.deepcopy(layer).double()
    exact.weight.copy_(packed.weight)
    expected, sums = exact(inputs.double()), copy.deepcopy(exact)
    sums.weight.copy_(exact.weight.abs())
    sums.bias = None
    largest = inputs.double().abs().amax(-1 if isinstance(layer, torch.nn.Linear) else (1, 2, 3), keepdim=True)
    rounding = sums(largest.expand_as(inputs)) / 65278
    assert found.dtype == torch.bfloat16 and found.shape == expected.shape
    assert bool(((found.double() - expected).abs() <= 1.001 * (rounding + 2**-8 * expected.abs()) + 1e-6).all())


@pytest.mark.parametrize("key", ["int8", "fp8", "nf4", "int4"])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (torch.nn.Linear(64, 48), (3, 64)),
        (torch.nn.Conv2d(16, 32, 3, padding=1), (2, 16, 4, 4)),
        (torch.nn.Conv2d(16, 32, 3, padding=1), (1, 16, 20, 20)),
    ],
    ids=["linear", "few pixels", "many pixels"],
)
def test_a_derivative_along_a_direction_goes_through_a_packed_layer(key, layer, shape, products_of_integers):
    """The layer is linear, so its derivative along t is f(t) - f(0), to bfloat16's rounding."""
    packed = QUANTIZERS[key].build({}).quantize(layer.requires_grad_(False))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        inputs, direction = torch.randn(2, *shape).bfloat16()
    with torch.no_grad():
        _, tangent = torch.func.jvp(packed, (inputs,), (direction,))
        expected = packed(direction.float()) - packed(torch.zeros(shape))
    assert (tangent.float() - expected).norm() < 0.01 * expected.norm()


def test_a_gradient_goes_through_a_packed_layer_and_what_is_not_finite_stays_so(products_of_integers):
    layer = torch.nn.Linear(40, 8).requires_grad_(False)
    layer.weight[3] = 0.0
    packed = QUANTIZERS["int8"].build({}).quantize(layer)
    layer.weight.copy_(packed.weight)
    inputs = torch.randn(3, 40, generator=torch.Generator().manual_seed(0), requires_grad=True)
    wanted = torch.autograd.grad(layer(inputs).square().sum(), inputs)[0]
    torch.testing.assert_close(torch.autograd.grad(packed(inputs).square().sum(), inputs)[0], wanted)
    in_bfloat16 = torch.autograd.grad(packed(inputs.bfloat16()).square().sum(), inputs)[0]
    torch.testing.assert_close(in_bfloat16, wanted, rtol=0.05, atol=0.05)
    with torch.no_grad():
        few = inputs.bfloat16()
        assert torch.equal(packed(few)[:, 3], layer.bias[3].bfloat16().expand(3)), "zeros leave the bias"
        few[1, 7] = float("nan")
        assert packed(few).isnan().all(1).tolist() == [False, True, False]


def test_inputs_without_a_batch_are_taken_as_pytorch_s_layers_take_them():
    quantizer = build_quantizer(Choice("int8"), CPU)
    vector, picture = torch.randn(640, dtype=torch.bfloat16), torch.randn(64, 5, 5, dtype=torch.bfloat16)
    for layer, one in ((torch.nn.Linear(640, 640), vector), (torch.nn.Conv2d(64, 64, 3, 2, 1), picture)):
        packed = quantizer.quantize(layer.to(torch.bfloat16).requires_grad_(False))
        assert packed(one).shape == packed(one[None])[0].shape


@pytest.mark.parametrize(
    ("step", "count", "expected"), [(364, 1280, 320), (485, 640, 320), (3276, 10240, 2560), (20, 1280, 20), (9, 9, 9)]
)
def test_parts_of_a_layer_are_alike_and_as_kernels_divide_their_outputs(step, count, expected):
    assert even_out(step, count) == expected


@pytest.mark.parametrize("start", [0, 1])
def test_nf4_weights_are_the_same_whether_looked_up_two_or_four_at_a_time(start):
    """A part of the rows that begins or ends on an odd byte is looked up byte by byte."""
    codec, levels = Nf4Codec(), torch.tensor(LEVELS)
    codes = torch.arange(256, dtype=torch.uint8).repeat(3)[
        torch.randperm(768, generator=torch.Generator().manual_seed(0))
    ]
    parts = {"codes": codes[start:][None], "scales": torch.ones(1, 1, dtype=torch.float16)}
    expected = levels[unpack_nibbles(parts["codes"]).long()]
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        assert torch.equal(codec.unpack(parts, expected.shape[1], dtype), expected.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_all_numbers_of_eight_bit_floating_point_are_made_wide_exactly(dtype):
    codes = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn)
    numbers = codes[~codes.float().isnan()]
    assert len(numbers) == 254 and torch.equal(widen(numbers, dtype), numbers.to(dtype))
    assert torch.equal(widen(numbers.reshape(2, -1).T, dtype), numbers.to(dtype).reshape(2, -1).T)
