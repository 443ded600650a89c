"""Noise of a run: one generator a sample, its seeds, and the sphere between two noises."""

from __future__ import annotations

import pytest
import torch

from pipelines.core.noise import NoiseSource, initial_noise, slerp


def test_noise_is_one_generator_a_sample():
    like = torch.empty(3, 4, 8, 8)
    together, alone = NoiseSource([5, 6, 7])(like), NoiseSource([6])(like[:1])
    assert torch.equal(together[1:2], alone)
    torch.testing.assert_close(together[1], torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(6))[0])


@pytest.mark.parametrize("size", [(3, 1), (5, 7), (9, 15), (8, 8)])
def test_a_pictures_noise_is_its_own_at_any_size(size):
    """One draw of a whole batch would be others' numbers at sizes that are no multiple of 16 (torch 2.13, CPU)."""
    like = torch.empty(3, 4, *size)
    together = NoiseSource([5, 6, 7])
    rows = [NoiseSource([seed]) for seed in (5, 6, 7)]
    for _ in range(2):
        assert torch.equal(together(like), torch.cat([row(like[:1]) for row in rows]))


def test_of_a_large_seed_the_low_32_bits_decide():
    """What docs/api.md says of seeds; a torch that reads all 64 bits would make both pictures others."""
    like = torch.empty(1, 4, 8, 8)
    assert torch.equal(NoiseSource([5])(like), NoiseSource([5 + 2**32])(like))
    assert not torch.equal(NoiseSource([5])(like), NoiseSource([6])(like))


def test_a_cloned_source_draws_the_same_and_leaves_the_first_alone():
    source, like = NoiseSource([1, 2]), torch.empty(2, 3)
    source(like)
    twin = source.clone()
    assert torch.equal(twin(like), source(like))
    twin(like)
    assert torch.equal(NoiseSource([1, 2])(like), NoiseSource([1, 2])(like))


def test_slerp_keeps_the_norm_and_its_ends():
    generator = torch.Generator().manual_seed(0)
    start, end = (torch.randn(2, 4, 16, 16, generator=generator, dtype=torch.float64) for _ in range(2))
    assert slerp(start, end, 0) is start
    assert slerp(start, end, 1) is end
    for strength in (0.25, 0.5, 0.9):
        norms = slerp(start, end, strength).flatten(1).norm(dim=1)
        assert norms.tolist() == pytest.approx(start.flatten(1).norm(dim=1).tolist(), rel=0.05)
    torch.testing.assert_close(slerp(start, start.clone(), 0.3), start)


def test_a_variation_of_nothing_draws_nothing():
    first = initial_noise(NoiseSource([1]), (1, 4, 8, 8))
    assert torch.equal(initial_noise(NoiseSource([1]), (1, 4, 8, 8), NoiseSource([2]), 0.0), first)
    assert not torch.equal(initial_noise(NoiseSource([1]), (1, 4, 8, 8), NoiseSource([2]), 0.2), first)
