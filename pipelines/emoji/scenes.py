"""Scenes: what stands where on which background, and their exact pictures and masks."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from PIL import Image

from pipelines.core.errors import TrainingError
from pipelines.emoji.objects import Catalog

__all__ = [
    "BACKGROUNDS",
    "Placed",
    "Rendering",
    "Scene",
    "is_held_out",
    "place_pair",
    "place_single",
    "render",
    "sample_scene",
]

BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "red": (238, 62, 78),
    "orange": (250, 152, 52),
    "yellow": (250, 224, 84),
    "green": (86, 182, 98),
    "blue": (64, 128, 228),
    "purple": (142, 94, 216),
    "pink": (246, 146, 190),
    "brown": (142, 96, 60),
    "black": (30, 28, 36),
    "white": (245, 245, 245),
    "gray": (150, 150, 156),
    "teal": (38, 170, 166),
}
SHADING = 14.0  # of 255, from the middle of the picture to its upper or lower edge
TINT = 4.0  # of 255, standard deviation of a picture's color about its background's color
SPLITS = ("train", "held-out", "all")


@dataclass(frozen=True)
class Placed:
    """Describes an object: center from the left and from the top, and width, in parts of the picture."""

    label: str
    x: float
    y: float
    size: float


@dataclass(frozen=True)
class Scene:
    """Describes one object, or two with the left one first, on a background that is a little shaded."""

    objects: tuple[Placed, ...]
    background: str
    shading_seed: int = 0


@dataclass(frozen=True)
class Rendering:
    """Describes a picture (RGB), each object's mask (L, its opacity) and the background alone (RGB)."""

    picture: Image.Image
    masks: tuple[Image.Image, ...]
    backdrop: Image.Image


def is_held_out(label: str, background: str) -> bool:
    """Say whether this pair is kept out of training: about a tenth, fixed for ever by a hash."""
    digest = hashlib.sha256(f"{label}|{background}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % 10 == 0


def sample_scene(catalog: Catalog, seed: int, split: str = "train", objects: int | None = None) -> Scene:
    """Draw a scene; the same arguments give the same scene.

    Args:
        catalog: the objects to draw from.
        seed: at least 0.
        split: "train" has no held-out pair, "held-out" has only such pairs, "all" both.
        objects: 1 or 2; by default 1 in four fifths of the scenes.
    Raises: TrainingError when the split is unknown or the catalog has no such scene.
    """
    if split not in SPLITS:
        raise TrainingError(f"Unknown split {split!r}. Choose one of: {', '.join(SPLITS)}.")
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    count = objects or (1 if rng.random() < 0.8 else 2)
    names = tuple(BACKGROUNDS)
    for _ in range(10_000):
        background = names[rng.integers(len(names))]
        indices = rng.choice(len(catalog.objects), size=count, replace=False)
        labels = [catalog.objects[index].label for index in indices]
        held_out = [is_held_out(label, background) for label in labels]
        if split == "all" or (all(held_out) if split == "held-out" else not any(held_out)):
            break
    else:
        raise TrainingError(f"The catalog has no scene of {count} objects for {split!r}.")
    placements = place_single(labels[0], rng) if count == 1 else place_pair(labels, rng)
    return Scene(placements, background, int(rng.integers(2**31)))


def place_single(label: str, rng: np.random.Generator) -> tuple[Placed, ...]:
    """Place one object anywhere, large; in one scene of ten small in the left or the right half.

    The small ones are half of a scene of two, so that adding and removing objects is in the data.
    """
    if rng.random() < 0.1:
        side = 0.25 if rng.random() < 0.5 else 0.75
        return (Placed(label, side, float(rng.uniform(0.3, 0.7)), float(rng.uniform(0.44, 0.5))),)
    size = float(rng.uniform(0.62, 0.94))
    x, y = rng.uniform(size / 2, 1 - size / 2, 2)
    return (Placed(label, float(x), float(y), size),)


def place_pair(labels: list[str], rng: np.random.Generator) -> tuple[Placed, ...]:
    """Place two objects side by side; they never overlap."""
    middle = float(rng.uniform(0.35, 0.65))
    objects = []
    for label, x in zip(labels, (0.25, 0.75), strict=True):
        y = middle + float(rng.uniform(-0.06, 0.06))
        objects.append(Placed(label, x, y, float(rng.uniform(0.44, 0.5))))
    return tuple(objects)


def render(scene: Scene, catalog: Catalog, size: int = 64) -> Rendering:
    """Draw a scene.

    Args:
        scene: what to draw.
        catalog: where its objects' pictures are.
        size: width and height in pixels.
    Returns: the picture; masks in the order of `scene.objects`; the background alone.
    Raises: TrainingError for a background or an object that does not exist.
    """
    backdrop = _draw_backdrop(scene, size)
    picture = backdrop.copy()
    masks = []
    for item in scene.objects:
        pixels = max(1, round(item.size * size))
        sprite = catalog.sprite(item.label, pixels)
        corner = _find_corner(item.x, pixels, size), _find_corner(item.y, pixels, size)
        alpha = sprite.getchannel("A")
        picture.paste(sprite.convert("RGB"), corner, alpha)
        mask = Image.new("L", (size, size))
        mask.paste(alpha, corner)
        masks.append(mask)
    return Rendering(picture, tuple(masks), backdrop)


def _find_corner(center: float, pixels: int, size: int) -> int:
    return min(max(round(center * size - pixels / 2), 0), max(size - pixels, 0))


def _draw_backdrop(scene: Scene, size: int) -> Image.Image:
    if scene.background not in BACKGROUNDS:
        choices = ", ".join(BACKGROUNDS)
        raise TrainingError(f"Unknown background {scene.background!r}. Choose one of: {choices}.")
    rng = np.random.default_rng(scene.shading_seed)
    tint = np.clip(rng.normal(0, TINT, 3), -2.5 * TINT, 2.5 * TINT)
    slope = rng.uniform(-SHADING, SHADING)
    rows = slope * np.linspace(-1, 1, size)[:, None] + tint + np.array(BACKGROUNDS[scene.background])
    column = np.clip(np.rint(rows), 0, 255).astype(np.uint8)
    return Image.fromarray(np.repeat(column[:, None], size, axis=1))
