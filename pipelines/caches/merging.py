"""Tokens of a grid merged into their most similar neighbors, and spread out again."""

from __future__ import annotations

import dataclasses

import torch

__all__ = ["Merging", "match_tokens"]


@dataclasses.dataclass(frozen=True)
class Merging:
    """Says which tokens of each row are merged, and into which.

    Attributes:
        kept: tokens that stay by themselves, (R, s).
        merged: tokens that are merged, (R, r).
        targets: the tokens of the grid's corners, (d,), that others are merged into.
        into: of each merged token, the place among the targets, (R, r).
    """

    kept: torch.Tensor
    merged: torch.Tensor
    targets: torch.Tensor
    into: torch.Tensor

    def merge(self, tokens: torch.Tensor) -> torch.Tensor:
        """Merge tokens (R, N, D) to (R, s + d, D): a target becomes the mean of itself and of what joins it."""
        width = tokens.shape[-1]
        targets = tokens[:, self.targets]
        given = _gather(tokens, self.merged)
        sums = targets.scatter_add(1, self.into[..., None].expand(-1, -1, width), given)
        counts = torch.ones_like(targets[..., :1]).scatter_add(1, self.into[..., None], torch.ones_like(given[..., :1]))
        return torch.cat([_gather(tokens, self.kept), sums / counts], dim=1)

    def spread(self, tokens: torch.Tensor) -> torch.Tensor:
        """Undo the order of `merge`, (R, s + d, D) to (R, N, D): each merged token gets its target's value."""
        kept, targets = tokens.split([self.kept.shape[1], len(self.targets)], dim=1)
        width, rows = tokens.shape[-1], len(tokens)
        spread = tokens.new_empty(rows, self.kept.shape[1] + self.merged.shape[1] + len(self.targets), width)
        spread[:, self.targets] = targets
        spread.scatter_(1, self.kept[..., None].expand(-1, -1, width), kept)
        return spread.scatter_(1, self.merged[..., None].expand(-1, -1, width), _gather(targets, self.into))


def match_tokens(tokens: torch.Tensor, grid: tuple[int, int], ratio: float) -> Merging:
    """Match each token of a grid with the most similar corner of its squares of 2 x 2, and take the best matches.

    Args:
        tokens: (R, height * width, D), by whose cosine they are compared.
        grid: height and width.
        ratio: share of all tokens that is merged, at most what are no corners.

    Source: Bolya & Hoffman, Token merging for fast Stable Diffusion, arXiv:2303.17604, section 4, after Bolya et al.,
        arXiv:2210.09461, section 3.
    """
    height, width = grid
    is_corner = torch.zeros(height, width, dtype=torch.bool, device=tokens.device)
    is_corner[::2, ::2] = True
    places = torch.arange(height * width, device=tokens.device)
    targets, sources = places[is_corner.flatten()], places[~is_corner.flatten()]
    direction = torch.nn.functional.normalize(tokens, dim=-1)
    similarity = direction[:, sources] @ direction[:, targets].mT
    best, into = similarity.max(dim=-1)
    order = best.argsort(dim=-1, descending=True, stable=True)
    count = min(int(ratio * height * width), len(sources))
    merged, kept = order[:, :count], order[:, count:].sort(dim=-1).values
    return Merging(sources[kept], sources[merged], targets, into.gather(1, merged))


def _gather(tokens: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    return tokens.gather(1, places[..., None].expand(-1, -1, tokens.shape[-1]))
