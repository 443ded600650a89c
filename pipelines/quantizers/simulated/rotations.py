"""Orthogonal matrices that spread outliers over the channels."""

from __future__ import annotations

import math

import torch

__all__ = ["build_hadamard", "build_outlier_rotation"]

STEPS = 16
"""Outlier channels that are spread one after another."""


def build_hadamard(size: int) -> torch.Tensor:
    """Build an orthogonal matrix (size, size), float64, whose entries are all of about the same magnitude.

    It is Sylvester's Hadamard matrix of the largest power of two that divides the size, in Kronecker product with the
    cosine transform of the rest. All entries are 1 / sqrt(size) in magnitude where the size is a power of two.
    """
    power = size & -size
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) < power:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)]) / math.sqrt(2)
    odd = size // power
    rows, columns = torch.arange(odd, dtype=torch.float64)[:, None], torch.arange(odd, dtype=torch.float64)
    cosine = (math.pi / odd * (columns + 0.5) * rows).cos() * math.sqrt(2 / odd)
    cosine[0] = math.sqrt(1 / odd)
    return torch.kron(cosine, matrix)


def build_outlier_rotation(peaks: torch.Tensor, steps: int = STEPS) -> torch.Tensor:
    """Build an orthogonal matrix that spreads the channels of the largest magnitude, one after another.

    Each step takes the channel whose peak is the largest, and reflects the space so that this channel's direction
    becomes the one of equal parts of all channels.

    Args:
        peaks: largest magnitude of each channel, (C,).
        steps: how many.

    Returns:
        (C, C), float64; vectors are multiplied with it from the right.

    Source: the outlier-aware rotation of LRQ-DiT; the greedy step is that of Lin et al., DuQuant, arXiv:2406.01721,
    section 3.2.
    Differs: a reflection takes the unit vector to the uniform one, in place of a random orthogonal completion, so
    nothing is random; peaks after a step are the most that they can be, and not measured again.
    """
    size = len(peaks)
    rotation = torch.eye(size, dtype=torch.float64)
    peaks = peaks.detach().double().cpu().clone()
    uniform = torch.full((size,), 1 / math.sqrt(size), dtype=torch.float64)
    for _ in range(min(steps, size)):
        channel = int(peaks.argmax())
        if float(peaks[channel]) <= 2 * float(peaks.mean()):
            break
        direction = -uniform.clone()
        direction[channel] += 1
        reflection = torch.eye(size, dtype=torch.float64) - 2 * torch.outer(direction, direction) / direction.dot(
            direction
        )
        rotation = rotation @ reflection
        # Independent channels add their powers.
        peaks = (peaks.square() @ reflection.square()).sqrt()
    return rotation
