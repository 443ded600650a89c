"""Rounding of attention's scores, after their softmax: evenly, or by powers of two."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from pipelines.core.errors import MethodFitError

__all__ = ["ScoreSpec", "attach_scores", "round_scores"]


@dataclasses.dataclass(frozen=True)
class ScoreSpec:
    """Describes how attention's scores are rounded.

    Attributes:
        form: "full" for not at all; "even", levels evenly from 0 to 1; "log2", powers of two below the largest.
        bits: of a score.
        keep_first: the first key's scores stay as they are where keys are other tokens than queries.
    """

    form: str = "full"
    bits: int = 8
    keep_first: bool = False


def round_scores(scores: torch.Tensor, spec: ScoreSpec) -> torch.Tensor:
    """Round probabilities (..., queries, keys).

    "log2" gives top * 2^-q with q = round(log2(top / p)) from 0 to 2^bits - 1, where top is the largest score of each
    head, measured live.

    Source: log2 with a live maximum, and the start token apart, is DGQ.
    """
    if spec.form == "full":
        return scores
    steps = 2**spec.bits - 1
    if spec.form == "even":
        return (scores * steps).round() / steps
    top = scores.amax((-2, -1), keepdim=True)
    code = (top / scores.clamp_min(torch.finfo(scores.dtype).tiny)).log2().round().clamp(0, steps)
    return torch.where(scores > 0, top * torch.exp2(-code), 0.0)


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


class _Switch:
    """Enters the mode before an attention's call, and leaves it however the call ends."""

    def __init__(self, spec: ScoreSpec):
        self.spec = spec
        self.entered: list[RoundedScores] = []

    def enter(self, network: torch.nn.Module, args: object) -> None:
        mode = RoundedScores(self.spec)
        mode.__enter__()
        self.entered.append(mode)

    def leave(self, network: torch.nn.Module, args: object, output: object) -> None:
        if self.entered:
            self.entered.pop().__exit__(None, None, None)


def attach_scores(network: torch.nn.Module, spec: ScoreSpec) -> None:
    """Round the scores of all of a network's attentions from now on; nothing is attached for "full".

    The hooks stand at each attention and not at the network, so that what else watches the network's operations
    does not part them before.

    Raises:
        MethodFitError: the network has no attention that could be found.
    """
    if spec.form == "full":
        return
    # diffusers' attentions, and only they, have a processor.
    attentions = [module for module in network.modules() if hasattr(module, "processor")]
    if not attentions:
        raise MethodFitError("This model has no attention whose scores could be rounded. Leave them as they are.")
    for module in attentions:
        switch = _Switch(spec)
        module.register_forward_pre_hook(switch.enter)
        module.register_forward_hook(switch.leave, always_call=True)
