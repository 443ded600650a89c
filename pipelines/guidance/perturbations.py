"""Ways to make a network worse on purpose: attention without a view, blurred queries, left-out blocks."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from pipelines.core.devices import upload
from pipelines.core.errors import MethodFitError
from pipelines.core.prediction import Network

__all__ = [
    "BlurredQueries",
    "IdentityAttention",
    "RoundedWeights",
    "SkippedBlocks",
    "blur_matrix",
    "find_network",
    "note_grids",
    "round_weights",
    "self_attentions",
]

PLACES = ("middle", "all")
"""Where in a UNet attention is changed."""


def find_network(network: Network) -> torch.nn.Module:
    """Find the one network of a model whose layers could be changed.

    Raises:
        MethodFitError: there is none.
    """
    module = getattr(network, "network", None)
    if not isinstance(module, torch.nn.Module):
        raise MethodFitError(
            "This model has no network of its own whose layers could be changed. Choose another guidance."
        )
    return module


def self_attentions(unet: torch.nn.Module, place: str) -> list[torch.nn.Module]:
    """List a UNet's self-attention layers, in its order.

    Args: place: "middle" for the middle block's, "all" for all.
    Raises: MethodFitError: there is none.
    """
    layers = [
        module
        for name, module in unet.named_modules()
        if name.endswith("attn1") and "motion_modules" not in name and (place == "all" or "mid_block" in name)
    ]
    if not layers:
        raise MethodFitError(f"This UNet has no self-attention in {'any' if place == 'all' else 'its middle'} block.")
    return layers


@dataclasses.dataclass(frozen=True)
class IdentityAttention:
    """Lets every token of self-attention see itself alone.

    Attributes:
        place: of `PLACES`.

    Source: Ahn et al., Self-rectifying diffusion sampling with perturbed-attention guidance, arXiv:2403.17377,
        section 4.2: the map is the identity matrix, so that what comes out are the values.
    """

    place: str = "middle"

    @contextlib.contextmanager
    def applied(self, network: Network) -> Iterator[None]:
        layers: list[Any] = list(self_attentions(find_network(network), self.place))
        processors = [layer.processor for layer in layers]
        try:
            for layer in layers:
                layer.set_processor(_IdentityProcessor())
            yield
        finally:
            for layer, processor in zip(layers, processors, strict=True):
                layer.set_processor(processor)


class _IdentityProcessor:
    """Attention of a transformer block whose map is the identity matrix."""

    def __call__(self, attn: Any, hidden_states: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        # In a UNet's transformer blocks attention has neither norms nor a residual connection of its own.
        return attn.to_out[1](attn.to_out[0](attn.to_v(hidden_states)))


def blur_matrix(size: int, sigma: float, dtype: torch.dtype | None = None, reach: int | None = None) -> torch.Tensor:
    """Build the matrix (size, size) that blurs a row of values by a Gaussian, mirrored at both ends.

    Args:
        size: values in a row.
        sigma: of the Gaussian, in values; infinite for the mean of all.
        dtype: of the matrix; None for float32.
        reach: values on each side; None for three sigma.
    """
    dtype = dtype or torch.float32
    if math.isinf(sigma):
        return torch.full((size, size), 1 / size, dtype=dtype)
    reach = min(math.ceil(3 * sigma), 16 * size) if reach is None else reach
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float64)
    weights = torch.exp(-(offsets**2) / (2 * sigma**2))
    weights = weights / weights.sum()
    places = torch.arange(size)[:, None] + offsets.long()
    period = max(2 * (size - 1), 1)
    places = places.remainder(period)
    places = torch.where(places < size, places, period - places)
    matrix = torch.zeros(size, size, dtype=torch.float64)
    return matrix.scatter_add_(1, places, weights.expand(size, -1).contiguous()).to(dtype)


@dataclasses.dataclass(frozen=True)
class BlurredQueries:
    """Blurs the queries of self-attention over the picture.

    Attributes:
        sigma: of the Gaussian, in tokens.
        place: of `PLACES`.

    Source: Hong, Smoothed energy guidance, arXiv:2408.00760, section 4.2 and equation 11: blurring the queries blurs
        the attention's weights, which flattens its energy.
    """

    sigma: float
    place: str = "middle"

    @contextlib.contextmanager
    def applied(self, network: Network) -> Iterator[None]:
        module = find_network(network)
        layers = self_attentions(module, self.place)
        handles = []
        with note_grids(module, layers) as grids:
            try:
                for layer in layers:
                    queries: Any = layer.to_q
                    handles.append(queries.register_forward_hook(self._blur_output(grids, layer)))
                yield
            finally:
                for handle in handles:
                    handle.remove()

    def _blur_output(self, grids: dict[int, tuple[int, int]], layer: torch.nn.Module) -> Any:
        def blur(_: torch.nn.Module, arguments: object, queries: torch.Tensor) -> torch.Tensor:
            height, width = grids[id(layer)]
            rows, columns = (
                upload(blur_matrix(side, self.sigma), queries.device, queries.dtype) for side in (height, width)
            )
            grid = queries.unflatten(1, (height, width))
            return torch.einsum("hi,wj,bijd->bhwd", rows, columns, grid).flatten(1, 2)

        return blur


@contextlib.contextmanager
def note_grids(unet: torch.nn.Module, layers: Sequence[torch.nn.Module]) -> Iterator[dict[int, tuple[int, int]]]:
    """Yield a mapping from a layer's id to height and width of its tokens, filled as the network runs."""
    grids: dict[int, tuple[int, int]] = {}
    handles = []
    try:
        for transformer in unet.modules():
            if type(transformer).__name__ != "Transformer2DModel":
                continue
            inside = [layer for layer in layers if any(layer is part for part in transformer.modules())]
            if inside:
                handles.append(transformer.register_forward_pre_hook(_note_grid(grids, inside), with_kwargs=True))
        yield grids
    finally:
        for handle in handles:
            handle.remove()


def _note_grid(grids: dict[int, tuple[int, int]], layers: list[torch.nn.Module]) -> Any:
    def note(_: torch.nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        hidden = arguments[0] if arguments else keywords["hidden_states"]
        for layer in layers:
            grids[id(layer)] = (int(hidden.shape[-2]), int(hidden.shape[-1]))

    return note


@dataclasses.dataclass(frozen=True)
class SkippedBlocks:
    """Leaves blocks of a joint transformer out, as if they were not there.

    Attributes:
        first, last: the blocks' numbers, from 0, both included.

    Source: Stability AI's inference code for Stable Diffusion 3.5 (skip-layer guidance).
    """

    first: int
    last: int

    @contextlib.contextmanager
    def applied(self, network: Network) -> Iterator[None]:
        blocks = list(getattr(find_network(network), "transformer_blocks", ()))
        skipped: list[Any] = blocks[self.first : self.last + 1]
        if not skipped:
            raise MethodFitError(
                f"The transformer has {len(blocks)} blocks, none from {self.first} to {self.last}: choose lower ones."
            )
        try:
            for block in skipped:
                block.forward = _pass_through
            yield
        finally:
            for block in skipped:
                del block.forward


def _pass_through(
    hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor, *_: object, **__: object
) -> tuple[torch.Tensor, torch.Tensor]:
    return encoder_hidden_states, hidden_states


@dataclasses.dataclass(frozen=True)
class RoundedWeights:
    """Rounds the weights of linear layers and convolutions coarsely, each output channel on a scale of its own.

    They are rounded anew at each evaluation, so that memory holds them once.

    Attributes:
        bits: of a weight, its sign among them.
    """

    bits: int

    @contextlib.contextmanager
    def applied(self, network: Network) -> Iterator[None]:
        kinds = (torch.nn.Linear, torch.nn.modules.conv._ConvNd)
        layers: list[Any] = [layer for layer in find_network(network).modules() if isinstance(layer, kinds)]
        layers = [layer for layer in layers if _is_plain(layer.weight)]
        if not layers:
            raise MethodFitError("The network has no plain weights that could be rounded: it is quantized already.")
        weights = [layer.weight for layer in layers]
        try:
            for layer, weight in zip(layers, weights, strict=True):
                with torch.no_grad():
                    layer._parameters["weight"] = round_weights(weight, self.bits)
            yield
        finally:
            for layer, weight in zip(layers, weights, strict=True):
                layer._parameters["weight"] = weight


def _is_plain(weight: torch.Tensor) -> bool:
    """Whether a weight is numbers, and not packed by a quantizer."""
    return weight.is_floating_point() and not type(weight).__module__.startswith("torchao")


def round_weights(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """Round to the nearest of 2^bits - 1 levels that are even between the largest of each row and its negative.

    Args:
        weight: (rows, ...).
        bits: at least 2.
    """
    levels = 2 ** (bits - 1) - 1
    largest = weight.abs().flatten(1).amax(1).clamp(min=1e-12).view(-1, *[1] * (weight.ndim - 1))
    return (weight / largest * levels).round() * (largest / levels)
