"""Edit pairs: a picture, what to change, and the true result with everything else unchanged."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageChops

from pipelines.core.errors import TrainingError
from pipelines.emoji.captions import plain_caption
from pipelines.emoji.objects import Catalog
from pipelines.emoji.scenes import (
    BACKGROUNDS,
    Placed,
    Scene,
    is_held_out,
    place_pair,
    place_single,
    render,
)

__all__ = ["EDIT_KINDS", "EditPair", "EditPictures", "edit_pair", "edit_pairs", "render_edit"]

EDIT_KINDS = ("replace", "background", "add", "remove", "swap")


@dataclass(frozen=True)
class EditPair:
    """Describes two scenes that differ in one respect, and their plain captions."""

    kind: str
    source: Scene
    target: Scene
    source_caption: str
    target_caption: str


@dataclass(frozen=True)
class EditPictures:
    """Describes RGB pictures before and after, and the mask (L, 0 or 255) outside which they are equal."""

    source: Image.Image
    target: Image.Image
    mask: Image.Image


def edit_pairs(catalog: Catalog, count: int, seed: int = 0, kinds: tuple[str, ...] = EDIT_KINDS) -> list[EditPair]:
    """Draw `count` pairs, the kinds in turn; the same arguments give the same pairs."""
    return [edit_pair(catalog, seed * 100_000 + index, kinds[index % len(kinds)]) for index in range(count)]


def edit_pair(catalog: Catalog, seed: int, kind: str = "replace") -> EditPair:
    """Draw one pair of trained object and background combinations.

    Args:
        catalog: the objects.
        seed: at least 0.
        kind: "replace" another object in the same place; "background" another color, the same
            shading; "add" or "remove" the second of two objects; "swap" two objects' places.
    Raises: TrainingError when the kind is unknown or the catalog is too small.
    """
    if kind not in EDIT_KINDS:
        raise TrainingError(f"Unknown edit {kind!r}. Choose one of: {', '.join(EDIT_KINDS)}.")
    rng = np.random.default_rng([seed, EDIT_KINDS.index(kind)])
    for _ in range(10_000):
        source, target = _DRAWN[kind](catalog, rng)
        if _is_trained(source) and _is_trained(target):
            captions = plain_caption(source), plain_caption(target)
            return EditPair(kind, source, target, *captions)
    raise TrainingError(f"The catalog has no pair for the edit {kind!r}.")


def render_edit(pair: EditPair, catalog: Catalog, size: int = 64) -> EditPictures:
    """Draw both pictures and the mask of the edit, `size` pixels wide and high.

    The mask covers every object that appears, disappears, moves or is replaced; for a new
    background it is all that is not fully covered by objects.
    """
    before, after = render(pair.source, catalog, size), render(pair.target, catalog, size)
    if pair.kind == "background":
        covered = Image.new("L", (size, size))
        for mask in before.masks:
            covered = ImageChops.lighter(covered, mask)
        return EditPictures(before.picture, after.picture, covered.point(lambda value: 255 * (value < 255)))
    difference = Image.new("L", (size, size))
    for scene, other, masks in (
        (pair.source, pair.target, before.masks),
        (pair.target, pair.source, after.masks),
    ):
        for item, mask in zip(scene.objects, masks, strict=True):
            if item not in other.objects:
                difference = ImageChops.lighter(difference, mask)
    mask = difference.point(lambda value: 255 * (value > 0))
    return EditPictures(before.picture, after.picture, mask)


def _is_trained(scene: Scene) -> bool:
    return not any(is_held_out(placed.label, scene.background) for placed in scene.objects)


def _draw_scene(catalog: Catalog, rng: np.random.Generator, objects: int) -> Scene:
    indices = rng.choice(len(catalog.objects), size=objects, replace=False)
    labels = [catalog.objects[index].label for index in indices]
    placements = place_single(labels[0], rng) if objects == 1 else place_pair(labels, rng)
    return Scene(placements, str(rng.choice(list(BACKGROUNDS))), int(rng.integers(2**31)))


def _replace_object(catalog: Catalog, rng: np.random.Generator) -> tuple[Scene, Scene]:
    source = _draw_scene(catalog, rng, 1 if rng.random() < 0.7 else 2)
    present = [placed.label for placed in source.objects]
    others = [label for label in catalog.labels if label not in present]
    which = int(rng.integers(len(present)))
    objects = list(source.objects)
    objects[which] = replace(objects[which], label=str(rng.choice(others)))
    return source, replace(source, objects=tuple(objects))


def _change_background(catalog: Catalog, rng: np.random.Generator) -> tuple[Scene, Scene]:
    source = _draw_scene(catalog, rng, 1 if rng.random() < 0.8 else 2)
    others = [name for name in BACKGROUNDS if name != source.background]
    return source, replace(source, background=str(rng.choice(others)))


def _add_object(catalog: Catalog, rng: np.random.Generator) -> tuple[Scene, Scene]:
    target = _draw_scene(catalog, rng, 2)
    remaining = target.objects[int(rng.integers(2))]
    return replace(target, objects=(remaining,)), target


def _remove_object(catalog: Catalog, rng: np.random.Generator) -> tuple[Scene, Scene]:
    target, source = _add_object(catalog, rng)
    return source, target


def _swap_objects(catalog: Catalog, rng: np.random.Generator) -> tuple[Scene, Scene]:
    source = _draw_scene(catalog, rng, 2)
    left, right = source.objects
    objects: tuple[Placed, ...] = (
        replace(left, label=right.label),
        replace(right, label=left.label),
    )
    return source, replace(source, objects=objects)


_DRAWN = {
    "replace": _replace_object,
    "background": _change_background,
    "add": _add_object,
    "remove": _remove_object,
    "swap": _swap_objects,
}
