"""The grammar of compositions, both ways: sizes, relations and counts beside what `captions` says.

"a small fox on a blue background", "a cat face above a star", "a tree behind a car on red", "three foxes".
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from pipelines.core.errors import TrainingError
from pipelines.emoji.captions import (
    PREFIXES,
    choose_name,
    choose_phrase,
    find_item,
    on_background,
    resolve_object,
    split_background,
    with_article,
)
from pipelines.emoji.compositions import RELATIONS, Composition, countable
from pipelines.emoji.objects import Catalog, EmojiObject

__all__ = ["Description", "describe", "describe_plainly", "parse_description", "pluralize"]

CONVERSES = {"left of": "right of", "above": "below", "in front of": "behind"}
NUMBERS = {2: "two", 3: "three", 4: "four"}
SIZE_WORDS = {"small": "small", "large": "large", "big": "large", "tiny": "small"}
_IRREGULAR = {"leaf": "leaves", "snowman": "snowmen", "mouse": "mice", "die": "dice", "dice": "dice"}
_RELATION = re.compile(r"\s+(?:to the )?(left of|right of|above|below|in front of|behind)\s+")
_SIZE = re.compile(rf"^(?:an?\s+)?({'|'.join(SIZE_WORDS)})\s+(.+)$")
_NUMBER = re.compile(rf"^({'|'.join(NUMBERS.values())})\s+(.+)$")


@dataclass(frozen=True)
class Description:
    """Says what a caption says.

    `kind` is one of `compositions.KINDS`, `labels` come in the relation's order, `count` objects are in the
    picture; `size` and `background` are None where no word is said about them.
    """

    kind: str
    labels: tuple[str, ...]
    count: int = 1
    size: str | None = None
    background: str | None = None


def describe(composition: Composition, catalog: Catalog, rng: np.random.Generator, empty: float = 0.0) -> str:
    """Describe a composition in varied words that `parse_description` reads back.

    Args:
        composition: what is described.
        catalog: its objects' names and tags.
        rng: the source of variety.
        empty: share of empty captions, in [0, 1].
    Raises: TrainingError when the scene has an object that the catalog lacks.
    """
    if rng.random() < empty:
        return ""
    subject = _describe_subject(composition, catalog, rng)
    if rng.random() < 0.08:
        subject = PREFIXES[rng.integers(len(PREFIXES))] + subject
    draw, background = rng.random(), composition.scene.background
    if draw < 0.08:
        return subject
    return subject + (f" on {background}" if draw < 0.15 else on_background(background))


def describe_plainly(composition: Composition) -> str:
    """Say the one plain caption of a composition: "a small cat face on a blue background"."""
    labels, kind = composition.labels, composition.kind
    if kind in RELATIONS:
        subject = f" {kind} ".join(with_article(label, True) for label in labels)
    elif kind == "count":
        subject = f"{NUMBERS[composition.count]} {pluralize(labels[0])}"
    else:
        subject = with_article(_add_size_word(labels[0], composition.size), True)
    return subject + on_background(composition.scene.background)


def parse_description(text: str, catalog: Catalog) -> Description:
    """Read a caption of this grammar.

    Raises: TrainingError when a part of it names no object, or more than one.
    """
    subject, background = split_background(text)
    parts = _RELATION.split(subject)
    if len(parts) > 3:
        raise TrainingError(f"The caption {text!r} has more than two objects.")
    if len(parts) == 3:
        first, word, second = parts
        labels = resolve_object(first, catalog), resolve_object(second, catalog)
        if word in CONVERSES:
            return Description(word, labels, 2, None, background)
        kind = next(kind for kind, converse in CONVERSES.items() if converse == word)
        return Description(kind, labels[::-1], 2, None, background)
    numbered, sized = _NUMBER.match(subject), _SIZE.match(subject)
    item = _find_plural(numbered.group(2), catalog) if numbered else None
    if numbered and item:
        count = next(count for count, word in NUMBERS.items() if word == numbered.group(1))
        return Description("count", (item.label,), count, None, background)
    if sized:
        label = resolve_object(sized.group(2), catalog)
        return Description("single", (label,), 1, SIZE_WORDS[sized.group(1)], background)
    return Description("single", (resolve_object(subject, catalog),), 1, None, background)


def pluralize(name: str) -> str:
    """Form the plural of a name: of its last word."""
    head, _, last = name.rpartition(" ")
    if last in _IRREGULAR:
        plural = _IRREGULAR[last]
    elif last.endswith("fish"):
        plural = last
    elif last.endswith(("s", "x", "z", "ch", "sh")) or last in ("tomato", "mango", "potato"):
        plural = last + "es"
    elif last.endswith("y") and last[-2:-1] not in tuple("aeiou"):
        plural = last[:-1] + "ies"
    else:
        plural = last + "s"
    return f"{head} {plural}".strip()


def _describe_subject(composition: Composition, catalog: Catalog, rng: np.random.Generator) -> str:
    items = [find_item(label, catalog) for label in composition.labels]
    article = rng.random() < 0.9
    if composition.kind == "count":
        names = [name for name in items[0].names if countable(name)]
        name = names[0] if rng.random() < 0.6 else names[rng.integers(len(names))]
        return f"{NUMBERS[composition.count]} {pluralize(name)}"
    if composition.kind == "single":
        return with_article(
            _add_size_word(choose_phrase(items[0], catalog, rng), _choose_size_word(composition, rng)), article
        )
    first, second = (with_article(choose_name(item, rng), article) for item in items)
    if rng.random() < 0.6:
        return f"{first} {composition.kind} {second}"
    return f"{second} {CONVERSES[composition.kind]} {first}"


def _choose_size_word(composition: Composition, rng: np.random.Generator) -> str | None:
    if composition.size is None:
        return None
    words = [word for word, size in SIZE_WORDS.items() if size == composition.size]
    return words[0] if rng.random() < 0.7 else words[1]


def _add_size_word(name: str, word: str | None) -> str:
    return f"{word} {name}" if word else name


def _find_plural(plural: str, catalog: Catalog) -> EmojiObject | None:
    return next((item for item in catalog.objects for name in item.names if pluralize(name) == plural), None)
