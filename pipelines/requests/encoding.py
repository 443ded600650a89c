"""From a request's prompts to conditionings, and from latents to pictures."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch

from pipelines.core.branches import BranchPlan
from pipelines.core.gradients import no_grad
from pipelines.core.prediction import Conditioning
from pipelines.core.types import Request
from pipelines.families.base import Family
from pipelines.families.companions import join_conditionings
from pipelines.families.latent_model import LatentModel
from pipelines.requests.prompts import RunPrompts, read_request_prompts
from pipelines.requests.scenes import join_scenes

__all__ = ["Encode", "as_uint8", "decode", "encode_prompts", "encode_request", "to_uint8"]


class Encode(Protocol):
    """Describes `encode_request`, or what stands for it."""

    def __call__(
        self, request: Request, family: Family, rows: int, num_steps: int | None = None
    ) -> tuple[dict[str, Conditioning], BranchPlan]: ...


def encode_request(
    request: Request, family: LatentModel, rows: int, num_steps: int | None = None
) -> tuple[dict[str, Conditioning], BranchPlan]:
    """Make the conditionings of a request's prompts, each distinct text encoded once, and what the branches make of
    them.

    Args:
        request: as `text_to_image.resolve` returned it.
        family: the loaded model, its LoRAs already applied.
        rows: of each conditioning.
        num_steps: of the run's whole schedule, by which prompts switch; None for the request's own.

    Raises:
        PromptError: a part of the prompts cannot be read.
    """
    prompts = read_request_prompts(request, num_steps)
    return encode_prompts(prompts, request, family, rows), prompts.plan


def encode_prompts(prompts: RunPrompts, request: Request, family: LatentModel, rows: int) -> dict[str, Conditioning]:
    """Make the conditionings of prompts that `read_request_prompts` read; the others are as of `encode_request`."""
    is_story = request.story.key != Request.story.key
    each = 1 if is_story else rows
    how = (prompts.texts, each, (request.width, request.height), request.prompt_weighting, prompts.rules)
    own = family.encode_texts(*how)
    if is_story:
        return join_scenes(own, rows)
    if not isinstance(family, Family) or not family.companions:
        return own
    return join_conditionings(own, {key: one.encode_texts(*how) for key, one in family.companions.items()})


@no_grad
def decode(family: Family, latents: torch.Tensor) -> np.ndarray:
    """Decode into pictures (B, H, W, 3), uint8, of scaled latents (B, C, h, w)."""
    return to_uint8(family.decode(latents))


def to_uint8(images: torch.Tensor) -> np.ndarray:
    """Return (B, H, W, 3) uint8, rounded, of images (B, 3, H, W) in [0, 1], as diffusers' numpy_to_pil does."""
    return as_uint8(images).cpu().numpy()


def as_uint8(images: torch.Tensor) -> torch.Tensor:
    """Convert as `to_uint8` does, to a tensor where the images are."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
