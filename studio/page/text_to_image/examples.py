"""Ready-to-click examples for the shipped models, each with a seed whose picture was looked at."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from studio.ui.example_chips import RESULTS
from studio.ui.form import FIXED
from studio.ui.styles import NO_STYLE

__all__ = ["EXAMPLES", "Example"]


@dataclasses.dataclass(frozen=True)
class Example:
    """Describes a label to click, and the form's values that it sets; the rest of the model's own settings come with
    it.

    Attributes:
        key: of the file of its picture.
        label: on the button.
        values: of the form.
        shape: the file of the picture that its T2I-Adapter reads, or None.
    """

    key: str
    label: str
    values: Mapping[str, Any]
    shape: Path | None = None

    @property
    def result(self) -> Path:
        """Return the file of what it draws."""
        return RESULTS / f"{self.key}.webp"

    def list_values(self, keep: Callable[[str], str]) -> Mapping[str, Any]:
        """Return the form's values, with the picture in them.

        Args:
            keep: keeps the picture of a path and names it.
        """
        if self.shape is None:
            return self.values
        return {**self.values, "t2i_adapter": {**self.values["t2i_adapter"], "picture": keep(str(self.shape))}}


def _build_example(
    key: str, label: str, prompt: str, seed: int, shape: Path | None = None, **values: object
) -> Example:
    shared = {
        "model": "emoji-128",
        "prompt": prompt,
        "negative_prompt": "",
        "style": NO_STYLE,
        "seed_mode": FIXED,
        "seed": seed,
        "batch_size": 1,
    }
    return Example(key, label, {**shared, **values}, shape)


_SHAPES = RESULTS.parent / "controls"

EXAMPLES = (
    _build_example("fox", "Fox on blue", "a fox on a blue background", 0),
    _build_example("cat-heart", "Cat left of a heart", "a cat face left of a red heart on a green background", 3),
    _build_example("duck", "Duck before a castle", "a duck in front of a castle on a pink background", 1),
    _build_example("strawberries", "Three strawberries", "three strawberries on a white background", 4),
    _build_example("owls", "Four owls", "an owl on a yellow background", 3, batch_size=4),
    _build_example(
        "one-of-three", "Draw one of three", "a {penguin|rocket|birthday cake} on a {pink|teal} background", 1
    ),
    _build_example(
        "shape",
        "In a drawn shape",
        "a strawberry on a white background",
        0,
        shape=_SHAPES / "heart.png",
        t2i_adapter={"key": "t2i_adapter", "model": "emoji-128-shapes"},
    ),
    _build_example(
        "four-steps",
        "Four steps",
        "a unicorn right of a rose on a teal background",
        1,
        num_inference_steps=4,
        sampler="ddim",
        guidance={"key": "cfg", "guidance_scale": 1.0},
        loras=[{"name": "emoji-128-four-steps", "weight": 1.0}],
    ),
    _build_example(
        "flow",
        "Flow transformer",
        "a penguin right of a star on a blue background",
        2,
        model="emoji-128-flow",
    ),
    _build_example(
        "rocket",
        "Six learned steps",
        "a rocket on a purple background",
        0,
        num_inference_steps=6,
        sampler="dpmpp_2m",
        schedule={"key": "learned", "name": "emoji-128-dpmpp-2m-6-bespoke"},
    ),
)
