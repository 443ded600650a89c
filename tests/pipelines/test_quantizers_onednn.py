"""W8A8 on a CPU: the kernels compute what the formula says, on any shape, and a copy works like the first."""

from __future__ import annotations

import copy

import pytest
import torch

from pipelines.quantizers.machine import Machine
from pipelines.quantizers.onednn import OneDnn, fits_onednn
from pipelines.quantizers.onednn_layers import quantize_inputs

pytestmark = pytest.mark.skipif(fits_onednn(Machine("cpu")) is not None, reason="this CPU has no VNNI")


@pytest.mark.parametrize(
    ("layer", "shapes"),
    [
        (torch.nn.Linear(40, 24), [(3, 40), (2, 7, 40), (1, 500, 40)]),
        (torch.nn.Linear(40, 24, bias=False), [(3, 40)]),
        (torch.nn.Conv2d(8, 24, 3, stride=2, padding=1), [(2, 8, 9, 7), (1, 8, 20, 20)]),
        (torch.nn.Conv2d(8, 24, 3, padding=2, dilation=2, groups=2, padding_mode="circular"), [(2, 8, 9, 7)]),
        (torch.nn.Conv2d(8, 24, (1, 3), padding="same", bias=False), [(2, 8, 9, 7)]),
    ],
    ids=lambda one: one.extra_repr() if isinstance(one, torch.nn.Module) else "",
)
def test_a_layer_is_the_layer_of_its_dequantized_weights_and_inputs(layer, shapes):
    """Sums of integers are exact, so what is left is float32's rounding of the scales."""
    layer = copy.deepcopy(layer).requires_grad_(False)
    made = OneDnn().quantize(layer)
    assert (made.weight - layer.weight).abs().max() <= made.scales.max() / 2 + 1e-7
    layer.weight.data = made.weight
    for seed, shape in enumerate(shapes):
        inputs = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) + 0.3
        codes, scale, zero_point = quantize_inputs(inputs)
        seen = scale * (codes.float() - zero_point)
        assert (seen - inputs).abs().max() <= 0.51 * scale
        expected = layer(seen)
        assert torch.allclose(made(inputs), expected, atol=1e-4)
        assert torch.equal(copy.deepcopy(made)(inputs), made(inputs))
    assert made(inputs.bfloat16()).dtype == torch.bfloat16


def test_zero_is_exact_and_constant_inputs_do_no_harm():
    for inputs in (torch.zeros(2, 3), torch.full((2, 3), 5.0), torch.full((2, 3), -5.0), torch.tensor([[0.0, 1e-30]])):
        codes, scale, zero_point = quantize_inputs(inputs)
        assert 0 <= zero_point <= 255
        assert torch.allclose(scale * (codes.float() - zero_point), inputs, rtol=1e-2, atol=1e-30)
    codes, scale, zero_point = quantize_inputs(torch.tensor([-1.0, 0.0, 2.5]))
    assert scale * (float(codes[1]) - zero_point) == 0
