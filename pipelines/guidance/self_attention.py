"""Self-attention guidance (SAG): leads away from a picture that is blurred where the network looks."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator

import torch
import torch.nn.functional as F

from pipelines.core.devices import upload
from pipelines.core.prediction import Perturbation, Prediction, Query
from pipelines.core.registry import setting
from pipelines.core.schedule import Level
from pipelines.guidance.attention_watch import AttentionWatch
from pipelines.guidance.perturbations import blur_matrix, self_attentions
from pipelines.guidance.two_branch import TwoBranchGuidance, guide

__all__ = ["SelfAttention", "SelfAttentionSettings", "blur_where_seen"]

_THRESHOLD = 1.0
_SIGMA, _REACH = 1.0, 4


@dataclasses.dataclass(frozen=True)
class SelfAttentionSettings:
    guidance_scale: float = setting(
        4.0,
        "How strongly the picture follows the prompt; at 1 the negative prompt is left out.",
        low=0,
        high=30,
        step=0.1,
    )
    blur_scale: float = setting(
        0.75, "How strongly the picture moves away from its own blurred estimate; 0 for none.", low=0, high=5, step=0.05
    )


def blur_where_seen(denoised: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """Blur an estimate of x0 where attention falls.

    Args:
        denoised: (B, C, h, w).
        seen: (B, 1, H, W), the attention that each place of a coarser grid receives, of all places together; what has
            more than its share of 1 is blurred.

    Returns:
        (B, C, h, w).

    Source: Hong et al., arXiv:2210.00939, section 4.2; the Gaussian of 9 pixels and sigma 1 is their code's.
    """
    height, width = denoised.shape[-2:]
    matrices = (blur_matrix(side, _SIGMA, reach=_REACH) for side in (height, width))
    rows, columns = (upload(one, denoised.device, denoised.dtype) for one in matrices)
    blurred = torch.einsum("hi,wj,bcij->bchw", rows, columns, denoised)
    mask = F.interpolate((seen > _THRESHOLD).to(denoised.dtype), (height, width))
    return blurred * mask + denoised * (1 - mask)


class SelfAttention(TwoBranchGuidance):
    """Computes U + w (C - U) + s (U - D), with D of the unconditional estimate blurred and noised again.

    Up to w = 1 it is C + s (C - D). One evaluation more a step; with scale 0 it is classifier-free guidance.

    Source: Hong et al., Improving sample quality of diffusion models using self-attention guidance, arXiv:2210.00939,
        algorithm 1 and, with classifier-free guidance, equation 25; scale 0.75 is that for Stable Diffusion.
    Differs: where a cache leaves the middle block out, its last map counts.
    """

    def __init__(self, settings: SelfAttentionSettings = SelfAttentionSettings()):
        super().__init__(settings.guidance_scale)
        self.blur_scale = settings.blur_scale
        self.patch: Perturbation | None = AttentionWatch(_first_layer, _see_nothing)
        self._seen: torch.Tensor | None = None

    def ask(self, query: Query) -> Generator[Query, Prediction, Prediction]:
        if not self.blur_scale:
            return (yield query)
        parts: list[torch.Tensor] = []

        def see(_: torch.nn.Module, maps: torch.Tensor, grid: tuple[int, int]) -> None:
            parts.append(maps.mean(1).sum(1).unflatten(-1, grid)[:, None])

        prediction = yield dataclasses.replace(query, patch=AttentionWatch(_first_layer, see))
        # The first rows are those of the first branch, the negative prompt's where there is one.
        name = "negative" if prediction.branches else "positive"
        base = prediction.branches[name] if prediction.branches else prediction
        if parts:
            self._seen = torch.cat(parts)[: len(query.latents)]
        if self._seen is None or not query.level.alpha:
            return prediction
        level = query.level
        latents = level.alpha * blur_where_seen(base.denoised, self._seen) + level.sigma * base.noise
        degraded = yield dataclasses.replace(query, latents=latents, branches=(name,), role="degraded")
        raw = prediction.raw + self.blur_scale * (base.raw - degraded.raw)
        return dataclasses.replace(prediction.with_raw(raw), branches=prediction.branches)

    def further_evaluations(self, level: Level) -> int:
        return 1 if self.blur_scale else 0

    def blend(self, negative: Prediction, positive: Prediction) -> torch.Tensor:
        return guide(negative.raw, positive.raw, self.guidance_scale)


def _first_layer(unet: torch.nn.Module) -> list[torch.nn.Module]:
    return self_attentions(unet, "middle")[:1]


def _see_nothing(*_: object) -> None:
    """For the trial before a run."""
