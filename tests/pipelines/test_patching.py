"""What is changed in a network goes back as it was."""

from __future__ import annotations

import copy

import pytest
import torch

from pipelines.weights.patching import in_dtype, replaced_weights


def test_a_change_that_fails_halfway_is_undone():
    layer = torch.nn.Linear(2, 2)
    before = copy.deepcopy(layer.state_dict())

    def fail(data):
        raise ValueError("broken")

    changes = [(layer.weight, lambda data: data + 1), (layer.bias, fail)]
    with pytest.raises(ValueError, match="broken"), replaced_weights(changes):
        pass
    assert all(torch.equal(before[name], value) for name, value in layer.state_dict().items())


def test_two_changes_of_one_weight_go_back_to_the_first():
    layer = torch.nn.Linear(2, 2)
    original = layer.weight.detach().clone()
    with replaced_weights([(layer.weight, lambda data: data + 1), (layer.weight, lambda data: data * 2)]):
        assert torch.allclose(layer.weight, (original + 1) * 2)
    assert torch.equal(layer.weight, original)


def test_another_dtype_is_taken_back():
    layer = torch.nn.Linear(2, 2).half()
    original = layer.weight.detach().clone()
    with in_dtype(layer, torch.float32):
        assert layer.weight.dtype == torch.float32
    assert layer.weight.dtype == torch.float16 and torch.equal(layer.weight, original)
