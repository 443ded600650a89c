"""Moving and resizing an object: cut out, put elsewhere, and the place it leaves drawn anew."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

from pipelines.core.registry import setting
from pipelines.core.sampler import Sampler
from pipelines.edits.base import EditContext, UnpatchedEdit
from pipelines.edits.inpaint import Blended
from pipelines.edits.placing import Placing

__all__ = ["DOWN", "RIGHT", "SCALE", "Move", "MoveSettings"]

RIGHT = "How far it goes to the right, as a share of the width; less than 0 to the left."
DOWN = "How far it goes down, as a share of the picture's height; less than 0 up."
SCALE = "Factor on its size."


@dataclasses.dataclass(frozen=True)
class MoveSettings:
    """The settings of moving by cutting and pasting."""

    right: float = setting(0.0, RIGHT, low=-1, high=1, step=0.01)
    down: float = setting(0.0, DOWN, low=-1, high=1, step=0.01)
    scale: float = setting(1.0, SCALE, low=0.1, high=5, step=0.05)
    strength: float = setting(
        0.4,
        "Share of the steps in which the place that the object leaves is drawn: 0 keeps the colors around it.",
        low=0,
        high=1,
        step=0.05,
    )


class Move(UnpatchedEdit):
    """Moves the masked object pixel by pixel, and draws what it leaves behind by blended latents.

    The place it leaves is filled with a smooth surface through the colors around it, noised as far as `strength` says
    and denoised with the edit's prompt; everything else stays, bit for bit.

    Source: the drawing is Avrahami et al., Blended latent diffusion, arXiv:2206.02779, algorithm 1.
    """

    masked = True
    pastes = True

    def __init__(self, settings: MoveSettings = MoveSettings()):
        self.placing = Placing(settings.right, settings.down, settings.scale)
        self.strength = settings.strength

    @contextlib.contextmanager
    def applied(self, context: EditContext) -> Iterator[Sampler]:
        yield Blended(context.sampler, context.image_latents, context.noise, context.drawn_weights)
