"""Attention computed step by step, so that its scores can be rounded."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from pipelines.quantizers.simulated.scores import ScoreSpec, round_scores

__all__ = ["RoundedScores"]


class RoundedScores(TorchFunctionMode):
    """Computes attention step by step while it is entered, with rounded scores."""

    def __init__(self, spec: ScoreSpec):
        super().__init__()
        self.spec = spec

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.scaled_dot_product_attention:
            return self._attend(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> torch.Tensor:
        if enable_gqa:
            heads = query.shape[-3]
            key = key.repeat_interleave(heads // key.shape[-3], -3)
            value = value.repeat_interleave(heads // value.shape[-3], -3)
        logits = query @ key.mT * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
        if is_causal:
            allowed = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).tril()
            logits = logits.masked_fill(~allowed, float("-inf"))
        if attn_mask is not None:
            is_flag = attn_mask.dtype == torch.bool
            logits = logits.masked_fill(~attn_mask, float("-inf")) if is_flag else logits + attn_mask
        scores = logits.float().softmax(-1)
        rounded = round_scores(scores, self.spec)
        if self.spec.keep_first and scores.shape[-1] != scores.shape[-2]:
            rest = round_scores(scores[..., 1:], self.spec)
            rounded = torch.cat([scores[..., :1], rest], -1)
        # Gradients pass through the rounding unchanged.
        return (scores + (rounded - scores).detach()).to(query.dtype) @ value
