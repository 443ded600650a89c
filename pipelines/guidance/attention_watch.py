"""A UNet that notes what its attention sees while it runs as it always does."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from pipelines.core.errors import MethodFitError
from pipelines.core.prediction import Network
from pipelines.guidance.perturbations import find_network, note_grids

__all__ = ["AttentionWatch", "cross_attentions"]

Grid = tuple[int, int]


def cross_attentions(unet: torch.nn.Module) -> list[torch.nn.Module]:
    """List a UNet's layers of attention to the prompt, in its order.

    Raises:
        MethodFitError: there is none.
    """
    layers = [part for name, part in unet.named_modules() if name.endswith("attn2") and "motion_modules" not in name]
    if not layers:
        raise MethodFitError(
            "This network has no attention to the prompt that could be watched or led. Choose another guidance."
        )
    return layers


class AttentionWatch:
    """Gives the maps of chosen attention layers to `see`; what the network says stays bit for bit the same.

    Args:
        choose: the layers of a network.
        see: called with each layer's map (R, heads, queries, keys), with its gradients where there are any, and the
            height and width of its queries. A batch that is evaluated in parts is seen in parts.
    """

    def __init__(
        self,
        choose: Callable[[torch.nn.Module], Sequence[torch.nn.Module]],
        see: Callable[[torch.nn.Module, torch.Tensor, Grid], None],
    ):
        self._choose, self._see = choose, see

    @contextlib.contextmanager
    def applied(self, network: Network) -> Iterator[None]:
        module = find_network(network)
        layers: list[Any] = list(self._choose(module))
        processors = [layer.processor for layer in layers]
        with note_grids(module, layers) as grids:
            try:
                for layer, processor in zip(layers, processors, strict=True):
                    layer.set_processor(_WatchedProcessor(processor, self._see, grids))
                yield
            finally:
                for layer, processor in zip(layers, processors, strict=True):
                    layer.set_processor(processor)


class _WatchedProcessor:
    """A layer's own processor, with its map computed aside."""

    def __init__(self, processor: Callable[..., Any], see: Callable[..., None], grids: dict[int, Grid]):
        self._processor, self._see, self._grids = processor, see, grids

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        **keywords: Any,
    ) -> Any:
        keys_from = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        # In a UNet's transformer blocks attention has neither norms nor masks of its own.
        query, key = (attn.head_to_batch_dim(one) for one in (attn.to_q(hidden_states), attn.to_k(keys_from)))
        maps = attn.get_attention_scores(query, key, None).unflatten(0, (len(hidden_states), -1))
        self._see(attn, maps, self._grids[id(attn)])
        return self._processor(attn, hidden_states, encoder_hidden_states, attention_mask, **keywords)
