"""MasaCtrl: the edit's places look for their content among the source's."""

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

__all__ = ["MasaCtrl", "MasaCtrlSettings", "MutualAttention"]


@dataclasses.dataclass(frozen=True)
class MasaCtrlSettings:
    """The settings of MasaCtrl."""

    start: float = setting(
        0.1,
        "Share of the steps, from the first, that are drawn freely: the new layout comes about there.",
        low=0,
        high=1,
        step=0.05,
    )
    layers: float = setting(
        0.4,
        "Share of the self-attention layers, from the last, that look at the source.",
        low=0,
        high=1,
        step=0.05,
    )


class MutualAttention(MapController):
    """A controller that has the edit's rows take keys and values of the source's in chosen layers of self-attention.

    The rows of an evaluation are (source, edit), with guidance (source, edit, source, edit).

    Args:
        layers: names of the layers.
        start: share of the steps from which on.
        rows: that an evaluation has.

    Source: Cao et al., MasaCtrl, arXiv:2304.08465, section 3.2 and equation 3.
    """

    changes_maps = False

    def __init__(self, layers: Sequence[str], start: float, rows: int):
        self.layers, self.start, self.rows = frozenset(layers), start, rows
        self.share_done = 0.0

    def is_needed(self, layer: str, cross: bool, queries: int) -> bool:
        return not cross and layer in self.layers and self.share_done >= self.start

    def change_source(self, layer: str, hidden_states: torch.Tensor) -> torch.Tensor:
        if not self.is_needed(layer, False, hidden_states.shape[1]):
            return hidden_states
        if is_optimized_alone(hidden_states):
            return hidden_states
        if len(hidden_states) != self.rows:
            raise SettingsError(
                f"MasaCtrl needs all {self.rows} rows of an evaluation at once; it was given {len(hidden_states)}. "
                "Let the model evaluate more rows together."
            )
        pairs = hidden_states.unflatten(0, (-1, 2))
        return torch.stack([pairs[:, SOURCE], pairs[:, SOURCE]], dim=1).flatten(0, 1)


class MasaCtrl(UnpatchedEdit):
    """Keeps what things look like and lets their layout change, which the steps before `start` decide.

    Source: Cao et al., MasaCtrl: tuning-free mutual self-attention control, arXiv:2304.08465, algorithm 1; of 50 steps
    the first 4 and of Stable Diffusion's 16 layers the first 10 are free there.
    Differs: the layers are a share, so that UNets of other depths are taken; the masks by cross-attention of section
    3.3 are left out; a drawn mask keeps the edit inside it.
    """

    inverts = True

    def __init__(self, settings: MasaCtrlSettings = MasaCtrlSettings()):
        self.settings = settings

    @property
    def looks_until(self) -> float:
        return 1.0 if self.settings.layers else 0.0

    @contextlib.contextmanager
    def applied(self, context: EditContext) -> Iterator[Sampler]:
        layers = order_self_attention(context.network)
        chosen = layers[len(layers) - round(self.settings.layers * len(layers)) :]
        controller = MutualAttention(chosen, self.settings.start, 4 if context.guided else 2)
        sampler: Sampler = Counting(context.sampler, controller)
        with opened_attention(context.network, controller):
            yield sampler if context.mask is None else LocalBlend(sampler, context.mask)
