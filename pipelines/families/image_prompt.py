"""IP-Adapter: the tokens of a picture beside those of the prompt, in a cross-attention of their own.

The network is not changed: while it is evaluated, hooks add what the picture says to what each cross-attention says.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from pipelines.core.errors import ModelFileError

if TYPE_CHECKING:
    from pipelines.families.ip_adapter import IpAdapter

__all__ = ["IMAGE_SCALE", "IMAGE_TOKENS", "applied_image_prompt", "require_attentions"]

IMAGE_TOKENS, IMAGE_SCALE = "image_tokens", "image_scale"
"""Names of the tensors of a conditioning: the picture's tokens, (B, T, D), and the factor on what they say, (B,)."""


def list_text_attentions(network: Any) -> list[Any]:
    """List a UNet's cross-attentions in the order in which IP-Adapters number them, that of diffusers' processors."""
    names = [name.removesuffix(".processor") for name in network.attn_processors]
    return [network.get_submodule(name) for name in names if name.endswith(".attn2")]


@contextlib.contextmanager
def applied_image_prompt(
    network: object, adapter: IpAdapter | None, tensors: Mapping[str, torch.Tensor]
) -> Iterator[None]:
    """Add what a picture says to a UNet's cross-attentions for one evaluation; nothing without tokens.

    Args:
        network: the UNet.
        adapter: the weights.
        tensors: of the conditioning.

    Source: Ye et al., IP-Adapter, arXiv:2308.06721, equations 4 and 5.
    """
    if adapter is None or IMAGE_TOKENS not in tensors:
        yield
        return
    attentions = list_text_attentions(network)
    with contextlib.ExitStack() as hooks:
        for attention, key, value in zip(attentions, adapter.keys, adapter.values, strict=True):
            hook = _build_hook(attention, key, value, tensors[IMAGE_TOKENS], tensors[IMAGE_SCALE])
            hooks.callback(attention.register_forward_hook(hook, with_kwargs=True).remove)
        yield


def _build_hook(
    attention: Any, key: torch.nn.Module, value: torch.nn.Module, tokens: torch.Tensor, scale: torch.Tensor
) -> Any:
    def add(module: Any, arguments: tuple[Any, ...], keywords: dict[str, Any], output: torch.Tensor) -> torch.Tensor:
        hidden = arguments[0] if arguments else keywords["hidden_states"]
        query = _split_heads(attention.to_q(hidden), attention.heads)
        keys, values = (_split_heads(layer(tokens.to(hidden.dtype)), attention.heads) for layer in (key, value))
        seen = F.scaled_dot_product_attention(query, keys, values).transpose(1, 2).flatten(2)
        # The last layer is linear: of its bias the text's half has had its share.
        projected = attention.to_out[0](seen)
        if attention.to_out[0].bias is not None:
            # Where the network comes layer by layer, its bias waits in the computer's memory again.
            projected = projected - attention.to_out[0].bias.to(projected.device)
        return output + scale.to(hidden.dtype)[:, None, None] * projected / attention.rescale_output_factor

    return add


def _split_heads(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    return tensor.unflatten(-1, (heads, -1)).transpose(1, 2)


def require_attentions(adapter: IpAdapter, network: object) -> None:
    """Refuse an adapter of another network.

    Raises:
        ModelFileError: its numbers of attentions or its widths are others.
    """
    attentions = list_text_attentions(network)
    widths = [(layer.in_features, layer.out_features) for layer in adapter.keys if isinstance(layer, torch.nn.Linear)]
    if widths != [(one.cross_attention_dim, one.inner_kv_dim) for one in attentions]:
        raise ModelFileError("The IP-Adapter was made for another network. Choose one for this model.")
