"""StyleAligned: the edit's self-attention looks at a reference picture too, and takes over its statistics."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

import torch

from pipelines.core.errors import SettingsError
from pipelines.core.registry import setting
from pipelines.core.sampler import Sampler
from pipelines.edits.attention import attention_layers, is_optimized_alone, opened_attention
from pipelines.edits.base import EditContext
from pipelines.edits.masactrl import order_self_attention
from pipelines.edits.reference import (
    REFERENCE_PROMPT,
    ReferenceEdit,
    adapt_to_reference,
    build_strength_setting,
    count_rows,
)
from pipelines.inversions.base import SOURCE, TARGET

__all__ = ["SharedAttention", "StyleAligned", "StyleAlignedSettings", "adapted_projections"]

_TOKENS = (1,)


@dataclasses.dataclass(frozen=True)
class StyleAlignedSettings:
    """The settings of StyleAligned."""

    reference_prompt: str = setting("", REFERENCE_PROMPT, label="Reference prompt")
    strength: float = build_strength_setting()
    attention: float = setting(
        2.0,
        "Factor on how much the edit looks at the reference: 1 as much as at itself, 0 not at all.",
        low=0,
        high=8,
        step=0.1,
    )
    adapt: bool = setting(True, "Whether queries and keys take over the reference's mean and spread.")


class SharedAttention:
    """A controller whose self-attention has the keys and values of the reference beside each row's own.

    The rows of an evaluation are (reference, edit), with guidance (reference, edit, reference, edit). A reference's row
    has its own keys twice, which changes nothing.

    Args:
        factor: on the edit's attention to the reference, before the maps are normalized again: exp of the shift of the
            scores.
        rows: that an evaluation has.

    Source: Hertz et al., Style aligned image generation via shared attention, arXiv:2312.02133, equation 5; the factor
    2 is the shift log 2 of its section 5.
    """

    def __init__(self, factor: float, rows: int):
        self.factor, self.rows = factor, rows

    def change_source(self, layer: str, hidden_states: torch.Tensor) -> torch.Tensor:
        if is_optimized_alone(hidden_states):
            return hidden_states
        if len(hidden_states) != self.rows:
            raise SettingsError(
                f"StyleAligned needs all {self.rows} rows of an evaluation at once; it was given {len(hidden_states)}. "
                "Let the model evaluate more rows together."
            )
        pairs = hidden_states.unflatten(0, (-1, 2))
        references = torch.stack([pairs[:, SOURCE], pairs[:, SOURCE]], dim=1).flatten(0, 1)
        return torch.cat([hidden_states, references], dim=1)

    def change(self, maps: torch.Tensor, cross: bool) -> torch.Tensor:
        if cross or is_optimized_alone(maps) or self.factor == 1:
            return maps
        places = maps.shape[-1] // 2
        weights = torch.ones(2, 1, 1, maps.shape[-1], dtype=maps.dtype, device=maps.device)
        weights[TARGET, ..., places:] = self.factor
        weighted = maps * weights.repeat(len(maps) // 2, 1, 1, 1)
        return weighted / weighted.sum(dim=-1, keepdim=True)


@contextlib.contextmanager
def adapted_projections(network: torch.nn.Module) -> Iterator[None]:
    """Provide a network whose self-attention takes the edit's queries and own keys to the reference's statistics.

    Source: as `SharedAttention`, equation 4.
    """

    def adapt(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        if is_optimized_alone(output):
            return output
        return adapt_to_reference(output, _TOKENS)

    def adapt_own(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        if is_optimized_alone(output):
            return output
        own, shared = output.chunk(2, dim=1)
        return torch.cat([adapt_to_reference(own, _TOKENS), shared], dim=1)

    handles, layers = [], attention_layers(network)
    try:
        for name in order_self_attention(network):
            handles.append(layers[name].to_q.register_forward_hook(adapt))
            handles.append(layers[name].to_k.register_forward_hook(adapt_own))
        yield
    finally:
        for handle in handles:
            handle.remove()


class StyleAligned(ReferenceEdit):
    """Draws the source anew in the style of a reference picture, which the self-attention of every layer looks at.

    Source: Hertz et al., Style aligned image generation via shared attention, arXiv:2312.02133, section 4; the
    reference is inverted, as in its section 5.
    Differs: the edit starts from the noised source instead of fresh noise, so that the source gets the style; at
    strength 1 it is the authors' start. Attention is shared with the reference alone, not among several edits.
    """

    def __init__(self, settings: StyleAlignedSettings = StyleAlignedSettings()):
        super().__init__(settings.strength, settings.reference_prompt)
        self.settings = settings

    @contextlib.contextmanager
    def applied(self, context: EditContext) -> Iterator[Sampler]:
        controller = SharedAttention(self.settings.attention, count_rows(context))
        with contextlib.ExitStack() as patches:
            patches.enter_context(opened_attention(context.network, controller))
            if self.settings.adapt:
                patches.enter_context(adapted_projections(context.network))
            yield self.keep_outside(context.sampler, context)
