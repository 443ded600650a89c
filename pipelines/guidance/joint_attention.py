"""Joint attention of a prompt's tokens and a picture's, as SD3 and FLUX have it, taken apart into both."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F

__all__ = [
    "JointInputs",
    "Stream",
    "TextLength",
    "attend",
    "find_joint_layers",
    "finish",
    "note_text_length",
    "project",
]

Angles = tuple["torch.Tensor", "torch.Tensor"]


@dataclasses.dataclass
class TextLength:
    """Holds how many tokens the prompt has in the present evaluation, which FLUX's single blocks don't say."""

    tokens: int = 0


@contextlib.contextmanager
def note_text_length(network: torch.nn.Module) -> Iterator[TextLength]:
    """Provide the prompt's number of tokens, noted as a transformer begins."""
    text, transformer = TextLength(), _as_any(network)

    def note(_: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        text.tokens = arguments[0].shape[1]

    handle = transformer.context_embedder.register_forward_pre_hook(note)
    try:
        yield text
    finally:
        handle.remove()


def find_joint_layers(network: torch.nn.Module) -> list[torch.nn.Module]:
    """List the layers in which a transformer's picture sees the prompt, as they are evaluated; none of a UNet."""
    transformer = _as_any(network)
    if not hasattr(transformer, "context_embedder") or not hasattr(transformer, "transformer_blocks"):
        return []
    return [
        block.attn
        for block in [*transformer.transformer_blocks, *getattr(transformer, "single_transformer_blocks", ())]
    ]


@dataclasses.dataclass(frozen=True)
class JointInputs:
    """Holds what a layer is given, apart.

    Attributes:
        picture: (R, I, C) tokens.
        text: (R, T, C) tokens; None in a layer that sees the picture alone, as SD3.5's second ones.
        shares_weights: whether both have the same projections and come out in one row, as in FLUX's single blocks.
        picture_angles, text_angles: rotary embeddings (tokens, D) each; None where there are none.
    """

    picture: torch.Tensor
    text: torch.Tensor | None
    shares_weights: bool
    picture_angles: Angles | None
    text_angles: Angles | None

    @classmethod
    def read(
        cls,
        layer: object,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None,
        angles: Angles | None,
        text: TextLength,
    ) -> JointInputs:
        """Take apart what a layer's processor is called with."""
        shares = encoder_hidden_states is None and bool(getattr(layer, "pre_only", False))
        if shares:
            encoder_hidden_states, hidden_states = hidden_states[:, : text.tokens], hidden_states[:, text.tokens :]
        count = 0 if encoder_hidden_states is None else encoder_hidden_states.shape[1]
        if angles is None:
            return cls(hidden_states, encoder_hidden_states, shares, None, None)
        first, second = angles
        return cls(
            hidden_states,
            encoder_hidden_states,
            shares,
            (first[count:], second[count:]),
            (first[:count], second[:count]),
        )


@dataclasses.dataclass(frozen=True)
class Stream:
    """Holds queries, keys and values (R, heads, tokens, D) of the picture or of the text."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor

    @classmethod
    def of_picture(cls, layer: Any, tokens: torch.Tensor, angles: Angles | None) -> Stream:
        """Project the picture's tokens (R, I, C)."""
        query, key, value = layer.to_q(tokens), layer.to_k(tokens), layer.to_v(tokens)
        return cls(
            project(layer, query, "norm_q", angles),
            project(layer, key, "norm_k", angles),
            project(layer, value, "", None),
        )

    @classmethod
    def of_text(cls, layer: Any, inputs: JointInputs) -> Stream | None:
        """Project the text's tokens by their own weights, or by the picture's where they share them."""
        if inputs.text is None:
            return None
        if inputs.shares_weights:
            return cls.of_picture(layer, inputs.text, inputs.text_angles)
        query, key, value = layer.add_q_proj(inputs.text), layer.add_k_proj(inputs.text), layer.add_v_proj(inputs.text)
        return cls(
            project(layer, query, "norm_added_q", inputs.text_angles),
            project(layer, key, "norm_added_k", inputs.text_angles),
            project(layer, value, "", None),
        )


def project(layer: Any, tokens: torch.Tensor, norm: str, angles: Angles | None) -> torch.Tensor:
    """Bring projected tokens (R, S, heads * D) to heads (R, heads, S, D), normalized and turned by their places.

    Args:
        layer: whose heads and norms are taken.
        tokens: what its projection gave.
        norm: name of the layer's norm; "" for none.
        angles: rotary embedding of the tokens; repeated where there are more tokens than angles.
    """
    heads = tokens.unflatten(2, (layer.heads, -1)).transpose(1, 2)
    normalize = getattr(layer, norm) if norm else None
    if normalize is not None:
        heads = normalize(heads)
    if angles is None:
        return heads
    repeats = heads.shape[2] // len(angles[0])
    return turn(heads, angles[0].repeat(repeats, 1), angles[1].repeat(repeats, 1))


def turn(heads: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    """Turn each pair of neighboring channels of (R, heads, S, D) by its angle, (S, D) each, in float32 at least.

    Source: Su et al., RoFormer, arXiv:2104.09864, equation 34.
    """
    dtype = torch.promote_types(heads.dtype, torch.float32)
    first, second = heads.unflatten(-1, (-1, 2)).unbind(-1)
    crossed = torch.stack([-second, first], dim=-1).flatten(-2)
    return (heads.to(dtype) * cosines.to(dtype) + crossed.to(dtype) * sines.to(dtype)).to(heads.dtype)


def attend(
    queries: torch.Tensor, *streams: tuple[torch.Tensor, torch.Tensor], bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Compute attention of (R, heads, Q, D) queries to the keys and values of all streams, as (R, Q, heads * D).

    Args:
        queries: of the picture or of the text.
        streams: keys and values.
        bias: added to the scores, of a shape that broadcasts to (R, heads, Q, keys); None for nothing.
    """
    keys, values = (torch.cat(parts, dim=2) for parts in zip(*streams, strict=True))
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=bias).transpose(1, 2).flatten(2)


def finish(layer: Any, inputs: JointInputs, picture: torch.Tensor, text: torch.Tensor | None) -> Any:
    """Return what the layer's own processor would of the attention of picture and text, (R, tokens, heads * D)."""
    if inputs.shares_weights and text is not None:
        return torch.cat([text, picture], dim=1)
    picture = layer.to_out[1](layer.to_out[0](picture))
    if text is None:
        return picture
    return picture, text if getattr(layer, "context_pre_only", False) else layer.to_add_out(text)


def _as_any(network: torch.nn.Module) -> Any:
    return network
