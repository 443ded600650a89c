"""A UNet cut below one of its skip connections: what lies deeper is left out, and its output given."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

from pipelines.caches.networks import replaced_forwards
from pipelines.core.errors import MethodFitError

__all__ = ["UNetCut"]

_BLOCKS = {"DownBlock2D", "CrossAttnDownBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"}

Forward = Callable[..., Any]


class UNetCut:
    """Cuts a UNet2DConditionModel where its way up takes skip connection `depth`, counted from the first convolution.

    The feature is what comes from below into the layer that takes that connection. What is run afresh are the layers
    down to that connection, and those up from it.

    Args:
        unet: of diffusers, its blocks with or without cross-attention.
        depth: 0 for the shallowest cut: the first convolution, the last layer and the last convolution are run.

    Attributes:
        skipped: the layers that are left out.

    Raises:
        MethodFitError: the network has other blocks, or fewer skip connections.

    Source: Ma et al., DeepCache: Accelerating diffusion models for free, arXiv:2312.00858, section 3.2.
    """

    def __init__(self, unet: Any, depth: int):
        blocks = [*unet.down_blocks, *unet.up_blocks]
        if odd := next((type(block).__name__ for block in blocks if type(block).__name__ not in _BLOCKS), None):
            raise MethodFitError(f"This UNet has blocks of the kind {odd}, which a cache cannot run in part.")
        counts = [len(block.resnets) + bool(block.downsamplers) for block in unet.down_blocks]
        total = 1 + sum(counts)
        if depth >= total:
            raise MethodFitError(f"This UNet has {total} skip connections: choose a depth of at most {total - 1}.")
        self._down: dict[Any, int] = {}
        self._up: list[Any] = []
        skipped: list[Any] = [unet.mid_block] if unet.mid_block is not None else []
        rest = depth
        for block, count in zip(unet.down_blocks, counts, strict=True):
            if rest < count:
                self._down[block] = rest
                skipped += [layer for layers in _layers(block)[rest:] for layer in layers]
            rest = max(rest - count, 0)
        position = total
        for block in unet.up_blocks:
            position -= len(block.resnets)
            first = max(position + len(block.resnets) - 1 - depth, 0)
            if first < len(block.resnets):
                self._cut, self._first = block, first
                break
            self._up.append(block)
            skipped += [layer for layers in _layers(block) for layer in layers]
        skipped += [layer for layers in _layers(self._cut)[:first] for layer in layers]
        self.skipped = tuple(skipped)
        self._mid = unet.mid_block
        skip_channels = _skip_channels(unet, depth)
        self._channels = self._cut.resnets[self._first].in_channels - skip_channels

    @contextlib.contextmanager
    def captured(self, keep: Callable[[torch.Tensor], None]) -> Iterator[None]:
        resnet = self._cut.resnets[self._first]
        forward = resnet.forward

        def capture(hidden_states: torch.Tensor, *arguments: object, **keywords: object) -> Any:
            keep(hidden_states[:, : self._channels])
            return forward(hidden_states, *arguments, **keywords)

        with replaced_forwards({resnet: capture}):
            yield

    @contextlib.contextmanager
    def resumed(self, feature: torch.Tensor) -> Iterator[None]:
        forwards: dict[torch.nn.Module, Forward] = {
            **{block: _run_down(block, kept) for block, kept in self._down.items()},
            **dict.fromkeys(self._up, _pass_on),
            self._cut: _run_up(self._cut, self._first, feature),
        }
        if self._mid is not None:
            forwards[self._mid] = _pass_on
        with replaced_forwards(forwards):
            yield


def _layers(block: object) -> list[list[torch.nn.Module]]:
    """A block's layers: each residual layer with its attention, then the changes of size."""
    scalers = getattr(block, "downsamplers", None) or getattr(block, "upsamplers", None)
    return [*_pair_up(block), *([list(scalers)] if scalers else [])]


def _pair_up(block: Any) -> list[list[torch.nn.Module]]:
    attentions = getattr(block, "attentions", None)
    if attentions is None:
        return [[resnet] for resnet in block.resnets]
    return [list(pair) for pair in zip(block.resnets, attentions, strict=True)]


def _skip_channels(unet: Any, depth: int) -> int:
    """Channels of a skip connection."""
    channels = [unet.conv_in.out_channels]
    for block in unet.down_blocks:
        channels += [resnet.out_channels for resnet in block.resnets]
        channels += channels[-1:] if block.downsamplers else []
    return int(channels[depth])


def _run_layer(layers: list[Any], hidden: torch.Tensor, temb: object, keywords: dict[str, Any]) -> torch.Tensor:
    hidden = layers[0](hidden, temb)
    for attention in layers[1:]:
        names = ("encoder_hidden_states", "cross_attention_kwargs", "attention_mask", "encoder_attention_mask")
        given = {name: keywords.get(name) for name in names}
        hidden = attention(hidden, **given, return_dict=False)[0]
    return hidden


def _run_down(block: Any, kept: int) -> Forward:
    """A way down that makes the block's first skip connections alone, with empty tensors in the place of the others.

    The network asks for their sizes where it cannot halve its latents evenly, and gives them to blocks left out.
    """
    total = len(block.resnets) + bool(block.downsamplers)

    def run(
        hidden_states: torch.Tensor, temb: object = None, **keywords: object
    ) -> tuple[torch.Tensor, tuple[Any, ...]]:
        outputs: list[Any] = []
        for layers in _pair_up(block)[:kept]:
            hidden_states = _run_layer(layers, hidden_states, temb, keywords)
            outputs.append(hidden_states)
        empty = hidden_states.new_empty(0, 0, 1, 1)
        return hidden_states, (*outputs, *[empty] * (total - len(outputs)))

    return run


def _pass_on(hidden_states: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
    return hidden_states


def _run_up(block: Any, first: int, feature: torch.Tensor) -> Forward:
    """A way up that begins at one of the block's layers, with the feature from below."""

    def run(
        hidden_states: torch.Tensor,
        res_hidden_states_tuple: tuple[torch.Tensor, ...],
        temb: Any = None,
        upsample_size: Any = None,
        **keywords: Any,
    ) -> torch.Tensor:
        hidden = feature
        for place, layers in list(enumerate(_pair_up(block)))[first:]:
            hidden = torch.cat([hidden, res_hidden_states_tuple[len(block.resnets) - 1 - place]], dim=1)
            hidden = _run_layer(layers, hidden, temb, keywords)
        for upsampler in block.upsamplers or ():
            hidden = upsampler(hidden, upsample_size)
        return hidden

    return run
