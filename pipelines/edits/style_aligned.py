"""StyleAligned: the edit's self-attention looks at a reference picture too, and takes over its statistics."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

import torch

from pipelines.core.errors import SettingsError
from pipelines.core.registry import setting
from pipelines.core.sampler import Sampler
from pipelines.edits.attention import is_optimized_alone, opened_attention
from pipelines.edits.base import EditContext
from pipelines.edits.map_controller import MapController
from pipelines.edits.reference import (
    REFERENCE_PROMPT,
    ReferenceEdit,
    adapt_to_reference,
    build_strength_setting,
)
from pipelines.inversions.base import SOURCE, TARGET

__all__ = ["SharedAttention", "StyleAligned", "StyleAlignedSettings"]

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


class SharedAttention(MapController):
    """A controller whose self-attention has the keys and values of the reference beside each row's own.

    The rows of an evaluation are groups of a reference and what looks at it: of an edit (reference, edit), with
    guidance (reference, edit, reference, edit). A reference's row
    has its own keys twice, which changes nothing; in a joint attention, where the text would have a smaller share, it
    does not see the second ones.

    Args:
        factor: on the edit's attention to the reference, before the maps are normalized again: exp of the shift of the
            scores.
        adapts: whether the edit's queries and own keys get the reference's mean and spread.
        group: rows of a group, the reference first.

    Source: Hertz et al., Style aligned image generation via shared attention, arXiv:2312.02133, equation 5, and 4 for
    what is adapted; the factor 2 is the shift log 2 of its section 5.
    """

    def __init__(self, factor: float, adapts: bool = False, group: int = 2):
        self.factor, self.adapts, self.group = factor, adapts, group

    def is_needed(self, layer: str, cross: bool, queries: int) -> bool:
        return not cross

    def change_source(self, layer: str, hidden_states: torch.Tensor) -> torch.Tensor:
        if is_optimized_alone(hidden_states):
            return hidden_states
        if len(hidden_states) % self.group:
            raise SettingsError(
                f"StyleAligned needs {self.group} rows of an evaluation at once; it was given {len(hidden_states)}. "
                "Let the model evaluate more rows together."
            )
        references = hidden_states[SOURCE :: self.group].repeat_interleave(self.group, dim=0)
        return torch.cat([hidden_states, references], dim=1)

    def change_projections(self, query: torch.Tensor, key: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.adapts or is_optimized_alone(query):
            return query, key
        own, shared = key.chunk(2, dim=1)
        adapted = adapt_to_reference(own, _TOKENS, self.group)
        return adapt_to_reference(query, _TOKENS, self.group), torch.cat([adapted, shared], dim=1)

    def change(self, maps: torch.Tensor, cross: bool) -> torch.Tensor:
        if cross or is_optimized_alone(maps) or self.factor == 1:
            return maps
        weighted = self._weigh(maps, 1.0)
        return weighted / weighted.sum(dim=-1, keepdim=True)

    def change_part(self, maps: torch.Tensor, cross: bool) -> torch.Tensor:
        return maps if cross or is_optimized_alone(maps) else self._weigh(maps, 0.0)

    def _weigh(self, maps: torch.Tensor, own_again: float) -> torch.Tensor:
        """The maps with a factor on the reference's keys: the edit's, and that of the reference on its own again."""
        places = maps.shape[-1] // 2
        weights = torch.ones(self.group, 1, 1, maps.shape[-1], dtype=maps.dtype, device=maps.device)
        weights[SOURCE, ..., places:] = own_again
        weights[TARGET:, ..., places:] = self.factor
        return maps * weights.repeat(len(maps) // self.group, 1, 1, 1)


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
        controller = SharedAttention(self.settings.attention, self.settings.adapt)
        with opened_attention(context.network, controller):
            yield self.keep_outside(context.sampler, context)
