"""What a story is, and the network that draws its pictures together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch

from pipelines.core.prediction import Conditioning
from pipelines.edits.attention import attention_layers, opened_attention
from pipelines.edits.map_controller import MapController
from pipelines.families.base import Family

__all__ = ["SHARES", "SharingNetwork", "SharingSteps", "Story"]

SHARES = "story: shares"
"""Name of the tensor, (B,), that an evaluation has in the steps in which the pictures see each other."""


class Story(Protocol):
    """Represents one method of the table of stories, built with its settings.

    Attributes:
        start: share of the steps, from the first, in which each picture is drawn alone.
        subject: what the prompt of every picture begins with; empty for the request's prompt.
    """

    start: float
    subject: str

    def list_prompts(self, prompt: str) -> list[str]:
        """List the prompts of the pictures.

        Args:
            prompt: of the request, with which each begins unless the settings name another subject.

        Raises:
            PromptError: there are no scenes.
        """

    def control(self, network: torch.nn.Module, pictures: int, seed: int) -> MapController | None:
        """Build what the attention of an evaluation is changed by; None where nothing is shared.

        Args:
            network: of a model that fits.
            pictures: of the story, whose rows stand side by side.
            seed: of what is drawn at random.
        """


class SharingSteps:
    """Marks the evaluations of a run in which the pictures see each other.

    Args:
        pictures: of the story.
        start: share of the steps before.
    """

    def __init__(self, pictures: int, start: float):
        self.pictures, self.start = pictures, start

    def at(self, branch: str, step: int, num_steps: int) -> Mapping[str, torch.Tensor]:
        """Return the mark, of as many rows as there are pictures, or nothing: see `Addition`."""
        return {SHARES: torch.ones(self.pictures)} if step >= self.start * num_steps - 1e-9 else {}


class SharingNetwork:
    """Stands for a model while a story is drawn: its evaluations keep the pictures' rows together, and those that
    `SharingSteps` marks run under the story's controller.

    A layer whose processor a guidance has replaced for an evaluation is left to it.

    Args:
        family: the model.
        controller: of the attention.
        pictures: rows that see each other.
    """

    def __init__(self, family: Family, controller: MapController, pictures: int):
        self._family, self._controller = family, controller
        self._processors = {name: layer.processor for name, layer in attention_layers(family.network).items()}
        self.prediction_type, self.rows_together = family.prediction_type, pictures
        self.max_rows = self._keep_together(family.max_rows)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._family, name)

    def rows_that_fit(self, row: torch.Tensor) -> int:
        """Find the most rows like this one, (C, h, w), that are known to fit; 0 for no known limit."""
        return self._keep_together(self._family.rows_that_fit(row))

    def remember_rows(self, row: torch.Tensor, rows: int) -> None:
        """Remember that more rows like this one, (C, h, w), than so many did not fit."""
        self._family.remember_rows(row, rows)

    def _keep_together(self, rows: int) -> int:
        """At most so many rows, but whole stories: one at least; 0 stays no limit."""
        return max(rows // self.rows_together, 1) * self.rows_together if rows else 0

    def predict_raw(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """Evaluate the network, (R, C, h, w), its attention under the controller where the rows are marked."""
        own = {name: tensor for name, tensor in conditioning.tensors.items() if name != SHARES}
        if len(own) == len(conditioning.tensors):
            return self._family.predict_raw(latents, timesteps, conditioning)
        layers = [
            name
            for name, layer in attention_layers(self._family.network).items()
            if layer.processor is self._processors[name]
        ]
        with opened_attention(self._family.network, self._controller, layers):
            return self._family.predict_raw(latents, timesteps, Conditioning(own))
