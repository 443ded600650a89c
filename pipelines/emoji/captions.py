"""The grammar of captions, in both directions: from a scene to words, from words to the truth."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from pipelines.core.errors import TrainingError
from pipelines.emoji.objects import Catalog, EmojiObject
from pipelines.emoji.scenes import BACKGROUNDS, Scene

__all__ = [
    "PREFIXES",
    "Truth",
    "caption",
    "choose_name",
    "choose_phrase",
    "find_item",
    "on_background",
    "parse",
    "plain_caption",
    "resolve_object",
    "split_background",
    "with_article",
]

PREFIXES = ("an emoji of ", "a picture of ")
_PREFIX = re.compile(r"^(an emoji of|a picture of)\s+")
_BACKGROUND = re.compile(r"\s+on\s+(?:an?\s+)?(\w+)(?:\s+background)?$")
_ARTICLE = re.compile(r"^(an?|the|some)\s+")
_SIDES = re.compile(r"\s+(?:to the )?(left|right) of\s+")


@dataclass(frozen=True)
class Truth:
    """Says what a caption says: labels from left to right, and the background if it is named."""

    labels: tuple[str, ...]
    background: str | None


def caption(scene: Scene, catalog: Catalog, rng: np.random.Generator, empty: float = 0.0) -> str:
    """Describe a scene in varied words that `parse` reads back.

    Args:
        scene: what is described.
        catalog: its objects' names and tags.
        rng: the source of variety.
        empty: share of empty captions, in [0, 1].
    Raises: TrainingError when the scene has an object that the catalog lacks.
    """
    if rng.random() < empty:
        return ""
    items = [find_item(placed.label, catalog) for placed in scene.objects]
    article = rng.random() < 0.85
    if len(items) == 1:
        subject = with_article(choose_phrase(items[0], catalog, rng), article)
    else:
        left_name, right_name = (with_article(choose_name(item, rng), article) for item in items)
        subject = f"{left_name} left of {right_name}" if rng.random() < 0.6 else f"{right_name} right of {left_name}"
    if rng.random() < 0.12:
        subject = PREFIXES[rng.integers(len(PREFIXES))] + subject
    draw = rng.random()
    if draw < 0.1:
        return subject
    return subject + (f" on {scene.background}" if draw < 0.18 else on_background(scene.background))


def plain_caption(scene: Scene) -> str:
    """Return the one plain caption of a scene: "a cat face left of a fox on a blue background"."""
    subject = " left of ".join(with_article(placed.label, True) for placed in scene.objects)
    return subject + on_background(scene.background)


def parse(text: str, catalog: Catalog) -> Truth:
    """Read a caption of this grammar.

    Raises: TrainingError when a part of it names no object, or more than one.
    """
    rest, background = split_background(text)
    parts = _SIDES.split(rest)
    if len(parts) == 1:
        return Truth((resolve_object(parts[0], catalog),), background)
    if len(parts) != 3:
        raise TrainingError(f"The caption {text!r} has more than two objects.")
    first, side, second = parts
    labels = resolve_object(first, catalog), resolve_object(second, catalog)
    return Truth(labels if side == "left" else labels[::-1], background)


def split_background(text: str) -> tuple[str, str | None]:
    """Split a caption into its subject, lower case without a prefix, and its background or None."""
    rest = _PREFIX.sub("", " ".join(text.lower().split()))
    match = _BACKGROUND.search(rest)
    if match and match.group(1) in BACKGROUNDS:
        return rest[: match.start()], match.group(1)
    return rest, None


def resolve_object(phrase: str, catalog: Catalog) -> str:
    """Find the label of the one object that a phrase names or describes.

    Raises: TrainingError when it names no object, or more than one.
    """
    phrase = _ARTICLE.sub("", phrase.strip())
    match = catalog.find(phrase)
    if match:
        return match.label
    words = [word.strip() for word in phrase.split(",")]
    fitting = catalog.described_by(words)
    if len(fitting) != 1:
        fitting = [item for item in map(catalog.find, words) if item]
    if len({item.label for item in fitting}) != 1:
        raise TrainingError(f"{phrase!r} names {len(fitting)} objects; it must name exactly one.")
    return fitting[0].label


def choose_phrase(item: EmojiObject, catalog: Catalog, rng: np.random.Generator) -> str:
    """Draw a name; or a name and a tag; or two or three tags that together fit this object alone."""
    draw = rng.random()
    if draw < 0.8 or not item.tags:
        return choose_name(item, rng)
    tags = list(rng.permutation(item.tags)[: 1 if draw < 0.9 else int(rng.integers(2, 4))])
    if draw >= 0.9 and len(catalog.described_by(tags)) == 1:
        return ", ".join(tags)
    return f"{choose_name(item, rng)}, {tags[0]}"


def choose_name(item: EmojiObject, rng: np.random.Generator) -> str:
    """Draw the label, or a synonym."""
    if not item.synonyms or rng.random() < 0.6:
        return item.label
    return item.synonyms[rng.integers(len(item.synonyms))]


def with_article(name: str, article: bool) -> str:
    """Put "a" or "an" before a name where it is asked for and the name is no plural."""
    plural = name.endswith("s") and not name.endswith(("ss", "us"))
    if not article or plural or "," in name:
        return name
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def on_background(background: str) -> str:
    """Say the background: " on a blue background"."""
    return f" on {'an' if background[0] in 'aeiou' else 'a'} {background} background"


def find_item(label: str, catalog: Catalog) -> EmojiObject:
    """Find the object of a label.

    Raises: TrainingError when there is none.
    """
    item = catalog.find(label)
    if item is None:
        raise TrainingError(f"No object is called {label!r}.")
    return item
