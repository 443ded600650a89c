"""What the weight in (word:1.2) does to a text encoder's output: one function for each rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch

from pipelines.core.errors import SettingsError, UnknownMethodError

__all__ = ["DEFAULT_WEIGHTING", "WEIGHTINGS", "Weighting", "apply_weights", "require_weighting"]

DEFAULT_WEIGHTING = "interpolate"
"""The rule of a request that names none; docs/prompts.md says what was measured."""


class Weighting(NamedTuple):
    """Describes a rule.

    Attributes:
        label: for people.
        help: one sentence for the page.
        apply: embeddings (n, L, D), weights (n, L, 1) and the embeddings of an empty prompt (1, L, D) to embeddings.
    """

    label: str
    help: str
    apply: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def _interpolate(embeds: torch.Tensor, weights: torch.Tensor, empty: torch.Tensor) -> torch.Tensor:
    """empty + w * (embeds - empty), place by place.

    Source: ComfyUI, `comfy/sd1_clip.py`, `ClipTokenWeightEncoder`.
    """
    return empty + weights * (embeds - empty)


def _multiply(embeds: torch.Tensor, weights: torch.Tensor, empty: torch.Tensor) -> torch.Tensor:
    """w * embeds. Source: AUTOMATIC1111, stable-diffusion-webui, "No norm" in `modules/sd_emphasis.py`."""
    return weights * embeds


def _keep_norm(embeds: torch.Tensor, weights: torch.Tensor, empty: torch.Tensor) -> torch.Tensor:
    """w * embeds, each row scaled to the norm that it had."""
    scaled = weights * embeds
    before, after = (torch.linalg.vector_norm(one, dim=(1, 2), keepdim=True) for one in (embeds, scaled))
    return scaled * torch.where(after > 0, before / after, torch.ones_like(after))


def _keep_mean(embeds: torch.Tensor, weights: torch.Tensor, empty: torch.Tensor) -> torch.Tensor:
    """w * embeds, each row scaled to the mean that it had, whatever that does to its sign.

    Source: AUTOMATIC1111, stable-diffusion-webui, "Original" in `modules/sd_emphasis.py`.
    """
    scaled = weights * embeds
    before, after = (one.mean(dim=(1, 2), keepdim=True) for one in (embeds, scaled))
    # A row whose mean vanishes has no mean to restore.
    return scaled * torch.where(after.abs() > 1e-6, before / after, torch.ones_like(after))


WEIGHTINGS: Mapping[str, Weighting] = {
    "interpolate": Weighting("From the empty prompt", "Moves a word away from the empty prompt.", _interpolate),
    "multiply": Weighting("Multiplied", "Multiplies a word's embedding and leaves the rest.", _multiply),
    "norm": Weighting("Norm kept", "Multiplies, then restores the prompt's norm.", _keep_norm),
    "mean": Weighting("Mean kept (A1111)", "Multiplies, then restores the prompt's mean, as A1111 does.", _keep_mean),
}


def require_weighting(key: str) -> Weighting:
    """Return the rule of this key.

    Raises:
        UnknownMethodError: there is none.
    """
    if key not in WEIGHTINGS:
        raise UnknownMethodError("prompt weighting", key, WEIGHTINGS)
    return WEIGHTINGS[key]


def apply_weights(
    embeds: torch.Tensor, weights: torch.Tensor, empty: Callable[[], torch.Tensor], weighting: str
) -> torch.Tensor:
    """Apply weights to embeddings; rows without a weight other than one stay as they are, bit for bit.

    Args:
        embeds: (n, L, D), the output of the text encoder.
        weights: (n, L), 1 where nothing was said.
        empty: gives the encoder's output (1, L, D) for an empty prompt; asked only where there is a weight.
        weighting: a key of `WEIGHTINGS`.

    Raises:
        UnknownMethodError: there is no such rule.
        SettingsError: the rule gives numbers that are not finite.
    """
    rule = require_weighting(weighting)
    has_weight = (weights != 1).any(dim=1)
    if not bool(has_weight.any()):
        return embeds
    weighted = rule.apply(embeds.float(), weights[..., None], empty().float()).to(embeds.dtype)
    if not bool(weighted.isfinite().all()):
        raise SettingsError("The weights of the prompt are too large for this model's text encoder. Make them smaller.")
    if weighting in ("interpolate", "multiply"):
        # The formula gives back what it took only up to rounding.
        weighted = torch.where((weights != 1)[..., None], weighted, embeds)
    return torch.where(has_weight[:, None, None], weighted, embeds)
