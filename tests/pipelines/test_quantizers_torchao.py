"""torchao leaves weights whose shape its kernels do not take as they are, and only its log says so: never ours."""

from __future__ import annotations

import types

import pytest
import torch

from pipelines.core.errors import MethodFitError, ModelError
from pipelines.quantizers import QUANTIZERS, Machine, torchao
from pipelines.quantizers.base import plan_layers, quantize_network
from pipelines.quantizers.torchao import TorchAo


@pytest.mark.parametrize(("form", "inputs", "outputs"), [("int4", 320, 64), ("fp8", 24, 64), ("fp8", 64, 24)])
def test_layers_that_it_would_skip_are_refused_and_reported(form, inputs, outputs):
    quantizer = TorchAo(form)
    network = torch.nn.Sequential(torch.nn.Linear(inputs, outputs), torch.nn.Linear(1280, 640))
    plan = plan_layers(network, quantizer)
    assert plan.quantized_layers == ("1",)
    (left,) = plan.skipped
    assert left.name == "0" and str(inputs if inputs % 16 or form == "int4" else outputs) in left.reason
    with pytest.raises(MethodFitError, match=f"touches no layer .*{left.reason}"):
        quantize_network(network[:1], quantizer, "torchao")


@pytest.mark.parametrize("inputs", [3, 320, 1280])
def test_int8_takes_rows_of_any_length(inputs):
    assert TorchAo("int8").refuses(torch.nn.Linear(inputs, 5)) is None


@pytest.mark.parametrize("form", torchao.CONFIGS)
def test_a_layer_that_comes_back_unchanged_is_an_error(form, monkeypatch):
    asked = []
    library = types.SimpleNamespace(
        quantize_=lambda model, config: asked.append(model), **{name: dict for name, _ in torchao.CONFIGS.values()}
    )
    monkeypatch.setattr(torchao, "load_package", lambda *_: library)
    with pytest.raises(ModelError, match=r"torchao left a layer of \(640, 1280\) weights as it was"):
        TorchAo(form).quantize(torch.nn.Linear(1280, 640))
    assert len(asked) == 1


def test_torchaos_own_int4_leaves_rows_of_320_and_ours_says_so():
    if reason := QUANTIZERS["torchao_int8"].fit(Machine("cpu")):
        pytest.skip(reason)
    with pytest.raises(ModelError, match=r"torchao left a layer of \(64, 320\) weights as it was"):
        TorchAo("int4").quantize(torch.nn.Linear(320, 64).requires_grad_(False))
