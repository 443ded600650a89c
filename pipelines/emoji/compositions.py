"""Compositions: scenes of one object of a size, two objects in a relation, or several of one object.

The scenes of `sample_scene` are the first two kinds of these; what is held out stays held out in all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.core.errors import TrainingError
from pipelines.emoji.objects import Catalog
from pipelines.emoji.scenes import BACKGROUNDS, SPLITS, Placed, Scene, is_held_out

__all__ = ["KINDS", "RELATIONS", "SIZES", "Composition", "countable", "sample_composition", "sample_with_singles"]

RELATIONS = ("left of", "above", "in front of")
KINDS = ("single", *RELATIONS, "count")
SIZES: dict[str | None, tuple[float, float]] = {None: (0.5, 0.72), "small": (0.26, 0.36), "large": (0.86, 0.97)}
ORDINARY_SIZES: tuple[str | None, ...] = (None, None, "small", "large")
"""Widths in parts of the picture, by the word for them; None is what no word is said about."""
SHARES = (0.26, 0.34, 0.18, 0.08, 0.14)  # of the KINDS
COUNTS = (2, 3, 4)
_PLACES: dict[int, tuple[tuple[tuple[float, float], ...], ...]] = {
    2: (((0.26, 0.5), (0.74, 0.5)),),
    3: (((0.27, 0.27), (0.73, 0.27), (0.5, 0.73)), ((0.5, 0.27), (0.27, 0.73), (0.73, 0.73))),
    4: (((0.27, 0.27), (0.73, 0.27), (0.27, 0.73), (0.73, 0.73)),),
}


@dataclass(frozen=True)
class Composition:
    """A scene and what there is to say of it.

    `kind` is one of KINDS. A relation's objects come in its order: the left, the upper, the front one
    first. `size` is a word of SIZES for a single object, else None.
    """

    scene: Scene
    kind: str
    size: str | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """The objects' labels in the order of the relation; one for a single object and for several."""
        names = [item.label for item in self.scene.objects]
        if self.kind == "in front of":
            return names[1], names[0]
        return tuple(names if self.kind in RELATIONS else names[:1])

    @property
    def count(self) -> int:
        """How many objects the picture shows."""
        return len(self.scene.objects)


def countable(label: str) -> bool:
    """Say whether several of it can be asked for: a name that is a plural already cannot be counted."""
    return not label.endswith("s") or label.endswith(("ss", "us"))


def sample_composition(
    catalog: Catalog,
    seed: int,
    split: str = "train",
    kind: str | None = None,
    count: int | None = None,
    sizes: Sequence[str | None] = ORDINARY_SIZES,
) -> Composition:
    """Draw a composition; the same arguments give the same one.

    Args:
        catalog: the objects to draw from.
        seed: at least 0.
        split: "train" has no held-out pair, "held-out" has only such pairs, "all" both.
        kind: one of KINDS; by default each in its share.
        count: of the kind "count", 2 to 4; by default any.
        sizes: keys of SIZES, of which a single object takes each with the same chance; one may stand there twice.
    Raises: TrainingError when the split or the kind is unknown or the catalog has no such scene.
    """
    if split not in SPLITS:
        raise TrainingError(f"Unknown split {split!r}. Choose one of: {', '.join(SPLITS)}.")
    if kind is not None and kind not in KINDS:
        raise TrainingError(f"Unknown kind {kind!r}. Choose one of: {', '.join(KINDS)}.")
    rng = np.random.default_rng([seed, SPLITS.index(split), 128])
    scene_kind = kind or KINDS[rng.choice(len(KINDS), p=SHARES)]
    labels, background = _draw_labels(catalog, rng, split, scene_kind)
    shading = int(rng.integers(2**31))
    if scene_kind == "single":
        size = sizes[int(rng.integers(len(sizes)))]
        return Composition(Scene(_place_one(labels[0], size, rng), background, shading), scene_kind, size)
    if scene_kind == "count":
        number = count or COUNTS[rng.integers(len(COUNTS))]
        return Composition(Scene(_place_several(labels[0], number, rng), background, shading), scene_kind)
    return Composition(Scene(_PLACED[scene_kind](labels, rng), background, shading), scene_kind)


def sample_with_singles(
    catalog: Catalog, seed: int, split: str, share: float, sizes: Sequence[str | None] = ORDINARY_SIZES
) -> Composition:
    """Draw a composition as `sample_composition` does, or by a chance a single object in its place.

    Args:
        catalog, seed, split: of `sample_composition`.
        share: the chance, 0 to 1.
        sizes: of the single objects that come by it.
    """
    if np.random.default_rng([seed, 1]).random() < share:
        return sample_composition(catalog, seed, split, "single", sizes=sizes)
    return sample_composition(catalog, seed, split)


def _draw_labels(catalog: Catalog, rng: np.random.Generator, split: str, kind: str) -> tuple[list[str], str]:
    names = tuple(BACKGROUNDS)
    for _ in range(10_000):
        background = names[rng.integers(len(names))]
        indices = rng.choice(len(catalog.objects), size=2 if kind in RELATIONS else 1, replace=False)
        labels = [catalog.objects[index].label for index in indices]
        if kind == "count" and not countable(labels[0]):
            continue
        held_out = [is_held_out(label, background) for label in labels]
        if split == "all" or (all(held_out) if split == "held-out" else not any(held_out)):
            return labels, background
    raise TrainingError(f"The catalog has no scene of the kind {kind!r} for {split!r}.")


def _place_one(label: str, size: str | None, rng: np.random.Generator) -> tuple[Placed, ...]:
    width = float(rng.uniform(*SIZES[size]))
    # most stand near the middle, as most pictures do; some anywhere
    reach = (1 - width) / 2 * (1.0 if rng.random() < 0.3 else 0.35)
    x, y = 0.5 + reach * rng.uniform(-1, 1, 2)
    return (Placed(label, float(x), float(y), width),)


def _place_beside(labels: list[str], rng: np.random.Generator) -> tuple[Placed, ...]:
    middle = rng.uniform(0.4, 0.6)
    return tuple(
        Placed(label, x, float(middle + rng.uniform(-0.05, 0.05)), float(rng.uniform(0.42, 0.49)))
        for label, x in zip(labels, (0.25, 0.75), strict=True)
    )


def _place_above(labels: list[str], rng: np.random.Generator) -> tuple[Placed, ...]:
    middle = rng.uniform(0.4, 0.6)
    return tuple(
        Placed(label, float(middle + rng.uniform(-0.05, 0.05)), y, float(rng.uniform(0.42, 0.49)))
        for label, y in zip(labels, (0.25, 0.75), strict=True)
    )


def _place_in_front(labels: list[str], rng: np.random.Generator) -> tuple[Placed, ...]:
    """The second, large, behind; the first, small, over its lower left or right. Drawn in this order."""
    front, behind = labels
    width = float(rng.uniform(0.6, 0.68))
    side = 1 if rng.random() < 0.5 else -1
    back = Placed(behind, 0.5 - side * 0.14, 0.38, width)
    return back, Placed(front, 0.5 + side * 0.22, 0.74, float(rng.uniform(0.4, 0.46)))


def _place_several(label: str, number: int, rng: np.random.Generator) -> tuple[Placed, ...]:
    layouts = _PLACES[number]
    width = float(rng.uniform(0.4, 0.46))
    return tuple(
        Placed(label, x + float(rng.uniform(-0.02, 0.02)), y + float(rng.uniform(-0.02, 0.02)), width)
        for x, y in layouts[rng.integers(len(layouts))]
    )


_PLACED = {"left of": _place_beside, "above": _place_above, "in front of": _place_in_front}
