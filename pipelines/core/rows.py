"""How many rows a network evaluates at once: what memory holds, or on a CPU what takes a moment only."""

from __future__ import annotations

import torch

from pipelines.core.prediction import Network, RowMemory

__all__ = ["halve_rows", "rows_at_once"]

_MOST_PLACES = 2**16
"""Latent pixels of all rows of one evaluation on a CPU: 16 of 512 x 512 pixels, one of 2048 x 2048."""


def _rows_on_cpu(network: Network, latents: torch.Tensor) -> int:
    """Rows of one evaluation: all, but on a CPU, which gains nothing from many, so few of large pictures that one
    evaluation's memory and time stay those of a few."""
    most = max(1, _MOST_PLACES // max(latents[0, 0].numel(), 1))
    if latents.device.type != "cpu" or most >= len(latents):
        return len(latents)
    together = network.rows_together
    return max(most // together * together, together)


def rows_at_once(network: Network, latents: torch.Tensor) -> int:
    """Find the most rows of one evaluation: what the network is limited to, else what it remembers to fit."""
    limits = [len(latents), network.max_rows or _rows_on_cpu(network, latents)]
    if isinstance(network, RowMemory):
        limits.append(network.rows_that_fit(latents[0]))
    return min(limit for limit in limits if limit)


def halve_rows(network: Network, rows: int) -> int:
    """Compute half of the rows, none parted from those it must be evaluated with; 0 if they cannot be fewer."""
    together = network.rows_together
    return rows // 2 // together * together or (together if together < rows else 0)
