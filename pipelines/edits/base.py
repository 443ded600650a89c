"""What an edit is: a way to dress the sampler of a run, and perhaps the network, while the picture is drawn."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import ClassVar, Protocol

import torch

from pipelines.core.sampler import Sampler
from pipelines.edits.words import Words

__all__ = ["Edit", "EditContext", "Undressed"]


@dataclasses.dataclass(frozen=True)
class EditContext:
    """What an edit may use.

    Attributes:
        network: the denoising network, borrowed.
        sampler: of the run; an inversion's own, or the request's.
        image_latents: (1, C, h, w), of the picture.
        noise: (1, C, h, w), the run's initial noise.
        mask: (1, 1, h, w) bool, true where the picture may change; None without a mask.
        source, target: the prompts' words; called only by edits that need them.
        guided: whether each row is evaluated with the negative prompt too.
    """

    network: torch.nn.Module
    sampler: Sampler
    image_latents: torch.Tensor
    noise: torch.Tensor
    mask: torch.Tensor | None
    source: Callable[[], Words]
    target: Callable[[], Words]
    guided: bool


class Edit(Protocol):
    """One method of the edit table, built with its settings.

    Attributes:
        inverts: whether it consumes an inversion's trajectory; else the run starts from the noised picture.
        masked: whether it needs a mask from the person.
        strength: share of the steps that are run, 0 to 1; of an edit that inverts, the inversion's counts.
        margins: (left, top, right, bottom) pixels by which the canvas grows.
    """

    inverts: ClassVar[bool]
    masked: ClassVar[bool]
    strength: float
    margins: tuple[int, int, int, int]

    def applied(self, context: EditContext) -> AbstractContextManager[Sampler]:
        """The run's sampler while the network is dressed.

        Raises:
            PromptError: the prompts do not fit the method.
        """

    def needs_source(self) -> bool:
        """Whether it cannot work without a prompt of the source picture."""


class Undressed:
    """Defaults of edits that change neither network nor canvas."""

    inverts: ClassVar[bool] = False
    masked: ClassVar[bool] = False
    strength: float = 1.0
    margins: tuple[int, int, int, int] = (0, 0, 0, 0)

    def needs_source(self) -> bool:
        return False
