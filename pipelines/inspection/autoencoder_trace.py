"""Whether a picture came out of this model's autoencoder."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from pipelines.core.registry import NoSettings
from pipelines.inspection.base import Finding, InspectContext
from pipelines.requests.encoding import decode

__all__ = ["AutoencoderTrace"]


class AutoencoderTrace:
    """Encodes and decodes a picture twice: one that the decoder made loses about as much the first time as the second.

    Source: the ratio of both losses is known as double reconstruction; that they are mean square errors is ours.
    """

    needs_picture = True

    def __init__(self, settings: NoSettings = NoSettings()):
        pass

    def count_pieces(self) -> int:
        return 2

    def inspect(self, context: InspectContext) -> Finding:
        pictures = [np.asarray(context.picture)]
        for _ in range(2):
            images = torch.from_numpy(pictures[-1].copy()).permute(2, 0, 1)[None].float() / 255
            pictures.append(decode(context.family, context.family.encode_images(images))[0])
            context.advance()
        first, second = (
            float(((one.astype(np.float64) - other) ** 2).mean()) for one, other in itertools.pairwise(pictures)
        )
        ratio = first / second if second else float(first > 0) * 1e6 or 1.0
        return Finding(
            {"loss": first, "second loss": second, "ratio": ratio},
            sentence="The nearer the ratio is to 1, the likelier this model's decoder made the picture.",
        )
