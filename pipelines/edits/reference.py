"""Edits with a reference picture: its inverted path is the first row, beside it the edit."""

from __future__ import annotations

from typing import ClassVar

import torch

from pipelines.core.registry import setting
from pipelines.core.sampler import Sampler
from pipelines.edits.base import EditContext, UnpatchedEdit
from pipelines.edits.inpaint import Blended
from pipelines.inversions.base import SOURCE, TARGET

__all__ = [
    "REFERENCE_PROMPT",
    "ReferenceEdit",
    "adapt_to_reference",
    "build_strength_setting",
    "count_rows",
    "match_statistics",
]

REFERENCE_PROMPT = "What the reference picture shows; its inversion is guided by it. May stay empty."


def match_statistics(values: torch.Tensor, reference: torch.Tensor, dims: tuple[int, ...]) -> torch.Tensor:
    """Compute AdaIN: values with the mean and the standard deviation that the reference has over these dimensions.

    Args:
        values, reference: of one shape, rows first.
        dims: over which both are taken; the others are channels.

    Source: Huang and Belongie, Arbitrary style transfer in real-time with adaptive instance normalization,
    arXiv:1703.06868, equation 8.
    Differs: values that don't vary keep the reference's mean alone, and no small number is added to a variance.
    """
    std, mean = torch.std_mean(values, dim=dims, correction=0, keepdim=True)
    style_std, style_mean = torch.std_mean(reference, dim=dims, correction=0, keepdim=True)
    gain = torch.where(std > 0, style_std / torch.where(std > 0, std, torch.ones_like(std)), torch.zeros_like(std))
    return (values - mean) * gain + style_mean


def adapt_to_reference(rows: torch.Tensor, dims: tuple[int, ...], group: int = 2) -> torch.Tensor:
    """Give the rows of each group, of an edit (reference, edit), the statistics of the first one.

    Args:
        rows: (R, ...), R a multiple of the group.
        dims: as `match_statistics` takes them.
        group: rows of a group, the reference first.
    """
    groups = rows.unflatten(0, (-1, group))
    reference = groups[:, SOURCE]
    adapted = [match_statistics(groups[:, index], reference, dims) for index in range(TARGET, group)]
    return torch.stack([reference, *adapted], dim=1).flatten(0, 1)


class _KeptOutside(Blended):
    """Blends the edit's row of each pair with the source's picture; the reference's row is left alone."""

    def _mix(self, inside: torch.Tensor, outside: torch.Tensor) -> torch.Tensor:
        pairs = inside.unflatten(0, (-1, 2))
        edit = super()._mix(pairs[:, TARGET], outside)
        return torch.stack([pairs[:, SOURCE], edit], dim=1).flatten(0, 1)


class ReferenceEdit(UnpatchedEdit):
    """Says what edits with a reference share.

    The inversion is that of the reference, in whose rows its path comes back. The edit's row starts from the source,
    noised as far as `strength` says, so that its layout is the source's; a drawn mask keeps the edit inside it.
    """

    inverts = True
    takes_reference: ClassVar[bool] = True

    def __init__(self, strength: float, reference_prompt: str):
        self.strength, self.reference_prompt = strength, reference_prompt

    def keep_outside(self, sampler: Sampler, context: EditContext) -> Sampler:
        """Wrap a sampler so that the edit's row is the source's outside a drawn mask."""
        if context.weights is None:
            return sampler
        return _KeptOutside(sampler, context.image_latents, context.noise, context.weights)


def count_rows(context: EditContext) -> int:
    """Count the rows of an evaluation: reference and edit, twice with guidance."""
    return 4 if context.guided else 2


def build_strength_setting() -> float:
    """Build the setting that these edits share."""
    text = "Share of the steps that are run, unless the inversion's is less: less keeps more of the source."
    return setting(0.6, text, low=0.05, high=1, step=0.05)
