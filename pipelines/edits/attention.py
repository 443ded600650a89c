"""Attention with its maps in the open, put into a UNet and taken out again.

diffusers' usual attention never holds the map of probabilities. Here every attention layer writes it down, lets
a controller change it, and goes on; when the context ends the network has its own processors back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Protocol

import torch

__all__ = ["MapController", "attention_layers", "is_optimized_alone", "opened_attention"]


class MapController(Protocol):
    """Sees and may change every attention map of a network."""

    def change_source(self, layer: str, hidden_states: torch.Tensor) -> torch.Tensor:
        """Return what keys and values are made of in a layer of self-attention.

        Args:
            layer: the name of the layer.
            hidden_states: (R, places, channels), R the rows of the evaluation.
        """

    def change(self, maps: torch.Tensor, cross: bool) -> torch.Tensor:
        """Return the maps to use.

        Args:
            maps: (R, heads, queries, keys) probabilities, R the rows of the evaluation.
            cross: whether the keys are the prompt's tokens.
        """


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
def opened_attention(network: torch.nn.Module, controller: MapController) -> Iterator[None]:
    """Provide the network with its attention maps under a controller while the context lasts.

    Args:
        network: a UNet of diffusers; it gets the very processors back that it had, whatever happens.
        controller: changes the maps.
    """
    processors = {}
    try:
        for name, layer in attention_layers(network).items():
            processors[layer] = layer.processor
            layer.set_processor(_OpenProcessor(name, controller))
        yield
    finally:
        for layer, processor in processors.items():
            layer.set_processor(processor)


class _OpenProcessor:
    """softmax(scale * q k^T) v written out, with the controller between softmax and v.

    Source: Vaswani et al., Attention is all you need, arXiv:1706.03762, equation 1.
    """

    def __init__(self, name: str, controller: MapController):
        self.name, self.controller = name, controller

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
        if attn.spatial_norm is not None:
            hidden_states = attn.spatial_norm(hidden_states, temb)
        if hidden_states.ndim == 4:
            hidden_states = hidden_states.flatten(2).transpose(1, 2)
        if attn.group_norm is not None:
            hidden_states = attn.group_norm(hidden_states.transpose(1, 2)).transpose(1, 2)
        cross = encoder_hidden_states is not None
        if encoder_hidden_states is None:
            keys_from = self.controller.change_source(self.name, hidden_states)
        else:
            keys_from = encoder_hidden_states
            if attn.norm_cross:
                keys_from = attn.norm_encoder_hidden_states(keys_from)
        mask = attn.prepare_attention_mask(attention_mask, keys_from.shape[1], len(hidden_states))
        query, key, value = (
            attn.head_to_batch_dim(part)
            for part in (attn.to_q(hidden_states), attn.to_k(keys_from), attn.to_v(keys_from))
        )
        maps = attn.get_attention_scores(query, key, mask).unflatten(0, (len(hidden_states), -1))
        maps = self.controller.change(maps, cross).flatten(0, 1)
        hidden_states = attn.to_out[1](attn.to_out[0](attn.batch_to_head_dim(torch.bmm(maps, value))))
        if len(shape) == 4:
            hidden_states = hidden_states.transpose(1, 2).reshape(shape)
        if attn.residual_connection:
            hidden_states = hidden_states + residual
        return hidden_states / attn.rescale_output_factor
