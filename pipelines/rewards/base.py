"""What a reward is: a number for each picture, the larger the better, that a search is led by."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from pipelines.core.errors import SettingsError

__all__ = ["DIFFERENTIABLE", "Reward", "RewardSources", "Score", "refuse_pictures"]

DIFFERENTIABLE = "differentiable"
"""The group of rewards whose score has a gradient with respect to the pictures."""

Score = Callable[["torch.Tensor"], "torch.Tensor"]
"""Pictures (B, 3, H, W) in [0, 1] to (B,), float32 on the CPU."""


def refuse_pictures(name: str) -> np.ndarray:
    """Find no picture: for who has no results to name.

    Raises:
        SettingsError: always.
    """
    raise SettingsError(f"There is no picture {name!r}: give the id of a result.")


@dataclasses.dataclass(frozen=True)
class RewardSources:
    """Says where a reward finds what it needs beside the pictures.

    Attributes:
        models: the models folder, whose folder `rewards` holds published weights.
        find_picture: from a result's id to its pixels, (H, W, 3), uint8; raises SettingsError where there is none.
        device: where a network of a reward runs.
    """

    models: Path
    find_picture: Callable[[str], np.ndarray] = refuse_pictures
    device: str = "cpu"


class Reward(Protocol):
    """A reward is one method of the reward table, built with its settings."""

    def check(self, prompt: str, sources: RewardSources) -> None:
        """Check whether it can score pictures of this prompt, without loading a network.

        Raises:
            SettingsError: the prompt or a setting is none that it can judge by.
            ModelMissingError: its weights are not in the models folder.
        """

    def load(self, prompt: str, sources: RewardSources) -> Score:
        """Make the score of pictures of this prompt.

        Raises:
            SettingsError, ModelMissingError: as `check`.
            ModelFileError: its weights are broken.
        """
