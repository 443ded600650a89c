"""Ready-to-click walks for the shipped model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from studio.ui.form import FIXED
from studio.ui.styles import NO_STYLE

__all__ = ["EXAMPLES", "VideoExample"]


@dataclasses.dataclass(frozen=True)
class VideoExample:
    """A label to click, and the tab's draft that it sets."""

    label: str
    draft: Mapping[str, Any]


def _example(
    label: str, prompt: str, seed: int, keys: list[dict[str, Any]], frames: int = 24, **walk: Any
) -> VideoExample:
    form = {
        "model": "emoji",
        "prompt": prompt,
        "negative_prompt": "",
        "style": NO_STYLE,
        "seed_mode": FIXED,
        "seed": seed,
        "num_inference_steps": 20,
    }
    return VideoExample(
        label,
        {"form": form, "keys": keys, "frames": frames, "fps": 12, "method": {"key": "walk", **walk}},
    )


EXAMPLES = (
    _example("Fox to cat", "a fox on a blue background", 1, [{"prompt": "a cat on a blue background", "seed": 2}]),
    _example(
        "Three fruits, without end",
        "a red apple on a yellow background",
        3,
        [
            {"prompt": "an orange on a pink background", "seed": 3},
            {"prompt": "a lemon on a teal background", "seed": 3},
        ],
        frames=30,
        loop=True,
    ),
    _example("One rocket, two seeds", "a rocket on a purple background", 4, [{"seed": 11}], easing="linear"),
)
