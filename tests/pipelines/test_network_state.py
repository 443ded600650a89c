"""The tests' own comparison of networks finds what a method may leave behind."""

from __future__ import annotations

import pytest
import torch

from tests.pipelines.network_state import assert_unchanged, broken_at, state_of


def hooked(network):
    network[0].register_forward_hook(lambda *_: None)


def heavier(network):
    network[0].weight.data[0, 0] += 1


def another(network):
    network[0].weight = torch.nn.Parameter(network[0].weight.data.clone())


def wrapped(network):
    network[0].forward = network[0].forward


def processed(network):
    network[0].processor = object()


def replaced(network):
    network[1] = torch.nn.ReLU()


@pytest.mark.parametrize("change", [hooked, heavier, another, wrapped, processed, replaced, torch.nn.Module.train])
def test_every_kind_of_change_is_found(change):
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.GELU()).eval()
    before = state_of(network)
    assert_unchanged(network, before)
    change(network)
    with pytest.raises(AssertionError):
        assert_unchanged(network, before)


def test_a_broken_network_raises_at_its_call_and_is_whole_again():
    network = torch.nn.Sequential(torch.nn.Linear(2, 2)).eval()
    before = state_of(network)
    with broken_at(network, 2) as calls:
        network(torch.zeros(1, 2))
        with pytest.raises(RuntimeError, match="broken"):
            network(torch.zeros(1, 2))
    assert len(calls) == 2
    assert_unchanged(network, before)
