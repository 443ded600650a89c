"""Plug-and-Play: the edit is given the source's features and self-attention inside the decoder."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence

import torch

from pipelines.core.errors import SettingsError
from pipelines.core.registry import setting
from pipelines.core.sampler import Sampler
from pipelines.edits.attention import is_optimized_alone, opened_attention, order_self_attention
from pipelines.edits.base import EditContext, UnpatchedEdit
from pipelines.edits.local_blend import LocalBlend
from pipelines.edits.map_controller import MapController
from pipelines.edits.prompt_to_prompt import Counting
from pipelines.inversions.base import SOURCE

__all__ = ["InjectedSource", "PlugAndPlay", "PlugAndPlaySettings", "find_injected_block", "injected_features"]

_BLOCK = 4 / 11
"""Where in the decoder the features are taken: Stable Diffusion's fifth of twelve residual blocks."""


@dataclasses.dataclass(frozen=True)
class PlugAndPlaySettings:
    """The settings of Plug-and-Play."""

    features_until: float = setting(
        0.8,
        "Share of the steps, from the first, in which the edit has the source's features.",
        low=0,
        high=1,
        step=0.05,
    )
    attention_until: float = setting(
        0.5,
        "Share of the steps in which the picture's parts relate to each other as in the source.",
        low=0,
        high=1,
        step=0.05,
    )


def find_injected_block(network: torch.nn.Module) -> torch.nn.Module:
    """Find the convolution whose output is injected: the second one of a residual block, before the skip is added."""
    blocks = [block for part in network.up_blocks for block in part.resnets]  # type: ignore[union-attr]
    found: torch.nn.Module = blocks[round(_BLOCK * (len(blocks) - 1))].conv2
    return found


class InjectedSource(MapController):
    """A controller that gives the edit's rows what the source's row of the same branch has.

    The rows of an evaluation are (source, edit), with guidance (source, edit, source, edit).

    Args:
        layers: names of the layers of self-attention.
        features_until, attention_until: shares of the steps.
        rows: that an evaluation has.
    """

    def __init__(self, layers: Sequence[str], features_until: float, attention_until: float, rows: int):
        self.layers, self.rows = frozenset(layers), rows
        self.features_until, self.attention_until = features_until, attention_until
        self.share_done = 0.0

    def is_needed(self, layer: str, cross: bool, queries: int) -> bool:
        return not cross and layer in self.layers and self.share_done < self.attention_until

    def change(self, maps: torch.Tensor, cross: bool) -> torch.Tensor:
        return self.inject(maps)

    def change_features(self, features: torch.Tensor) -> torch.Tensor:
        """Return what a residual block adds to its input: (R, C, h, w)."""
        return self.inject(features) if self.share_done < self.features_until else features

    def inject(self, rows: torch.Tensor) -> torch.Tensor:
        """Compute (source, source) of every pair (source, edit)."""
        if is_optimized_alone(rows):
            return rows
        if len(rows) != self.rows:
            raise SettingsError(
                f"Plug-and-Play needs all {self.rows} rows of an evaluation at once; it was given {len(rows)}. Let the "
                "model evaluate more rows together."
            )
        pairs = rows.unflatten(0, (-1, 2))
        return torch.stack([pairs[:, SOURCE], pairs[:, SOURCE]], dim=1).flatten(0, 1)


@contextlib.contextmanager
def injected_features(block: torch.nn.Module, controller: InjectedSource) -> Iterator[None]:
    """Provide a convolution whose output the controller changes while the context lasts."""
    handle = block.register_forward_hook(lambda module, inputs, output: controller.change_features(output))
    try:
        yield
    finally:
        handle.remove()


class PlugAndPlay(UnpatchedEdit):
    """Keeps the source's layout, down to its parts, and lets everything else follow the prompt.

    Source: Tumanyan et al., Plug-and-play diffusion features for text-driven image-to-image translation,
    arXiv:2211.12572, algorithm 1: features of decoder layer 4 in the first 80 % of the steps, self-attention of
    layers 4 to 11 in the first 50 %.
    Differs: layers are a share of the decoder, so that UNets of other depths are taken; the source's row has its prompt
    and the edit's guidance, as in the other edits here, where theirs has the empty prompt, and a drawn mask keeps the
    edit inside it. The negative prompt is the person's own; theirs blends it with the source's.
    """

    inverts = True

    def __init__(self, settings: PlugAndPlaySettings = PlugAndPlaySettings()):
        self.settings = settings

    @property
    def looks_until(self) -> float:
        return max(self.settings.features_until, self.settings.attention_until)

    @contextlib.contextmanager
    def applied(self, context: EditContext) -> Iterator[Sampler]:
        settings, layers = self.settings, order_self_attention(context.network)
        decoder = [name for name in layers if name.startswith("up_blocks")]
        # The first of Stable Diffusion's nine lies before the block whose features are taken.
        chosen = decoder[round(len(decoder) / 9) :]
        rows = 4 if context.guided else 2
        controller = InjectedSource(chosen, settings.features_until, settings.attention_until, rows)
        block = find_injected_block(context.network)
        sampler: Sampler = Counting(context.sampler, controller)
        with opened_attention(context.network, controller), injected_features(block, controller):
            yield sampler if context.mask is None else LocalBlend(sampler, context.mask)
