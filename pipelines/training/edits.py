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

__all__ = [
    "DESCRIBED_KINDS",
    "EDIT_KINDS",
    "LEAST_MOVE",
    "STYLES",
    "EditPair",
    "EditPictures",
    "apply_style",
    "edit_pair",
    "edit_pairs",
    "render_edit",
]

LEAST_MOVE = 0.25
"""Of the picture, to the side or up or down: what a moved object moves at least."""

EDIT_KINDS = ("replace", "background", "add", "remove", "swap", "one of two", "move", "resize", "style")
DESCRIBED_KINDS = EDIT_KINDS[:6]
"""Those that the captions tell: the grammar has no words for places, sizes and styles."""

STYLES: dict[str, tuple[tuple[float, float, float], ...]] = {
    "grayscale": ((0.299, 0.587, 0.114),) * 3,
    "sepia": ((0.393, 0.769, 0.189), (0.349, 0.686, 0.168), (0.272, 0.534, 0.131)),
    "moonlight": ((0.12, 0.24, 0.08), (0.18, 0.36, 0.11), (0.32, 0.55, 0.38)),
}
"""A style is a picture's colors times a matrix, cut off at white: red, green and blue of the styled picture by row."""


@dataclass(frozen=True)
class EditPair:
    """Describes two scenes that differ in one respect, and their plain captions.

    Of the kind "style" the scenes are equal; the target has the style, and so has another scene that shows it.
    """

    kind: str
    source: Scene
    target: Scene
    source_caption: str
    target_caption: str
    style: str = ""
    example: Scene | None = None

    @property
    def moved(self) -> tuple[Placed, Placed]:
        """The object that changes its place or size, before and after.

        Raises:
            TrainingError: no object does.
        """
        for before, after in zip(self.source.objects, self.target.objects, strict=False):
            if before != after and before.label == after.label:
                return before, after
        raise TrainingError(f"No object moves in an edit of the kind {self.kind!r}.")


@dataclass(frozen=True)
class EditPictures:
    """Describes RGB pictures before and after, and the mask (L, 0 or 255) outside which they are equal.

    Of an object that moves or changes its size there is its own mask in the source; of a style a picture that has it.
    """

    source: Image.Image
    target: Image.Image
    mask: Image.Image
    object_mask: Image.Image | None = None
    style: Image.Image | None = None


def edit_pairs(catalog: Catalog, count: int, seed: int = 0, kinds: tuple[str, ...] = EDIT_KINDS) -> list[EditPair]:
    """Draw `count` pairs, the kinds in turn; the same arguments give the same pairs."""
    return [edit_pair(catalog, seed * 100_000 + index, kinds[index % len(kinds)]) for index in range(count)]


def edit_pair(catalog: Catalog, seed: int, kind: str = "replace") -> EditPair:
    """Draw one pair of trained object and background combinations.

    Args:
        catalog: the objects.
        seed: at least 0.
        kind: "replace" another object in the same place; "background" another color, the same
            shading; "add" or "remove" the second of two objects; "swap" two objects' places;
            replace "one of two" objects; "move" or "resize" one; give all of it a "style".
    Raises: TrainingError when the kind is unknown or the catalog is too small.
    """
    if kind not in EDIT_KINDS:
        raise TrainingError(f"Unknown edit {kind!r}. Choose one of: {', '.join(EDIT_KINDS)}.")
    rng = np.random.default_rng([seed, EDIT_KINDS.index(kind)])
    for _ in range(10_000):
        source, target = _DRAWN[kind](catalog, rng)
        if _is_trained(source) and _is_trained(target):
            captions = plain_caption(source), plain_caption(target)
            if kind != "style":
                return EditPair(kind, source, target, *captions)
            style = tuple(STYLES)[int(rng.integers(len(STYLES)))]
            return EditPair(kind, source, target, *captions, style, _draw_scene(catalog, rng, 1))
    raise TrainingError(f"The catalog has no pair for the edit {kind!r}.")


def render_edit(pair: EditPair, catalog: Catalog, size: int = 64) -> EditPictures:
    """Draw both pictures and the mask of the edit, `size` pixels wide and high.

    The mask covers every object that appears, disappears, moves or is replaced; for a new
    background it is all that is not fully covered by objects, for a style the whole picture.
    """
    if pair.example is not None:
        return _render_style(pair, pair.example, catalog, size)
    before, after = render(pair.source, catalog, size), render(pair.target, catalog, size)
    if pair.kind == "background":
        covered = Image.new("L", (size, size))
        for mask in before.masks:
            covered = ImageChops.lighter(covered, mask)
        return EditPictures(before.picture, after.picture, covered.point(lambda value: 255 * (value < 255)))
    difference, own = Image.new("L", (size, size)), None
    for scene, other, masks in (
        (pair.source, pair.target, before.masks),
        (pair.target, pair.source, after.masks),
    ):
        for item, mask in zip(scene.objects, masks, strict=True):
            if item not in other.objects:
                difference = ImageChops.lighter(difference, mask)
                if scene is pair.source and pair.kind in ("move", "resize"):
                    own = _harden(mask)
    return EditPictures(before.picture, after.picture, _harden(difference), own)


def _harden(mask: Image.Image) -> Image.Image:
    return mask.point(lambda value: 255 * (value > 0))


def apply_style(picture: Image.Image, style: str) -> Image.Image:
    """Give an RGB picture one of the STYLES."""
    matrix = tuple(factor for row in STYLES[style] for factor in (*row, 0.0))
    return picture.convert("RGB", matrix)


def _render_style(pair: EditPair, example: Scene, catalog: Catalog, size: int) -> EditPictures:
    source, shown = (render(scene, catalog, size).picture for scene in (pair.source, example))
    everything = Image.new("L", (size, size), 255)
    return EditPictures(source, apply_style(source, pair.style), everything, None, apply_style(shown, pair.style))


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


def _replace_one_of_two(catalog: Catalog, rng: np.random.Generator) -> tuple[Scene, Scene]:
    source = _draw_scene(catalog, rng, 2)
    others = [label for label in catalog.labels if label not in {placed.label for placed in source.objects}]
    which, objects = int(rng.integers(2)), list(source.objects)
    objects[which] = replace(objects[which], label=str(rng.choice(others)))
    return source, replace(source, objects=tuple(objects))


def _move_object(catalog: Catalog, rng: np.random.Generator) -> tuple[Scene, Scene]:
    """One object goes anywhere; of two, which stay beside each other, one goes up or down."""
    if rng.random() < 0.7:
        source = _draw_scene(catalog, rng, 1)
        size = float(rng.uniform(0.4, 0.6))
        start, end = (_draw_place(size, rng) for _ in range(2))
        while max(abs(a - b) for a, b in zip(start, end, strict=True)) < LEAST_MOVE:
            start, end = (_draw_place(size, rng) for _ in range(2))
        (item,) = source.objects
        before, after = (replace(item, x=x, y=y, size=size) for x, y in (start, end))
        return replace(source, objects=(before,)), replace(source, objects=(after,))
    source = _draw_scene(catalog, rng, 2)
    which = int(rng.integers(2))
    objects = list(source.objects)
    reach = objects[which].size / 2
    heights = rng.uniform(reach, 1 - reach, 2)
    while abs(heights[0] - heights[1]) < LEAST_MOVE:
        heights = rng.uniform(reach, 1 - reach, 2)
    scenes = []
    for height in heights:
        objects[which] = replace(objects[which], y=float(height))
        scenes.append(replace(source, objects=tuple(objects)))
    return scenes[0], scenes[1]


def _draw_place(size: float, rng: np.random.Generator) -> tuple[float, float]:
    x, y = rng.uniform(size / 2, 1 - size / 2, 2)
    return float(x), float(y)


def _resize_object(catalog: Catalog, rng: np.random.Generator) -> tuple[Scene, Scene]:
    """One object shrinks or grows about its center."""
    source = _draw_scene(catalog, rng, 1)
    large = float(rng.uniform(0.7, 0.94))
    sizes = [large, large * float(rng.uniform(0.5, 0.7))]
    x, y = _draw_place(large, rng)
    (item,) = source.objects
    scenes = [replace(source, objects=(replace(item, x=x, y=y, size=size),)) for size in sizes]
    return (scenes[0], scenes[1]) if rng.random() < 0.5 else (scenes[1], scenes[0])


def _keep_scene(catalog: Catalog, rng: np.random.Generator) -> tuple[Scene, Scene]:
    source = _draw_scene(catalog, rng, 1 if rng.random() < 0.7 else 2)
    return source, source


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
    "one of two": _replace_one_of_two,
    "move": _move_object,
    "resize": _resize_object,
    "style": _keep_scene,
}
