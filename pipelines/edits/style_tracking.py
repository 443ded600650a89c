"""STRDP: every convolution's output takes over the statistics that it has for a reference picture at the same level."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

import torch

from pipelines.core.errors import SettingsError
from pipelines.core.registry import setting
from pipelines.core.sampler import Sampler
from pipelines.edits.attention import is_optimized_alone
from pipelines.edits.base import EditContext
from pipelines.edits.prompt_to_prompt import Counting
from pipelines.edits.reference import (
    REFERENCE_PROMPT,
    ReferenceEdit,
    adapt_to_reference,
    build_strength_setting,
    count_rows,
)

__all__ = ["StyleTracking", "StyleTrackingSettings", "TrackedStatistics", "tracked_convolutions"]

_PLACES = (-2, -1)


@dataclasses.dataclass(frozen=True)
class StyleTrackingSettings:
    """The settings of STRDP."""

    reference_prompt: str = setting("", REFERENCE_PROMPT, label="Reference prompt")
    strength: float = build_strength_setting()
    until: float = setting(
        1.0, "Share of the steps, from the first, in which the statistics are taken over.", low=0, high=1, step=0.05
    )


class TrackedStatistics:
    """Says whether statistics are taken over, and of how many rows an evaluation is."""

    def __init__(self, until: float, rows: int):
        self.until, self.rows = until, rows
        self.share_done = 0.0

    def change(self, features: torch.Tensor) -> torch.Tensor:
        """Return a convolution's output (R, C, h, w) with the statistics of the reference's rows in the edit's.

        Raises:
            SettingsError: the rows were evaluated in parts.
        """
        if self.share_done >= self.until or is_optimized_alone(features):
            return features
        if len(features) != self.rows:
            raise SettingsError(
                f"STRDP needs all {self.rows} rows of an evaluation at once; it was given {len(features)}. Let the "
                "model evaluate more rows together."
            )
        return adapt_to_reference(features, _PLACES)


@contextlib.contextmanager
def tracked_convolutions(network: torch.nn.Module, statistics: TrackedStatistics) -> Iterator[None]:
    """Provide a network whose convolutions' outputs pass through `statistics` while the context lasts."""
    handles = []
    try:
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d):
                handles.append(module.register_forward_hook(lambda _, inputs, output: statistics.change(output)))
        yield
    finally:
        for handle in handles:
            handle.remove()


class StyleTracking(ReferenceEdit):
    """Draws the source anew while every feature map has the mean and the spread that it has for the reference.

    Source: Masui et al., Harnessing the latent diffusion model for training-free image style transfer (STRDP),
    arXiv:2410.01366, algorithm 1: AdaIN in every convolution, along the style picture's own encoding; strength 0.5.
    Differs: reference and edit are evaluated in one batch, so that nothing is recorded; the reference's path is that of
    the chosen inversion.
    """

    def __init__(self, settings: StyleTrackingSettings = StyleTrackingSettings()):
        super().__init__(settings.strength, settings.reference_prompt)
        self.settings = settings

    @contextlib.contextmanager
    def applied(self, context: EditContext) -> Iterator[Sampler]:
        statistics = TrackedStatistics(self.settings.until, count_rows(context))
        with tracked_convolutions(context.network, statistics):
            yield Counting(self.keep_outside(context.sampler, context), statistics)
