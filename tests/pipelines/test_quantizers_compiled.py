"""Static W8A8: ranges from calls, rounding of inputs by the formula, and a compiled network equal to the plain one."""

from __future__ import annotations

import pytest
import torch

from pipelines.core.parted_operations import Interruptible
from pipelines.quantizers.base import quantize_network, sqnr
from pipelines.quantizers.calibration import Calibration, recorded_calls
from pipelines.quantizers.compiled import CompiledSettings, CompiledW8A8, fits_compiled
from pipelines.quantizers.machine import Machine

pytestmark = pytest.mark.skipif(bool(fits_compiled(Machine("cpu"))), reason=str(fits_compiled(Machine("cpu"))))


def test_a_compiler_is_found_where_pytorch_finds_one(monkeypatch, tmp_path):
    from torch._inductor.cpp_builder import cpp_compiler_search, get_cpp_compiler

    assert get_cpp_compiler()
    cpp_compiler_search.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Exception, match="working C"):
        get_cpp_compiler()
    cpp_compiler_search.cache_clear()
    assert "no C++ compiler" in str(fits_compiled(Machine("cpu")))


class Small(torch.nn.Module):
    """A convolution and two linear layers."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.first = torch.nn.Conv2d(8, 16, 3, padding=1)
            self.second = torch.nn.Linear(16, 32)
            self.last = torch.nn.Linear(32, 16, bias=False)

    def forward(self, inputs: torch.Tensor, timestep: float = 0.0) -> torch.Tensor:
        hidden = torch.nn.functional.silu(self.first(inputs)).flatten(2).transpose(1, 2)
        return self.last(torch.nn.functional.silu(self.second(hidden)))


@pytest.fixture(scope="module")
def case():
    network, inputs = Small().eval().requires_grad_(False), torch.randn(3, 2, 8, 8, 8)
    with recorded_calls(network) as calls:
        for one in inputs:
            network(one)
    return network, inputs, Calibration(tuple(calls))


def test_inputs_are_rounded_in_the_range_of_all_calls(case):
    network, inputs, calibration = case
    quantized = quantize_network(network, CompiledW8A8(CompiledSettings(compile=False)), calibration=calibration)
    layer = quantized.first
    assert float(layer.input_scale) == pytest.approx(float(inputs.max() - inputs.min()) / 255)
    scale, zero = float(layer.input_scale), int(layer.input_zero_point)
    rounded = ((inputs[0] / scale).round() + zero).clamp(0, 255).sub(zero).mul(scale)
    expected = torch.nn.functional.conv2d(rounded, layer.weight, layer.bias, padding=1)
    assert torch.allclose(layer(inputs[0]), expected, atol=1e-4)
    assert sqnr(network(inputs[1]), quantized(inputs[1])) > 28


def test_what_reaches_beyond_the_range_is_clipped_and_not_wrapped(case):
    network, inputs, calibration = case
    quantized = quantize_network(network, CompiledW8A8(CompiledSettings(compile=False)), calibration=calibration)
    most = float(quantized.first._round_inputs(inputs[0] * 100).max())
    assert most == pytest.approx(float(inputs.max()), abs=float(quantized.first.input_scale))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_compiled_network_computes_the_same_in_every_mode(case):
    network, inputs, calibration = case
    plain = quantize_network(network, CompiledW8A8(CompiledSettings(compile=False)), calibration=calibration)
    compiled = quantize_network(network, CompiledW8A8(), calibration=calibration)
    with torch.inference_mode():
        # Sums of eight-bit products are exact, and only what stands between the layers is rounded in another order.
        assert sqnr(plain(inputs[0]), compiled(inputs[0])) > 50
        with Interruptible(lambda: False):
            assert torch.equal(compiled(inputs[1]), compiled(inputs[1]))
    assert list(compiled.state_dict()) == list(plain.state_dict())
    assert not compiled(inputs[0].requires_grad_()).requires_grad
