"""Whether an edit of a pair succeeded: by the shipped classifier, the shipped detector, or the true picture."""

from __future__ import annotations

import math

import numpy as np
import torch

from pipelines.metrics.classifier import Classifier
from pipelines.metrics.detector import Detector
from pipelines.metrics.pictures import psnr
from pipelines.training.edits import EditPair, EditPictures

__all__ = ["NEAR", "is_right"]

NEAR = 0.1
"""Of the picture: as far from its true place an object may be. A moved one has moved at least 2.5 times as far."""
_CLOSER = 20 * math.log10(2)
"""Decibels: a style is right where half of the distance to the true picture is gone."""


def is_right(
    classifier: Classifier, detector: Detector, picture: np.ndarray, pair: EditPair, drawn: EditPictures
) -> bool:
    """Say whether a finished picture shows what the edit was to make of the source.

    Of what captions tell the classifier reads the target's objects, their order and its background. A moved or resized
    object is where the target has it, of its size (nearer to it than to the source's), all objects and the background
    as they were, read by the detector. A style is right where the root mean square distance to the true picture is at
    most half of the source's.

    Args:
        classifier, detector: the judges.
        picture: (H, W, 3) uint8.
        pair: what was to change.
        drawn: the pair's pictures, of this size.
    """
    images = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 255
    if pair.kind == "style":
        source, truth = np.asarray(drawn.source), np.asarray(drawn.target)
        return psnr(picture, truth) >= psnr(source, truth) + _CLOSER
    if pair.kind in ("move", "resize"):
        return _is_placed(detector, images, pair)
    (reading,) = classifier.read(images)
    labels = tuple(placed.label for placed in pair.target.objects)
    return reading.labels == labels and reading.background == pair.target.background


def _is_placed(detector: Detector, images: torch.Tensor, pair: EditPair) -> bool:
    (view,) = detector.read(images)
    wanted = sorted(pair.target.objects, key=lambda item: item.x)
    if [item.label for item in view.objects] != [item.label for item in wanted]:
        return False
    if view.background != pair.target.background:
        return False
    before, after = pair.moved
    for seen, item in zip(view.objects, wanted, strict=True):
        if max(abs(seen.x - item.x), abs(seen.y - item.y)) > NEAR:
            return False
        if item == after and before.size != after.size and abs(seen.size - after.size) > abs(seen.size - before.size):
            return False
    return True
