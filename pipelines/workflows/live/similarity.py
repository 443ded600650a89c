"""The stochastic similarity filter: pictures like the last one are skipped, the likelier the closer they are."""

from __future__ import annotations

import random

import numpy as np

__all__ = ["SimilarityFilter", "cosine", "skip_probability"]


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    """Compute the cosine similarity of two pictures of one shape; exactly 1 for equal ones, 0 where one is black."""
    if np.array_equal(first, second):
        return 1.0
    one, other = first.astype(np.float64).ravel(), second.astype(np.float64).ravel()
    norms = float(np.sqrt(one @ one) * np.sqrt(other @ other))
    return float(one @ other) / norms if norms else 0.0


def skip_probability(similarity: float, threshold: float) -> float:
    """Compute max(0, (similarity - threshold) / (1 - threshold)): 1 for equal pictures, 0 up to the threshold.

    Args:
        similarity: cosine of both pictures.
        threshold: 0 to 1; at 1 no picture is skipped.

    Source: Kodaira et al., StreamDiffusion, arXiv:2312.12491, section 3.4.
    """
    return 0.0 if threshold >= 1 else max(0.0, (similarity - threshold) / (1 - threshold))


class SimilarityFilter:
    """Decides which pictures of a stream are worth the network's work.

    Args:
        threshold: see `skip_probability`.
        most_skipped: in a row; then one goes through, whatever it is like.
        seed: of the decisions.

    Attributes:
        skipped: how many were.
    """

    def __init__(self, threshold: float, most_skipped: int = 10, seed: int = 0):
        self.threshold, self.most_skipped, self.skipped = threshold, most_skipped, 0
        self._random = random.Random(seed)
        self._in_a_row = 0
        self._last: np.ndarray | None = None

    def passes(self, picture: np.ndarray) -> bool:
        """Say whether a picture (H, W, 3) goes on to the network; it is then what the next ones are compared with."""
        chance = 0.0
        if self._last is not None and self._last.shape == picture.shape:
            chance = skip_probability(cosine(self._last, picture), self.threshold)
        if self._in_a_row < self.most_skipped and self._random.random() < chance:
            self.skipped, self._in_a_row = self.skipped + 1, self._in_a_row + 1
            return False
        self._last, self._in_a_row = picture, 0
        return True
