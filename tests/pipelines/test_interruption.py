"""Long operations in parts: the same numbers, and a cancel within one part."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from pipelines.core import parted_operations
from pipelines.core.cancelling import Cancelled
from pipelines.core.interruption import interruptible, large_modules
from pipelines.core.parted_operations import Interruptible

F = nn.functional


@pytest.fixture(autouse=True)
def parts(monkeypatch):
    """Every operation is parted, however small; the number of parts of each."""
    counted = []
    original = Interruptible.parts

    def counting(self, func, size, work, compute, dim):
        self._part_seconds, self._rates = 1e-3, {func: work * 1000 / 5}  # five parts

        def slow(start, stop):
            counted.append((func, start, stop))
            self._rates = {func: work * 1000 / 5}
            return compute(start, stop)

        return original(self, func, size, work, slow, dim)

    monkeypatch.setattr(Interruptible, "parts", counting)
    monkeypatch.setattr(Interruptible, "is_short", lambda *_: False)
    return counted


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def same(call, counted):
    """The result of a call, which in parts is the same up to rounding in float64."""
    whole = call()
    with Interruptible(lambda: False):
        parted = call()
    assert len(counted) >= 2
    torch.testing.assert_close(parted, whole, rtol=1e-12, atol=1e-12)
    assert parted.shape == whole.shape


@pytest.mark.parametrize("mask", [None, (2, 1, 23, 17), (1, 17), (23, 17), (2, 3, 1, 17)])
def test_attention_by_rows_of_queries_is_attention(parts, mask):
    query, key, value = random(2, 3, 23, 8), random(2, 3, 17, 8, seed=1), random(2, 3, 17, 5, seed=2)
    mask = None if mask is None else random(*mask, seed=3)
    same(lambda: F.scaled_dot_product_attention(query, key, value, attn_mask=mask), parts)
    same(lambda: F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=0.3), parts)


@pytest.mark.parametrize("stride", [1, 2, (3, 1)])
@pytest.mark.parametrize("padding", [0, 1, (2, 0), (4, 3)])
@pytest.mark.parametrize("dilation", [1, 2, (1, 3)])
def test_a_convolution_by_strips_is_the_convolution(parts, stride, padding, dilation):
    picture, weight, bias = random(2, 4, 19, 16), random(6, 2, 3, 3, seed=1), random(6, seed=2)
    same(lambda: F.conv2d(picture, weight, bias, stride, padding, dilation, 2), parts)
    same(lambda: F.conv2d(picture, random(6, 4, 1, 1, seed=1)), parts)


def test_a_linear_layer_by_rows_is_the_layer(parts):
    rows, layer = random(3, 7, 5), nn.Linear(5, 4).double()
    same(lambda: layer(rows), parts)
    same(lambda: F.linear(rows, layer.weight), parts)


def test_gradients_pass_through_the_parts(parts):
    picture, weight = random(1, 3, 9, 9).requires_grad_(), random(4, 3, 3, 3, seed=1)
    F.conv2d(picture, weight, padding=1).square().sum().backward()
    whole, picture.grad = picture.grad, None
    with Interruptible(lambda: False):
        loss = F.conv2d(picture, weight, padding=1).square().sum()
    loss.backward()
    torch.testing.assert_close(picture.grad, whole, rtol=1e-12, atol=1e-12)


def test_what_must_not_be_parted_is_left_whole(parts):
    query = random(1, 1, 6, 4)
    with Interruptible(lambda: False):
        causal = F.scaled_dot_product_attention(query, query, query, is_causal=True)
        padded = F.conv2d(random(1, 1, 5, 5), random(1, 1, 3, 3), padding="same")
    torch.testing.assert_close(causal, F.scaled_dot_product_attention(query, query, query, is_causal=True))
    assert padded.shape == (1, 1, 5, 5) and not parts


# A cancel.


class Deep(nn.Module):
    """A network of many layers."""

    def __init__(self, layers=50):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(layers))

    def forward(self, sample):
        for layer in self.layers:
            sample = layer(sample)
        return sample


def test_a_cancel_ends_an_evaluation_between_two_operations_and_leaves_the_network_as_it_was(parts):
    network, asked = Deep(), []

    def cancelled():
        asked.append(1)
        return len(asked) > 20

    with interruptible([network], cancelled):
        assert network._forward_pre_hooks
        with pytest.raises(Cancelled):
            network(torch.zeros(1, 4, 64, 64))
        assert len(asked) == 21
    assert not network._forward_pre_hooks and not network._forward_hooks
    network(torch.zeros(1, 4, 64, 64))
    assert len(asked) == 21  # the mode is gone, too


def test_an_error_leaves_no_mode_behind(parts):
    network, asked = Deep(), []
    with interruptible([network], lambda: bool(asked.append(1))):
        with pytest.raises(RuntimeError):
            network(torch.zeros(1, 5, 64, 64))
        before = len(asked)
        torch.zeros(3) + 1
        assert len(asked) == before


def test_small_evaluations_are_not_watched(parts):
    network, asked = Deep(2), []
    with interruptible([network], lambda: bool(asked.append(1))):
        network(torch.zeros(1, 4, 16, 16))
        assert not asked
        network(sample=torch.zeros(2, 4, 32, 32))
        assert asked


def test_networks_and_both_halves_of_a_vae_are_large():
    vae = nn.Module()
    vae.encoder, vae.decoder, vae.encode, vae.decode = nn.Linear(1, 1), nn.Linear(1, 1), id, id
    network = Deep(1)
    assert large_modules([network, vae, None, "x", network]) == [network, vae.encoder, vae.decoder]


def test_parts_take_about_as_long_as_they_may(monkeypatch):
    monkeypatch.undo()
    longest, last = 0.0, time.perf_counter()

    def cancelled():
        nonlocal longest, last
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
        return False

    query = torch.randn(1, 4, 6000, 32)
    whole = time.perf_counter()
    F.scaled_dot_product_attention(query, query, query)
    whole = time.perf_counter() - whole
    mode = Interruptible(cancelled, part_seconds=whole / 20)
    mode._rates[F.scaled_dot_product_attention] = parted_operations._FIRST_RATE / 100
    last = time.perf_counter()
    with mode:
        F.scaled_dot_product_attention(query, query, query)
    assert longest < whole / 2  # ten times what a part may take: the machine may be busy
