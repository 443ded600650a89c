"""A head that reads from the text encoder which object stands where: it aids training and does not ship."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from pipelines.emoji.compositions import Composition

__all__ = ["PLACES", "CaptionReader"]

PLACES = (
    "anywhere",
    "small",
    "large",
    "left",
    "right",
    "upper",
    "lower",
    "front",
    "back",
    "two",
    "three",
    "four",
    "absent",
)
"""What a caption says of an object's place, size or number; "absent" of a second object that is not there."""

_PAIRS = {"left of": ("left", "right"), "above": ("upper", "lower"), "in front of": ("front", "back")}
_NUMBERS = {2: "two", 3: "three", 4: "four"}
_IGNORED = -100


class CaptionReader(torch.nn.Module):
    """Classifies the embeddings of the last two tokens: object and place of the first and of the second.

    A causal text encoder knows a relation only behind both nouns, and nothing in the denoising loss says where it
    should write it down. With this loss the padding at the end says what stands where, and cross-attention reads it.

    Args:
        width: of the embeddings.
        labels: the catalog's objects, in its order.
    """

    def __init__(self, width: int, labels: Sequence[str]):
        super().__init__()
        self._numbers = {label: number for number, label in enumerate(labels)}
        self.object = torch.nn.Linear(width, len(labels))
        self.place = torch.nn.Linear(width, len(PLACES))

    def targets(self, compositions: Sequence[Composition], captions: Sequence[str]) -> torch.Tensor:
        """Number what each caption says.

        Args: compositions, captions: B of each; an empty caption says nothing.
        Returns: (B, 2, 2) integers: object and place of the first and of the second object, -100 where there is
            nothing to be learned.
        """
        rows = [
            self._row(item) if caption else [[_IGNORED] * 2] * 2
            for item, caption in zip(compositions, captions, strict=True)
        ]
        return torch.tensor(rows)

    def loss(self, embeds: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy of objects and places.

        Args:
            embeds: (B, T, width), the text encoder's last hidden states of captions padded to T tokens.
            targets: (B, 2, 2), of `targets`.
        Returns: a scalar; 0 where all captions are empty.
        """
        last = embeds[:, -2:].flip(1)
        parts = (self.object(last), self.place(last))
        losses = [
            F.cross_entropy(scores.flatten(0, 1).float(), numbers.flatten(), ignore_index=_IGNORED, reduction="sum")
            / (numbers != _IGNORED).sum().clamp(min=1)
            for scores, numbers in zip(parts, targets.unbind(-1), strict=True)
        ]
        return losses[0] + losses[1]

    def _row(self, composition: Composition) -> list[list[int]]:
        numbers = [self._numbers[label] for label in composition.labels]
        if composition.kind in _PAIRS:
            places = [PLACES.index(place) for place in _PAIRS[composition.kind]]
            return [list(pair) for pair in zip(numbers, places, strict=True)]
        said = _NUMBERS[composition.count] if composition.kind == "count" else composition.size or "anywhere"
        return [[numbers[0], PLACES.index(said)], [_IGNORED, PLACES.index("absent")]]
