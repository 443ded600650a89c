"""Attention with its maps in the open, put into a network and taken out again.

diffusers' usual attention never holds the map of probabilities. Here every attention layer writes it down, lets
a controller change it, and goes on; when the context ends the network has its own processors back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
import torch.nn.functional as F

from pipelines.edits.joint_attention import OpenJointProcessor
from pipelines.edits.map_controller import MapController
from pipelines.guidance.joint_attention import TextLength, find_joint_layers, note_text_length

__all__ = ["attention_layers", "is_optimized_alone", "opened_attention", "order_self_attention"]


def attention_layers(network: torch.nn.Module) -> dict[str, Any]:
    """Name to module of every attention layer, in the network's order."""
    return {
        name: module
        for name, module in network.named_modules()
        if hasattr(module, "set_processor") and hasattr(module, "to_q")
    }


def is_optimized_alone(rows: torch.Tensor) -> bool:
    """Say whether an evaluation is of the source's row alone, with gradients: an inversion's own, such as null-text's
    optimization, which an edit leaves as it is."""
    return len(rows) == 1 and torch.is_grad_enabled()


@contextlib.contextmanager
def opened_attention(
    network: torch.nn.Module, controller: MapController, names: Collection[str] | None = None
) -> Iterator[None]:
    """Provide the network with its attention maps under a controller while the context lasts.

    Args:
        network: a UNet or a transformer of joint attention, of diffusers; it gets the very processors back that it had,
            whatever happens.
        controller: changes the maps.
        names: of the layers that are opened; None for all.
    """
    processors = {}
    is_joint = bool(find_joint_layers(network))
    with note_text_length(network) if is_joint else contextlib.nullcontext(TextLength()) as text:
        try:
            for name, layer in attention_layers(network).items():
                if names is not None and name not in names:
                    continue
                own = processors[layer] = layer.processor
                opened = OpenJointProcessor(name, own, controller, text) if is_joint else None
                layer.set_processor(opened or _OpenProcessor(name, own, controller))
            yield
        finally:
            for layer, processor in processors.items():
                layer.set_processor(processor)


def order_self_attention(network: torch.nn.Module) -> list[str]:
    """List the layers by name in which a picture's places see each other, in the order in which they are evaluated: of
    a UNet down, middle, up; of a transformer the joint blocks, then the single ones."""
    layers = attention_layers(network)
    if joint := find_joint_layers(network):
        return [name for part in joint for name, layer in layers.items() if layer is part]
    places = ("down_blocks", "mid_block", "up_blocks")
    names = [name for name, layer in layers.items() if not layer.is_cross_attention]
    return sorted(names, key=lambda name: places.index(name.split(".")[0]))


class _OpenProcessor:
    """softmax(scale * q k^T) v written out, with the controller between softmax and v.

    Where the controller has nothing to do, the layer's own processor runs.

    Source: Vaswani et al., Attention is all you need, arXiv:1706.03762, equation 1.
    """

    def __init__(self, name: str, processor: Callable[..., Any], controller: MapController):
        self.name, self.processor, self.controller = name, processor, controller

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        residual, shape = hidden_states, hidden_states.shape
        cross = encoder_hidden_states is not None
        if not self.controller.is_needed(self.name, cross, shape[1] if len(shape) == 3 else shape[2] * shape[3]):
            return self.processor(attn, hidden_states, encoder_hidden_states, attention_mask, temb, **kwargs)
        if attn.spatial_norm is not None:
            hidden_states = attn.spatial_norm(hidden_states, temb)
        if hidden_states.ndim == 4:
            hidden_states = hidden_states.flatten(2).transpose(1, 2)
        if attn.group_norm is not None:
            hidden_states = attn.group_norm(hidden_states.transpose(1, 2)).transpose(1, 2)
        if encoder_hidden_states is None:
            keys_from = self.controller.change_source(self.name, hidden_states)
        else:
            keys_from = encoder_hidden_states
            if attn.norm_cross:
                keys_from = attn.norm_encoder_hidden_states(keys_from)
        mask = attn.prepare_attention_mask(attention_mask, keys_from.shape[1], len(hidden_states))
        query, key, value = attn.to_q(hidden_states), attn.to_k(keys_from), attn.to_v(keys_from)
        if not cross:
            query, key = self.controller.change_projections(query, key)
            key, value = self.controller.change_keys(key, value)
        query, key, value = (attn.head_to_batch_dim(part) for part in (query, key, value))
        if self.controller.changes_maps:
            maps = attn.get_attention_scores(query, key, mask).unflatten(0, (len(hidden_states), -1))
            attended = torch.bmm(self.controller.change(maps, cross).flatten(0, 1), value)
        else:
            attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=attn.scale)
        hidden_states = attn.to_out[1](attn.to_out[0](attn.batch_to_head_dim(attended)))
        if len(shape) == 4:
            hidden_states = hidden_states.transpose(1, 2).reshape(shape)
        if attn.residual_connection:
            hidden_states = hidden_states + residual
        return hidden_states / attn.rescale_output_factor
