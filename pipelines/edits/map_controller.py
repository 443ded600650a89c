"""What sees and may change the attention maps of a network while an edit is drawn."""

from __future__ import annotations

import torch

__all__ = ["MapController"]


class MapController:
    """Sees and may change every attention map of a network; this one changes nothing.

    Attributes:
        changes_maps: whether it looks at the maps at all, or at what they are made of only.
        keeps_text_share: whether in a joint attention the picture's keys weigh together as much as without those that
            `change_keys` adds, so that the text keeps its share.
        changed_rows: rows of an evaluation whose maps it may change; a joint attention's are brought back to sums of
            one there.
    """

    changes_maps: bool = True
    keeps_text_share: bool = False
    changed_rows: slice = slice(None)

    def is_needed(self, layer: str, cross: bool, queries: int) -> bool:
        """Say whether a layer's attention is to be opened in this evaluation; else the network's own runs.

        Args:
            layer: the name of the layer.
            cross: whether the keys are the prompt's tokens; of joint attention it is asked about both.
            queries: places of the picture.
        """
        return True

    def change_source(self, layer: str, hidden_states: torch.Tensor) -> torch.Tensor:
        """Return what keys and values are made of in a layer of self-attention.

        Args:
            layer: the name of the layer.
            hidden_states: (R, places, channels), R the rows of the evaluation.
        """
        return hidden_states

    def change_projections(self, query: torch.Tensor, key: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return queries and keys to use in a layer of self-attention, each (R, places, channels)."""
        return query, key

    def change_keys(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values to use in a layer of self-attention, each (R, ..., places, channels) and in a joint
        attention normalized and turned by their places already."""
        return keys, values

    def change(self, maps: torch.Tensor, cross: bool) -> torch.Tensor:
        """Return the maps to use.

        Args:
            maps: (R, heads, queries, keys) probabilities, R the rows of the evaluation.
            cross: whether the keys are the prompt's tokens.
        """
        return maps

    def change_part(self, maps: torch.Tensor, cross: bool) -> torch.Tensor:
        """Return a part of a joint attention's maps, whose rows are brought to sums of one afterwards.

        Args:
            maps: (R, heads, queries, keys) that with the other part's keys sum to one.
            cross: whether the keys are the prompt's tokens, or the picture's.
        """
        return self.change(maps, cross)
