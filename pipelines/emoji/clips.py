"""Clips: one object that moves, grows, shrinks or bounces over a background that stays as it is."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from pipelines.core.errors import TrainingError
from pipelines.emoji.captions import choose_name, find_item, on_background, split_background, with_article
from pipelines.emoji.composition_captions import parse_description
from pipelines.emoji.compositions import SIZES
from pipelines.emoji.objects import Catalog
from pipelines.emoji.scenes import BACKGROUNDS, SPLITS, Placed, Scene, is_held_out

__all__ = [
    "FRAMES",
    "MOTIONS",
    "REVERSED",
    "Clip",
    "describe_clip",
    "describe_clip_plainly",
    "sample_clip",
    "set_in_motion",
]

FRAMES = 16
REVERSED = {
    "moving left": "moving right",
    "moving right": "moving left",
    "moving up": "moving down",
    "moving down": "moving up",
    "growing": "shrinking",
    "shrinking": "growing",
    "bouncing": "bouncing",
    "": "",
}
"""The words of a motion to those of the same clip played backward; no words are said of what stands still."""
MOTIONS = tuple(motion for motion in REVERSED if motion)
HOPS = 2
"""How often the bouncing object leaves the ground in one clip."""


@dataclasses.dataclass(frozen=True)
class Clip:
    """Describes one object's way over a fixed background.

    `motion` is one of `REVERSED`; `path` has (x, y, width) of every frame, in parts of the picture.
    """

    label: str
    background: str
    motion: str
    path: tuple[tuple[float, float, float], ...]
    shading_seed: int = 0

    @property
    def scenes(self) -> tuple[Scene, ...]:
        """The frames."""
        return tuple(Scene((Placed(self.label, *place),), self.background, self.shading_seed) for place in self.path)

    def backward(self) -> Clip:
        """Return the clip played backward, with the words for it."""
        return dataclasses.replace(self, motion=REVERSED[self.motion], path=self.path[::-1])


def sample_clip(
    catalog: Catalog,
    seed: int,
    split: str = "train",
    motion: str | None = None,
    frames: int = FRAMES,
    anywhere: bool = False,
) -> Clip:
    """Draw a clip; the same arguments give the same one.

    Args:
        catalog: the objects to draw from.
        seed: at least 0.
        split: "train" has no held-out pair of object and background, "held-out" has only such, "all" both.
        motion: one of `MOTIONS`, or "" for none; by default any of these, each with the same chance.
        frames: of the clip, 2 or more.
        anywhere: begin at any place and in any size that leave room for the motion, as a given first frame may; else
            the object crosses the whole picture.
    Raises: TrainingError when the split or the motion is unknown or the catalog has no such clip.
    """
    if split not in SPLITS:
        raise TrainingError(f"Unknown split {split!r}. Choose one of: {', '.join(SPLITS)}.")
    if motion is not None and motion not in REVERSED:
        raise TrainingError(f"Unknown motion {motion!r}. Choose one of: {', '.join(MOTIONS)}.")
    rng = np.random.default_rng([seed, SPLITS.index(split), 16])
    words = tuple(REVERSED)
    chosen = words[rng.integers(len(words))] if motion is None else motion
    names = tuple(BACKGROUNDS)
    for _ in range(10_000):
        label = catalog.objects[rng.integers(len(catalog.objects))].label
        background = names[rng.integers(len(names))]
        if split == "all" or is_held_out(label, background) == (split == "held-out"):
            break
    else:
        raise TrainingError(f"The catalog has no clip for {split!r}.")
    path = (_PATHS_ANYWHERE if anywhere else _PATHS)[chosen](rng, np.linspace(0, 1, frames))
    rows = tuple((float(x), float(y), float(width)) for x, y, width in zip(*path, strict=True))
    return Clip(label, background, chosen, rows, int(rng.integers(2**31)))


def describe_clip(clip: Clip, catalog: Catalog, rng: np.random.Generator, empty: float = 0.0) -> str:
    """Describe a clip: "a fox moving left on a blue background", by any of the object's names.

    Args:
        clip: what is described.
        catalog: its object's names.
        rng: the source of variety.
        empty: share of empty captions, in [0, 1].
    """
    if rng.random() < empty:
        return ""
    return _join(with_article(choose_name(find_item(clip.label, catalog), rng), True), clip)


def describe_clip_plainly(clip: Clip) -> str:
    """Say the one plain caption of a clip, with the object's label."""
    return _join(with_article(clip.label, True), clip)


def set_in_motion(caption: str, motion: str, catalog: Catalog) -> str | None:
    """Say that what a picture's caption describes moves: "a fox on a blue background" as "a fox growing on a blue
    background".

    Args:
        caption: of a picture.
        motion: one of `MOTIONS`.
        catalog: the objects.

    Returns:
        The caption of a clip; None where the picture's is no caption of one object.
    """
    try:
        if parse_description(caption, catalog).kind != "single":
            return None
    except TrainingError:
        return None
    subject, background = split_background(caption)
    return f"{subject} {motion}" + (on_background(background) if background else "")


def _join(subject: str, clip: Clip) -> str:
    return " ".join(filter(None, (subject, clip.motion))) + on_background(clip.background)


def _cross(rng: np.random.Generator, time: np.ndarray, sign: int, level: bool):
    """From near one edge to near the other; `level` along x, else along y, in the direction of the sign."""
    width = float(rng.uniform(0.42, 0.52))
    reach = (1 - width) / 2
    along = 0.5 + sign * reach * float(rng.uniform(0.85, 1.0)) * (2 * time - 1)
    across = np.full_like(time, 0.5 + 0.35 * reach * float(rng.uniform(-1, 1)))
    return (*((along, across) if level else (across, along)), np.full_like(time, width))


def _resize(rng: np.random.Generator, time: np.ndarray, grows: bool):
    small, large = float(rng.uniform(0.3, 0.38)), float(rng.uniform(0.74, 0.86))
    width = small + (large - small) * (time if grows else 1 - time)
    x, y = (np.full_like(time, 0.5 + 0.35 * (1 - large) / 2 * float(rng.uniform(-1, 1))) for _ in "xy")
    return x, y, width


def _bounce(rng: np.random.Generator, time: np.ndarray):
    width = float(rng.uniform(0.42, 0.52))
    ground, height = 1 - width / 2, (1 - width) * float(rng.uniform(0.75, 0.95))
    x = np.full_like(time, 0.5 + 0.35 * (1 - width) / 2 * float(rng.uniform(-1, 1)))
    return x, ground - height * np.abs(np.sin(math.pi * HOPS * time)), np.full_like(time, width)


def _stand(rng: np.random.Generator, time: np.ndarray):
    width = float(rng.uniform(*SIZES[None]))
    x, y = (np.full_like(time, 0.5 + 0.35 * (1 - width) / 2 * float(rng.uniform(-1, 1))) for _ in "xy")
    return x, y, np.full_like(time, width)


_PATHS = {
    "moving left": lambda rng, time: _cross(rng, time, -1, True),
    "moving right": lambda rng, time: _cross(rng, time, 1, True),
    "moving up": lambda rng, time: _cross(rng, time, -1, False),
    "moving down": lambda rng, time: _cross(rng, time, 1, False),
    "growing": lambda rng, time: _resize(rng, time, True),
    "shrinking": lambda rng, time: _resize(rng, time, False),
    "bouncing": _bounce,
    "": _stand,
}


def _cross_from_anywhere(rng: np.random.Generator, time: np.ndarray, sign: int, level: bool):
    """From any place that has a fifth of the picture before it, most of the way to the edge."""
    width = float(rng.uniform(0.3, 0.66))
    reach = (1 - width) / 2
    start = float(rng.uniform(-1, 1 - 0.21 / reach))
    end = start + (1 - start) * float(rng.uniform(0.85, 1.0))
    along = 0.5 + sign * reach * (start + (end - start) * time)
    across = np.full_like(time, 0.5 + reach * float(rng.uniform(-1, 1)))
    return (*((along, across) if level else (across, along)), np.full_like(time, width))


def _resize_from_anything(rng: np.random.Generator, time: np.ndarray, grows: bool):
    first = float(rng.uniform(0.28, 0.66) if grows else rng.uniform(0.48, 0.9))
    last = float(rng.uniform(max(first + 0.2, 0.6), 0.92) if grows else rng.uniform(0.26, first - 0.2))
    room = (1 - max(first, last)) / 2
    x, y = (np.full_like(time, 0.5 + room * float(rng.uniform(-1, 1))) for _ in "xy")
    return x, y, first + (last - first) * time


def _bounce_from_anywhere(rng: np.random.Generator, time: np.ndarray):
    width = float(rng.uniform(0.3, 0.6))
    ground, height = 1 - width / 2, (1 - width) * float(rng.uniform(0.75, 0.95))
    x = np.full_like(time, 0.5 + (1 - width) / 2 * float(rng.uniform(-1, 1)))
    phase = float(rng.uniform(0, 1))  # of a hop
    return x, ground - height * np.abs(np.sin(math.pi * (HOPS * time + phase))), np.full_like(time, width)


def _stand_anywhere(rng: np.random.Generator, time: np.ndarray):
    width = float(rng.uniform(0.28, 0.9))
    x, y = (np.full_like(time, 0.5 + (1 - width) / 2 * float(rng.uniform(-1, 1))) for _ in "xy")
    return x, y, np.full_like(time, width)


_PATHS_ANYWHERE = {
    "moving left": lambda rng, time: _cross_from_anywhere(rng, time, -1, True),
    "moving right": lambda rng, time: _cross_from_anywhere(rng, time, 1, True),
    "moving up": lambda rng, time: _cross_from_anywhere(rng, time, -1, False),
    "moving down": lambda rng, time: _cross_from_anywhere(rng, time, 1, False),
    "growing": lambda rng, time: _resize_from_anything(rng, time, True),
    "shrinking": lambda rng, time: _resize_from_anything(rng, time, False),
    "bouncing": _bounce_from_anywhere,
    "": _stand_anywhere,
}
