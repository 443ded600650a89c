"""The joint attention of a transformer with its maps in the open: image to text is the cross map, image to image the
self map."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from pipelines.edits.map_controller import MapController
from pipelines.guidance.joint_attention import JointInputs, Stream, TextLength, attend, finish, project

__all__ = ["OpenJointProcessor", "change_joint_maps"]


def change_joint_maps(controller: MapController, maps: torch.Tensor, tokens: int) -> torch.Tensor:
    """Change the picture's rows of a joint map by its two parts, and bring what was changed back to sums of one.

    Args:
        controller: changes the parts.
        maps: (R, heads, I, K + T) probabilities, the picture's keys before the text's.
        tokens: T; 0 where the layer sees no text.

    Returns:
        Maps of the same shape. A row keeps its sum where a factor is below zero too: that of the absolute values.
    """
    pictures = maps.shape[-1] - tokens
    own, cross = maps[..., :pictures], maps[..., pictures:]
    changed_own = controller.change_part(own, False)
    changed_cross = controller.change_part(cross, True) if tokens else cross
    if changed_own is own and changed_cross is cross:
        return maps
    changed = torch.cat([changed_own, changed_cross], dim=-1)
    rows = controller.changed_rows
    sums = changed[rows].abs().sum(dim=-1, keepdim=True)
    normalized = changed.clone()  # the changed maps stay as they are, for gradients
    normalized[rows] = changed[rows] / sums
    return normalized


class OpenJointProcessor:
    """Attention of SD3 and FLUX with the picture's queries under a controller; the text's queries stay as they are.

    Where the controller has nothing to do, the layer's own processor runs.

    Source: Esser et al., Scaling rectified flow transformers, arXiv:2403.03206, section 4 and figure 2: queries, keys
    and values of both in one sequence.
    """

    def __init__(self, name: str, processor: Callable[..., Any], controller: MapController, text: TextLength):
        self.name, self.processor, self.controller, self.text = name, processor, controller, text

    def __call__(
        self,
        attn: object,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        image_rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
        **keywords: object,
    ) -> Any:
        inputs = JointInputs.read(attn, hidden_states, encoder_hidden_states, image_rotary_emb, self.text)
        queries, has_text = inputs.picture.shape[1], inputs.text is not None
        is_needed = self.controller.is_needed(self.name, False, queries)
        if not is_needed and not (has_text and self.controller.is_needed(self.name, True, queries)):
            angles = {} if image_rotary_emb is None else {"image_rotary_emb": image_rotary_emb}
            return self.processor(attn, hidden_states, encoder_hidden_states, attention_mask, **angles, **keywords)
        picture, text = Stream.of_picture(attn, inputs.picture, inputs.picture_angles), Stream.of_text(attn, inputs)
        drawn = self._attend_picture(attn, inputs, picture, text)
        if text is None:
            return finish(attn, inputs, drawn, None)
        return finish(attn, inputs, drawn, attend(text.query, (picture.key, picture.value), (text.key, text.value)))

    def _attend_picture(self, attn: Any, inputs: JointInputs, picture: Stream, text: Stream | None) -> torch.Tensor:
        looked_at = self.controller.change_source(self.name, inputs.picture)
        raw_query, raw_key = self.controller.change_projections(attn.to_q(inputs.picture), attn.to_k(looked_at))
        query = project(attn, raw_query, "norm_q", inputs.picture_angles)
        keys = project(attn, raw_key, "norm_k", inputs.picture_angles)
        keys, values = self.controller.change_keys(keys, project(attn, attn.to_v(looked_at), "", None))
        tokens, seen = 0, keys.shape[2]
        if text is not None:
            keys, values = torch.cat([keys, text.key], dim=2), torch.cat([values, text.value], dim=2)
            tokens = text.key.shape[2]
        if not self.controller.changes_maps:
            shift = math.log(inputs.picture.shape[1] / seen) if self.controller.keeps_text_share and tokens else 0.0
            return attend(query, (keys, values), bias=_weigh_picture(query, keys, seen, shift) if shift else None)
        maps = (query @ keys.transpose(2, 3) * query.shape[-1] ** -0.5).softmax(dim=-1)
        return (change_joint_maps(self.controller, maps, tokens) @ values).transpose(1, 2).flatten(2)


def _weigh_picture(query: torch.Tensor, keys: torch.Tensor, pictures: int, shift: float) -> torch.Tensor:
    """What is added to the scores of all keys, (1, 1, 1, keys): the shift to the picture's, nothing to the text's."""
    bias = query.new_zeros(1, 1, 1, keys.shape[2])
    bias[..., :pictures] = shift
    return bias.expand(1, 1, query.shape[2], -1)
