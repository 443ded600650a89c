"""The source prompt that the shipped judges suggest for a picture of the shipped models' kind."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from pipelines.core.errors import StepwiseError
from pipelines.emoji.captions import on_background, with_article

if TYPE_CHECKING:
    from pipelines.metrics.classifier import Classifier
    from pipelines.metrics.detector import Detector

__all__ = ["suggest_source_prompt"]

_MODEL = "emoji"
"""The model whose words the classifier reads."""
_SURE = 0.5
"""The probability of all that is read, below which nothing is suggested."""


def suggest_source_prompt(picture: Image.Image, model: str) -> str:
    """Say what a picture shows in the model's own words; "" of another model, or where its judges don't agree."""
    from pipelines.metrics.classifier import load_classifier  # late: PyTorch is imported with it
    from pipelines.metrics.detector import load_detector  # late: likewise

    if model != _MODEL:
        return ""
    try:
        return read_prompt(load_classifier(), load_detector(), picture)
    except StepwiseError:  # its folder was taken away: nothing is suggested
        return ""


def read_prompt(classifier: Classifier, detector: Detector, picture: Image.Image) -> str:
    """Write the caption of what both judges read; "" where they differ, or the classifier isn't sure.

    The classifier names something in every picture, noise too; the detector may find nothing.
    """
    pixels = torch.from_numpy(np.asarray(picture.convert("RGB")).copy()).permute(2, 0, 1)[None].float() / 255
    (reading,) = classifier.read(pixels)
    sure = math.prod(seen.probability for seen in reading.objects) * reading.background_probability
    (view,) = detector.read(pixels)
    sure *= math.prod(item.probability for item in view.objects)
    agrees = tuple(item.label for item in view.objects) == reading.labels and view.background == reading.background
    if sure < _SURE or not agrees:
        return ""
    return " left of ".join(with_article(label, True) for label in reading.labels) + on_background(reading.background)
