"""Ready-to-click clips for the shipped models: one that moves, and walks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.emoji.clips import FRAMES
from studio.ui.example_chips import RESULTS
from studio.ui.form import FIXED
from studio.ui.styles import NO_STYLE

__all__ = ["EXAMPLES", "VideoExample"]


@dataclasses.dataclass(frozen=True)
class VideoExample:
    """Describes a label to click, and the tab's draft that it sets."""

    label: str
    draft: Mapping[str, Any]

    @property
    def key(self) -> str:
        """Return the key of the file of its result."""
        return "video-" + self.label.lower().replace(",", "").replace(" ", "-")

    @property
    def result(self) -> Path:
        """Return nine of its frames as one small picture, written by `python -m studio.benchmarks.examples`."""
        return RESULTS / f"{self.key}.webp"


def _build_example(
    label: str, prompt: str, seed: int, keys: list[dict[str, Any]], frames: int = 24, **walk: object
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


def _build_moving_example(label: str, prompt: str, seed: int) -> VideoExample:
    form = {
        "model": "emoji-128-motion",
        "prompt": prompt,
        "negative_prompt": "",
        "style": NO_STYLE,
        "seed_mode": FIXED,
        "seed": seed,
        "num_inference_steps": 20,
    }
    return VideoExample(label, {"form": form, "keys": [], "frames": FRAMES, "fps": 8, "method": {"key": "animatediff"}})


EXAMPLES = (
    _build_moving_example("Rocket moving up", "a rocket moving up on a purple background", 5),
    _build_example(
        "Fox to cat", "a fox on a blue background", 1, [{"prompt": "a cat on a blue background", "seed": 2}]
    ),
    _build_example(
        "Three fruits, looped",
        "a red apple on a yellow background",
        3,
        [
            {"prompt": "an orange on a pink background", "seed": 3},
            {"prompt": "a lemon on a teal background", "seed": 3},
        ],
        frames=30,
        loop=True,
    ),
    _build_example("One rocket, two seeds", "a rocket on a purple background", 4, [{"seed": 11}], easing="linear"),
)
